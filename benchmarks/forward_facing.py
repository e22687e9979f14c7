"""Forward-facing views, unknown cameras, one guess a view (thesis algorithm 3), beside NeRF-- (table 3.1's comparator).

    python benchmarks/forward_facing.py --seeds 0 1 2 --json benchmarks/results/forward_facing.json --save DIR

Scene: the procedural desk at 32 x 32 pixels, 60 training views from a small patch in front of it and 30 others. A seed draws
views, weights, batches and noise. Poses enter no training, only the intrinsics. Three methods with the same field, pixels and
steps:

    single     an encoder that names the camera of a noisy view; unseen views are localised by one pass
    nerf--     a trainable camera for each training view (Wang et al. 2021); the camera of an unseen view has to be searched:
               from that of the most similar training view, 60 gradient steps with the scene held still
    known      the true cameras in training and test: what the field could show

Errors are after one similarity fitted on the training views' centres; beside them, shuffled poses. Two more comparisons know no
geometry: the mean training view, and the most similar training view.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from poses import commit, evaluate, known_poses
from torch import Tensor, nn

from fdlib.cameras import rotation_angle
from fdlib.data.multiview import MultiView
from fdlib.files import atomic_write
from fdlib.metrics.geometry import align_cameras, pose_errors, psnr
from fdlib.pose import PoseDenoiser
from fdlib.presets import FORWARD
from fdlib.training import train

METHODS = ("single", "nerf--", "known")


def nearest(images: Tensor, among: Tensor) -> Tensor:
    """For each image the index of the most similar of others."""
    return torch.cdist(images.flatten(1), among.flatten(1)).argmin(1)


def search(model: PoseDenoiser, views: MultiView, start: Tensor, steps: int = 60, seed: int = 0) -> Tensor:
    """Cameras (N, 4, 4) of unseen views for a model with a camera for each training view: gradient descent on the error."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    numbers = nn.Parameter(model.encoder.weight[start, : model.numbers].clone())
    optimizer = torch.optim.Adam([numbers], lr=1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        pixels = torch.randperm(views.size**2, generator=generator)[:128]
        seen = model.render(model.camera(numbers), pixels, generator)
        F.mse_loss(seen, views.images.flatten(2)[:, :, pixels]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.camera(numbers.detach())


def turns(estimated: Tensor, true: Tensor) -> dict:
    """Mean error in degrees of the turn between two unseen views, and the same if all cameras looked one way: no alignment in it.

    Rotation errors after an alignment of centres say little here: nearly all cameras look the same way, and centres on a patch
    fix the alignment's own rotation loosely.
    """
    i, j = torch.triu_indices(len(true), len(true), offset=1)
    found, right = (R[i].mT @ R[j] for R in (estimated[:, :3, :3], true[:, :3, :3]))
    none = torch.eye(3).expand_as(right)
    return {
        "heldout_turn_error_deg": float(torch.rad2deg(rotation_angle(found, right)).mean()),
        "heldout_turn_error_deg_of_no_turn": float(torch.rad2deg(rotation_angle(none, right)).mean()),
    }


def run(method: str, seed: int, steps: int | None, progress: bool, keep: Path | None) -> tuple[dict, dict]:
    """Train one method on one seed; its scores and cameras."""
    views, heldout = (MultiView.render("desk", views=n, size=32, seed=seed + k) for n, k in ((60, 0), (30, 1000)))
    experiment = FORWARD["single" if method == "known" else method].with_(seed=seed)
    experiment = experiment.with_(steps=steps or experiment.training.steps)
    model = experiment.build(views)
    objective = known_poses(experiment.loss.render_pixels) if method == "known" else experiment.objective()
    groups = experiment.parameters(model)
    state = train(model, objective, views, experiment.training, parameters=groups, progress=progress)
    ema = state.ema.eval()
    result = {"method": method, "seed": seed, "steps": state.step, "seconds": state.seconds}
    if method == "known":
        return {**result, "heldout_psnr": decibels(ema, heldout.c2w, heldout)}, {}
    scores, cameras = evaluate(ema, experiment, views, {"heldout": heldout})
    result |= scores
    if method == "nerf--" and cameras:
        found = search(ema, heldout, nearest(heldout.images, views.images), seed=seed)
        errors = pose_errors(found, heldout.c2w, align_cameras(cameras["train_estimated"], views.c2w))
        result["heldout_rotation_error_deg"] = float(errors["rotation_deg"].mean())
        result["heldout_centre_error"] = float(errors["centre"].mean())
        result["heldout_psnr"] = decibels(ema, found, heldout)
        cameras |= {"heldout_estimated": found.numpy(), "heldout_true": heldout.c2w.numpy()}
    if "heldout_estimated" in cameras:
        result |= turns(torch.from_numpy(cameras["heldout_estimated"]), heldout.c2w)
    if keep and method == "single":
        state.ema.save_pretrained(keep)
    return result, cameras


@torch.no_grad()
def decibels(model: PoseDenoiser, c2w: Tensor, views: MultiView) -> float:
    """Mean PSNR of views rendered from cameras."""
    return float(psnr(model.render(c2w).clamp(-1, 1), views.images, 2.0).mean())


def without_geometry(seed: int) -> dict:
    """PSNR of unseen views by the mean training view and by the most similar one."""
    views, heldout = (MultiView.render("desk", views=n, size=32, seed=seed + k) for n, k in ((60, 0), (30, 1000)))
    mean = views.images.mean(0, keepdim=True).expand_as(heldout.images)
    similar = views.images[nearest(heldout.images, views.images)]
    return {
        "seed": seed,
        "mean_view_psnr": float(psnr(mean, heldout.images, 2.0).mean()),
        "most_similar_view_psnr": float(psnr(similar, heldout.images, 2.0).mean()),
    }


def sentence(result: dict) -> str:
    """One run in a line."""
    text = f"{result['method']} seed {result['seed']}: "
    if "failed" in result:
        return text + f"failed: {result['failed']}"
    if "rotation_error_deg" in result:
        text += (
            f"rotation {result['rotation_error_deg']:.1f} deg, centre {result['centre_error']:.3f} on training views; "
            f"{result['heldout_rotation_error_deg']:.1f} deg, {result['heldout_centre_error']:.3f} on unseen ones (shuffled "
            f"{result['shuffled_rotation_error_deg']:.0f} deg, {result['shuffled_centre_error']:.3f}); "
        )
    return text + f"{result['heldout_psnr']:.1f} dB; {result['seconds']:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run of each method for each")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS), help="what to train")
    parser.add_argument("--steps", type=int, help="optimiser steps (the preset's)")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--save", type=Path, help="folder for estimated and true cameras")
    parser.add_argument("--keep", type=Path, help="folder for the single-pose model of the last seed")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    report = {
        "command": "python benchmarks/forward_facing.py --seeds " + " ".join(map(str, options.seeds)),
        "commit": commit(),
        "steps": options.steps or FORWARD["single"].training.steps,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "without_geometry": [without_geometry(seed) for seed in options.seeds],
        "runs": [],
    }
    for seed in options.seeds:
        for method in options.methods:
            result, cameras = run(method, seed, options.steps, not options.quiet, options.keep)
            report["runs"].append(result)
            print(sentence(result), flush=True)
            if options.save and cameras:
                file_name = options.save / f"forward-{method}-{seed}.npz"
                with atomic_write(file_name) as path, open(path, "wb") as file:
                    np.savez_compressed(file, **cameras)
            if options.json:
                with atomic_write(options.json) as path:
                    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
