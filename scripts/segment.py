"""Segment pictures with a trained model: ``python scripts/segment.py runs/flower64 --images ~/Pictures``.

Writes segments.png (pictures, regions, both) and regions.npy, uint8 (N, H, W): the region of each pixel.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from fdlib import viz
from fdlib.data.photos import ArrayImages, ImageFolder
from fdlib.data.pictures import open_picture
from fdlib.experiments import load_model, load_schedule
from fdlib.factorized import Segments
from fdlib.files import atomic_write


@dataclass
class Segment:
    """What to segment, by which model."""

    model: Annotated[Path, tyro.conf.Positional]
    """A run's folder, or one written by save_pretrained."""
    images: Path
    """A picture, a folder of pictures, or an .npy or .npz array of them."""
    key: str = "images"
    """The array's name inside an .npz file."""
    to: Path = Path("build/segments")
    """Folder to write to."""
    count: int = 1000
    """At most so many pictures."""
    shown: int = 8
    """Pictures in segments.png."""
    t: int = 30
    """How much noise is added before (thesis 2.4.1: 30)."""
    label: int | None = None
    """The class of all pictures, for a conditional model."""


def main(options: Segment) -> torch.Tensor:
    model = load_model(options.model)
    if not isinstance(model, Segments):
        raise ValueError(
            f"{options.model} holds a {type(model).__name__}, which has no regions: train with --model.regions 3"
        )
    if options.images.suffix in (".npy", ".npz"):
        data = ArrayImages.from_file(options.images, options.key)
    elif options.images.is_dir():
        data = ImageFolder(options.images, size=model.image_size)
    else:
        data = ArrayImages(open_picture(options.images, model.image_size)[None])
    images = data.batch(range(min(options.count, len(data))))["image"]
    condition = {} if options.label is None else {"label": torch.full((len(images),), options.label)}
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    masks = model.segment(images, options.t, schedule=load_schedule(options.model), **condition)
    with atomic_write(options.to / "regions.npy") as path, open(path, "wb") as file:
        np.save(file, masks.argmax(1).to(torch.uint8).numpy())
    shown = slice(0, options.shown)
    viz.save(viz.show_masks(images[shown], masks[shown].argmax(1)), options.to / "segments.png")
    print(
        f"{len(images)} pictures, {masks.shape[1]} regions: {options.to / 'segments.png'}, {options.to / 'regions.npy'}"
    )
    return masks


if __name__ == "__main__":
    try:
        main(tyro.cli(Segment, description=__doc__))
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"error: {error.args[0] if isinstance(error, KeyError) else error}")
