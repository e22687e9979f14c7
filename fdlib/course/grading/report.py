"""From results to points, feedback and statistics.

``OUT/by_hand.csv`` is where a person gives points for open questions: `report` adds the rows that are missing and never changes
one that is there. ``OUT/report/grades.csv`` goes into a learning-management system, ``feedback/`` to the students, and
``class.html`` is for the instructor. Whatever a student wrote is shown as text: no markup of theirs becomes markup of ours.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path

from fdlib.files import atomic_write

COLUMNS = ("student", "exercise", "grade_id", "max", "points", "comment")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with these at its start a spreadsheet would run a name as a formula
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}th,td{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left}
td{vertical-align:top}pre{background:#f5f5f5;padding:.6rem;overflow-x:auto;white-space:pre-wrap}.no{color:#a00}.yes{color:#060}.open{color:#850}
p.cell{color:#666;font-size:.8rem;margin:1rem 0 -.8rem}ul{margin:0;padding-left:1.2rem}
img{max-width:100%}@media(max-width:40rem){body{font-size:15px}td,th{padding:.2rem}}"""


def report(out: Path) -> dict[str, Path]:
    """Write everything; where it is.

    Raises:
        ValueError: there are no results, or by_hand.csv cannot be read; the message names the line.
    """
    found = load(out)
    by_hand = merge_by_hand(out / "by_hand.csv", list(found.values()))
    graded = [with_points(result, by_hand) for result in found.values()]
    where, names = out / "report", [f"{name}.html" for name in found]
    for old in (where / "feedback").glob("*.html"):
        if old.name not in names:
            old.unlink()
    for name, result in zip(names, graded):
        _text(where / "feedback" / name, page(result))
    _text(where / "grades.csv", table(graded))
    _text(where / "class.html", statistics(graded, names, _run(out)))
    return {
        "grades": where / "grades.csv",
        "feedback": where / "feedback",
        "class": where / "class.html",
        "by hand": out / "by_hand.csv",
    }


def load(out: Path) -> dict[str, dict]:
    """The results by the name of their file, in the order of students' names."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (out / "results").glob("*.json")}
    if not results:
        raise ValueError(
            f"{out} holds no results: run `python -m fdlib.course grade` first, or name its folder with --out"
        )
    return dict(sorted(results.items(), key=lambda entry: (entry[1]["student"].casefold(), entry[0])))


def _run(out: Path) -> dict:
    path = out / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# ------------------------------------------------------------------------------ points given by a person


def merge_by_hand(path: Path, results: list[dict]) -> dict[tuple[str, str], tuple[float | None, str]]:
    """The points in by_hand.csv, after rows for answers that are not in it were added."""
    rows = []
    if path.exists():
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and not set(COLUMNS) <= set(rows[0]):
            raise ValueError(f"{path}: the columns must be {', '.join(COLUMNS)}")
    given = {}
    for number, row in enumerate(rows, start=2):
        text, points = (row["points"] or "").strip().replace(",", "."), None
        if text:
            try:
                points = float(text)
            except ValueError:
                points = -1.0
            if not 0 <= points <= float(row["max"]):
                raise ValueError(
                    f"{path}, line {number}: points for {row['grade_id']} must be between 0 and {row['max']}, not {text!r}"
                )
        given[_plain(row["student"]), row["grade_id"]] = (points, row["comment"] or "")
    for result in results:
        for part in result["exercises"]:
            if part["by_hand"] and part["points"] is None and (result["student"], part["grade_id"]) not in given:
                row = (_cell(result["student"]), part["exercise"], part["grade_id"], part["max"], "", "")
                rows.append(dict(zip(COLUMNS, row)))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _text(path, text.getvalue())
    return given


def with_points(result: dict, given: dict) -> dict:
    """A result with the points of by_hand.csv filled in."""
    exercises = []
    for part in result["exercises"]:
        part = dict(part)
        if part["by_hand"] and part["points"] is None:
            part["points"], part["message"] = given.get((result["student"], part["grade_id"]), (None, ""))
        exercises.append(part)
    return result | {"exercises": exercises}


def total(result: dict) -> float:
    return sum(part["points"] or 0 for part in result["exercises"])


def highest(result: dict) -> float:
    return sum(part["max"] for part in result["exercises"])


def waiting(result: dict) -> float:
    """Points of answers that nobody has read yet."""
    return sum(part["max"] for part in result["exercises"] if part["points"] is None)


# ------------------------------------------------------------------------------ the files


def table(results: Iterable[dict]) -> str:
    """One row a student: total, state, then the points of each part."""
    results = list(results)
    parts = [part["grade_id"] for part in results[0]["exercises"]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", "points", "max", "waiting for a person", "status", "reason", "seen", *parts])
    for result in results:
        points = {part["grade_id"]: part["points"] for part in result["exercises"]}
        row = [_cell(result["student"]), _number(total(result)), _number(highest(result)), _number(waiting(result))]
        row += [result["status"], _cell(result["reason"]), _cell("; ".join(result.get("seen", [])))]
        writer.writerow(row + ["" if points.get(name) is None else _number(points[name]) for name in parts])
    return text.getvalue()


def page(result: dict) -> str:
    """A student's feedback."""
    say = html.escape
    more = f"; {_number(waiting(result))} more can still be given by a person" if waiting(result) else ""
    file = f"File: <code>{say(result['file'] or 'none')}</code>"
    lines = [
        f"<h1>{say(result['student'])}</h1>",
        f"<p><b>{_number(total(result))} of {_number(highest(result))} points</b>{more}. {file}</p>",
    ]
    if result["reason"]:
        lines.append(f'<p class="no">{say(result["status"].capitalize())}: {say(result["reason"])}.</p>')
    if result["notes"]:
        lines.append("<ul>" + "".join(f"<li>{say(note)}</li>" for note in result["notes"]) + "</ul>")
    lines.append("<table><tr><th>exercise<th>points<th>what the check says</tr>")
    for part in result["exercises"]:
        kind = "open" if part["points"] is None else "yes" if part["points"] == part["max"] else "no"
        points = f"… of {part['max']}" if part["points"] is None else f"{_number(part['points'])} of {part['max']}"
        message = part["message"] or {"open": "to be read by a person", "yes": "right", "no": ""}[kind]
        title = f"{part['exercise']} {part['title']}" + (" (open question)" if part["by_hand"] else "")
        lines.append(f'<tr><td>{say(title)}<td class="{kind}">{points}<td>{say(message)}</tr>')
    lines.append("</table>")
    if result["cells"]:
        lines.append("<h2>Your notebook, as it ran</h2>")
    messages = {
        part["grade_id"]: part["message"] or ("right" if part["passed"] else "") for part in result["exercises"]
    }
    for number, cell in enumerate(result["cells"], start=1):
        if cell["type"] == "code" or cell["id"]:
            lines.append(f'<p class="cell">cell {number}</p>')
        if cell["id"] in messages and cell["source"].startswith("__import__"):
            lines.append(f"<pre><b>check {say(cell['id'])}</b>: {say(messages[cell['id']])}</pre>")
        elif cell["type"] == "code" or cell["id"]:
            lines.append(f"<pre>{say(cell['source'])}</pre>" + "".join(map(_output, cell["outputs"])))
    return _html(f"{result['student']}: feedback", "\n".join(lines))


def _output(output: dict) -> str:
    """One output of a student's cell: text and PNG pictures, nothing that acts."""
    data = output.get("data") if isinstance(output.get("data"), dict) else {}
    picture = data.get("image/png")
    if isinstance(picture, str):
        try:
            raw = base64.b64decode(picture, validate=False)
            if raw.startswith(b"\x89PNG"):
                return f'<img alt="a picture" src="data:image/png;base64,{base64.b64encode(raw).decode()}">'
        except ValueError:
            pass
    text = output.get("text") or data.get("text/plain") or "\n".join(map(str, output.get("traceback") or []))
    return f"<pre>{html.escape(ANSI.sub('', str(text)))}</pre>" if text else ""


def statistics(results: list[dict], names: list[str], run: dict) -> str:
    """The class: how many points, which exercises were hard, who needs a look."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    most = highest(results[0])
    totals = sorted(total(result) for result in results)
    middle = (totals[(len(totals) - 1) // 2] + totals[len(totals) // 2]) / 2
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(totals, bins=[most * i / 10 for i in range(11)], color="#4477aa", edgecolor="white")
    left.yaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel=f"points of {_number(most)}", ylabel="students", title="points so far")
    parts = results[0]["exercises"]
    rates, labels = [], []
    for index, part in enumerate(parts):
        known = [r["exercises"][index]["points"] for r in results if r["exercises"][index]["points"] is not None]
        rates.append(sum(known) / (part["max"] * len(known)) if known else 0.0)
        unread = " (not read yet)" if not known else " (not all read)" if len(known) < len(results) else ""
        labels.append(f"{part['exercise']} {part['grade_id'].removeprefix('check-')}{unread}")
    right.barh(labels, rates, color="#228833")
    right.invert_yaxis()
    right.set(xlim=(0, 1), xlabel="share of the points", title="exercises")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    picture = base64.b64encode(data.getvalue()).decode()

    say = html.escape
    sizes = ("memory", "file", "disk")
    limits = ", ".join(
        f"{key.replace('_', ' ')} {value / 2**20:.0f} MiB" if key in sizes else f"{key.replace('_', ' ')} {value:g}"
        for key, value in run.get("limits", {}).items()
    )
    kinds = [result["status"] for result in results]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    unread = sum(map(waiting, results))
    lines = [
        f"<h1>{say(run.get('exercise', 'Class'))}</h1>",
        f"<p>{len(results)} submissions: {counts}. Median so far {_number(middle)} of {_number(most)} points.",
        f"{_number(unread)} points in by_hand.csv wait for a person; then run <code>report</code> again."
        * bool(unread),
        f"<br>Containment: <b>{say(run.get('containment', 'unknown'))}</b> ({say(limits)}).",
        *(f"<br>Not available: {say(tried)}" for tried in run.get("tried", [])),
        "</p><img alt='histogram of points, and the share of points reached in each exercise' "
        f"src='data:image/png;base64,{picture}'>",
        "<p>Students see their own feedback, not this page.",
        '<span class="open">In brown</span>: what a submission tried beyond its own folder. It changes no grade, and a student '
        "can fake or hide it." * any(result.get("seen") for result in results),
        "<table><tr><th>student<th>points<th>waiting<th>status<th>reason, notes</tr>",
    ]
    for result, name in zip(results, names):
        notes = "".join(f"<li>{say(note)}" for note in filter(None, [result["reason"], *result["notes"]]))
        seen = "".join(f'<li class="open">{say(note)}' for note in result.get("seen", []))
        lines.append(
            f'<tr><td><a href="feedback/{name}">{say(result["student"])}</a><td>{_number(total(result))}'
            f"<td>{_number(waiting(result))}<td>{say(result['status'])}<td><ul>{notes}{seen}</ul></tr>"
        )
    return _html("Class", "\n".join([*lines, "</table>"]))


def _html(title: str, body: str) -> str:
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
    head += "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
    head += f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _cell(text: str) -> str:
    """Text that a spreadsheet takes as text."""
    text = " ".join(text.split())
    return f"'{text}" if text.startswith(FORMULA) else text


def _plain(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text


def _number(value: float) -> str:
    return f"{value:g}"


def _text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")
