"""Make a finished run a checkpoint of the course: ``python scripts/ship.py runs/shapes32 shapes32_unet``.

Copies the run's averaged weights to ``data/checkpoints/NAME`` in half precision (half the size; they are computed with in
single precision after loading) and refuses what is over 4 MiB. The model card, its README.md, is written by hand: what the
model was trained on, how, and every score.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import tyro
from safetensors.torch import load_file, save_file

from fdlib.files import atomic_write

LIMIT = 4 * 2**20  # bytes


def main(run: tyro.conf.Positional[Path], name: tyro.conf.Positional[str], to: Path = Path("data/checkpoints")) -> None:
    """Ship the model of a run.

    Args:
        run: a folder that `fdlib.training.train` wrote.
        name: what the checkpoint is called, for `course.asset(name)`.
        to: the folder of checkpoints.
    """
    model = run / "model"
    if not (model / "model.safetensors").is_file():
        sys.exit(f"error: {run} holds no finished model ({model / 'model.safetensors'} is missing)")
    weights = load_file(model / "model.safetensors")
    weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    size = sum(value.numel() * value.element_size() for value in weights.values())
    if size > LIMIT:
        sys.exit(
            f"error: {size / 2**20:.1f} MiB in half precision; checkpoints of the course stay under {LIMIT / 2**20:.0f} MiB"
        )
    with atomic_write(to / name / "model.safetensors") as path:
        save_file(weights, path)
        path.chmod(0o644)
    shutil.copyfile(model / "config.json", to / name / "config.json")
    log = (run / "log.jsonl").read_text().splitlines()
    print(f"{to / name}: {size / 2**20:.2f} MiB; last line of its log: {json.loads(log[-1])}")
    print("Next: write its README.md, then `make registry`.")


if __name__ == "__main__":
    tyro.cli(main)
