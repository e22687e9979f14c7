"""Real benchmark: Lego from cameras that nobody gave, all over the half sphere (thesis 3.4, table 3.1).

    python benchmarks/lego.py --data lego_128.npz --size 64 --seeds 0 1 2 --json FILE --save DIR
    python benchmarks/lego.py --data nerf_synthetic/lego --size 128 --hours 8 --save DIR     stops after 8 hours; again: goes on

Data: NeRF's synthetic Lego (Mildenhall et al. 2020), 100 training and 50 test views, as a folder in Blender's format or as an
.npz of arrays (``MultiView.from_npz``), reduced to ``--size`` pixels by averaging. Poses enter no training; radius, intrinsics,
what is up and the half sphere are given. A seed draws weights, batches and noise; the views are always the same.

Reported: rotation errors after one similarity fitted on the training views, chance beside them (the same for shuffled poses);
PSNR, SSIM and, where its weights can be had, LPIPS of test views rendered from where the encoder places them; and the same of
our own supervised figure: the same field, pixels and steps, with the true cameras in training and test.

A run keeps its checkpoints in DIR/lego-SIZE-seed-N: killed or stopped, it goes on from there when it is started again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from poses import commit, evaluate, known_poses
from torch import Tensor

from fdlib.data.multiview import MultiView
from fdlib.files import atomic_write
from fdlib.metrics.geometry import lpips, psnr, ssim
from fdlib.pose import PoseDenoiser
from fdlib.presets import LEGO, PoseExperiment
from fdlib.training import TrainingState, train

HALF_SPHERE = (0.0, math.pi / 2)
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
def quality(model: PoseDenoiser, c2w: Tensor, views: MultiView) -> dict:
    """PSNR, SSIM and LPIPS (None without its weights) of views rendered from cameras; means over the views."""
    made = torch.cat([model.render(part) for part in c2w.split(5)]).clamp(-1, 1)
    result = {
        "psnr": float(psnr(made, views.images, 2.0).mean()),
        "ssim": float(ssim(made, views.images, 2.0).mean()),
    }
    try:
        result["lpips"] = lpips(made, views.images, 2.0)
    except (RuntimeError, ImportError) as error:
        result |= {"lpips": None, "lpips_missing": str(error)}
    return result


def fit(model, objective, views, experiment, groups: slice, folder: Path, hours: float | None, bar: bool):
    """Train in a folder, from its last checkpoint on, for at most so many hours in all."""

    def stop(state: TrainingState) -> None:
        state.interrupted = hours is not None and state.seconds >= 3600 * hours

    options = experiment.training(model)
    options["parameters"] = options["parameters"][groups]
    return train(model, objective, views, folder=folder, callbacks=[stop], callback_every=100, progress=bar, **options)


def run(experiment: PoseExperiment, sets: tuple[MultiView, MultiView], save: Path, hours: float | None, bar: bool):
    """One seed, without and with poses: its scores, and the cameras."""
    views, test = sets
    folder = save / f"lego-{views.size}-seed-{experiment.seed}"
    model = experiment.build(views, HALF_SPHERE)
    state = fit(model, experiment.objective(), views, experiment, slice(None), folder, hours, bar)
    scores, cameras = evaluate(state.ema.eval(), experiment, views, {"test": test})
    result = {"seed": experiment.seed, "steps": state.step, "of_steps": experiment.steps, "seconds": state.seconds}
    result |= {**scores, "parameters": model.parameter_count}
    if "failed" not in result:
        result["test_views"] = quality(state.ema, torch.from_numpy(cameras["test_estimated"]), test)
    known = replace(experiment, steps=state.step).build(views, HALF_SPHERE)
    # the same number of steps as the run without poses had, also where that was stopped
    known_experiment = replace(experiment, steps=max(state.step, 1), blur=0.0)
    where = save / f"lego-{views.size}-known-{experiment.seed}-{state.step}"
    state = fit(known, known_poses(experiment.render_pixels), views, known_experiment, slice(1), where, None, bar)
    result["supervised_test_views"] = quality(state.ema.eval(), test.c2w, test)
    return result, cameras


def sentence(result: dict) -> str:
    """One run in a line."""
    supervised = result["supervised_test_views"]
    if "failed" in result:
        return f"failed: {result['failed']}; supervised {supervised['psnr']:.2f} dB"
    seen = result["test_views"]
    perceived = "" if seen["lpips"] is None else f", LPIPS {seen['lpips']:.3f}"
    return (
        f"after {result['steps']} steps of {result['of_steps']} rotation {result['rotation_error_deg']:.1f} deg on training "
        f"views, {result['test_rotation_error_deg']:.1f} on test views (chance {result['shuffled_rotation_error_deg']:.0f}); "
        f"test {seen['psnr']:.2f} dB, SSIM {seen['ssim']:.3f}{perceived}; supervised {supervised['psnr']:.2f} dB, SSIM "
        f"{supervised['ssim']:.3f}; {result['seconds']:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="Blender folder or .npz")
    parser.add_argument("--size", type=int, choices=LEGO, default=64, help="pixels along a side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each")
    parser.add_argument("--steps", type=int, help="optimiser steps (the preset's)")
    parser.add_argument("--hours", type=float, help="stop the training of a seed after so many hours in all")
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
    experiment = LEGO[options.size]
    if options.steps:
        experiment = replace(experiment, steps=options.steps)
    sets = load(options.data, options.size)
    report = {
        "command": f"python benchmarks/lego.py --size {options.size}"
        + (f" --hours {options.hours:g}" if options.hours else ""),
        "commit": commit(),
        "experiment": asdict(experiment),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "thesis": THESIS,
        "runs": [],
    }
    for seed in options.seeds:
        result, cameras = run(replace(experiment, seed=seed), sets, options.save, options.hours, not options.quiet)
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
