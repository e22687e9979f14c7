"""Whose work is this, and can it be graded? Reading a folder of submissions without running any of it.

A folder of submissions holds, for each student, a folder (its name is the student's; nbgrader's and most systems' layout) or a
single notebook (its file name, without a chapter's name, is the student's).
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fdlib.course.exercises import Exercise, read

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_NOTEBOOK, MAX_FOLDER, MAX_FILES = 20 * 2**20, 200 * 2**20, 5000  # bytes, bytes, files
LEAST_KNOWN = 0.3  # the share of its nbgrader cells that a notebook must have in common with the assignment
HOOK = '__import__("fdlib.course.grading.worker", fromlist=["serve"]).serve({!r}, globals())'


class Refused(Exception):
    """This cannot be graded; the message says why, to instructor and student."""


@dataclass
class Assignment:
    """One exercise notebook as the instructor has it, hidden tests and all."""

    name: str
    notebook: NotebookNode

    @classmethod
    def load(cls, solutions: Path, wanted: str) -> Assignment:
        """The assignment whose name is, or begins with, ``wanted``.

        Raises:
            ValueError: there is none, or more than one.
        """
        import nbformat

        found = sorted(path for path in solutions.glob("*.ipynb") if path.stem.startswith(wanted))
        found = [path for path in found if path.stem == wanted] or found
        if len(found) != 1:
            there = ", ".join(sorted(path.stem for path in solutions.glob("*.ipynb"))) or "none at all"
            raise ValueError(
                f"--exercise {wanted}: {'several' if found else 'no'} such notebooks in {solutions}; there are: {there}"
            )
        return cls(found[0].stem, nbformat.read(found[0], as_version=4))

    @cached_property
    def exercises(self) -> list[Exercise]:
        return read(self.notebook)

    @cached_property
    def cells(self) -> dict[str, NotebookNode]:
        return {
            cell.metadata["nbgrader"]["grade_id"]: cell for cell in self.notebook.cells if "nbgrader" in cell.metadata
        }

    def parts(self, exercise: Exercise) -> list[str]:
        """The grade ids of an exercise's cells that carry points, in order."""
        names = list(self.cells)
        later = [names.index(e.answer) for e in self.exercises if names.index(e.answer) > names.index(exercise.answer)]
        mine = names[names.index(exercise.answer) : min(later, default=len(names))]
        return [name for name in mine if self.cells[name].metadata["nbgrader"]["grade"]]


@dataclass
class Submission:
    """One student's work: the notebook, and what lies around it. ``problem``: why it will not be graded."""

    student: str
    notebook: Path | None
    folder: Path | None = None
    problem: str | None = None

    @property
    def key(self) -> str:
        """A name for files: readable, and its own for each student."""
        plain = unicodedata.normalize("NFKD", self.student).encode("ascii", "ignore").decode()
        digest = hashlib.sha256(f"{self.student}\n{self.notebook}".encode(errors="surrogatepass")).hexdigest()[:8]
        return f"{re.sub('[^A-Za-z0-9]+', '-', plain).strip('-')[:40] or 'student'}-{digest}"

    def files(self) -> list[Path]:
        """All regular files of the submission; links are not followed."""
        if self.folder is None:
            return [self.notebook] if self.notebook else []
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file() and not path.is_symlink()]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(path.name.encode(errors="surrogatepass") + b"\0")
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def find(folder: Path, assignment: Assignment) -> list[Submission]:
    """The submissions in a folder, in the order of students' names; those that cannot be graded have a ``problem``.

    Raises:
        ValueError: the folder is not there, or holds no submission at all.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the one that holds the submissions")
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__MACOSX")):
            continue
        if path.is_symlink():
            found.append(
                Submission(_name(path.stem), None, problem=f"{path.name} is a link to somewhere else: not followed")
            )
        elif path.is_dir():
            found.append(_in_folder(path, assignment))
        elif path.suffix == ".ipynb":
            found.append(Submission(_name(path.stem.replace(assignment.name, "")) or _name(path.stem), path))
    if not found:
        raise ValueError(f"{folder} holds no submission: neither a folder for each student nor notebooks (*.ipynb)")
    by_name: dict[str, list[Submission]] = {}
    for submission in found:
        by_name.setdefault(submission.student.casefold(), []).append(submission)
    for twins in by_name.values():
        if len(twins) > 1:
            names = ", ".join(
                str((s.notebook or s.folder or Path(s.student)).relative_to(folder))
                for s in twins
                if s.notebook or s.folder
            )
            for submission in twins:
                submission.problem = f"{len(twins)} submissions of one student ({names}): keep one of them"
    return sorted(found, key=lambda submission: (submission.student.casefold(), str(submission.notebook)))


def strays(folder: Path) -> list[str]:
    """What lies beside the submissions and is none: a list of the learning-management system's, or a zip nobody unpacked."""
    return [p.name for p in sorted(folder.iterdir()) if p.is_file() and p.suffix != ".ipynb" and p.name[0] != "."]


def _in_folder(path: Path, assignment: Assignment) -> Submission:
    student = _name(path.name)
    notebooks = [
        p for p in sorted(path.rglob("*.ipynb")) if not any(part.startswith(".") for part in p.relative_to(path).parts)
    ]
    links = [p for p in notebooks if p.is_symlink() or not p.resolve().is_relative_to(path.resolve())]
    notebooks = [p for p in notebooks if p not in links and p.is_file()]
    if not notebooks:
        there = ", ".join(sorted(_name(p.name) for p in path.iterdir())[:3])[:100]
        problem = "there is no notebook in its folder" + (f", but {there}" if there else ", which is empty")
        return Submission(
            student, None, path, "its notebook is a link to somewhere else: not followed" if links else problem
        )
    files = Submission(student, None, path).files()
    if len(files) > MAX_FILES or sum(p.stat().st_size for p in files) > MAX_FOLDER:
        too_much = f"its folder holds more than {MAX_FILES} files or {MAX_FOLDER / 2**20:.0f} MiB"
        return Submission(student, None, path, too_much)
    shares = {p: _share(p, assignment) for p in notebooks}
    best = max(shares.values())
    likely = [p for p, share in shares.items() if share == best]
    named = [p for p in likely if p.stem == assignment.name]
    if len(named or likely) > 1:
        return Submission(
            student,
            None,
            path,
            f"{len(named or likely)} notebooks could be meant: {', '.join(p.name for p in named or likely)}",
        )
    return Submission(student, (named or likely)[0], path)


def _name(text: str) -> str:
    """A student's name as people write it: composed accents, no stray spaces or separators at the ends."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split()).strip(" -_.")


def _share(path: Path, assignment: Assignment) -> float:
    try:
        ids = set(_ids(_load(path)))
    except Refused:
        return 0.0
    return len(ids & set(assignment.cells)) / len(assignment.cells)


def _load(path: Path) -> NotebookNode:
    import nbformat

    try:
        if path.stat().st_size > MAX_NOTEBOOK:
            raise Refused(f"the notebook is larger than {MAX_NOTEBOOK / 2**20:.0f} MiB")
        notebook = nbformat.reads(path.read_text(encoding="utf-8-sig"), as_version=4)
        for cell in notebook.cells:
            if not isinstance(cell.source, str) or cell.cell_type not in ("code", "markdown", "raw"):
                raise ValueError("a cell that is none")
            if not isinstance(cell.metadata.get("nbgrader", {}), dict):
                raise ValueError("cell metadata of the wrong kind")
            if not isinstance(cell.metadata.get("nbgrader", {}).get("grade_id", ""), str):
                raise ValueError("an id that is no text")
        if not all(isinstance(notebook.metadata.get(name, {}), dict) for name in ("kernelspec", "language_info")):
            raise ValueError("metadata of the wrong kind")
        return notebook
    except Refused:
        raise
    except (Exception, RecursionError) as error:
        raise Refused(f"the file is not a notebook that can be read ({type(error).__name__})") from None


def _ids(notebook: NotebookNode) -> list[str]:
    ids = (cell.metadata.get("nbgrader", {}).get("grade_id") for cell in notebook.cells)
    return [name for name in ids if isinstance(name, str)]


# ------------------------------------------------------------------------------ ready to run


@dataclass
class Prepared:
    """A notebook to run: the student's cells, and in the place of each check a call of the judge."""

    notebook: NotebookNode
    notes: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)  # grade id -> why it gets no points, whatever happens
    answers: dict[str, str] = field(default_factory=dict)  # grade id of an open question -> the student's text


def prepare(path: Path, assignment: Assignment) -> Prepared:
    """A submission with the instructor's checks in the student's place, wherever those were changed, moved or lost.

    Raises:
        Refused: not a notebook, another notebook, another language.
    """
    import nbformat

    notebook = _load(path)
    ids, known = _ids(notebook), assignment.cells
    language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    if str(language).lower() not in ("python", ""):
        raise Refused(f"the notebook is written in {language}, not in Python")
    if len(set(ids) & set(known)) < LEAST_KNOWN * len(known):
        chapters = {known_id for known_id in ids if known_id in known}
        have = f"{len(chapters)} of the {len(known)} cells" if chapters else "none of the cells"
        raise Refused(
            f"this is not {assignment.name}: it has {have} of that notebook (cells are known by their nbgrader ids)"
        )
    prepared = Prepared(notebook)
    version = str(notebook.metadata.get("language_info", {}).get("version", ""))
    here = ".".join(map(str, sys.version_info[:2]))
    if version and version.split(".")[:2] != here.split("."):
        prepared.notes.append(f"saved with Python {version[:20]}, graded with Python {here}")
    if unknown := sorted(set(ids) - set(known)):
        prepared.notes.append(f"cells with ids that are not ours: {', '.join(unknown[:5])[:200]}")

    cells, place = [], {}
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        new = (
            nbformat.v4.new_code_cell(cell.source)
            if cell.cell_type == "code"
            else nbformat.v4.new_markdown_cell(cell.source)
        )
        if name in known:
            meta = known[name].metadata["nbgrader"]
            check = meta["grade"] and not meta["solution"]
            if name in place:
                prepared.problems.setdefault(name, f"the cell {name} is there {ids.count(name)} times")
            elif check:
                if cell.source.strip() != _released(assignment, name):
                    prepared.notes.append(f"the check {name} was changed; the instructor's was used")
                new = _hook(name)
            if not (check and name in place):
                place[name] = new
            if meta["solution"] and meta["grade"]:
                prepared.answers[name] = cell.source
            new.metadata["fdlib"] = name
        cells.append(new)
    for name in known:
        if name not in place:
            meta = known[name].metadata["nbgrader"]
            if meta["grade"] and not meta["solution"]:
                exercise = next(e for e in assignment.exercises if e.check == name)
                new, after = _hook(name), place.get(exercise.answer)
                index = next((i for i, cell in enumerate(cells) if cell is after), len(cells) - 1)
                cells.insert(index + 1, new)
                place[name] = new
                prepared.notes.append(f"the check {name} is missing or renamed; it was put back")
            elif meta["grade"]:
                prepared.problems[name] = f"the answer {name} is missing or renamed"
            else:
                prepared.notes.append(f"the cell {name} is missing or renamed")
    prepared.notebook = nbformat.v4.new_notebook(cells=cells)
    return prepared


def _hook(name: str):
    import nbformat

    cell = nbformat.v4.new_code_cell(HOOK.format(name))
    cell.metadata["fdlib"] = name
    return cell


def _released(assignment: Assignment, name: str) -> str:
    """A check as students got it: without hidden tests."""
    source = assignment.cells[name].source
    return re.sub(r"[ \t]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[^\n]*\n?", "", source, flags=re.S).strip()
