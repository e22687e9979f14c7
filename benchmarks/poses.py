"""Unknown cameras over 360 degrees: how far are the learned ones from the truth, on how many seeds?

    python benchmarks/poses.py --seeds 0 1 2 --profile laptop --json FILE --save DIR
    python benchmarks/poses.py --seeds 0 --assignment minimum
    python benchmarks/poses.py --seeds 0 --method nerf--

Scene: the procedural car, 32 x 32 pixels, 120 training views and 60 others, azimuth over the full circle, elevation .1 to 1 rad.
Poses enter no training; only the radius, the intrinsics and the range of elevations are given. A seed draws views, weights
and noise.

Errors are after one similarity fitted on the *training* views' centres. Beside them the same for shuffled poses, which is chance.
``--save DIR`` writes estimated and true camera-to-world matrices of both sets.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdlib.data.multiview import MultiView
from fdlib.experiments import SceneExperiment, read_changes
from fdlib.files import atomic_write
from fdlib.metrics.geometry import align_cameras, pose_errors, psnr, relative_rotation_accuracy, shuffled_baseline
from fdlib.pose import PoseDenoiser
from fdlib.presets import POSES
from fdlib.training import train

STEPS = {"ci": 20, "laptop": None, "gpu": 10_000}  # None: as the preset says
PASSES = {"train": 6.0, "heldout": 9.0, "psnr": 22.0}


def run(experiment: SceneExperiment, scene: str, progress: bool, keep: Path | None = None) -> tuple[dict, dict]:
    """Train one seed; its errors, and the poses they were computed from."""
    seed = experiment.training.seed
    views, heldout = (MultiView.render(scene, views=n, size=32, seed=seed + k) for n, k in ((120, 0), (60, 1000)))
    started = time.perf_counter()
    model, objective = experiment.build(views), experiment.objective()
    groups = experiment.parameters(model)
    state = train(model, objective, views, experiment.training, parameters=groups, progress=progress)
    seconds = time.perf_counter() - started
    if keep:
        state.ema.save_pretrained(keep)
    result = {"seed": seed, "seconds": seconds, "steps": state.step, "parameters": model.parameter_count}
    scores, arrays = evaluate(state.ema.eval(), experiment, views, {"heldout": heldout})
    result |= {**scores, "error": state.history[-1]["error"]}
    if "failed" in result:
        return result, arrays
    result["passes"] = (
        result["rotation_error_deg"] <= PASSES["train"]
        and result.get("heldout_rotation_error_deg", 1e9) <= PASSES["heldout"]
        and result.get("heldout_psnr", 0.0) >= PASSES["psnr"]
    )
    return result, arrays


@torch.no_grad()
def pictures(model: PoseDenoiser, c2w: Tensor) -> Tensor:
    """Whole views (N, 3, S, S) from cameras, a few at a time: many large ones would not fit the memory."""
    return torch.cat([model.render(part) for part in c2w.split(8)]).clamp(-1, 1)


@torch.no_grad()
def evaluate(
    model: PoseDenoiser, experiment: SceneExperiment, views: MultiView, others: dict[str, MultiView]
) -> tuple[dict, dict]:
    """Scores of a trained model on its training views and on sets of others, and the cameras they were computed from.

    The alignment is fitted on the training views alone. NeRF-- has no cameras for others, so they are left out.
    """
    schedule = experiment.schedule()
    if experiment.model.per_view:
        every = torch.arange(len(views))
        poses = {"train": model.predict(views.images, torch.zeros_like(every), every)[0][:, 0]}
    else:
        t = 0 if experiment.loss.clean else None  # the autoencoder never saw noise, so it is given none
        poses = {name: model.localise(d.images, schedule, t) for name, d in {"train": views, **others}.items()}
    try:
        similarity = align_cameras(poses["train"], views.c2w)
    except ValueError as error:  # all cameras in one place: that is a result too
        return {"rotation_error_deg": None, "failed": str(error)}, {}
    result, arrays = {}, {}
    for name, found in poses.items():
        data, prefix = (views, "") if name == "train" else (others[name], f"{name}_")
        errors = pose_errors(found, data.c2w, similarity)
        seen = pictures(model, found)
        result |= {
            f"{prefix}rotation_error_deg": float(errors["rotation_deg"].mean()),
            f"{prefix}rotation_error_median_deg": float(errors["rotation_deg"].median()),
            f"{prefix}centre_error": float(errors["centre"].mean()),
            f"{prefix}psnr": float(psnr(seen, data.images, 2.0).mean()),
        }
        arrays |= {f"{name}_estimated": found.numpy(), f"{name}_true": data.c2w.numpy()}
    shuffled = [shuffled_baseline(poses["train"], views.c2w, seed) for seed in range(10)]
    use = torch.zeros(model.candidates)
    if not experiment.model.per_view:
        logits = model.predict(views.images, torch.full((len(views),), schedule.T // 20))[1]
        use = torch.bincount(logits.argmax(1), minlength=model.candidates) / len(views)
    accuracy = relative_rotation_accuracy(poses["train"], views.c2w)
    result |= {
        "scale": similarity.scale,
        "shuffled_rotation_error_deg": float(torch.stack([s["rotation_deg"].mean() for s in shuffled]).mean()),
        "shuffled_centre_error": float(torch.stack([s["centre"].mean() for s in shuffled]).mean()),
        "relative_rotation_accuracy": {str(key): float(value) for key, value in accuracy.items()},
        "candidate_use": use.tolist(),
    }
    return result, arrays


def known_poses(render_pixels: int):
    """The supervised objective: the same pixels of the same views, from the true cameras; the encoder plays no part."""

    def loss(model: PoseDenoiser, batch: dict, generator: torch.Generator) -> tuple[Tensor, dict]:
        pixels = torch.randperm(model.image_size**2, generator=generator)[:render_pixels]
        made = model.render(batch["c2w"], pixels, generator)
        return F.mse_loss(made, batch["image"].flatten(2)[:, :, pixels]), {}

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each")
    parser.add_argument("--profile", choices=STEPS, default="laptop", help="length of the training")
    parser.add_argument("--method", choices=POSES, default="balanced", help="what to train")
    parser.add_argument("--assignment", choices=("balanced", "minimum"), help="short for --method")
    parser.add_argument("--scene", default="car", help="a scene of fdlib.data.multiview")
    parser.add_argument("--override", nargs="*", default=[], metavar="FIELD=VALUE", help="other fields of the preset")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--save", type=Path, help="folder for estimated and true cameras")
    parser.add_argument("--keep", type=Path, help="folder for the trained model of the last seed")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    method = options.assignment or options.method
    changes: dict = {"steps": STEPS[options.profile]} if STEPS[options.profile] else {}
    changes |= read_changes(options.override)
    try:
        experiment = POSES[method].with_(**changes)
    except ValueError as error:
        raise SystemExit(f"error: --override {error}") from error
    report = {
        "command": f"python benchmarks/poses.py --method {method}",
        "commit": commit(),
        "profile": options.profile,
        "method": method,
        "scene": options.scene,
        "overrides": changes,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "runs": [],
    }
    for seed in options.seeds:
        result, arrays = run(experiment.with_(seed=seed), options.scene, not options.quiet, options.keep)
        report["runs"].append(result)
        print(f"{method} seed {seed}: {sentence(result)}", flush=True)
        if options.save and arrays:
            with atomic_write(options.save / f"{method}-{seed}.npz") as path, open(path, "wb") as file:
                np.savez_compressed(file, **arrays)
        if options.json:
            with atomic_write(options.json) as path:
                path.write_text(json.dumps(report, indent=1) + "\n")


def sentence(result: dict) -> str:
    """One run in a line."""
    if result["rotation_error_deg"] is None:
        return f"failed: {result['failed']}"
    heldout, other = result.get("heldout_rotation_error_deg"), result.get("heldout_psnr")
    text = f"rotation {result['rotation_error_deg']:.1f} deg, PSNR {result['psnr']:.1f} dB on training views"
    if heldout is not None:
        text += f"; {heldout:.1f} deg, {other:.1f} dB on others"
    text += f"; shuffled {result['shuffled_rotation_error_deg']:.0f} deg; {result['seconds']:.0f} s"
    return text + (", passes" if result["passes"] else "")


def commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return result.stdout.strip()


if __name__ == "__main__":
    main()
