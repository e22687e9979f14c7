"""A class of 100 graded by `python -m fdlib.course grade`: wall and processor time, and whether all grades are right.

    python benchmarks/grading.py --students 100 --exercise 01 --jobs 2 --json benchmarks/results/grading.json [--place DIR]

Of ten students four solve everything, four make one typical mistake (those of tests/wrong_answers), two hand in blank. A run that
was stopped goes on where it was if ``--place`` is the same; wall time is then that of this run, processor time that of all
submissions. Exits with 1 if a grade is not the expected one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from fdlib.course.grading.report import load
from fdlib.course.grading.submissions import Assignment
from fdlib.files import atomic_write

MIX = ("solved", "wrong", "blank", "solved", "wrong") * 2
ROOT = Path(__file__).resolve().parents[1]


def wrong_answers(name: str) -> dict:
    """grade id -> [(message, text of the solution, what is written in its place)]."""
    file = ROOT / "tests" / "wrong_answers" / f"{name[:2]}.py"
    spec = importlib.util.spec_from_file_location("wrong_answers", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def make_class(folder: Path, assignment: Assignment, students: int) -> dict[str, str | None]:
    """Write the submissions; for each student the exercise that is wrong: an answer's id, "all", or None."""
    blank = (ROOT / "exercises" / f"{assignment.name}.ipynb").read_text(encoding="utf-8")
    right = {name: cell.source for name, cell in assignment.cells.items() if cell.metadata["nbgrader"]["solution"]}
    mistakes = [(answer, old, new) for answer, wrong in wrong_answers(assignment.name).items() for _, old, new in wrong]
    expected: dict[str, str | None] = {}
    for number in range(students):
        student, answers, wrong = f"student {number:03}", dict(right), None
        kind = MIX[number % len(MIX)]
        if kind == "blank":
            answers, wrong = {}, "all"
        elif kind == "wrong":
            wrong, old, new = mistakes[number % len(mistakes)]
            answers[wrong] = answers[wrong].replace(old, new)
        notebook = nbformat.reads(blank, as_version=4)
        for cell in notebook.cells:
            cell.source = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
        (folder / student).mkdir(parents=True, exist_ok=True)
        (folder / student / f"{assignment.name}.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
        expected[student] = wrong
    return expected


def surprises(result: dict, wrong: str | None, checks: dict[str, str]) -> list[str]:
    """Where a result is not the expected one."""
    found = []
    for part in result["exercises"]:
        if not part["by_hand"]:
            due = 0 if wrong == "all" or checks.get(wrong) == part["grade_id"] else part["max"]
            if part["points"] != due:
                found.append(
                    f"{result['student']}: {part['grade_id']} has {part['points']}, not {due}: {part['message']}"
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=100)
    parser.add_argument("--exercise", default="01")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    assignment = Assignment.load(ROOT / "solutions", options.exercise)
    place = options.place or Path(tempfile.mkdtemp(prefix="fdlib-class-"))
    expected = make_class(place / "submitted", assignment, options.students)
    before = len(list((place / "out" / "results").glob("*.json")))
    words = [
        "grade",
        place / "submitted",
        "--exercise",
        assignment.name,
        "--out",
        place / "out",
        "--jobs",
        options.jobs,
    ]
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "fdlib.course", *map(str, words)], cwd=ROOT)
    wall = time.monotonic() - start
    if done.returncode:
        return done.returncode
    results = list(load(place / "out").values())
    checks = {exercise.answer: exercise.check for exercise in assignment.exercises}
    wrong = [line for result in results for line in surprises(result, expected[result["student"]], checks)]
    seconds = sorted(result["cpu_seconds"] for result in results)
    record = {
        "exercise": assignment.name,
        "students": len(results),
        "jobs": options.jobs,
        "graded_in_this_run": len(results) - before,
        "wall_seconds_of_this_run": round(wall, 1),
        "cpu_seconds_of_all": round(sum(seconds), 1),
        "cpu_seconds_median": seconds[len(seconds) // 2],
        "cpu_seconds_largest": seconds[-1],
        "minutes_for_100_on_two_idle_cores": round(100 * sum(seconds) / len(seconds) / 2 / 60, 1),  # computed
        "load_average_at_the_end": [round(value, 1) for value in os.getloadavg()],
        "unexpected_grades": wrong,
        "containment": json.loads((place / "out" / "run.json").read_text())["containment"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    print(json.dumps(record, indent=1))
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
