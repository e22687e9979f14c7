"""INSTRUCTORS.md is a script: its commands are run as they stand there, on a small class."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="nbgrader's format of exercises: pip install fdlib[teach]")

from fdlib.course import REPOSITORY
from fdlib.course.grading.sandbox import choose

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
SETUP = re.findall(r"^```sh setup\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.M | re.S)


def test_the_set_up_is_that_of_the_readme():
    """It cannot run in a test: it downloads. Its words can be checked."""
    (block,) = SETUP
    assert block.splitlines()[0] == f"git clone {REPOSITORY}"
    assert re.search(r"^install:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert "source .venv/bin/activate" in block


def test_every_link_and_option_is_real(capsys):
    from fdlib.course.__main__ import main

    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    assert "INSTRUCTORS.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    helps = ""
    for name in ("release", "grade", "report", "syllabus"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        helps += capsys.readouterr().out
    for option in set(re.findall(r"--[a-z][a-z-]+", TEXT)):
        assert option in helps, f"INSTRUCTORS.md speaks of {option}"


@pytest.mark.slow
def test_the_commands_lead_to_grades(tmp_path):
    try:
        choose("auto")
    except RuntimeError as error:
        pytest.skip(str(error))
    course = tmp_path
    right = nbformat.read(ROOT / "solutions" / "01_ddpm_basics.ipynb", as_version=4)
    blank = nbformat.read(ROOT / "exercises" / "01_ddpm_basics.ipynb", as_version=4)
    for student, notebook in (("Ada Lovelace", right), ("José Müller", blank)):
        (course / "submitted" / student).mkdir(parents=True)
        nbformat.write(notebook, course / "submitted" / student / "01_ddpm_basics.ipynb")
    nbformat.write(blank, course / "submitted" / "Grace Hopper 01_ddpm_basics.ipynb")

    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    assert len(COMMANDS) == 4
    said = ""
    for block in COMMANDS:
        for line in block.strip().splitlines():
            assert shlex.split(line)[:3] == ["python", "-m", "fdlib.course"]
            done = subprocess.run(
                line, shell=True, cwd=course, capture_output=True, text=True, env=environment, timeout=800
            )
            assert done.returncode == 0, line + done.stdout + done.stderr
            said += done.stdout
    assert "Ada Lovelace: 28 of 34 points, 6 still by hand" in said
    assert (course / "build" / "fdlib-exercises.zip").stat().st_size > 10_000
    assert "| 10 |" in (course / "build" / "syllabus.md").read_text(encoding="utf-8")
    for path in re.findall(r"^\| `(build/[^`]+)`", TEXT, re.M):
        assert list(course.glob(path)), f"INSTRUCTORS.md promises {path}"
    with open(course / "build" / "grading" / "01" / "report" / "grades.csv", encoding="utf-8", newline="") as file:
        points = {row["student"]: row["points"] for row in csv.DictReader(file)}
    assert points == {"Ada Lovelace": "28", "Grace Hopper": "0", "José Müller": "0"}
