"""Every claim about learning must fail when nothing was learned.

A cell tagged `claim` asserts something about a shipped checkpoint; a cell tagged `claim-live` asserts the margin by
which the notebook's own short training beats the untrained net (in a script: `# %% tags=["claim"]`). Under `pytest
--nbval` all of them hold. Here each notebook runs once more in the ci profile with

- random weights in the place of every checkpoint: each tensor keeps its mean and spread and loses everything else;
- training that takes no step (`FDLIB_SABOTAGE`, see fdlib.training);

and every tagged cell must raise an AssertionError. A claim that still holds would hold for any network, so it says
nothing. A chapter joins by having tagged cells. Other asserts (mathematics, shapes, exact denoisers) carry no tag.
"""

import hashlib
import json
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from safetensors.torch import load_file, save_file

from fdlib.course.notebooks import from_script

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = {"claim", "claim-live"}
CELL_TIMEOUT_S = 600


def randomised(tensor, generator):
    """Random numbers of the same shape, type, mean and spread; integers (counters) stay."""
    if not tensor.is_floating_point():
        return tensor
    values = tensor.double()
    random = values.mean() + values.std(correction=0) * torch.randn(
        tensor.shape, generator=generator, dtype=torch.float64
    )
    if values.min() >= 0:
        random = random.abs()  # a variance stays one
    return random.to(tensor.dtype)


def randomise(checkpoints, target):
    """A copy of the folder `checkpoints` with random weights in every safetensors file."""
    shutil.copytree(checkpoints, target)
    for file in sorted(target.rglob("*.safetensors")):
        seed = int(hashlib.sha256(file.relative_to(target).as_posix().encode()).hexdigest()[:8], 16)
        generator = torch.Generator().manual_seed(seed)
        save_file({name: randomised(tensor, generator) for name, tensor in sorted(load_file(file).items())}, file)
    return target


def claims_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and CLAIMS & set(cell.metadata.get("tags", []))]


def run(notebook, folder):
    """Execute the cells up to the last claim, whatever they raise; the kernel inherits the environment."""
    claims = {id(cell) for cell in claims_of(notebook)}
    last = max((i for i, cell in enumerate(notebook.cells) if id(cell) in claims), default=len(notebook.cells))
    notebook.cells = notebook.cells[: last + 1]
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return notebook


def error_of(cell):
    """The name of what the cell raised, or None."""
    return next((output.ename for output in cell.outputs if output.output_type == "error"), None)


def survivors(notebook):
    """What is wrong with the claims of a notebook that ran without learning: a line for each."""
    complaints = []
    for cell in claims_of(notebook):
        error = error_of(cell)
        if error is None:
            complaints.append(f"holds although nothing was learned, so it claims nothing:\n{cell.source}")
        elif error != "AssertionError":
            complaints.append(
                f"fails with {error}, not with its assert; a claim must reach its assert (compute before it what later "
                f"cells need, so that they do not trip over this one):\n{cell.source}"
            )
    return complaints


SCRIPTS = [
    path
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.py"))
    if claims_of(from_script(path.read_text(encoding="utf-8")))
]


@pytest.fixture
def nothing_learned(tmp_path, monkeypatch):
    """The environment of notebooks that run here: random checkpoints, training without steps, runs of their own."""
    checkpoints = ROOT / "data" / "checkpoints"
    if checkpoints.is_dir():
        monkeypatch.setenv("FDLIB_CHECKPOINTS", str(randomise(checkpoints, tmp_path / "random")))
    monkeypatch.setenv("FDLIB_SABOTAGE", "untrained")
    monkeypatch.setenv("FDLIB_RUNS", str(tmp_path / "runs"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_every_claim_fails_when_nothing_was_learned(script, nothing_learned):
    notebook = run(from_script(script.read_text(encoding="utf-8")), script.parent)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert error_of(first) is None, f"the first cell already fails: {first.outputs}"
    complaints = survivors(notebook)
    assert not complaints, f"{script.name}: {len(complaints)} of {len(claims_of(notebook))} claims\n\n" + "\n\n".join(
        complaints
    )


# ------------------------------------------------------------------------------ the test of the test


def test_random_weights_keep_what_a_network_needs_and_nothing_else(tmp_path):
    (tmp_path / "shipped" / "net").mkdir(parents=True)
    torch.manual_seed(0)
    weights = {
        "weight": torch.randn(64, 32) * 0.1,
        "scale": torch.ones(64) + 0.1 * torch.rand(64),
        "half": torch.randn(1000).half(),
        "constant": torch.zeros(5),
        "steps": torch.tensor(7),
    }
    save_file(weights, tmp_path / "shipped" / "net" / "model.safetensors")
    (tmp_path / "shipped" / "net" / "config.json").write_text(json.dumps({"channels": 3}))
    target = randomise(tmp_path / "shipped", tmp_path / "random")
    random = load_file(target / "net" / "model.safetensors")
    assert (target / "net" / "config.json").read_text() == '{"channels": 3}'
    for name, tensor in weights.items():
        assert random[name].shape == tensor.shape and random[name].dtype == tensor.dtype
    assert abs(random["weight"].std() - 0.1) < 0.01
    assert abs(torch.corrcoef(torch.stack([random["weight"].flatten(), weights["weight"].flatten()]))[0, 1]) < 0.1
    assert random["scale"].min() > 0 and random["steps"] == 7
    assert load_file(tmp_path / "shipped" / "net" / "model.safetensors")["weight"].equal(weights["weight"])


def test_it_tells_the_claims_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLIB_SABOTAGE", "untrained")

    def cell(source, *tags):
        return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})

    notebook = nbformat.v4.new_notebook(
        cells=[
            cell("from fdlib.course import sabotaged\nquality = 0.1 if sabotaged() else 0.9"),
            cell("margin = quality - 0.5\nassert margin > 0", "claim"),  # fails as it should
            cell("assert margin > 0.2, 'live'", "claim-live"),  # likewise, and was not tripped by the one above
            cell("assert 1 + 1 == 2", "claim"),  # holds for any network
            cell("assert forgotten > 0", "claim"),  # trips over a name instead
            cell("assert 1 + 1 == 2"),  # mathematics: not a claim about learning
        ]
    )
    complaints = survivors(run(notebook, tmp_path))
    assert len(complaints) == 2
    assert "claims nothing" in complaints[0] and "1 + 1" in complaints[0]
    assert "NameError" in complaints[1] and "forgotten" in complaints[1]
