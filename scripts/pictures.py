"""The README's pictures, drawn from the shipped checkpoints: ``python scripts/pictures.py`` writes docs/pictures/*.png.

The first pictures of fixed seeds, nothing chosen. About two minutes on one core; run it again after a checkpoint changed.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from PIL import Image

from fdlib import course, inversion, nerf, viz
from fdlib.cameras import orbit
from fdlib.data.multiview import MultiView
from fdlib.directions import discovered_mask, find_directions
from fdlib.editing import edit
from fdlib.factorized import FactorizedUNet
from fdlib.images import image_grid, overlay_masks
from fdlib.metrics.editing import match_strength
from fdlib.metrics.shapes_test import ShapesTest
from fdlib.pose import PoseDenoiser
from fdlib.process import add_noise
from fdlib.samplers import dpm_solver_pp
from fdlib.schedule import NoiseSchedule, time_grid
from fdlib.unet import UNet

LINEAR = NoiseSchedule.linear(1000)
COLUMNS, SCALE = 8, 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rooms() -> list:
    """From noise to rooms: what the U-Net of chapter 2 believes at five times, and its samples."""
    unet = UNet.from_pretrained(course.asset("shapes32_unet")).eval()
    rows, noise = [], torch.randn(COLUMNS, 3, 32, 32, generator=seeded(0))
    made = dpm_solver_pp(
        unet,
        LINEAR,
        noise,
        timesteps=time_grid(1000, 25, power=2),
        clip_x0=True,
        progress=False,
        callback=lambda step: rows.append(step.x),
    )
    return [noise.clamp(-1, 1), rows[8].clamp(-1, 1), rows[14].clamp(-1, 1), made.clamp(-1, 1)]


def regions() -> list:
    """Held-out rooms; the soft masks that chapter 4's denoiser finds in them; what these are as classes; the truth."""
    model = FactorizedUNet.from_pretrained(course.asset("shapes32_regions")).eval()
    test = ShapesTest.render(32, count=100)
    fit_masks, masks = test.segment(model)
    scores = test.score_masks(fit_masks, masks, model.regions)
    few = slice(0, COLUMNS)
    classes = viz.label_map_colours(test.classes(masks[few], scores))
    return [
        test.images[few],
        overlay_masks(test.images[few], masks[few], 1.0),
        classes,
        viz.label_map_colours(test.labels[few].long()),
    ]


@torch.no_grad()
def cameras() -> list:
    """Held-out views, noised, and rendered from the cameras that chapter 10's denoiser found; a flight around its scene."""
    model = PoseDenoiser.from_pretrained(course.asset("car_poses")).eval()
    views, schedule = MultiView.render("car", views=60, size=32, seed=1000), NoiseSchedule.cosine(100)
    images = views.images[:COLUMNS]
    noisy = add_noise(schedule, images, 40, torch.randn(images.shape, generator=seeded(0)))
    found = model.localise(images, schedule, t=40)
    flight = nerf.render_path(
        model.field, orbit(COLUMNS, radius=3.0, elevation=0.5), views.focal, 32, views.near, views.far, progress=False
    )
    return [images, noisy.clamp(-1, 1), model.render(found).clamp(-1, 1), flight.images.clamp(-1, 1)]


def edits() -> list:
    """Held-out rooms; a region that chapter 4's denoiser found; two directions in which chapter 2's can change it."""
    unet = UNet.from_pretrained(course.asset("shapes32_unet")).eval()
    finder = FactorizedUNet.from_pretrained(course.asset("shapes32_regions")).eval()
    images = ShapesTest.render(32, count=COLUMNS).images
    found, _ = discovered_mask(finder.segment(images), row=17, column=16)
    mask = F.max_pool2d(found, 3, stride=1, padding=1)
    latent = inversion.invert(unet, LINEAR, images, timesteps=time_grid(501, 20), progress=False)
    unedited = inversion.sample(unet, LINEAR, latent, progress=False)
    directions = find_directions(
        unet, LINEAR, latent.x, 500, mask, k=2, space="x", of="x0", support="region",
        projection="soften", rest_rank=40, iterations=3, tolerance=0.5,
    )  # fmt: skip

    def changed(index: int) -> torch.Tensor:
        def apply(strength: torch.Tensor) -> torch.Tensor:
            return edit(unet, LINEAR, latent, directions, strength, index, unedited=unedited).images

        return match_strength(apply, unedited, mask, target=0.8, start=0.06)[1].clamp(-1, 1)

    return [images, found.expand(-1, 3, -1, -1) * 2 - 1, changed(0), changed(1)]


def main(out: Path = Path("docs/pictures")) -> None:
    """Draw the pictures.

    Args:
        out: the folder they go to.
    """
    out.mkdir(parents=True, exist_ok=True)
    for draw in (rooms, regions, cameras, edits):
        rows = [image_grid(row, COLUMNS, scale=SCALE) for row in draw()]
        picture = torch.cat([torch.as_tensor(row) for row in rows]).numpy()
        Image.fromarray(picture).save(out / f"{draw.__name__}.png", optimize=True)
        print(f"{out / draw.__name__}.png: {picture.shape[1]} x {picture.shape[0]}")


if __name__ == "__main__":
    tyro.cli(main)
