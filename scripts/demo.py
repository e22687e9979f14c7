"""The proof without a browser: ``make demo`` trains a denoiser on rendered pictures and draws the regions it found by itself.

    python scripts/demo.py                    # minutes on two CPU cores; writes build/demo.png
    python scripts/demo.py --seed 4 --out /tmp/demo.png

No label enters training. Labels are used at the end, to score: beside k-means on colours, chance, and the best that anybody
could do who knows the labels but does not look at the picture.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import tyro

from fdlib import course, viz
from fdlib.emergence import MaskWatch, audition
from fdlib.factorized import generate
from fdlib.metrics.shapes_test import CLASSES, ShapesTest
from fdlib.presets import PRESETS
from fdlib.samplers import dpm_solver_pp
from fdlib.schedule import time_grid
from fdlib.training import train


def main(seed: int = 3, steps: int | None = None, test: int = 1000, out: Path = Path("build/demo.png")) -> dict:
    """Train the preset ``regions32``, score its masks, draw them.

    Args:
        seed: of everything random. One that starts with mere stripes is noticed and the next one taken (see chapter 4).
        steps: optimiser steps; by default as many as the profile asks for (FDLIB_PROFILE, laptop unless CUDA is there).
        test: pictures to score on, at most 10 000.
        out: where the picture goes.
    """
    experiment = PRESETS["regions32"][1]
    config = replace(
        experiment.training,
        seed=seed,
        steps=steps or course.profile().pick(ci=60, laptop=experiment.training.steps, gpu=20_000),
        mixed_precision=course.precision(),
    )

    shapes = ShapesTest.render(32, count=test)
    dataset = experiment.data.build(32)
    windows = dataset.datasets[0]  # whole pictures come later
    objective = experiment.objective()
    found = audition(experiment.model.build, objective, dataset, config, windows.images(slice(0, 200)))
    print(found)
    config.seed = found.seed
    torch.manual_seed(config.seed)
    denoiser = experiment.model.build()
    K = denoiser.regions
    print(f"{denoiser.parameter_count:,} parameters, {K} regions, {len(windows):,} rendered pictures without labels")

    watch = MaskWatch(windows.images(slice(0, 64)), show=0)
    state = train(
        denoiser,
        objective,
        dataset,
        config,
        folder=found.folder,
        callbacks=[watch],
        callback_every=max(1, config.steps // 8),
    )
    print(f"trained {state.step} steps in {state.seconds:.0f} s; masks of training pictures: {watch.history[-1][1]}")

    fit, masks = shapes.segment(state.ema, objective.schedule)
    scores = shapes.score_masks(fit, masks, K)
    print(
        f"\nIoU on {len(masks)} pictures never trained on; one map from region to class, fitted on {len(fit)} others:"
    )
    rows = {f"this model, {K} regions": scores, **shapes.baselines(K)}
    width = max(map(len, rows))
    print(f"  {'':{width}}   mIoU  " + "  ".join(f"{name:>6}" for name in CLASSES))
    for name, row in rows.items():
        print(f"  {name:{width}}   {row['miou']:.3f} " + "  ".join(f"{x:6.3f}" for x in row["per_class_iou"]))

    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).to(course.device())
    grid = time_grid(objective.schedule.T, 25, power=2)
    made = generate(
        state.ema, objective.schedule, noise, sampler=dpm_solver_pp, timesteps=grid, clip_x0=True, progress=False
    )
    pictures = shapes.images[:8]
    figure = viz.show_rows(
        {
            "pictures": pictures,
            "regions found": viz.overlay_masks(pictures, masks[:8], 1.0),
            "as classes": viz.label_map_colours(shapes.classes(masks[:8], scores)),
            "truth": viz.label_map_colours(shapes.labels[:8].long()),
            "generated": made.images,
            "their regions": viz.overlay_masks(made.images, made.masks, 1.0),
        },
        caption=f"mIoU {scores['miou']:.2f} after {state.seconds:.0f} s of denoising; no label was ever shown",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    viz.save(figure, out)
    print(f"\nPictures, the regions found, the truth, and generated pictures with their regions: {out}")
    return scores


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (ValueError, OSError) as error:  # what the user can mend is said in a line
        sys.exit(f"error: {error}")
