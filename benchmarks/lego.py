"""Real benchmark: Lego from cameras that nobody gave, all over the half sphere (thesis 3.4, table 3.1).

    python benchmarks/lego.py --data lego_128.npz --size 64 --seeds 0 1 2 --json FILE --save DIR
    python benchmarks/lego.py --data nerf_synthetic/lego --size 128 --hours 8 --save DIR     stops after 8 hours; again: goes on

Data: NeRF's synthetic Lego (Mildenhall et al. 2020), 100 training and 50 test views, as a folder in Blender's format or as an
.npz of arrays (``MultiView.from_npz``), reduced to the size of each stage by averaging. Poses enter no training; radius,
intrinsics, what is up and the half sphere are given. A seed draws weights, batches and noise; the views are always the same.

Coarse to fine: cameras are found at 32 pixels, where a step is cheap, and the model then grows (``PoseDenoiser.grown``) to 64
and 128. A start may settle on a wrong arrangement of cameras and stay there; so there are ``--starts`` of them, and the one
whose renderings of the *training images* fit best goes on, which looks at no pose.

Reported: rotation errors after one similarity fitted on the training views, chance beside them (the same for shuffled poses);
PSNR, SSIM and (``--lpips``) LPIPS of test views rendered from where the encoder places them; and the same of
our own supervised figure: the same field, pixels and steps as in the last stage, with the true cameras in training and test.

Every stage keeps its checkpoints in a folder of DIR: killed or stopped, the study goes on from there when started again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path

import numpy as np
import torch
from poses import commit, evaluate, known_poses, pictures
from torch import Tensor

from fdlib.data.multiview import MultiView
from fdlib.experiments import SceneExperiment, read_changes
from fdlib.files import atomic_write
from fdlib.metrics.geometry import lpips, psnr, ssim
from fdlib.pose import PoseDenoiser, PoseObjective
from fdlib.presets import LEGO
from fdlib.training import TrainingState, train

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "lego_128.npz"
THESIS = {"supervised_psnr": 25.44, "psnr": 21.38, "size": 128}  # table 3.1


def load(path: Path, size: int) -> tuple[MultiView, MultiView]:
    """Training and test views."""
    if path.is_dir():
        train_views, test_views = (MultiView.from_blender(path, split, size=size) for split in ("train", "test"))
    else:
        train_views, test_views = (MultiView.from_npz(path, split).resize(size) for split in ("train", "test"))
    return train_views, test_views


@torch.no_grad()
def quality(model: PoseDenoiser, c2w: Tensor, views: MultiView, perceptual: bool) -> dict:
    """PSNR, SSIM and, if wanted, LPIPS (None without its weights) of views rendered from cameras; means over the views."""
    made = pictures(model, c2w)
    result = {
        "psnr": float(psnr(made, views.images, 2.0).mean()),
        "ssim": float(ssim(made, views.images, 2.0).mean()),
    }
    try:
        result["lpips"] = lpips(made, views.images, 2.0) if perceptual else None
    except (RuntimeError, ImportError) as error:
        result |= {"lpips": None, "lpips_missing": str(error)}
    return result


class Clock:
    """Stops trainings when all of them together have taken so many hours."""

    def __init__(self, hours: float | None):
        self.left = math.inf if hours is None else 3600 * hours

    def __call__(self, state: TrainingState) -> None:
        state.interrupted = state.interrupted or state.seconds >= self.left


def fit(model, objective, views, experiment: SceneExperiment, folder: Path, clock: Clock, bar: bool) -> TrainingState:
    """Train in a folder, from its last checkpoint on."""
    groups = experiment.parameters(model)
    if not isinstance(objective, PoseObjective):
        groups = groups[:1]  # with known poses the encoder has nothing to do
    state = train(
        model,
        objective,
        views,
        experiment.training,
        folder=folder,
        parameters=groups,
        callbacks=[clock],
        callback_every=50,
        progress=bar,
    )
    clock.left -= state.seconds
    return state


@torch.no_grad()
def misfit(model: PoseDenoiser, views: MultiView, experiment: SceneExperiment) -> float:
    """Mean squared error of training views rendered from where the model places them: needs no pose."""
    seen = pictures(model, model.localise(views.images, experiment.schedule()))
    return float((seen - views.images).square().mean())


def run(
    seed: int,
    sets: dict[int, tuple[MultiView, MultiView]],
    stages: dict[int, SceneExperiment],
    starts: int,
    save: Path,
    clock: Clock,
    perceptual: bool,
    bar: bool,
) -> tuple[dict, dict]:
    """One seed through all stages that the time allows, and the supervised figure beside the last; scores and cameras."""
    coarse, *finer = stages
    result: dict = {"seed": seed, "starts": [], "stages": []}
    candidates = []
    for start in range(starts):
        experiment, (views, test) = stages[coarse].with_(seed=1000 * seed + start), sets[coarse]
        folder = save / f"seed-{seed}-{coarse}-start-{start}"
        model = experiment.build(views)
        state = fit(model, experiment.objective(), views, experiment, folder, clock, bar)
        ema = state.ema.eval()
        scores, cameras = evaluate(ema, experiment, views, {"test": test})
        row = {"misfit": misfit(ema, views, experiment), "steps": state.step, "seconds": state.seconds, **scores}
        result["starts"].append(row)
        print(f"  {coarse} px, start {start}: misfit {row['misfit']:.4f}, {degrees(row)}", flush=True)
        candidates.append((row["misfit"], start, ema, scores, cameras))
        if clock.left <= 0:
            break
    _, result["chosen_start"], ema, scores, cameras = min(candidates, key=lambda c: c[:2])
    size, experiment, steps = coarse, stages[coarse], result["starts"][result["chosen_start"]]["steps"]
    for size in finer:
        if clock.left <= 0:
            size = ema.image_size
            break
        experiment, (views, test) = stages[size].with_(seed=seed), sets[size]
        model = ema.grown(size, experiment.model.resolution, experiment.model.samples)
        state = fit(model, experiment.objective(), views, experiment, save / f"seed-{seed}-{size}", clock, bar)
        ema, steps = state.ema.eval(), state.step
        scores, cameras = evaluate(ema, experiment, views, {"test": test})
        row = {
            "size": size,
            "steps": state.step,
            "of_steps": experiment.training.steps,
            "seconds": state.seconds,
            **scores,
        }
        result["stages"].append(row)
        print(f"  {size} px: {degrees(row)}", flush=True)
    views, test = sets[size]
    result |= {"size": size, "finished": size == list(stages)[-1] and steps == experiment.training.steps, **scores}
    result["seconds"] = sum(row["seconds"] for row in result["starts"] + result["stages"])
    if cameras:
        result["test_views"] = quality(ema, torch.from_numpy(cameras["test_estimated"]), test, perceptual)
    known = experiment.with_(steps=steps, blur=0.0, candidates=1, rows=1, seed=seed)
    model = known.build(views)
    folder = save / f"seed-{seed}-{size}-known-{steps}"
    state = fit(model, known_poses(known.loss.render_pixels), views, known, folder, Clock(None), bar)
    result["supervised_test_views"] = quality(state.ema.eval(), test.c2w, test, perceptual)
    return result, cameras


def degrees(row: dict) -> str:
    """Rotation errors in words."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    return (
        f"rotation {row['rotation_error_deg']:.1f} deg on training views, {row['test_rotation_error_deg']:.1f} on test views "
        f"(chance {row['shuffled_rotation_error_deg']:.0f}), PSNR {row['psnr']:.2f} / {row['test_psnr']:.2f} dB"
    )


def sentence(result: dict) -> str:
    """One run in a line."""
    text = f"{degrees(result)}; "
    if "test_views" in result:
        seen = result["test_views"]
        text += (
            f"test SSIM {seen['ssim']:.3f}" + ("" if seen["lpips"] is None else f", LPIPS {seen['lpips']:.3f}") + "; "
        )
    known = result["supervised_test_views"]
    return text + f"supervised {known['psnr']:.2f} dB, SSIM {known['ssim']:.3f}; {result['seconds']:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="Blender folder or .npz")
    parser.add_argument("--size", type=int, choices=LEGO, default=64, help="pixels along a side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each")
    parser.add_argument("--starts", type=int, default=3, help="trainings at 32 pixels, of which the best fit goes on")
    parser.add_argument("--steps", type=int, help="optimiser steps of every stage (the preset's)")
    parser.add_argument(
        "--override",
        nargs="*",
        default=[],
        metavar="FIELD=VALUE",
        help="other fields of the stage at 32 pixels (rows=1)",
    )
    parser.add_argument("--hours", type=float, help="stop the training of a seed after so many hours in all")
    parser.add_argument("--lpips", action="store_true", help="also LPIPS, whose weights are downloaded once")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--save", type=Path, default=Path("runs"), help="folder for checkpoints, models and cameras")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if not options.data.exists():
        raise SystemExit(
            f"error: --data {options.data}: there is nothing; name the folder of NeRF's synthetic Lego (with "
            "transforms_train.json), or an .npz of its arrays"
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    stages = {size: stage for size, stage in LEGO.items() if size <= options.size}
    if options.steps:
        stages = {size: stage.with_(steps=options.steps) for size, stage in stages.items()}
    changes = read_changes(options.override)
    try:
        stages[min(stages)] = stages[min(stages)].with_(**changes)
    except ValueError as error:
        raise SystemExit(f"error: --override {error}") from error
    sets = {size: load(options.data, size) for size in stages}
    report = {
        "command": f"python benchmarks/lego.py --size {options.size} --starts {options.starts}"
        + (f" --hours {options.hours:g}" if options.hours else ""),
        "commit": commit(),
        "overrides": changes,
        "stages": {size: {**vars(e.model), **vars(e.loss), **vars(e.training)} for size, e in stages.items()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "thesis": THESIS,
        "runs": [],
    }
    for seed in options.seeds:
        clock = Clock(options.hours)
        result, cameras = run(seed, sets, stages, options.starts, options.save, clock, options.lpips, not options.quiet)
        report["runs"].append(result)
        print(f"{options.size} px, seed {seed}: {sentence(result)}", flush=True)
        if cameras:
            with atomic_write(options.save / f"lego-{options.size}-{seed}.npz") as path, open(path, "wb") as file:
                np.savez_compressed(file, **cameras)
        if options.json:
            with atomic_write(options.json) as path:
                path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
