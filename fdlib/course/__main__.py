"""The course's own chores: `python -m fdlib.course sync` (pairs of notebooks) and `… registry` (data/registry.json)."""

import argparse
import sys
from pathlib import Path

from fdlib.course.session import checkout


def main(arguments: list[str] | None = None) -> int:
    root = checkout() or Path.cwd()
    parser = argparse.ArgumentParser(prog="python -m fdlib.course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pairs = commands.add_parser("sync", help="make each notebook from its script: first cell, no outputs, stable ids")
    pairs.add_argument("folders", nargs="*", type=Path, default=[root / "notebooks"])
    pairs.add_argument(
        "--from", dest="source", choices=("py", "ipynb"), default="py", help="which half holds the truth"
    )
    pairs.add_argument("--check", action="store_true", help="change nothing, fail if something would change")
    register = commands.add_parser("registry", help="re-write data/registry.json from the files in data/")
    register.add_argument("--data", type=Path, default=root / "data")
    options = parser.parse_args(arguments)

    if options.command == "registry":
        from fdlib.course.assets import update_registry

        print("data/registry.json", "re-written" if update_registry(options.data) else "is up to date")
        return 0

    from fdlib.course.notebooks import sync

    try:
        changed = [path for folder in options.folders for path in sync(folder, options.source, options.check)]
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for path in changed:
        print("differs:" if options.check else "wrote", path)
    if not changed:
        print("All pairs are in sync.")
    return 1 if changed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
