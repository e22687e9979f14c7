"""Draw pictures from a trained model, with their regions where it has some: ``python scripts/sample.py runs/flower64``.

Writes samples.png, samples.npy (uint8 (N, H, W, 3)) and, for models with regions, regions.npy (uint8 (N, H, W)).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from fdlib import viz
from fdlib.experiments import load_model, load_schedule
from fdlib.files import atomic_write
from fdlib.images import to_uint8
from fdlib.metrics.generation import draw
from fdlib.pose import PoseDenoiser


@dataclass
class Sample:
    """What to draw, from which model."""

    model: Annotated[Path, tyro.conf.Positional]
    """A run's folder, or one written by save_pretrained."""
    count: int = 32
    """Pictures."""
    steps: int = 50
    """Solver steps; the thesis's ddpm takes all 1000."""
    sampler: Literal["ddpm", "ddim", "dpm_solver_pp", "ode"] = "dpm_solver_pp"
    """How to go from noise to a picture."""
    label: int | None = None
    """Class of all pictures, for a conditional model; by default each has another, at random."""
    batch_size: int = 64
    """Pictures at a time."""
    seed: int = 0
    """Of the noise."""
    shown: int = 8
    """Pictures in samples.png."""
    to: Path = Path("build/samples")
    """Folder to write to."""


def main(options: Sample) -> Tensor:
    model = load_model(options.model)
    if isinstance(model, PoseDenoiser):
        raise ValueError(f"{options.model} is a scene: python scripts/render.py {options.model}")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    o = options
    images, regions = draw(model, load_schedule(o.model), o.count, o.steps, o.sampler, o.label, o.seed, o.batch_size)
    for name, array in (("samples", to_uint8(images)), ("regions", None if regions is None else regions.numpy())):
        if array is not None:
            with atomic_write(options.to / f"{name}.npy") as path, open(path, "wb") as file:
                np.save(file, array)
    shown = slice(0, options.shown)
    figure = viz.show_images(images[shown]) if regions is None else viz.show_masks(images[shown], regions[shown])
    viz.save(figure, options.to / "samples.png")
    print(f"{len(images)} pictures: {options.to / 'samples.png'}, {options.to / 'samples.npy'}")
    return images


if __name__ == "__main__":
    try:
        main(tyro.cli(Sample, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
