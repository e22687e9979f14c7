"""Exercises from their one source: solutions/NN_name.py in, its notebook and the students' exercises/NN_name.ipynb out.

A solution notebook is a lesson's companion. Each exercise is

- a Markdown cell  ``## 1.3 · Title``, then  ``*★★☆ · 4 points · 15 minutes*``, the question, and a hint that folds;
- a cell to be filled in, with the solution between ``### BEGIN SOLUTION`` and ``### END SOLUTION``;
- a cell that checks it (``fdlib.course.checks``) and carries the points; or, for an open question, no check: the answer
  itself carries them and a person gives them, by the rubric in the question.

nbgrader's metadata (schema 3) lives in the script's cell headers. Only what matters is written by hand, such as
``nbgrader={"grade_id": "jump", "solution": true}``, ``nbgrader={"grade_id": "check-jump", "grade": true, "points": 4}``;
``complete`` adds the rest. What students get is made by nbgrader's own preprocessors, run by nbconvert: no server, no
database, the same bytes every time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nbformat import NotebookNode

HEADING = re.compile(r"^## (\d+)\.(\d+) · (.+)$", re.M)
COSTS = re.compile(r"^\*(★{1,3})(☆{0,2}) · (\d+) points? · (\d+) minutes?\*$", re.M)
PREPROCESSORS = (  # those of nbgrader's own `generate_assignment`, without its database
    "LockCells",
    "ClearSolutions",
    "ClearOutput",
    "CheckCellMetadata",
    "ClearHiddenTests",
    "ClearMarkScheme",
    "ComputeChecksums",
    "CheckCellMetadata",
)


@dataclass(frozen=True)
class Exercise:
    """One exercise as its notebook states it. ``answer`` and ``check`` are nbgrader ids; an open one has no check."""

    chapter: int
    number: int
    title: str
    difficulty: int  # 1 .. 3 stars
    points: int
    minutes: int
    answer: str
    check: str | None
    manual: bool  # a person grades it, or a part of it
    hint: bool


def read(notebook: NotebookNode) -> list[Exercise]:
    """The exercises of a notebook, of either version.

    Raises:
        ValueError: ids that are not unique; an exercise without its line of costs, without a cell to fill in, or whose
            points are not the points of its graded cells.
    """
    ids = [cell.metadata["nbgrader"]["grade_id"] for cell in notebook.cells if "nbgrader" in cell.metadata]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"grade_id must be unique in a notebook, these are there twice: {', '.join(twice)}")
    exercises = []
    for heading, cells in _sections(notebook):
        chapter, number, title = heading.groups()
        name, text = f"{chapter}.{number}", cells[0].source
        costs = COSTS.search(text)
        if not costs or len(costs[1] + costs[2]) != 3:
            raise ValueError(
                f"exercise {name}: a line such as *★★☆ · 4 points · 15 minutes* is missing below its title"
            )
        marked = [(cell, cell.metadata["nbgrader"]) for cell in cells if "nbgrader" in cell.metadata]
        answers = [meta["grade_id"] for _, meta in marked if meta["solution"]]
        checks = [meta["grade_id"] for _, meta in marked if meta["grade"] and not meta["solution"]]
        points = sum(meta.get("points", 0) for _, meta in marked if meta["grade"])
        if not answers or len(checks) > 1:
            raise ValueError(
                f"exercise {name}: it needs a cell to fill in and at most one check, got {answers} and {checks}"
            )
        if points != int(costs[3]):
            raise ValueError(f"exercise {name}: its text promises {costs[3]} points, its graded cells give {points}")
        exercises.append(
            Exercise(
                int(chapter),
                int(number),
                title,
                len(costs[1]),
                points,
                int(costs[4]),
                answers[0],
                checks[0] if checks else None,
                any(meta["grade"] and meta["solution"] for _, meta in marked),
                "<details>" in text,
            )
        )
    return exercises


def _sections(notebook: NotebookNode) -> Iterator[tuple[re.Match, list]]:
    """Each exercise's heading, and its cells from there to the next heading of that level."""
    found, cells = None, []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            if found:
                yield found, cells
            found, cells = HEADING.match(cell.source), []
        cells.append(cell)
    if found:
        yield found, cells


def complete(notebook: NotebookNode) -> NotebookNode:
    """The notebook with all of nbgrader's metadata (schema 3), in one order, where a cell has some of it."""
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            given = dict(cell.metadata["nbgrader"])
            solution, grade = given.pop("solution", False), given.pop("grade", False)
            meta = {"grade": grade, "grade_id": given.pop("grade_id"), "locked": grade and not solution}
            if grade:
                meta["points"] = given.pop("points")
            meta |= {"schema_version": 3, "solution": solution, "task": False}
            for key in ("locked", "schema_version", "task"):
                given.pop(key, None)
            if given:
                raise ValueError(f"cell {meta['grade_id']}: nbgrader has no {', '.join(given)}")
            cell.metadata["nbgrader"] = meta
    return notebook


def student_version(notebook: NotebookNode) -> NotebookNode:
    """What students get: solutions become stubs, checks are locked, checksums are in place.

    Raises:
        RuntimeError: from nbgrader, solutions outside solution cells, or a region that does not end.
        ValueError: from ``read``.
    """
    import nbformat
    from nbconvert.exporters import NotebookExporter
    from nbgrader import preprocessors

    from fdlib.course.notebooks import NOTEBOOK_METADATA, cell_ids

    read(notebook)
    exporter = NotebookExporter(preprocessors=[getattr(preprocessors, name) for name in PREPROCESSORS])
    text, _ = exporter.from_notebook_node(notebook)
    student = nbformat.reads(text, as_version=4)
    for cell, cell_id in zip(student.cells, cell_ids(student.cells)):  # the old ones are hashes of solutions
        cell["id"] = cell_id
    metadata = {
        key: value for key, value in NOTEBOOK_METADATA.items() if key != "jupytext"
    }  # no pair: it is not a source
    return nbformat.from_dict({**student, "metadata": metadata})


def build(solutions: Path, exercises: Path, source: Literal["py", "ipynb"] = "py", check: bool = False) -> list[Path]:
    """Bring solutions/ into its canonical shape and make exercises/ from it; the files that changed (with ``check``: would).

    Notebooks in ``exercises`` without a source are removed.

    Raises:
        RuntimeError, ValueError: see ``student_version`` and ``fdlib.course.notebooks.sync``; the message names the file.
    """
    from fdlib.course.notebooks import from_script, sync, to_ipynb

    changed = sync(solutions, source, check, finish=complete)
    wanted = {}
    for script in sorted(solutions.glob("[0-9]*.py")):
        try:
            notebook = complete(from_script(script.read_text(encoding="utf-8")))
            wanted[exercises / f"{script.stem}.ipynb"] = to_ipynb(student_version(notebook))
        except (RuntimeError, ValueError) as error:
            raise type(error)(f"{script.name}: {error}") from error
    for path in sorted({*wanted, *exercises.glob("[0-9]*.ipynb")}):
        if path.exists() and path.read_text(encoding="utf-8") == wanted.get(path):
            continue
        changed.append(path)
        if not check and path in wanted:
            exercises.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8", newline="\n")
        elif not check:
            path.unlink()
    return changed
