"""The zip for students: exercises, what to install, a word of welcome. The same files give the same bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fdlib.files import atomic_write

EPOCH = (2020, 1, 1, 0, 0, 0)
SECRETS = ("BEGIN SOLUTION", "BEGIN HIDDEN TESTS", "BEGIN MARK SCHEME")
WELCOME = """# Exercises

With Python 3.11 or newer:

    python -m venv .venv
    .venv/bin/python -m pip install -r requirements.txt
    .venv/bin/python -m jupyter lab exercises

(On Windows: `.venv\\Scripts\\python`.) Or upload a notebook to Google Colab: its first cell installs what is missing.

Fill in the cells that say `YOUR CODE HERE`, and run the cell below each: it says whether your answer is right. Keep the cells
where they are, and hand in the notebook under its own name. Grading runs your notebook from top to bottom in a fresh kernel
without a network: *Kernel > Restart Kernel and Run All Cells* shows you what it will see.
"""


def release(root: Path, target: Path, wanted: list[str] | None = None, source: str | None = None) -> list[str]:
    """Write the zip; the names of the files in it.

    Args:
        root: a checkout. Its exercises/ must be what solutions/ generates.
        wanted: names of notebooks, or their beginnings; None for all.
        source: what pip installs fdlib from; None for the course's repository.

    Raises:
        ValueError: exercises/ is not up to date, a notebook is unknown, or something would leak.
    """
    from fdlib.course import REPOSITORY
    from fdlib.course.exercises import build

    if stale := build(root / "solutions", root / "exercises", check=True):
        raise ValueError(
            f"exercises/ is not what solutions/ generates ({', '.join(p.name for p in stale)}): run `make exercises` first"
        )
    notebooks = sorted((root / "exercises").glob("[0-9]*.ipynb"))
    for name in wanted or []:
        if not any(path.stem.startswith(name) for path in notebooks):
            raise ValueError(f"no exercises called {name}; there are {', '.join(path.stem for path in notebooks)}")
    if wanted:
        notebooks = [path for path in notebooks if path.stem.startswith(tuple(wanted))]
    files = {f"exercises/{path.name}": path.read_bytes() for path in notebooks}
    files["README.md"] = WELCOME.encode()
    files["requirements.txt"] = f"fdlib[course] @ {source or 'git+' + REPOSITORY}\n".encode()
    files["LICENSE"] = (root / "LICENSE").read_bytes()
    for name, data in files.items():
        if leaked := [secret for secret in SECRETS if secret.encode() in data]:
            raise ValueError(f"{name} would show students a region {leaked[0]}")
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(f"fdlib-exercises/{name}", EPOCH)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, data)
    return sorted(files)
