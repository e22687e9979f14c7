"""Exercises: solutions pass, blanks and typical mistakes fail with the message that names them, and nothing leaks.

All cells run in this one process, notebook by notebook: a kernel for each of the answers would take an hour. For each
chapter the solution runs once, and what its cells leave behind is remembered. A wrong answer (tests/wrong_answers/NN.py) then
takes the place of one cell, and that exercise's check runs again.
"""

import ast
import contextlib
import importlib.util
import io
import re
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat
import pytest

from fdlib.course import FIRST_CELL
from fdlib.course.checks import CheckFailed
from fdlib.course.exercises import build, complete, read, student_version
from fdlib.course.notebooks import from_script, to_ipynb

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "solutions").glob("[0-9]*.py"))
HINT = "run `make exercises`"
LEAST_EXERCISES, LEAST_WRONG_ANSWERS = 40, 3
each = pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])

pytest.importorskip("nbgrader", reason="nbgrader builds the exercises: pip install fdlib[teach]")


@cache
def solution(script):
    return complete(from_script(script.read_text(encoding="utf-8")))


@cache
def student(script):
    return nbformat.read(ROOT / "exercises" / f"{script.stem}.ipynb", as_version=4)


@cache
def wrong_answers(script):
    file = Path(__file__).parent / "wrong_answers" / f"{script.stem[:2]}.py"
    spec = importlib.util.spec_from_file_location(f"wrong_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


# ------------------------------------------------------------------------------ running cells in this process


@dataclass
class Ran:
    """One code cell after it ran: what was known before it, what it raised, what it wrote to stderr."""

    cell: nbformat.NotebookNode
    before: dict
    error: BaseException | None
    stdout: str
    stderr: str

    @property
    def grade_id(self):
        return self.cell.metadata.get("nbgrader", {}).get("grade_id")


def run(source, names):
    """Execute a cell's source; what it raised, printed, and wrote to stderr, where warnings go in a notebook."""
    out, err, raised = io.StringIO(), io.StringIO(), None
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        try:
            exec(compile(source, "<cell>", "exec"), names)
        except Exception as error:
            raised = error
    return raised, out.getvalue(), err.getvalue() + "".join(str(warning.message) for warning in caught)


def run_notebook(notebook):
    names, ran = {"__name__": "__main__"}, []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            before = dict(names)
            ran.append(Ran(cell, before, *run(cell.source, names)))
    return ran


@cache
def run_solution(script):
    return run_notebook(solution(script))


def exercises_with_checks(script):
    return [exercise for exercise in read(solution(script)) if exercise.check]


# ------------------------------------------------------------------------------ the exercises as they are


def test_there_are_enough():
    exercises = [exercise for script in SCRIPTS for exercise in read(solution(script))]
    assert len(exercises) >= LEAST_EXERCISES
    for script in SCRIPTS:
        chapter = read(solution(script))
        assert [exercise.number for exercise in chapter] == list(range(1, len(chapter) + 1)), script.name
        assert {exercise.chapter for exercise in chapter} == {int(script.stem[:2])}
        assert {1, 3} <= {exercise.difficulty for exercise in chapter}, f"{script.name}: from warm-up to hard"
        assert any(exercise.manual for exercise in chapter), f"{script.name}: an open one"
        assert all(exercise.hint for exercise in chapter), f"{script.name}: a hint for each"


@each
def test_every_open_exercise_has_a_rubric(script):
    notebook = solution(script)
    for exercise in read(notebook):
        if exercise.manual:
            title = f"## {exercise.chapter}.{exercise.number} · "
            (text,) = (cell.source for cell in notebook.cells if title in cell.source)
            assert "**Rubric**" in text, exercise.title


def test_exercises_are_what_the_source_generates():
    assert build(ROOT / "solutions", ROOT / "exercises", check=True) == [], HINT
    assert {p.stem for p in SCRIPTS} == {p.stem for p in (ROOT / "exercises").glob("*.ipynb")}, HINT


@each
def test_generated_notebook_is_valid_for_nbgrader_and_has_the_common_first_cell(script):
    from nbgrader import utils
    from nbgrader.nbgraderformat import MetadataValidator

    notebook = student(script)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        MetadataValidator().validate_cell(cell)
        meta = cell.metadata.get("nbgrader")
        if meta:
            assert meta["schema_version"] == 3 and meta["checksum"] == utils.compute_checksum(cell)
            assert cell.metadata["deletable"] is False
            assert ("editable" in cell.metadata) == meta["locked"]
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
    assert next(cell for cell in notebook.cells if cell.cell_type == "code").source == FIRST_CELL
    assert "jupytext" not in notebook.metadata, "students' copies are no source"
    assert read(notebook) == read(solution(script)), "points, minutes and ids survive"


@each
def test_every_lesson_and_its_exercises_link_to_each_other(script):
    lesson = (ROOT / "notebooks" / script.name).read_text(encoding="utf-8")
    assert f"(../exercises/{script.stem}.ipynb)" in lesson, "the lesson does not link to its exercises"
    for target in re.findall(r"\]\(([^)\s]+)\)", script.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (script.parent / target).exists(), target
    assert f"(../notebooks/{script.stem}.ipynb)" in script.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------ solutions, blanks, mistakes


@each
def test_every_solution_passes_its_checks(script):
    exercises = {exercise.check: exercise for exercise in exercises_with_checks(script)}
    for ran in run_solution(script):
        assert ran.error is None, f"{ran.error!r} in\n{ran.cell.source}"
        if ran.grade_id in exercises:
            assert ran.stdout.startswith("✓ "), "a line for the student's success"
            assert not ran.stderr, "nbgrader gives no points where anything is on stderr"


@each
def test_every_blank_fails_as_expected(script):
    """The students' notebook as it is: setup works, blanks raise NotImplementedError, and no check passes."""
    checks = {exercise.check for exercise in exercises_with_checks(script)}
    blanks = 0
    for ran in run_notebook(student(script)):
        meta = ran.cell.metadata.get("nbgrader", {})
        if ran.grade_id in checks:
            blanks += 1
            assert isinstance(ran.error, NotImplementedError | CheckFailed), f"{ran.grade_id}: {ran.error!r}"
        elif meta.get("solution"):
            assert isinstance(ran.error, NotImplementedError | None), f"{ran.grade_id}: {ran.error!r}"
        elif ran.error is not None:  # a cell that plays with the answer trips over the blank, and over nothing else
            assert isinstance(ran.error, NotImplementedError | CheckFailed), f"{ran.error!r} in\n{ran.cell.source}"
    assert blanks == len(checks)


@each
def test_typical_wrong_answers_are_named(script):
    wrong, ran = wrong_answers(script), {r.grade_id: r for r in run_solution(script) if r.grade_id}
    exercises = exercises_with_checks(script)
    assert set(wrong) == {exercise.answer for exercise in exercises}
    for exercise in exercises:
        answer, check = ran[exercise.answer], ran[exercise.check]
        said = set()
        for message, right_text, wrong_text in wrong[exercise.answer]:
            assert answer.cell.source.count(right_text) == 1, f"{exercise.answer}: {right_text!r} must be there once"
            names = dict(answer.before)
            error, *_ = run(answer.cell.source.replace(right_text, wrong_text), names)
            assert error is None, f"{exercise.answer}: {wrong_text!r} does not even run: {error!r}"
            error, _, stderr = run(check.cell.source, names)
            assert isinstance(error, CheckFailed), f"{exercise.answer}: {wrong_text!r} gives {error!r}"
            assert re.search(message, str(error)), f"{exercise.answer}: {wrong_text!r} is answered by: {error}"
            assert not stderr
            said.add(str(error))
        assert len(said) >= LEAST_WRONG_ANSWERS, f"{exercise.answer}: {len(said)} different mistakes named"


@pytest.mark.slow
def test_nbgrader_itself_gives_full_points_to_a_solution_and_none_to_a_blank():
    """The same in a real kernel, judged by nbgrader's own rules (no error, nothing on stderr)."""
    from nbclient import NotebookClient
    from nbgrader.utils import determine_grade, is_grade

    script = SCRIPTS[0]
    for notebook, passes in ((solution(script), True), (student(script), False)):
        done = nbformat.from_dict(notebook)
        NotebookClient(done, timeout=300, kernel_name="python3", allow_errors=True).execute()
        checks = [cell for cell in done.cells if is_grade(cell) and cell.cell_type == "code"]
        assert len(checks) == len(exercises_with_checks(script))
        for cell in checks:
            score, most = determine_grade(cell)
            assert score == (most if passes else 0), cell.source
            for output in cell.outputs:  # a message, not twenty lines of our own code around it
                if output.get("ename") == "CheckFailed":
                    assert len(output.traceback) == 1 and output.traceback[0].startswith("Not yet: ")


# ------------------------------------------------------------------------------ nothing leaks


def secrets(notebook):
    """Lines of solutions that say something, without indentation."""
    for cell in notebook.cells:
        for region in re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", cell.source, re.S):
            yield from (line.strip() for line in region.splitlines() if len(line.strip()) > 12)


@each
def test_nothing_of_a_solution_is_in_what_students_get(script):
    text = "\n".join(cell.source for cell in student(script).cells)
    raw = (ROOT / "exercises" / f"{script.stem}.ipynb").read_text(encoding="utf-8")
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "fdlib" / "course" / "checks").glob("*.py"))
    assert "SOLUTION" not in raw and "HIDDEN TESTS" not in raw and "MARK SCHEME" not in raw
    found = list(secrets(solution(script)))
    assert len(found) >= len(exercises_with_checks(script))
    for line in found:
        assert line not in text, f"{script.name}: students see {line!r}"
        assert line not in code, f"fdlib.course.checks spells out {line!r}"


def test_wrong_answers_and_solutions_are_not_shipped():
    """What pip installs on Colab is fdlib alone."""
    import tomllib

    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["packages"] == ["fdlib"]
    assert not any(re.search("solutions|tests", path) for path in build["sdist"]["include"])


def test_checks_need_no_grader():
    """They run on Colab, where nbgrader is not, and import core dependencies only."""
    for file in (ROOT / "fdlib" / "course" / "checks").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names}:
                assert name in sys.stdlib_module_names or name in ("torch", "fdlib"), f"{file.name} imports {name}"


# ------------------------------------------------------------------------------ the tool itself

SOURCE = """\
# %% [markdown]
# # Exercises 1 · A title

# %% [markdown]
# ## 1.1 · Twice
# *★☆☆ · 2 points · 5 minutes*
#
# Double it.

# %% nbgrader={"grade_id": "twice", "solution": true}
def twice(x):
    ### BEGIN SOLUTION
    return 2 * x  # secret
    ### END SOLUTION

# %% nbgrader={"grade_id": "check-twice", "grade": true, "points": 2}
assert twice(2) == 4
### BEGIN HIDDEN TESTS
assert twice(3) == 6
### END HIDDEN TESTS

# %% [markdown] nbgrader={"grade_id": "why", "grade": true, "points": 0, "solution": true}
# A model answer.
"""


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "01_a.py").write_text(SOURCE)
    return tmp_path / "solutions", tmp_path / "exercises"


def test_build_makes_a_student_version_and_stays(folders):
    from fdlib.course.__main__ import main

    solutions, exercises = folders
    options = ["exercises", "--solutions", str(solutions), "--exercises", str(exercises)]
    assert main([*options, "--check"]) == 1 and not exercises.exists()
    assert main(options) == 0
    made = (exercises / "01_a.ipynb").read_bytes()
    assert main([*options, "--check"]) == 0 and build(solutions, exercises) == []
    assert to_ipynb(student_version(complete(from_script(SOURCE)))).encode() == made, "the same bytes again"
    text = made.decode()
    assert "secret" not in text and "twice(3)" not in text and "model answer" not in text
    assert "raise NotImplementedError()" in text and "YOUR ANSWER HERE" in text
    assert '"schema_version": 3' in (solutions / "01_a.py").read_text(), "what is left out in the source is filled in"
    (exercises / "02_gone.ipynb").write_text("{}")
    assert build(solutions, exercises) == [exercises / "02_gone.ipynb"] and not (exercises / "02_gone.ipynb").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2 points ·", "3 points ·", "promises 3 points"),
        ("*★☆☆ · 2 points · 5 minutes*", "", "is missing below its title"),
        ("    ### END SOLUTION\n", "", "no end solution"),
        ('"grade_id": "why"', '"grade_id": "twice"', "unique|[Dd]uplicate"),
        ('"solution": true}\ndef', '"soluton": true}\ndef', "has no soluton"),
    ],
)
def test_build_names_what_is_wrong_with_a_source(folders, old, new, message, capsys):
    from fdlib.course.__main__ import main

    solutions, exercises = folders
    (solutions / "01_a.py").write_text(SOURCE.replace(old, new, 1))
    assert main(["exercises", "--solutions", str(solutions), "--exercises", str(exercises)]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_check_is_quiet_brief_and_clear(capsys):
    from fdlib.course.checks import check, compare

    @check("A title")
    def doubled(answer):
        compare(answer(3.0), 6.0, "the double", {"that is the square": 9.0})

    doubled(lambda x: 2 * x)
    assert capsys.readouterr() == ("✓ A title\n", "")
    for answer, message in {
        (lambda x: x * x): "that is the square",
        (lambda x: x): "should be 6, yours is 3",
        (lambda x: None): "does your function end in `return`",
        (lambda x: [x, x]): "shape",
        (lambda x: float("nan")): "nan",
        (lambda x: "six"): "got str",
        None: "no answer yet",
    }.items():
        with pytest.raises(CheckFailed, match=message) as caught:
            doubled(answer)
        assert caught.value._render_traceback_() == [f"Not yet: {caught.value}"]
    assert capsys.readouterr() == ("", "")
