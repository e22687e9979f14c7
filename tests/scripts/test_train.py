"""scripts/train.py through its command line: the real script, tiny."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdlib.unet import UNet

pytest.importorskip("tyro")
ROOT = Path(__file__).resolve().parents[2]
TINY = ["--model.image-size", 8, "--model.channels", 4, "--model.multipliers", 1, 2, "--model.attention", 2]
TINY += ["--training.batch-size", 4, "--training.log-every", 2, "--training.save-every", 4, "--sample-every", 4]


def script(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run([sys.executable, ROOT / "scripts/train.py", *map(str, arguments)], capture_output=True, text=True,
                          env=environment, timeout=300)  # fmt: skip


@pytest.fixture
def here(monkeypatch, capsys):
    """The script as ``__main__`` of this process, which saves its start: exit code, output, errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts/train.py"), *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:  # as the interpreter does: a text is printed to stderr, and the code is 1
            code = 1 if isinstance(stop.code, str) else stop.code or 0
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)

    return run


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def timeless(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture
def photos(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "photos.npz", images=array)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(array):
        Image.fromarray(image).resize((11, 9)).save(folder / f"{i}.png")
    return tmp_path


def test_a_run_its_resume_and_the_run_without_a_break(photos, here):
    data = ["--data.path", photos / "photos.npz"]
    result = here("photos64-small", *TINY, *data, "--folder", photos / "a", "--training.steps", 8)
    assert result.returncode == 0, result.stderr
    assert "parameters, 12 pictures, run in" in result.stdout
    names = {file.name for file in (photos / "a").iterdir()}
    assert {"checkpoint-00000008.pt", "config.json", "log.jsonl", "model", "samples.png"} <= names
    with Image.open(photos / "a/samples.png") as picture:
        assert picture.width > 8 * 8 and picture.height > 4 * 8
    assert UNet.from_pretrained(photos / "a/model").image_size == 8
    assert [row["step"] for row in log_of(photos / "a")] == [2, 4, 6, 8]
    settings = json.loads((photos / "a/config.json").read_text())
    assert settings["training"]["learning_rate"] == 5e-4 and settings["model_config"]["fold"] == 2  # of the preset

    for steps in (4, 8):  # in two parts, the second by the same command
        result = here("photos64-small", *TINY, *data, "--folder", photos / "b", "--training.steps", steps)
        assert result.returncode == 0, result.stderr
    assert timeless(log_of(photos / "b")) == timeless(log_of(photos / "a"))
    weights = [torch.load(photos / run / "checkpoint-00000008.pt", weights_only=True)["ema"] for run in "ab"]
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name])


def test_a_folder_of_pictures(photos):
    result = script(
        "photos64-small", *TINY, "--data.path", photos / "photos", "--folder", photos / "a", "--training.steps", 2
    )
    assert result.returncode == 0, result.stderr
    assert "12 pictures" in result.stdout and (photos / "a/model/model.safetensors").is_file()


def test_help_names_presets_and_fields(here):
    result = here("--help")
    assert result.returncode == 0
    for name in ("shapes32", "photos64-small", "flower64"):
        assert name in result.stdout
    result = here("photos64-small", "--help")
    assert result.returncode == 0
    for text in ("--data.path", "--training.learning-rate", "Steps between checkpoints", "--folder", "--no-resume"):
        assert text in result.stdout


def test_an_error_is_one_line_and_the_exit_code_1(tmp_path):
    result = script("photos64-small", *TINY, "--data.path", "nowhere.npz", "--folder", tmp_path / "a")
    assert result.returncode == 1
    assert "nowhere.npz" in result.stderr and "Traceback" not in result.stderr
    assert [line[:6] for line in result.stderr.strip().splitlines()] == ["error:"]


@pytest.mark.parametrize("arguments, message", [
    ((), "data.path is missing: pass --data.path with a folder"),
    (("--data.path", "nowhere.npz"), "nowhere.npz"),
    (("--data.path", "{}/photos.npz", "--data.key", "pictures"), "has no array 'pictures'; it has images: pass one as key"),
    (("--data.path", "{}/photos.npz", "--model.image-size", "12"), "x_t must be 12x12 pixels for this model, got 8x8"),
    (("--data.path", "{}/photos.npz", "--model.image-size", "10"), "image_size=10 does not fit 2 stages with fold=2"),
    (("--data.path", "{}/photos.npz", "--training.batch-size", "13"), "12 examples, fewer than batch_size=13"),
])  # fmt: skip
def test_what_the_user_can_mend_is_one_line(photos, here, arguments, message):
    result = here("photos64-small", *TINY, "--folder", photos / "a", *(text.format(photos) for text in arguments))
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert message in line and "Traceback" not in result.stderr
    assert not list(photos.glob("a/checkpoint*"))


@pytest.mark.parametrize(
    "arguments", [("photos65",), (), ("shapes32", "--training.stepz", "3"), ("shapes32", "--training.steps", "x")]
)
def test_unknown_presets_and_options(arguments, here):
    result = here(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and (result.stderr + result.stdout).strip()


def test_rendered_shapes(tmp_path, here):
    result = here("shapes32", "--folder", tmp_path, "--data.count", 200, "--training.steps", 2, "--training.batch-size", 8,
                    "--sample-every", 2)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "samples.png").is_file() and "200 pictures" in result.stdout
