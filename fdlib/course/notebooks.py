"""Keeping notebooks in one shape: `NN_name.py` (py:percent) and its pair `NN_name.ipynb`, byte for byte reproducible.

The script is the source, for people and for git; the notebook is made from it. Both are canonical: no outputs, no
execution counts, cell ids that depend on nothing but the cells, the same metadata everywhere, and the first code cell
as `fdlib.course.first_cell` has it. `make sync` brings them there, and tests/test_notebooks.py sees that they are.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jupytext
import nbformat
from nbformat import NotebookNode

from fdlib.course.first_cell import FIRST_CELL

FORMATS = "ipynb,py:percent"
SCRIPT_METADATA = {
    # without the jupytext version: otherwise each upgrade of jupytext would change every notebook
    "jupytext": {"formats": FORMATS, "notebook_metadata_filter": "-jupytext.text_representation.jupytext_version"},
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
}
NOTEBOOK_METADATA = {
    "accelerator": "GPU",  # Colab then offers a GPU by itself
    "colab": {"gpuType": "T4", "provenance": []},
    **SCRIPT_METADATA,
    "language_info": {"name": "python"},
}
KEPT_CELL_METADATA = ("tags", "nbgrader")
SLACK_S = 2.0  # files of one checkout or one save are this close in time


def from_script(text: str) -> NotebookNode:
    """The canonical notebook of a py:percent script."""
    return canonical(jupytext.reads(text, fmt="py:percent"))


def canonical(notebook: NotebookNode) -> NotebookNode:
    """A new notebook with the same cells: stamped, stripped, with reproducible ids and metadata."""
    cells, stamped = [], _stamped(notebook.cells)
    for cell, cell_id in zip(stamped, cell_ids(stamped)):
        kept = {key: cell.metadata[key] for key in KEPT_CELL_METADATA if key in cell.metadata}
        new = {"cell_type": cell.cell_type, "id": cell_id, "metadata": kept, "source": cell.source}
        if cell.cell_type == "code":
            new |= {"execution_count": None, "outputs": []}
        cells.append(NotebookNode(new))
    return nbformat.from_dict({"cells": cells, "metadata": NOTEBOOK_METADATA, "nbformat": 4, "nbformat_minor": 5})


def cell_ids(cells: list[NotebookNode]) -> list[str]:
    """Ids that depend on nothing but the cells' text and order."""
    ids, seen = [], Counter()
    for cell in cells:
        digest = hashlib.sha1(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        ids.append(f"{digest}-{seen[digest]}")
        seen[digest] += 1
    return ids


def to_script(notebook: NotebookNode) -> str:
    """The text of the paired `.py`."""
    script = nbformat.from_dict({**notebook, "metadata": SCRIPT_METADATA})
    return jupytext.writes(script, fmt="py:percent").rstrip("\n") + "\n"


def to_ipynb(notebook: NotebookNode) -> str:
    """The text of the paired `.ipynb`."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def sync(
    folder: Path,
    source: Literal["py", "ipynb"] = "py",
    check: bool = False,
    finish: Callable[[NotebookNode], NotebookNode] = lambda notebook: notebook,
) -> list[Path]:
    """Bring each pair in `folder` into its canonical shape; returns the files that changed (or, with `check`, would).

    Args:
        folder: where the notebooks are.
        source: which half of a pair holds the truth. A notebook without its script is always its own source.
        check: change nothing.
        finish: a last touch to each canonical notebook.

    Raises:
        RuntimeError: a notebook was edited after its script and `source` is "py": the edits would be lost.
    """
    changed = []
    for stem in sorted({path.with_suffix("") for path in (*folder.glob("[0-9]*.py"), *folder.glob("[0-9]*.ipynb"))}):
        script, notebook = stem.with_suffix(".py"), stem.with_suffix(".ipynb")
        use_script = script.exists() and not (source == "ipynb" and notebook.exists())
        if use_script:
            if not check:
                _refuse_to_lose_edits(script, notebook)
            content = from_script(script.read_text(encoding="utf-8"))
        else:
            content = canonical(nbformat.reads(notebook.read_text(encoding="utf-8"), as_version=4))
        content = finish(content)
        for path, text in ((script, to_script(content)), (notebook, to_ipynb(content))):
            if path.exists() and path.read_text(encoding="utf-8") == text:
                continue
            changed.append(path)
            if not check:
                path.write_text(text, encoding="utf-8", newline="\n")
        if not check:  # jupytext in JupyterLab refuses a pair whose script is older than its notebook
            os.utime(notebook, (script.stat().st_atime, script.stat().st_mtime))
    return changed


def _stamped(cells: list[NotebookNode]) -> list[NotebookNode]:
    """`cells` with `FIRST_CELL` as the first code cell: in place of an older version of it, or before the first."""
    first = next((index for index, cell in enumerate(cells) if cell.cell_type == "code"), len(cells))
    older = first < len(cells) and "course.bootstrap(" in cells[first].source
    stamp = nbformat.v4.new_code_cell(FIRST_CELL)
    return [*cells[:first], stamp, *cells[first + older :]]


def _refuse_to_lose_edits(script: Path, notebook: Path) -> None:
    if not notebook.exists() or notebook.stat().st_mtime <= script.stat().st_mtime + SLACK_S:
        return
    ours = [cell.source for cell in from_script(script.read_text(encoding="utf-8")).cells]
    theirs = [
        cell.source for cell in canonical(nbformat.reads(notebook.read_text(encoding="utf-8"), as_version=4)).cells
    ]
    if ours != theirs:
        raise RuntimeError(
            f"{notebook} was edited after {script.name}, and the two differ. Keep the notebook's text with `python -m "
            f"fdlib.course sync --from ipynb {notebook.parent}`, or the script's with `touch {script}` and `make sync`."
        )
