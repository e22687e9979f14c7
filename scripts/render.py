"""Look at a scene that was learned without poses, from a path of cameras: ``python scripts/render.py runs/lego``.

Writes film.gif, film.png (some of its pictures side by side) and, with --points, scene.ply, which MeshLab and Blender open.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image
from torch import Tensor

from fdlib import viz
from fdlib.cameras import look_at, orbit
from fdlib.experiments import load_model
from fdlib.files import atomic_write
from fdlib.images import to_uint8
from fdlib.nerf import point_cloud, render_path, write_ply
from fdlib.pose import PoseDenoiser


@dataclass
class Render:
    """Which scene, from where."""

    model: Annotated[Path, tyro.conf.Positional]
    """A run's folder, or one written by save_pretrained."""
    views: int = 60
    """Pictures of the film."""
    elevation: float | None = None
    """Of the circle, in radians; by default the middle of what the model assumes. (Forward-facing scenes: a small spiral.)"""
    size: int | None = None
    """Pixels along a side; by default those the model was trained with."""
    samples: int | None = None
    """On each ray; by default twice the training's."""
    fps: int = 12
    """Pictures a second."""
    points: float | None = None
    """Also write scene.ply: where the density is higher than this."""
    to: Path = Path("build/render")
    """Folder to write to."""


def path_of(model: PoseDenoiser, views: int, elevation: float | None) -> Tensor:
    """A circle around the scene, or for forward-facing scenes a small spiral where the training cameras are."""
    if model.cameras == "sphere":
        return orbit(views, model.radius, (model.lowest + model.highest) / 2 if elevation is None else elevation)
    angle = 2 * math.pi * torch.arange(views) / views
    eye = model.radius * torch.stack([0.1 * angle.cos(), 0.1 * angle.sin(), 1 + 0.05 * (angle / 2).sin()], dim=-1)
    return look_at(eye)


def main(options: Render) -> Tensor:
    model = load_model(options.model)
    if not isinstance(model, PoseDenoiser):
        raise ValueError(
            f"{options.model} holds a {type(model).__name__}, no scene: python scripts/sample.py {options.model}"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    size = options.size or model.image_size
    path = path_of(model, options.views, options.elevation).to(device)
    focal = model.focal * size / model.image_size
    made = render_path(model.field, path, focal, size, model.near, model.far, options.samples or 2 * model.samples)
    frames = [Image.fromarray(frame) for frame in to_uint8(made.images)]
    with atomic_write(options.to / "film.gif") as file:
        frames[0].save(file, save_all=True, append_images=frames[1:], duration=round(1000 / options.fps), loop=0)
    shown = torch.linspace(0, options.views - 1, min(8, options.views)).round().long()
    viz.save(
        viz.show_rows({"colour": made.images[shown], "opacity": made.opacity[shown, None] * 2 - 1}),
        options.to / "film.png",
    )
    if options.points is not None:
        points, colours = point_cloud(model.field, options.points)
        with atomic_write(options.to / "scene.ply") as file:
            write_ply(file, points, colours)
        print(f"{len(points):,} points: {options.to / 'scene.ply'}")
    print(f"{options.views} views of {size}x{size}: {options.to / 'film.gif'}, {options.to / 'film.png'}")
    return made.images


if __name__ == "__main__":
    try:
        main(tyro.cli(Render, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
