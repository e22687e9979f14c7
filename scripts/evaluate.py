"""The thesis's tables with our figures beside its own: ``python scripts/evaluate.py 2.1``.

Tables: 2.1 to 2.7, 3.1, 3.2; "davis" draws frames of DAVIS 2017 and scores them (the thesis shows pictures only). Runs are looked
for in runs/PRESET, data where ``python -m fdlib.data prepare`` put it; a cell that cannot be computed says which file is missing.
"""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from fdlib import viz
from fdlib.files import atomic_write
from fdlib.images import from_uint8
from fdlib.metrics.evaluation import Evaluation, Missing, compute, davis
from fdlib.metrics.tables import TABLES, show


@dataclass
class Evaluate(Evaluation):
    """Which table, from which runs and data."""

    table: Annotated[str, tyro.conf.Positional] = "2.1"
    """2.1 to 2.7, 3.1, 3.2, davis; or all."""
    json: Path | None = None
    """Also write the figures to this file."""
    label: int | None = None
    """davis: what the conditional model is told, a class of ImageNet (bear: 294); the thesis does not say what it took."""
    videos: tuple[str, ...] = ()
    """davis: which videos (the first two)."""
    to: Path = Path("build/davis.png")
    """davis: where the picture goes."""


def main(options: Evaluate) -> dict:
    if options.table == "davis":
        scores, frames, regions = davis(options, options.videos, options.label)
        viz.save(viz.show_masks(from_uint8(frames), torch.as_tensor(regions)), options.to)
        for video, (right, overlap) in scores.items():
            print(f"{video}: accuracy {right:.2f}, IoU of the object {overlap:.2f} (thesis: not in source)")
        print(f"{options.to}")
        return scores
    names = list(TABLES) if options.table == "all" else [options.table]
    if names[0] not in TABLES:
        near = difflib.get_close_matches(names[0], TABLES, n=3, cutoff=0.4)
        raise ValueError(f"there is no table {names[0]!r}: {', '.join([*(near or TABLES), 'davis', 'all'])}")
    measured = {}
    for name in names:
        measured[name] = compute(name, options)
        print(f"Table {name}. {show(TABLES[name], measured[name], columns(name))}\n")
    if options.json:
        with atomic_write(options.json) as path:
            path.write_text(json.dumps(measured, indent=1) + "\n")
    return measured


def columns(name: str) -> tuple[str, ...] | None:
    return ("PSNR", "SSIM", "LPIPS") if name == "3.1" else None


if __name__ == "__main__":
    try:
        main(tyro.cli(Evaluate, description=__doc__))
    except (ValueError, OSError, Missing) as error:
        sys.exit(f"error: {error}")
