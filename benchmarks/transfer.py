"""Zero-shot transfer (thesis 2.4.3, 2.5.4): a model that is told the class of each picture meets a class that it never saw.

    python benchmarks/transfer.py --seeds 0 1 2 --folder runs/transfer --json benchmarks/results/transfer.json

The thesis trains on ImageNet, told each picture's class, and segments VOC by telling the ImageNet class that a table, made by
hand, puts in place of VOC's. Here the class is the shape of the object in rendered 3D Shapes:

    transfer    trained on three shapes; pictures of the fourth (``--held``) are shown, and it is told the shape of NEAREST
    ceiling     trained on all four shapes, and told the right one

Both take the preset ``regions32`` with classes, and start with the first seed that passes the mirror test. Scores as in
chapter 4: three classes of pixels, one map from regions to them, fitted on training pictures (of the shapes that the model was
trained on); test pictures are never trained on. "told" scores the held-out pictures under every label that the model knows:
if they hardly differ, the label does not matter. Beside them k-means on colours and chance, their maps fitted on the pictures
of the three shapes. Labels of pixels enter scores and nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from ablations import provenance
from torch import Tensor

from fdlib.data.shapes3d import FACTORS, Shapes3D, close_layout, coarse, split_indices
from fdlib.data.shapes3d_factors import SHAPES, index_to_factors
from fdlib.emergence import audition
from fdlib.experiments import Experiment
from fdlib.files import atomic_write
from fdlib.metrics.baselines import chance, kmeans_colours
from fdlib.metrics.segmentation import score_regions
from fdlib.metrics.shapes_test import CLASSES
from fdlib.presets import PRESETS
from fdlib.training import Objective, Stages, train

NEAREST = {"cube": "cylinder", "cylinder": "capsule", "sphere": "capsule", "capsule": "cylinder"}
"""The table made by hand, before any score was seen: what else is round, or stands upright."""
PRESET = "regions32"


def shape_of(indices: Tensor) -> Tensor:
    return index_to_factors(indices)[:, list(FACTORS).index("shape")]


@dataclass
class Pictures:
    """Pictures (N, 3, 32, 32) in [-1, 1], their pixels' classes (N, 32, 32) and shapes (N,)."""

    images: Tensor
    labels: Tensor
    shapes: Tensor

    @classmethod
    def of(cls, indices: Tensor) -> Pictures:
        pictures = Shapes3D(size=32, indices=indices)
        return cls(pictures.images(), coarse(pictures.labels(), "three"), shape_of(indices))


def training_set(experiment: Experiment, indices: Tensor) -> Stages:
    """As ``Data.build`` makes them, of these combinations alone."""
    windows = close_layout(len(indices), torch.Generator().manual_seed(experiment.data.seed))
    parts = (Shapes3D(size=32, indices=indices, layout=layout) for layout in (windows, "plain"))
    return Stages(dict(zip((0.0, 1 - experiment.data.whole), parts, strict=True)))


def told(objective: Objective, known: list[int]) -> Objective:
    """The objective, which hands on each picture's shape as its place among those known."""
    place = torch.zeros(len(SHAPES), dtype=torch.long)
    place[known] = torch.arange(len(known))
    column = list(FACTORS).index("shape")

    def with_label(denoiser, batch, generator):
        label = place[batch["factors"][:, column].cpu()].to(batch["image"].device)
        return objective(denoiser, {"image": batch["image"], "label": label}, generator)

    return with_label


def run(model: str, seed: int, o: argparse.Namespace, test: Pictures) -> dict:
    """Train one model with one seed; its scores on the held-out shape under every label, and on the shapes that it knows."""
    held = SHAPES.index(o.held)
    known = [k for k in range(len(SHAPES)) if model == "ceiling" or k != held]
    experiment = PRESETS[PRESET][1].with_(**{"training.seed": seed, **({"steps": o.steps} if o.steps else {})})
    experiment.model.classes = len(known)
    indices, _ = split_indices(train=o.count, test=10_000, seed=0)
    indices = indices[torch.isin(shape_of(indices), torch.tensor(known))]
    fit, dataset, config = Pictures.of(indices[:500]), training_set(experiment, indices), experiment.training
    objective, place = told(experiment.objective(), known), {k: i for i, k in enumerate(known)}
    windows = dataset.datasets[0]
    probe, labels = windows.images(slice(0, 200)), torch.tensor([place[int(k)] for k in shape_of(indices[:200])])
    folder = o.folder / f"{model}-{o.held}-{seed}"
    found = audition(
        experiment.model.build, objective, dataset, config, probe, folder=folder, tries=o.tries, label=labels
    )
    config.seed = found.seed
    torch.manual_seed(config.seed)
    state = train(experiment.model.build(), objective, dataset, config, folder=folder, progress=not o.quiet)
    ema, K = state.ema.eval(), experiment.model.regions

    def masks(pictures: Tensor, shapes: Tensor) -> Tensor:
        return ema.segment(pictures, schedule=experiment.schedule.build(), label=shapes)

    fitted = masks(fit.images, torch.tensor([place[int(k)] for k in fit.shapes]))

    def scores(which: Tensor, label: int | None) -> dict:
        right = torch.tensor([place.get(int(k), -1) for k in test.shapes[which]])
        told_them = right if label is None else torch.full_like(right, label)
        found = masks(test.images[which], told_them)
        row = score_regions(fitted, fit.labels, found, test.labels[which], len(CLASSES), K, oracle=False)
        return {"miou": row["miou"], "per_class_iou": row["per_class_iou"], "pictures": int(which.sum())}

    is_held, answer = test.shapes == held, place[held if model == "ceiling" else SHAPES.index(NEAREST[o.held])]
    result = {"model": model, "held": o.held, "seed": seed, "steps": state.step, "seconds": state.seconds}
    result |= {"trained_with_seed": config.seed, "starts": found.tried, **scores(is_held, answer)}
    result["told"] = {SHAPES[k]: scores(is_held, i)["miou"] for k, i in place.items()}
    result["known_shapes"] = scores(~is_held, None)
    return result | provenance()


def baselines(test: Pictures, held: int, regions: int, count: int) -> dict[str, dict]:
    """On the pictures of the held-out shape; maps fitted on training pictures of the three others."""
    indices, _ = split_indices(train=count, test=10_000, seed=0)
    fit, which = Pictures.of(indices[shape_of(indices) != held][:500]), test.shapes == held
    rows = {}
    for name, found in {
        "k-means on colours": [kmeans_colours(fit.images, x, regions) for x in (fit.images, test.images[which])],
        "chance": [chance(x, regions) for x in (fit.images, test.images[which])],
    }.items():
        row = score_regions(found[0], fit.labels, found[1], test.labels[which], len(CLASSES), regions, oracle=False)
        rows[name] = {"miou": row["miou"], "per_class_iou": row["per_class_iou"]}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="both models once with each")
    parser.add_argument("--models", nargs="+", choices=("transfer", "ceiling"), default=["transfer", "ceiling"])
    parser.add_argument("--held", choices=SHAPES, default="capsule", help="the shape that is kept from training")
    parser.add_argument("--steps", type=int, help="of each training, by default the preset's")
    parser.add_argument("--tries", type=int, default=10, help="starts to choose from, by the mirror test")
    parser.add_argument("--count", type=int, default=20_000, help="training pictures, of all shapes")
    parser.add_argument("--test", type=int, default=2000, help="test pictures, of all shapes")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--folder", type=Path, required=True, help="for the runs, which go on where they were stopped")
    parser.add_argument("--json", type=Path, help="where to write the results; those of other runs in it are kept")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    o = parser.parse_args()
    if not 10 <= o.test <= 10_000:
        parser.error(f"--test must lie in 10 .. 10000, the pictures reserved for tests, got {o.test}")
    if o.threads:
        torch.set_num_threads(o.threads)
    _, indices = split_indices(train=1, test=10_000, seed=0)
    test = Pictures.of(indices[: o.test])
    report = json.loads(o.json.read_text()) if o.json and o.json.is_file() else {"baselines": {}, "runs": []}
    report["command"] = "python benchmarks/transfer.py --seeds 0 1 2 --folder runs/transfer --json FILE"
    report["baselines"][o.held] = baselines(test, SHAPES.index(o.held), PRESETS[PRESET][1].model.regions, o.count)
    for seed in o.seeds:
        for model in o.models:
            result = run(model, seed, o, test)
            mine = (model, o.held, seed)
            report["runs"] = [r for r in report["runs"] if (r["model"], r["held"], r["seed"]) != mine] + [result]
            told_each = ", ".join(f"{name} {score:.3f}" for name, score in result["told"].items())
            print(
                f"{model} seed {seed}: {o.held} mIoU {result['miou']:.3f} (object {result['per_class_iou'][2]:.2f}; told "
                f"{told_each}); shapes it knows {result['known_shapes']['miou']:.3f}, {result['seconds']:.0f} s",
                flush=True,
            )
            if o.json:
                with atomic_write(o.json) as path:
                    path.write_text(json.dumps(report, indent=1) + "\n")
    for name, row in report["baselines"][o.held].items():
        print(f"{name:20} mIoU {row['miou']:.3f}, object {row['per_class_iou'][2]:.2f}")
    for model in ("transfer", "ceiling"):
        rows = [r for r in report["runs"] if (r["model"], r["held"]) == (model, o.held)]
        if rows:
            values, objects = [r["miou"] for r in rows], [r["per_class_iou"][2] for r in rows]
            print(
                f"{model:20} mIoU {statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}), object "
                f"{statistics.mean(objects):.2f} ({min(objects):.2f} to {max(objects):.2f}), {len(rows)} seeds"
            )


if __name__ == "__main__":
    main()
