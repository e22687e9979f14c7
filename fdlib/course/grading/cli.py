"""The instructor's commands of `python -m fdlib.course`: what they are called and what they say."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fdlib.course.grading.sandbox import KINDS, Limits

COMMANDS = ("release", "grade", "report", "syllabus")


class Show(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, where there are any."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def add(commands, root: Path) -> None:
    """Add the commands to an argparse sub-parser."""

    def command(name: str, help: str, more: str):
        return commands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}", formatter_class=Show
        )

    zipped = command(
        "release",
        "a zip of exercises for students, without solutions",
        "The same checkout gives the same bytes.",
    )
    zipped.add_argument("--out", type=Path, default=Path("build/fdlib-exercises.zip"), help="the zip to write")
    zipped.add_argument(
        "--exercise", nargs="+", metavar="NN", help="only these notebooks, by name or number; all if left out"
    )
    zipped.add_argument(
        "--source",
        help="what students' pip installs fdlib from, such as git+https://… of your fork; the course's own if left out",
    )

    marks = command(
        "grade",
        "grade a folder of submissions, each behind walls",
        "Stopped, it goes on with the same command; what has not changed is not graded again. Then run `report`. "
        "INSTRUCTORS.md says what the walls hold, and what not.",
    )
    marks.add_argument("folder", type=Path, help="holds a folder, or a notebook, for each student")
    marks.add_argument(
        "--exercise", required=True, metavar="NN", help="which notebook was handed in, by name or number"
    )
    marks.add_argument("--solutions", type=Path, default=root / "solutions", help="the instructor's notebooks")
    marks.add_argument(
        "--out", type=Path, help="where results go; build/grading/NN_name if left out. The same again resumes"
    )
    marks.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many submissions at a time")
    marks.add_argument("--containment", choices=("auto", *KINDS), default="auto", help="the walls; see INSTRUCTORS.md")
    usual = Limits()
    marks.add_argument("--seconds", type=float, default=usual.seconds, help="processor time of a process")
    marks.add_argument("--cell-seconds", type=float, default=usual.cell_seconds, help="processor time of a cell")
    marks.add_argument(
        "--patience", type=float, default=usual.patience, help="the clock may show so many times as much"
    )
    for name, value, what in (
        ("memory", usual.memory, "MiB of memory"),
        ("file", usual.file, "MiB of one file"),
        ("disk", usual.disk, "MiB of all files"),
    ):
        marks.add_argument(f"--{name}", type=int, default=value // 2**20, metavar="MIB", help=what)
    marks.add_argument("--processes", type=int, default=usual.processes, help="processes and threads at a time")

    points = command(
        "report",
        "points (CSV), feedback (HTML), statistics of a graded class",
        "Writes OUT/report and adds to OUT/by_hand.csv a row for each open answer: fill in points and comment, and run it again.",
    )
    points.add_argument("out", type=Path, help="the folder that `grade` wrote, such as build/grading/01_ddpm_basics")
    plan = command("syllabus", "ten weeks, computed from the notebooks", "With reading, minutes and points.")
    plan.add_argument("--weeks", type=int, default=10, help="into how many weeks the chapters are put")
    plan.add_argument("--out", type=Path, help="a Markdown file; printed if left out")


def run(options: argparse.Namespace, root: Path) -> int:
    """Do one of COMMANDS; the exit status. What an instructor can put right is said in a line, without a stack trace."""
    try:
        return globals()[f"_{options.command}"](options, root)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 2


def _release(options, root: Path) -> int:
    from fdlib.course.grading.release import release

    names = release(root, options.out, options.exercise, options.source)
    print(f"wrote {options.out}: {', '.join(names)}")
    return 0


def _grade(options, root: Path) -> int:
    from fdlib.course.grading.grade import grade
    from fdlib.course.grading.submissions import Assignment

    for name in ("jobs", "seconds", "cell_seconds", "patience", "memory", "file", "disk", "processes"):
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be more than 0")
    sizes = {name: getattr(options, name) * 2**20 for name in ("memory", "file", "disk")}
    limits = Limits(options.seconds, options.cell_seconds, options.patience, processes=options.processes, **sizes)
    name = Assignment.load(options.solutions, options.exercise).name
    out = options.out or Path("build/grading") / name

    def say(text: str) -> None:
        print("".join(letter if letter.isprintable() else "?" for letter in text), flush=True)

    results = grade(
        options.folder,
        options.solutions,
        name,
        out,
        containment=options.containment,
        limits=limits,
        jobs=options.jobs,
        say=say,
    )
    kinds = [result["status"] for result in results]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    print(f"{len(results)} submissions: {counts}. Next: python -m fdlib.course report {out}")
    return 0


def _report(options, root: Path) -> int:
    from fdlib.course.grading.report import report

    for what, path in report(options.out).items():
        print(f"{what + ':':10} {path}")
    return 0


def _syllabus(options, root: Path) -> int:
    from fdlib.course.grading.syllabus import syllabus
    from fdlib.files import atomic_write

    if options.weeks < 1:
        raise ValueError("--weeks must be at least 1")
    text = syllabus(root, options.weeks)
    if options.out is None:
        print(text, end="")
    else:
        with atomic_write(options.out) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"wrote {options.out}")
    return 0
