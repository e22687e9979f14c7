"""Ten weeks, computed from what is there: minutes to read each lesson, minutes and points of its exercises."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WEEKS = 10
WORDS_A_MINUTE, LINES_A_MINUTE = 130, 6  # text with formulas, and code that one wants to understand


@dataclass
class Chapter:
    """A lesson and its exercises, in numbers."""

    name: str
    title: str
    read: int  # minutes
    run: str  # as the lesson's own table of times has it for a laptop
    reading: str  # what the lesson names as its reading
    exercises: int
    work: int  # minutes
    points: int

    @property
    def minutes(self) -> int:
        return self.read + self.work


def chapters(root: Path) -> list[Chapter]:
    """The chapters of a checkout, in order.

    Raises:
        ValueError: there are no notebooks.
    """
    import nbformat

    from fdlib.course.exercises import read

    found = []
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        code = [
            line
            for cell in notebook.cells
            if cell.cell_type == "code"
            for line in cell.source.splitlines()
            if line.strip()
        ]
        title = re.search(r"^# (?:Chapter )?(?:\d+ *[·.:] *)?(.+)$", text, re.M)
        time = re.search(r"^\|\s*`?laptop`?\s*\|\s*([^|]+?)\s*\|", text, re.M)
        reading = re.search(r"^\*\*Reading\*\*: (.+(?:\n(?!\n|\*\*).+)*)", text, re.M)
        tasks = root / "exercises" / path.name
        exercises = read(nbformat.read(tasks, as_version=4)) if tasks.exists() else []
        found.append(
            Chapter(
                path.stem,
                title[1] if title else path.stem,
                round(len(text.split()) / WORDS_A_MINUTE + len(code) / LINES_A_MINUTE),
                time[1] if time else "",
                " ".join(reading[1].split()).replace("|", "/").rstrip(".") if reading else "",
                len(exercises),
                sum(exercise.minutes for exercise in exercises),
                sum(exercise.points for exercise in exercises),
            )
        )
    if not found:
        raise ValueError(f"no notebooks in {root / 'notebooks'}: the syllabus is computed in a checkout")
    return found


def weeks(found: list[Chapter], count: int = WEEKS) -> list[list[Chapter]]:
    """The chapters in order, cut into at most ``count`` weeks so that the fullest one is as empty as possible."""
    low, high = max(chapter.minutes for chapter in found), sum(chapter.minutes for chapter in found)

    def fill(limit: int) -> list[list[Chapter]]:
        plan: list[list[Chapter]] = [[]]
        for chapter in found:
            if plan[-1] and sum(c.minutes for c in plan[-1]) + chapter.minutes > limit:
                plan.append([])
            plan[-1].append(chapter)
        return plan

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(fill(middle)) <= count else (middle + 1, high)
    plan = fill(low)
    return plan + [[] for _ in range(count - len(plan))]


def syllabus(root: Path, count: int = WEEKS) -> str:
    """The plan as Markdown; weeks that are left over are for a project and for catching up."""
    lines = [
        f"# Syllabus: {count} weeks",
        "",
        f"Minutes are estimates: {WORDS_A_MINUTE} words or {LINES_A_MINUTE} lines of code a minute for reading, "
        "and what each exercise says for itself.",
        "",
        "| week | chapter | read, min | runs (laptop) | exercises | work, min | points | reading |",
        "|---|---|---|---|---|---|---|---|",
    ]
    plan = weeks(chapters(root), count)
    for number, week in enumerate(plan, start=1):
        for index, c in enumerate(week):
            label = number if index == 0 else ""
            link = f"[{c.name[:2]} {c.title}](notebooks/{c.name}.ipynb)"
            row = (label, link, c.read, c.run, c.exercises, c.work, c.points, c.reading)
            lines.append("| " + " | ".join(map(str, row)) + " |")
        if not week:
            lines.append(f"| {number} | a project of the students' own, or catching up | | | | | | |")
    everything = [chapter for week in plan for chapter in week]
    sums = [sum(getattr(chapter, name) for chapter in everything) for name in ("read", "exercises", "work", "points")]
    lines.append(f"| | **all** | {sums[0]} | | {sums[1]} | {sums[2]} | {sums[3]} | |")
    return "\n".join(lines) + "\n"
