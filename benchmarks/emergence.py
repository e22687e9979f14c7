"""Do regions emerge on every seed? Train a factorized model on rendered 3D Shapes, score its masks on held-out pictures.

    python benchmarks/emergence.py --seeds 0 1 2 --profile laptop --json FILE --save DIR
    python benchmarks/emergence.py --seeds 1 2 --variant whole-only --json FILE
    python benchmarks/emergence.py --seeds 1 --override schedule.power=1 training.learning_rate=2e-3

The recipe is the preset ``regions32`` (``fdlib/presets.py``), which chapter 4 and ``make demo`` train too; a *variant* changes
one lever of it. Test pictures: 32 x 32, uniform over the official 480 000 combinations, the official camera, never trained
on. Three classes: floor (with its shadow), walls (with the sky), object; one channel-to-class map for the whole test set,
fitted on 500 training pictures. Labels enter nothing else. Beside it, "close": the same pictures through windows, where a
partition of the frame that never looks at them scores low.

``--save DIR`` writes, for each seed, an npz with the test pictures' indices, true classes, predicted regions (uint8), soft masks
(float16) and the map, so that every score can be computed again by others.
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
from torch.utils.data import Dataset

from fdlib.emergence import audition, mask_health
from fdlib.experiments import Experiment, read_changes
from fdlib.files import atomic_write
from fdlib.metrics.segmentation import hard
from fdlib.metrics.shapes_test import ShapesTest
from fdlib.presets import PRESETS
from fdlib.training import Stages, train

PRESET = "regions32"
STEPS = {"ci": 40, "laptop": None, "gpu": 20_000}  # None: as the preset says
PASSES = {"miou": 0.75, "object": 0.55}

VARIANTS: dict[str, dict[str, object]] = {
    "recipe": {},
    "windows-only": {"data.whole": 0.0},
    "whole-only": {"data.layout": "plain"},
    "varied-layout": {"data.layout": "varied"},
    "uniform-t": {"schedule.power": 1.0},
    "three-regions": {"model.regions": 3},
    "five-regions": {"model.regions": 5},
    "low-noise": {"schedule.power": 3.0},
    "mask-shuffle": {"model.mask_upsample": "shuffle"},
}


def first_pictures(dataset: Dataset, count: int = 200) -> torch.Tensor:
    """Of the data set that training starts with."""
    return (dataset.datasets[0] if isinstance(dataset, Stages) else dataset).images(slice(0, count))


def run(
    experiment: Experiment,
    seed: int,
    test: ShapesTest,
    close: ShapesTest,
    tries: int = 10,
    progress: bool = False,
    keep: Path | None = None,
) -> tuple[dict, dict]:
    """Train with one seed, or the next that starts well; the scores, and what they were computed from."""
    started = time.perf_counter()
    dataset, objective, config = experiment.data.build(32), experiment.objective(), experiment.training
    config.seed = seed
    found = audition(experiment.model.build, objective, dataset, config, first_pictures(dataset), tries=tries)
    config.seed = found.seed
    torch.manual_seed(config.seed)
    denoiser = experiment.model.build()
    state = train(denoiser, objective, dataset, config, folder=found.folder, progress=progress)
    seconds = time.perf_counter() - started
    if keep:
        state.ema.save_pretrained(keep / str(seed))
    fit, masks = test.segment(state.ema, experiment.objective().schedule)
    scores = test.score_masks(fit, masks, denoiser.regions)
    health = mask_health(masks)
    result = {
        "seed": seed,
        "tried": found.tried,
        **scores,
        "passes": scores["miou"] >= PASSES["miou"] and scores["per_class_iou"][2] >= PASSES["object"],
        "close": close.score(state.ema, experiment.objective().schedule),
        "occupancy": list(health.occupancy),
        "entropy": health.entropy,
        "variation": health.variation,
        "loss": float(np.mean([row["loss"] for row in state.history[-10:]])),
        "steps": state.step,
        "parameters": denoiser.parameter_count,
        "seconds": seconds,
    }
    arrays = {
        "indices": test.indices.numpy(),
        "labels": test.labels.numpy(),
        "regions": hard(masks).numpy().astype(np.uint8),
        "masks": masks.half().numpy(),
        "map": np.asarray(scores["map"]),
    }
    return result, arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each")
    parser.add_argument("--profile", choices=STEPS, default="laptop", help="length of the training")
    parser.add_argument("--variant", choices=VARIANTS, default="recipe", help="the lever to change")
    parser.add_argument("--override", nargs="*", default=[], metavar="FIELD=VALUE", help="other fields of the preset")
    parser.add_argument("--tries", type=int, default=10, help="seeds to audition for each run; 1: take it as it comes")
    parser.add_argument("--test", type=int, default=1000, help="test pictures")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--json", type=Path, help="where to write the results; results of other runs in it are kept")
    parser.add_argument("--save", type=Path, help="folder for masks and labels")
    parser.add_argument("--keep", type=Path, help="folder for the models, one of each seed")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    overrides = dict(VARIANTS[options.variant])
    if STEPS[options.profile]:
        overrides["training.steps"] = STEPS[options.profile]
    overrides |= read_changes(options.override)
    try:
        experiment = PRESETS[PRESET][1].with_(**overrides)
    except ValueError as error:
        raise SystemExit(f"error: --override {error}") from error
    test, close = (ShapesTest.render(experiment.model.image_size, options.test, layout=x) for x in ("plain", "close"))
    report = {
        "command": "python benchmarks/emergence.py --variant " + options.variant,
        "commit": commit(),
        "profile": options.profile,
        "variant": options.variant,
        "overrides": dict(overrides),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "test": options.test,
        "baselines": test.baselines(experiment.model.regions),
        "baselines_close": close.baselines(experiment.model.regions),
        "runs": [],
    }
    for name, scores in report["baselines"].items():
        print(f"{name:46} mIoU {scores['miou']:.3f}")
    for seed in options.seeds:
        mine = experiment.with_()  # a copy, whose seed ``run`` sets
        result, arrays = run(mine, seed, test, close, options.tries, not options.quiet, options.keep)
        report["runs"].append(result)
        each = " ".join(f"{x:.2f}" for x in result["per_class_iou"])
        print(
            f"{options.variant} seed {seed}: mIoU {result['miou']:.3f} (floor, walls, object {each}), through windows "
            f"{result['close']['miou']:.3f}, {result['seconds']:.0f} s"
            f"{', passes' if result['passes'] else ''}",
            flush=True,
        )
        if options.save:
            with atomic_write(options.save / f"{options.variant}-{seed}.npz") as path, open(path, "wb") as file:
                np.savez_compressed(file, **arrays)
        if options.json:  # after every seed, so that an interrupted study keeps what it has
            with atomic_write(options.json) as path:
                path.write_text(json.dumps(report, indent=1) + "\n")
    scores = torch.tensor([result["miou"] for result in report["runs"]])
    print(
        f"{len(scores)} seeds: median mIoU {scores.quantile(0.5):.3f}, lowest {scores.min():.3f}; "
        f"{sum(result['passes'] for result in report['runs'])} pass (mIoU >= {PASSES['miou']}, object >= {PASSES['object']})"
    )


def commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return result.stdout.strip()


if __name__ == "__main__":
    main()
