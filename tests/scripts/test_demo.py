"""`make demo` as a user runs it, short: progress, scores beside baselines, a picture."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def demo(*arguments):
    command = [sys.executable, "scripts/demo.py", *map(str, arguments)]
    environment = {**os.environ, "FDLIB_PROFILE": "ci"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_it_trains_scores_and_draws(tmp_path):
    done = demo("--seed", 1, "--steps", 20, "--test", 40, "--out", tmp_path / "pictures" / "demo.png")
    assert done.returncode == 0, done.stderr
    assert "training" in done.stderr and "20/20" in done.stderr, "no progress bar"
    scores = {name: float(x) for name, x in re.findall(r"^  (\S.*?)\s{2,}(0\.\d{3}) ", done.stdout, re.M)}
    assert {"chance", "k-means on colours"} < set(scores) and any(name.startswith("this model") for name in scores)
    with Image.open(tmp_path / "pictures" / "demo.png") as picture:
        assert picture.width > 400 and len(picture.convert("RGB").getcolors(10**6)) > 100, "an empty picture"


def test_bad_arguments_are_a_line_not_a_stack_trace():
    done = demo("--test", 0)
    assert (
        done.returncode != 0 and "error: count must lie in 1 .. 10000" in done.stderr and "Traceback" not in done.stderr
    )


def test_help_explains_every_option():
    done = demo("--help")
    assert done.returncode == 0 and all(option in done.stdout for option in ("--seed", "--steps", "--test", "--out"))
