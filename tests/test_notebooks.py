"""Every notebook: its pair in sync, stripped, canonical, with the common first cell, honest minutes and a claim.

Whatever lies in notebooks/ is tested; a new chapter joins by existing.
"""

import re
from pathlib import Path

import nbformat
import pytest

from fdlib.course import FIRST_CELL, PROFILES, first_cell
from fdlib.course.notebooks import canonical, from_script, sync, to_ipynb, to_script

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
HINT = "run `make sync`"
each = pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])


def read(script):
    return from_script(script.read_text(encoding="utf-8"))


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_every_notebook_has_its_script_and_every_script_its_notebook():
    assert [path.stem for path in SCRIPTS] == [path.stem for path in NOTEBOOKS], HINT
    strangers = {path.name for path in FOLDER.glob("*.ipynb")} - {path.name for path in NOTEBOOKS}
    assert not strangers, f"name them NN_name: {strangers}"


@each
def test_pair_is_in_sync_stripped_and_canonical(script):
    text = script.read_text(encoding="utf-8")
    notebook = from_script(text)
    assert to_script(notebook) == text, HINT
    assert to_ipynb(notebook) == script.with_suffix(".ipynb").read_text(encoding="utf-8"), HINT


@each
def test_notebook_is_valid_and_stripped(script):
    """The same by looking, should the canonical shape ever be wrong itself."""
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in code_of(notebook):
        assert not cell.outputs and cell.execution_count is None, HINT
        assert cell.source.strip(), "an empty code cell"


@each
def test_first_code_cell_is_the_bootstrap(script):
    cells = code_of(read(script))
    assert cells[0].source == FIRST_CELL, HINT
    assert not any("course.bootstrap(" in cell.source for cell in cells[1:])


@each
def test_says_at_its_top_what_it_takes(script):
    first = read(script).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# "), "a notebook starts with its title"
    for profile in PROFILES:
        # "| laptop | 4 min |", "`ci` 40 s", "gpu: 1.5 minutes"
        stated = re.search(
            rf"\b{profile}\b`?[^\w\n]*(?:about )?\d+(?:\.\d+)?\s*(?:s|sec|seconds?|min|minutes?)\b", first.source
        )
        assert stated, f"the first cell does not say how long the notebook takes in profile {profile}"


@each
def test_makes_a_claim_that_can_fail(script):
    cells = code_of(read(script))
    if script.stem != "00_welcome":
        assert any(re.search(r"^\s*assert\b", cell.source, re.M) for cell in cells), "no assert anywhere"


@each
def test_claims_on_learning_are_tagged(script):
    """tests/test_claims.py runs what is tagged; see there."""
    cells = code_of(read(script))
    code = "\n".join(cell.source for cell in cells)
    tags = {tag for cell in cells for tag in cell.metadata.get("tags", [])}
    assert {tag for tag in tags if tag.startswith("claim")} <= {"claim", "claim-live"}
    for cell in cells:
        if {"claim", "claim-live"} & set(cell.metadata.get("tags", [])):
            assert re.search(r"^\s*assert\b", cell.source, re.M), f"a claim without an assert:\n{cell.source}"
    if re.search(r"\basset\(", code):
        assert "claim" in tags, "it loads a checkpoint, but no cell is tagged `claim`"
    if re.search(r"(?<![.\w])train\(|\btraining\.train\(", code):  # not `model.train()`
        assert "claim-live" in tags, "it trains, but no cell is tagged `claim-live`"


@each
def test_links_resolve(script):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(read(script))):
        if "://" in target or target.startswith(("#", "mailto:", "attachment:")):
            continue
        path = (script.parent / target.split("#")[0]).resolve()
        assert path.exists(), f"a link to {target}, which does not exist"
        assert path.is_relative_to(ROOT), f"a link out of the project: {target}"


@each
def test_profile_chooses_numbers_not_code(script):
    for cell in code_of(read(script))[1:]:
        assert not re.search(r"^[^#\n]*\bif\b[^#\n]*\bprofile\b|FDLIB_PROFILE", cell.source, re.M), (
            f"use profile.pick:\n{cell.source}"
        )


# ------------------------------------------------------------------------------ the tool itself

SOURCE = """\
# %% [markdown]
# # A title

# %% tags=["claim"]
assert 1 < 2

# %%
x = 1

# %%
x = 1
"""


def test_sync_makes_a_pair_that_stays(tmp_path):
    script, notebook = tmp_path / "01_a.py", tmp_path / "01_a.ipynb"
    script.write_text(SOURCE)
    assert sync(tmp_path, check=True) == [script, notebook] and not notebook.exists()
    assert sync(tmp_path) == [script, notebook]
    assert sync(tmp_path) == sync(tmp_path, check=True) == sync(tmp_path, source="ipynb") == []
    made = nbformat.read(notebook, as_version=4)
    nbformat.validate(made)
    assert [cell.source for cell in code_of(made)] == [FIRST_CELL, "assert 1 < 2", "x = 1", "x = 1"]
    assert made.cells[2].metadata == {"tags": ["claim"]}
    assert "jupytext_version:" not in script.read_text()


def test_sync_strips_outputs_and_private_metadata(tmp_path):
    script, notebook = tmp_path / "01_a.py", tmp_path / "01_a.ipynb"
    script.write_text(SOURCE)
    sync(tmp_path)
    clean = notebook.read_text()
    run = nbformat.reads(clean, as_version=4)
    run.metadata["widgets"] = {"state": "large"}
    run.cells[2].metadata["execution"] = {"start": "now"}
    run.cells[2].execution_count = 7
    run.cells[2].outputs = [nbformat.v4.new_output("stream", text="hello")]
    nbformat.write(run, notebook)
    assert sync(tmp_path) == [notebook] and notebook.read_text() == clean


def test_sync_does_not_lose_what_was_written_in_jupyter(tmp_path):
    import os

    script, notebook = tmp_path / "01_a.py", tmp_path / "01_a.ipynb"
    script.write_text(SOURCE)
    sync(tmp_path)
    edited = nbformat.read(notebook, as_version=4)
    edited.cells[-1].source = "x = 'an hour of work'"
    nbformat.write(edited, notebook)
    os.utime(notebook, (script.stat().st_mtime + 60,) * 2)
    with pytest.raises(RuntimeError, match="--from ipynb"):
        sync(tmp_path)
    assert "an hour of work" in notebook.read_text()
    assert sync(tmp_path, source="ipynb") == [script, notebook]  # the notebook too: canonical again
    assert "an hour of work" in script.read_text() and sync(tmp_path) == []


def test_the_command_line(tmp_path, capsys):
    from fdlib.course.__main__ import main

    (tmp_path / "01_a.py").write_text(SOURCE)
    assert main(["sync", "--check", str(tmp_path)]) == 1 and "differs" in capsys.readouterr().out
    assert main(["sync", str(tmp_path)]) == 0 and "wrote" in capsys.readouterr().out
    assert main(["sync", "--check", str(tmp_path)]) == 0 and "in sync" in capsys.readouterr().out
    (tmp_path / "data").mkdir()
    assert main(["registry", "--data", str(tmp_path / "data")]) == 0 and (tmp_path / "data" / "registry.json").exists()


def test_a_moved_repository_re_stamps(tmp_path, monkeypatch):
    from fdlib.course import notebooks

    (tmp_path / "01_a.py").write_text(SOURCE)
    sync(tmp_path)
    moved = FIRST_CELL.replace(first_cell.REPOSITORY, "https://example.org/new/home")
    monkeypatch.setattr(notebooks, "FIRST_CELL", moved)
    sync(tmp_path)
    cells = code_of(read(tmp_path / "01_a.py"))
    assert cells[0].source == moved and len(cells) == 4


def test_canonical_is_idempotent():
    once = from_script(SOURCE)
    assert canonical(once) == once and to_ipynb(canonical(once)) == to_ipynb(once)
    assert to_script(from_script(to_script(once))) == to_script(once)
