"""Masks within masks against flat ones, at the same time of training: what do the leaves hold?

    python benchmarks/hierarchy.py --seeds 0 1 2 --json FILE --save DIR
    python benchmarks/hierarchy.py --cost                                   # only the cost of a step

Three models for each seed, none of which sees a label:

    tree         the preset ``regions32`` with this seed, then grown and trained on as ``hierarchy32`` says
    flat-9       the recipe of ``regions32`` with nine regions, about as many as the tree has leaves
    flat-first   the recipe of ``regions32`` with as many regions as the tree's first level

All start with the first seed that passes the mirror test (``fdlib.emergence.audition``). The flat ones take as many steps as fit
into the seconds that both parts of the tree took (at most five times the preset's). Scores are of held-out pictures by the
official camera and through windows (``ShapesTest``); k-means with 9 colours stands beside them. Fine labels: sky, left wall,
right wall, floor, shadow, object. Beside a tree's own leaves stand those that are left when cuts which explain less than a
quarter of their region's colours are taken back (``fdlib.hierarchical.prune``; decided on training pictures, without a label).

``--save DIR`` writes an npz for each model: pictures' indices, fine and coarse labels, leaves (uint8); maps are in the JSON.
``--keep DIR`` holds the runs; one that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from emergence import commit, first_pictures
from torch.utils.flop_counter import FlopCounterMode

from fdlib.data.shapes3d import LABELS
from fdlib.emergence import audition
from fdlib.files import atomic_write
from fdlib.hierarchical import HierarchicalUNet, coarsen, explained, grow, prune
from fdlib.metrics.baselines import kmeans_colours
from fdlib.metrics.segmentation import adjusted_rand_index, best_overlap, foreground_ari, hard
from fdlib.metrics.shapes_test import ShapesTest
from fdlib.presets import PRESETS, Experiment
from fdlib.training import TrainingState, train

STEPS = {"ci": (20, 10), "laptop": None, "gpu": (20_000, 10_000)}  # before and after growing; None: as the presets say
SAYS_NOTHING = 0.25  # a cut that explains less of a region's colours is taken back in the pruned tree
MODELS = ("tree", "flat-9", "flat-first")
BACKGROUND = [LABELS.index(name) for name in ("sky", "left wall", "right wall", "floor")]
OBJECT, SHADOW = LABELS.index("object"), LABELS.index("shadow")


def experiment(name: str, steps: Sequence[int] | None, seed: int, regions: int | None = None) -> Experiment:
    """A preset with its seed, number of regions, and steps (before growing, after)."""
    changes: dict = {"training.seed": seed}
    if regions:
        changes["regions"] = regions
    if steps:
        changes["steps"] = steps[name == "hierarchy32"]
    return PRESETS[name][1].with_(**changes)


def fit(made: Experiment, folder: Path | None, progress: bool) -> TrainingState:
    """Train a flat model, from the first seed that passes the mirror test (which is counted as time of training).

    A run that the folder holds goes on, or is taken as it is if it was finished.
    """
    started = time.perf_counter()
    dataset, objective, config = made.data.build(made.model.image_size), made.objective(), made.training
    tries = 10 if config.steps > 60 else 1  # no audition for what is shorter than one
    found = audition(made.model.build, objective, dataset, config, first_pictures(dataset), folder=folder, tries=tries)
    config.seed = found.seed
    not_taken = (time.perf_counter() - started) * (1 - 1 / max(1, len(found.tried)))
    torch.manual_seed(config.seed)
    state = train(made.model.build(), objective, dataset, config, folder=found.folder, progress=progress)
    state.seconds += not_taken  # the start that was taken is in it already
    return state


def lasting(made: Experiment, seconds: float) -> Experiment:
    """The experiment with as many steps as fit into the seconds, judged by its first few."""
    config = replace(made.training, steps=min(30, made.training.steps))
    state = train(made.model.build(), made.objective(), made.data.build(32), config, progress=False)
    made.training.steps = max(1, min(5 * made.training.steps, round(seconds / (state.seconds / state.step))))
    return made


def run(
    name: str, steps: Sequence[int] | None, seed: int, seconds: float | None, keep: Path | None, progress: bool
) -> dict:
    """A trained model, with the steps and seconds that it took; ``seconds`` is what a flat one may take."""
    folder = lambda part: keep / f"{part}-{seed}" if keep else None  # noqa: E731
    if name == "tree":
        first = fit(experiment("regions32", steps, seed), folder("first"), progress)
        made = experiment("hierarchy32", steps, seed)
        torch.manual_seed(seed)
        tree = grow(first.ema, made.model.regions[-1])
        pictures = made.data.build(made.model.image_size)
        states = [
            first,
            train(tree, made.objective(), pictures, made.training, folder=folder("tree"), progress=progress),
        ]
    else:
        regions = 9 if name == "flat-9" else None
        states = [fit(lasting(experiment("regions32", steps, seed, regions), seconds), folder(name), progress)]
    return {
        "model": states[-1].ema,
        "steps": [state.step for state in states],
        "seconds": sum(state.seconds for state in states),
        "loss": statistics.mean(row["loss"] for row in states[-1].history[-10:]),
    }


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


def score(model: torch.nn.Module, tests: dict[str, ShapesTest]) -> tuple[dict, dict[str, torch.Tensor]]:
    """Scores on each test, and the leaves that they were computed from."""
    result, saved = {}, {}
    for name, test in tests.items():
        fit_masks, masks = test.segment(model)
        top = [fit_masks, masks]
        if isinstance(model, HierarchicalUNet):
            top = [coarsen(m, model.regions_per_level, 1) for m in top]
        first = test.score_masks(*top, top[0].shape[1], oracle=False)
        leaves = hard(masks)
        result[name] = {
            "level_1_miou": first["miou"],
            "level_1_iou": first["per_class_iou"],
            "level_1_map": first["map"],
        }
        result[name]["level_1"] = leaves_score(hard(top[1]), test, top[1].shape[1])
        result[name] |= leaves_score(leaves, test, model.regions)
        saved[name] = leaves
        if isinstance(model, HierarchicalUNet):  # which cuts stay is decided on training pictures, without a label
            said = explained(test.fit, fit_masks, model.regions_per_level)
            pruned = hard(prune(masks, model.regions_per_level, said > SAYS_NOTHING))
            result[name]["explained"] = said.tolist()
            result[name]["pruned"] = leaves_score(pruned, test, model.regions)
            saved[f"{name}_pruned"] = pruned
    return result, saved


def cost(rounds: int = 9, batch: int = 16) -> dict:
    """A training step of trees against one of the flat K = 3 model: seconds (pair by pair), FLOPs, and memory for backward."""
    shapes = {"flat": 3, "tree": (3, 3), "tree of 4": (2, 2), "tree of 16": (4, 4), "tree of 36": (6, 6)}
    models = {name: experiment("regions32", None, 0, K).model.build() for name, K in shapes.items()}
    x, t = torch.randn(batch, 3, 32, 32), torch.randint(1000, (batch,))

    def step(model: torch.nn.Module) -> float:
        started = time.perf_counter()
        F.mse_loss(model(x, t).noise, x).backward()
        model.zero_grad()
        return time.perf_counter() - started

    def kept(model: torch.nn.Module) -> int:
        """Bytes that the forward pass keeps for the backward pass, each storage once."""
        storages = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = (
                tensor.untyped_storage()
            )  # held, so that no address comes twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(x, t)
        return sum(storage.nbytes() for storage in storages.values())

    flops = {}
    for name in ("tree", "flat"):
        with FlopCounterMode(display=False) as counter:
            step(models[name])
        flops[name] = counter.get_total_flops()
    ratios = []
    for i in range(rounds):
        times = {name: step(models[name]) for name in (("tree", "flat") if i % 2 else ("flat", "tree"))}
        ratios.append(times["tree"] / times["flat"])
    return {
        "flop_ratio": flops["tree"] / flops["flat"],
        "time_ratio": statistics.median(ratios),
        "mib_by_leaves": {model.regions: kept(model) / 2**20 for name, model in models.items() if name != "flat"},
    }


def write(report: dict, file: Path | None) -> None:
    if file:
        with atomic_write(file) as path:
            path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of each model for each")
    parser.add_argument("--profile", choices=STEPS, default="laptop", help="length of the training")
    parser.add_argument("--steps", type=int, nargs=2, help="before and after growing, in place of the profile's")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="which of the three")
    parser.add_argument("--test", type=int, default=1000, help="test pictures")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--cost", action="store_true", help="time a step, train nothing")
    parser.add_argument(
        "--json", type=Path, help="where to write the results; those of other seeds and models in it are kept"
    )
    parser.add_argument("--save", type=Path, help="folder for leaves and labels")
    parser.add_argument("--keep", type=Path, help="folder for the runs")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    report = {
        "command": "python benchmarks/hierarchy.py",
        "commit": commit(),
        "profile": options.profile,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "test": options.test,
        "cost": cost(),
        "runs": [],
    }
    print("a step of 3 x 3: {time_ratio:.2f} flat K = 3 steps (FLOPs {flop_ratio:.2f})".format(**report["cost"]))
    leaves = sorted(report["cost"]["mib_by_leaves"].items())
    print(
        "MiB kept for the backward pass, by leaves: "
        + ", ".join(f"{n}: {mib:.0f} ({mib / n:.1f} a leaf)" for n, mib in leaves)
    )
    if options.json and options.json.is_file():
        report["runs"] = json.loads(options.json.read_text())["runs"]
    if not options.cost:
        tests = {name: ShapesTest.render(32, options.test, layout=name) for name in ("plain", "close")}
        report["kmeans_9"] = {
            name: leaves_score(kmeans_colours(test.fit, test.images, 9), test, 9) for name, test in tests.items()
        }
        print(f"{'k-means, 9 colours':18} leaves' ARI {report['kmeans_9']['plain']['ari']:.3f}")
    for seed in [] if options.cost else options.seeds:
        for name in options.models:
            budget = [r["seconds"] for r in report["runs"] if (r["seed"], r["model"]) == (seed, "tree")]
            if name != "tree" and not budget:
                raise SystemExit(f"error: {name} takes the seconds that the tree took: run --models tree first")
            done = run(
                name,
                options.steps or STEPS[options.profile],
                seed,
                *(budget or [None]),
                options.keep,
                not options.quiet,
            )
            scores, leaves = score(done.pop("model"), tests)
            report["runs"] = [r for r in report["runs"] if (r["seed"], r["model"]) != (seed, name)]
            report["runs"].append({"seed": seed, "model": name, "commit": commit(), **done, **scores})
            print(
                f"{name:10} seed {seed}: level-1 mIoU {scores['plain']['level_1_miou']:.3f}, leaves' ARI "
                f"{scores['plain']['ari']:.3f}, best overlap {scores['plain']['mean_best_overlap']:.3f}; "
                f"{done['seconds']:.0f} s",
                flush=True,
            )
            if options.save:
                with atomic_write(options.save / f"{name}-{seed}.npz") as path, open(path, "wb") as file:
                    arrays = {f"{key}_{what}": value for key, test in tests.items() for what, value in
                              (("leaves", leaves[key]), ("fine", test.fine), ("labels", test.labels))}  # fmt: skip
                    arrays |= {f"{key}_leaves": value for key, value in leaves.items() if key.endswith("pruned")}
                    np.savez_compressed(
                        file, indices=tests["plain"].indices.numpy(),
                        **{key: value.numpy().astype(np.uint8) for key, value in arrays.items()},
                    )  # fmt: skip
            write(report, options.json)  # after every model, so that an interrupted study keeps what it has
    write(report, options.json)


if __name__ == "__main__":
    main()
