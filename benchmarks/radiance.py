"""Known cameras: how good is a radiance field on views that it never saw, after how many seconds of training?

    python benchmarks/radiance.py --seeds 0 1 2 --json benchmarks/results/radiance.json
    python benchmarks/radiance.py --seeds 0 --scene tower --profile ci

Scene: the procedural car, 32 x 32 pixels, 120 training views with their exact poses and 60 others. A seed draws views, batches
and depths. The recipe is that of chapter 8 (``notebooks/08_radiance_fields.py``), profile by profile.

Beside the field stand two answers that know no geometry: the mean of the training views, and the training view from nearest to
where the held-out camera stands. PSNR is the mean over held-out views, in dB.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlib.cameras import pixel_rays
from fdlib.course.session import cpu_share
from fdlib.data.multiview import MultiView
from fdlib.files import atomic_write
from fdlib.metrics.geometry import psnr
from fdlib.nerf import GridField, Rendering, render_image, render_rays
from fdlib.training import TrainingConfig, train

PASSES = {"psnr": 27.0, "seconds": 60.0}  # on two cores, profile laptop


@dataclass
class Recipe:
    """How to train: rays a step = batch x pixels, samples on each; the grid has ``resolution`` voxels along a side."""

    steps: int
    rays: int
    samples: int
    resolution: int
    batch: int = 32
    learning_rate: float = 0.3
    ema_decay: float = 0.95


RECIPES = {
    "ci": Recipe(steps=120, rays=1024, samples=32, resolution=32),
    "laptop": Recipe(steps=500, rays=2048, samples=48, resolution=48),
    "gpu": Recipe(steps=2000, rays=8192, samples=96, resolution=96),
}


def objective(views: MultiView, recipe: Recipe):
    """Mean squared error of random pixels of each view in the batch, colours in [0, 1]."""

    def loss(field: GridField, batch: dict, generator: torch.Generator) -> tuple[Tensor, dict]:
        images, c2w = batch["image"], batch["c2w"]
        n, _, height, width = images.shape
        shape = (n, recipe.rays // recipe.batch)
        pixels = torch.randint(height * width, shape, generator=generator, device=images.device)
        origins, directions = pixel_rays(c2w, pixels, height, width, views.focal)
        options = dict(generator=generator, keep_weights=False)
        made = render_rays(field, origins, directions, views.near, views.far, recipe.samples, **options)
        wanted = (images.flatten(2).mT.gather(1, pixels[..., None].expand(-1, -1, 3)) + 1) / 2
        return (made.colour - wanted).square().mean(), {}

    return loss


def score(images: Tensor, views: MultiView) -> float:
    """Mean PSNR over views, in dB."""
    return float(psnr(images.cpu(), views.images, 2.0).mean())


@torch.no_grad()
def rendered(field: GridField, views: MultiView, samples: int = 96) -> Rendering:
    """All views, from their cameras."""
    c2w = views.c2w.to(field.grid.device)
    return render_image(field.eval(), c2w, views.focal, views.size, views.near, views.far, samples)


def run(scene: str, seed: int, recipe: Recipe, progress: bool) -> dict:
    """Train one seed and compare."""
    views, heldout = (MultiView.render(scene, views=n, size=32, seed=seed + k) for n, k in ((120, 0), (60, 1000)))
    torch.manual_seed(seed)
    field = GridField(recipe.resolution, views.bound)
    config = TrainingConfig(
        steps=recipe.steps,
        batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        decay="cosine",
        ema_decay=recipe.ema_decay,
        seed=seed,
    )
    started, burnt = time.perf_counter(), time.process_time()
    state = train(field, objective(views, recipe), views, config, progress=progress)
    seconds, burnt = time.perf_counter() - started, time.process_time() - burnt
    towards, taken = (F.normalize(part.c2w[:, :3, 3], dim=1) for part in (heldout, views))
    nearest = views.images[(towards @ taken.T).argmax(1)]
    mean = views.images.mean(0, keepdim=True).expand_as(heldout.images)
    made, seen = rendered(state.ema, heldout), heldout.depth.isfinite()
    result = {
        "seed": seed,
        "heldout_psnr": score(made.images, heldout),
        "train_psnr": score(rendered(state.ema, views).images, views),
        "nearest_view_psnr": score(nearest, heldout),
        "mean_view_psnr": score(mean, heldout),
        "median_depth_error": float((made.depth.cpu() - heldout.depth)[seen].abs().median()),
        "seconds": seconds,
        "cpu_seconds": burnt,
        "parameters": field.parameter_count,
    }
    result["passes"] = result["heldout_psnr"] >= PASSES["psnr"] and seconds <= PASSES["seconds"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each")
    parser.add_argument("--profile", choices=RECIPES, default="laptop", help="length of the training")
    parser.add_argument("--scene", default="car", help="a scene of fdlib.data.multiview")
    parser.add_argument("--threads", type=int, help="CPU threads (this process's share of the cores)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or min(torch.get_num_threads(), cpu_share()))
    recipe = RECIPES[options.profile]
    report = {
        "command": f"python benchmarks/radiance.py --profile {options.profile} --scene {options.scene}",
        "commit": commit(),
        "profile": options.profile,
        "scene": options.scene,
        "recipe": asdict(recipe),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "runs": [],
    }
    for seed in options.seeds:
        result = run(options.scene, seed, recipe, not options.quiet)
        report["runs"].append(result)
        print(f"{options.scene} seed {seed}: {sentence(result)}", flush=True)
        if options.json:
            with atomic_write(options.json) as path:
                path.write_text(json.dumps(report, indent=1) + "\n")


def sentence(result: dict) -> str:
    """One run in a line."""
    return (
        f"{result['heldout_psnr']:.2f} dB on views held out, {result['train_psnr']:.2f} on training views (nearest training "
        f"view {result['nearest_view_psnr']:.1f}, mean view {result['mean_view_psnr']:.1f}); depth off by "
        f"{result['median_depth_error']:.3f}; {result['seconds']:.0f} s, of the CPU {result['cpu_seconds']:.0f} s"
    ) + (", passes" if result["passes"] else "")


def commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return result.stdout.strip()


if __name__ == "__main__":
    main()
