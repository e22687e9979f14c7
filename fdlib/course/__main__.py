"""The course's own chores: `python -m fdlib.course` sync (pairs of notebooks), exercises, badges, site, registry;
and for instructors release, grade, report, syllabus (INSTRUCTORS.md)."""

import argparse
import subprocess
import sys
from pathlib import Path

from fdlib.course.grading import cli
from fdlib.course.session import checkout


def main(arguments: list[str] | None = None) -> int:
    root = checkout() or Path.cwd()
    parser = argparse.ArgumentParser(prog="python -m fdlib.course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pairs = commands.add_parser("sync", help="make each notebook from its script: first cell, no outputs, stable ids")
    pairs.add_argument("folders", nargs="*", type=Path, default=[root / "notebooks"])
    tasks = commands.add_parser("exercises", help="make exercises/ from solutions/, by nbgrader's preprocessors")
    tasks.add_argument("--solutions", type=Path, default=root / "solutions")
    tasks.add_argument("--exercises", type=Path, default=root / "exercises")
    for half in (pairs, tasks):
        half.add_argument(
            "--from", dest="source", choices=("py", "ipynb"), default="py", help="which half is the source"
        )
        half.add_argument("--check", action="store_true", help="change nothing, fail if something would change")
    badges = commands.add_parser(
        "badges", help="stamp the README's Colab badges, or move everything to a fork's address"
    )
    badges.add_argument("--repository", help="owner/name of a fork; by default the address stays")
    badges.add_argument("--branch", default="main", help="the branch that badges open")
    badges.add_argument("--check", action="store_true", help="change nothing, fail if something would change")
    web = commands.add_parser("site", help="one searchable web site of lessons, exercises and the library's reference")
    web.add_argument("--out", type=Path, help="a folder; build/site by default")
    web.add_argument("--execute", nargs="*", metavar="NN", help="lessons to execute, by number; all by default")
    web.add_argument("--profile", help="in which they are executed: ci, laptop or gpu")
    register = commands.add_parser("registry", help="re-write data/registry.json from the files in data/")
    register.add_argument("--data", type=Path, default=root / "data")
    cli.add(commands, root)
    options = parser.parse_args(arguments)
    if options.command in cli.COMMANDS:
        return cli.run(options, root)

    if options.command == "registry":
        from fdlib.course.assets import update_registry

        print("data/registry.json", "re-written" if update_registry(options.data) else "is up to date")
        return 0

    if options.command == "site":
        from fdlib.course.site import main as make_site

        return make_site(root, options.out, options.execute, options.profile)

    try:
        if options.command == "badges":
            changed = stamp_badges(root, options)
        elif options.command == "exercises":
            from fdlib.course.exercises import build

            changed = build(options.solutions, options.exercises, options.source, options.check)
        else:
            from fdlib.course.notebooks import sync

            changed = [path for folder in options.folders for path in sync(folder, options.source, options.check)]
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in changed:
        print("differs:" if options.check else "wrote", path)
    if not changed:
        print(
            {"exercises": "All exercises are", "badges": "All badges are"}.get(
                options.command, "All pairs are in sync:"
            ),
            "up to date.",
        )
    return 1 if changed and options.check else 0


def stamp_badges(root: Path, options: argparse.Namespace) -> list[Path]:
    from fdlib.course.badges import stamp

    changed = stamp(root, options.repository, options.branch, options.check)
    if any(path.name == "first_cell.py" for path in changed) and not options.check:  # the first cell of every notebook
        for command in ("sync", "exercises"):  # in a new process, which reads the new address
            subprocess.run([sys.executable, "-m", "fdlib.course", command], cwd=root, check=True)
    return changed


if __name__ == "__main__":
    sys.exit(main())
