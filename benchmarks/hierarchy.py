"""Masks within masks against flat ones, at the same time of training: what do the leaves hold?

    python benchmarks/hierarchy.py --seeds 0 1 2 --json FILE --save DIR
    python benchmarks/hierarchy.py --cost                                   # only the cost of a step

Three models for each seed: the preset ``hierarchy32`` (3 regions, each cut in 3), the flat model with as many regions as it
has leaves (K = 9), and the flat one with K = 3, the first level's. The flat ones take as many steps as fit into the seconds that
the hierarchy took (at most five times its steps). Scores are of held-out pictures by the official camera and through windows
(``ShapesTest``); k-means with 9 colours stands beside them. Fine labels: sky, left wall, right wall, floor, shadow, object.

``--save DIR`` writes an npz for each model: pictures' indices, fine and coarse labels, leaves (uint8).
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from emergence import commit
from torch.utils.flop_counter import FlopCounterMode

from fdlib.data.shapes3d import LABELS
from fdlib.files import atomic_write
from fdlib.hierarchical import HierarchicalUNet, coarsen
from fdlib.metrics.baselines import kmeans_colours
from fdlib.metrics.segmentation import adjusted_rand_index, best_overlap, foreground_ari, hard
from fdlib.metrics.shapes_test import ShapesTest
from fdlib.presets import PRESETS, Experiment
from fdlib.training import TrainingState, train

STEPS = {"ci": 20, "laptop": None, "gpu": 20_000}  # None: as the preset says
BACKGROUND = [LABELS.index(name) for name in ("sky", "left wall", "right wall", "floor")]
OBJECT, SHADOW = LABELS.index("object"), LABELS.index("shadow")


def experiment(regions: int | tuple[int, ...], profile: str, seed: int) -> Experiment:
    made = copy.deepcopy(PRESETS["hierarchy32"][1])
    made.model.regions, made.training.seed = regions, seed
    if STEPS[profile]:
        made.training.steps = STEPS[profile]
    return made


def fit(made: Experiment, seconds: float | None, progress: bool) -> tuple[TrainingState, float]:
    """Train; with ``seconds``, for as many steps as fit into them, judged by the first few."""
    torch.manual_seed(made.training.seed)
    dataset, objective, config = made.data.build(32), made.objective(), made.training
    if seconds is not None:
        trial = copy.deepcopy(config)
        trial.steps = min(20, config.steps)
        state = train(made.model.build(), objective, dataset, trial, progress=False)
        config.steps = max(1, min(5 * config.steps, round(seconds / (state.seconds / state.step))))
        torch.manual_seed(config.seed)
    state = train(made.model.build(), objective, dataset, config, progress=progress)
    return state, state.seconds


def leaves_score(leaves: torch.Tensor, test: ShapesTest, count: int) -> dict:
    """What integer regions (N, H, W) say of the fine labels: numbers that need no map from region to class."""
    fine = test.fine.long()
    best = best_overlap(leaves, fine, len(LABELS), count=count)
    both = (best["region"][:, [OBJECT, SHADOW]] >= 0).all(1)
    apart = best["region"][both, OBJECT] != best["region"][both, SHADOW]
    mean = lambda values: float(torch.tensor(values).mean())  # noqa: E731
    return {
        "ari": mean([adjusted_rand_index(r, t) for r, t in zip(leaves, fine, strict=True)]),
        "foreground_ari": mean(
            [foreground_ari(r[None], t[None], BACKGROUND) for r, t in zip(leaves, fine, strict=True)]
        ),
        "mean_best_overlap": float(best["iou"].nanmean()),
        "best_share": dict(zip(LABELS, best["share"].nanmean(0).tolist(), strict=True)),
        "object_and_shadow_apart": float(apart.double().mean()) if len(apart) else None,
    }


def score(state: TrainingState, tests: dict[str, ShapesTest]) -> tuple[dict, dict[str, torch.Tensor]]:
    model, result, saved = state.ema, {}, {}
    for name, test in tests.items():
        fit_masks, masks = test.segment(model)
        top = [fit_masks, masks]
        if isinstance(model, HierarchicalUNet):
            top = [coarsen(m, model.regions_per_level, 1) for m in top]
        first = test.score_masks(*top, top[0].shape[1], oracle=False)
        leaves = hard(masks)
        result[name] = {"level_1_miou": first["miou"], "level_1_iou": first["per_class_iou"]}
        result[name] |= leaves_score(leaves, test, model.regions)
        saved[name] = leaves
    return result, saved


def cost(rounds: int = 9, batch: int = 16) -> dict:
    """A training step of the hierarchy against one of the flat K = 3 model: seconds and FLOPs, pair by pair."""
    models = {name: experiment(regions, "laptop", 0).model.build() for name, regions in (("tree", (3, 3)), ("flat", 3))}
    x, t = torch.randn(batch, 3, 32, 32), torch.randint(1000, (batch,))

    def step(model: torch.nn.Module) -> float:
        started = time.perf_counter()
        F.mse_loss(model(x, t).noise, x).backward()
        model.zero_grad()
        return time.perf_counter() - started

    counted = {}
    for name, model in models.items():
        with FlopCounterMode(display=False) as counter:
            step(model)
        counted[name] = counter.get_total_flops()
    ratios = []
    for i in range(rounds):
        times = {name: step(models[name]) for name in (models if i % 2 == 0 else reversed(models))}
        ratios.append(times["tree"] / times["flat"])
    return {"flop_ratio": counted["tree"] / counted["flat"], "time_ratio": statistics.median(ratios)}


def write(report: dict, file: Path | None) -> None:
    if file:
        with atomic_write(file) as path:
            path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of each model for each")
    parser.add_argument("--profile", choices=STEPS, default="laptop", help="length of the training")
    parser.add_argument("--test", type=int, default=1000, help="test pictures")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--cost", action="store_true", help="time a step, train nothing")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--save", type=Path, help="folder for leaves and labels")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    report = {
        "command": "python benchmarks/hierarchy.py",
        "commit": commit(),
        "profile": options.profile,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "cost": cost(),
        "runs": [],
    }
    print("a step of the tree: {time_ratio:.2f} flat steps (FLOPs {flop_ratio:.2f})".format(**report["cost"]))
    if not options.cost:
        tests = {name: ShapesTest.render(32, options.test, layout=name) for name in ("plain", "close")}
        report["kmeans_9"] = {
            name: leaves_score(kmeans_colours(test.fit, test.images, 9), test, 9) for name, test in tests.items()
        }
        print(f"{'k-means, 9 colours':24} leaves' ARI {report['kmeans_9']['plain']['ari']:.3f}")
    for seed in [] if options.cost else options.seeds:
        budget = None
        for name, regions in (("hierarchy 3 x 3", (3, 3)), ("flat K = 9", 9), ("flat K = 3", 3)):
            state, seconds = fit(experiment(regions, options.profile, seed), budget, not options.quiet)
            budget = budget or seconds
            scores, leaves = score(state, tests)
            report["runs"].append({"seed": seed, "model": name, "steps": state.step, "seconds": seconds, **scores})
            print(
                f"{name:18} seed {seed}: level-1 mIoU {scores['plain']['level_1_miou']:.3f}, leaves' ARI "
                f"{scores['plain']['ari']:.3f}, best overlap {scores['plain']['mean_best_overlap']:.3f}; {seconds:.0f} s",
                flush=True,
            )
            if options.save:
                slug = name.replace(" ", "").replace("=", "")
                with atomic_write(options.save / f"{slug}-{seed}.npz") as path, open(path, "wb") as file:
                    arrays = {f"{key}_{what}": value for key, test in tests.items() for what, value in
                              (("leaves", leaves[key]), ("fine", test.fine), ("labels", test.labels))}  # fmt: skip
                    np.savez_compressed(
                        file, indices=tests["plain"].indices.numpy(),
                        **{key: value.numpy().astype(np.uint8) for key, value in arrays.items()},
                    )  # fmt: skip
            write(report, options.json)  # after every model, so that an interrupted study keeps what it has
    write(report, options.json)


if __name__ == "__main__":
    main()
