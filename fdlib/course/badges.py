"""Where the project lives: the README's Colab badges, and every other place that names the repository.

    python -m fdlib.course badges                              # stamp the README's table of chapters anew
    python -m fdlib.course badges --repository you/your-fork   # and move everything to a fork's own address

A badge opens a chapter on Colab, whose first cell installs fdlib from the repository; so a fork that wants its own fdlib
there changes both, and this command does.
"""

from __future__ import annotations

import re
from pathlib import Path

from fdlib.course.first_cell import REPOSITORY

ROW = re.compile(r"^\| \[[^\]]+\]\(notebooks/(\d\d_\w+)\.ipynb\) \|.*$", re.M)
COLUMNS = 5  # of a row before ours: chapter, what you build, minutes in three profiles
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
NAMES_THE_REPOSITORY = ("README.md", "CITATION.cff", "fdlib/course/first_cell.py")


def address(repository: str) -> str:
    """https://github.com/owner/name, from that or from owner/name.

    Raises:
        ValueError: neither of them.
    """
    found = re.fullmatch(r"(?:https://github\.com/)?([\w.-]+/[\w.-]+?)(?:\.git)?/?", repository.strip())
    if not found:
        raise ValueError(f"--repository: {repository!r} must be owner/name or https://github.com/owner/name")
    return f"https://github.com/{found[1]}"


def colab(notebook: str, repository: str, branch: str = "main") -> str:
    """The address that opens a notebook of the repository on Colab."""
    return f"https://colab.research.google.com/github/{repository.removeprefix('https://github.com/')}/blob/{branch}/{notebook}"


def stamped(readme: str, root: Path, repository: str = REPOSITORY, branch: str = "main") -> str:
    """The README with the two last columns of each chapter's row made anew: its exercises, its badge."""

    def row(match: re.Match) -> str:
        name, cells = match[1], match[0].strip().strip("|").split(" |")[:COLUMNS]
        cells = [cell.strip() for cell in cells] + [""] * (COLUMNS - len(cells))
        exercises = f"exercises/{name}.ipynb"
        link = f"[exercises]({exercises})" if (root / exercises).exists() else ""
        badge = f"[![Open in Colab]({BADGE})]({colab(f'notebooks/{name}.ipynb', repository, branch)})"
        return "| " + " | ".join([*cells, link, badge]) + " |"

    return ROW.sub(row, readme)


def stamp(root: Path, repository: str | None = None, branch: str = "main", check: bool = False) -> list[Path]:
    """Write the badges, and with ``repository`` move every file that names it; the files that changed (or would).

    After a move, notebooks and exercises hold the old address until ``sync`` and ``exercises`` have run; the command runs
    them.
    """
    new, changed = address(repository or REPOSITORY), []
    for name in NAMES_THE_REPOSITORY:
        file = root / name
        old_text = file.read_text(encoding="utf-8")
        text = old_text.replace(REPOSITORY, new)
        if name == "README.md":
            text = stamped(text, root, new, branch)
        if text != old_text:
            changed.append(file)
            if not check:
                file.write_text(text, encoding="utf-8", newline="\n")
    return changed
