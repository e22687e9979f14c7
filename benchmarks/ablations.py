"""The ways of decoding, at an equal budget of steps: table 2.6 of the thesis on rendered 3D Shapes, and one control more.

    python benchmarks/ablations.py --seeds 0 1 2 --folder runs/ablations --json benchmarks/results/ablations.json
    python benchmarks/ablations.py --seeds 0 --models concat --folder runs/ablations
    python benchmarks/ablations.py --judge --seeds 0 1 2 --folder runs/ablations --json benchmarks/results/ablations.json
    python benchmarks/ablations.py --cost --folder runs/ablations --json benchmarks/results/ablations.json

    parallel    the thesis's model: one decoder, K masked looks at the skips (equations 2.6 and 2.7)
    concat      masks as further channels of one decoder's input (equation 2.5)
    mask_mid    h_mid masked in place of the skips
    unshared    a decoder for each region
    plain       the U-Net without masks
    plain-wide  the U-Net without masks, with twice the channels: about as many FLOPs a step as parallel. The thesis lacks it:
                parallel decoding costs four plain networks, so it must be asked what else that compute could buy

All six take the preset ``regions32``, shortened to ``--steps``, on the same pictures. As in chapter 4, a model with masks
trains with the first of a few seeds whose start passes the mirror test, which reads no label
(``fdlib.emergence.audition``). Regions are scored as there too (``fdlib.metrics.shapes_test``: one map, fitted on training
pictures). A plain U-Net has no masks; its regions are k-means clusters of its features, the thesis's DatasetDDPM-unsup.
Pictures are compared by the offline Fréchet distance between ``--samples`` samples from one and the same noise and as many
test pictures; "loss" is the denoising error on test pictures, all times alike. Labels enter scores and nothing else.

``--judge`` asks a U-Net that was trained on labels how right the regions of the *samples* are, as in the thesis's table 2.5:
those that come along with the samples of parallel, against k-means on the features of the plain models on theirs.

Each run leaves a JSON file, its model and an npz (regions, samples) in ``--folder``; runs that are there are not repeated, and an
interrupted training goes on. ``--json`` merges all that is there.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from costs import picture
from emergence import commit, first_pictures

from fdlib import course
from fdlib.data.shapes3d import Shapes3D, coarse, split_indices
from fdlib.denoiser import Prediction
from fdlib.emergence import audition, mask_health
from fdlib.experiments import load_model
from fdlib.files import atomic_write
from fdlib.images import from_uint8, to_uint8
from fdlib.metrics.baselines import kmeans_features
from fdlib.metrics.generation import FactorClassifier, draw, frechet_distance
from fdlib.metrics.segmentation import accuracy, apply_map, hard, iou, match_regions, score_regions
from fdlib.metrics.shapes_test import CLASSES, ShapesTest
from fdlib.metrics.supervised import LabelledImages, LabelObjective, classify
from fdlib.presets import PRESETS, Experiment
from fdlib.process import DenoisingObjective
from fdlib.training import TrainingConfig, train

PRESET = "regions32"
MODELS: dict[str, dict[str, object]] = {
    "parallel": {},
    "concat": {"decoding": "concat"},
    "mask_mid": {"decoding": "mask_mid"},
    "unshared": {"decoding": "unshared"},
    "plain": {"regions": 0},
    "plain-wide": {"regions": 0, "channels": 32},
}
TIMES = (0, 10, 20, 30, 40, 50, 60)  # of figure 2.18
SAMPLER_STEPS = 20


def recipe(model: str, steps: int, seed: int, count: int) -> Experiment:
    """The preset with another architecture and length."""
    changes = {"steps": steps, "training.seed": seed, "save_every": 500, "count": count}
    return PRESETS[PRESET][1].with_(**MODELS[model], **changes)


def run(model: str, seed: int, o: argparse.Namespace, test: ShapesTest, close: ShapesTest) -> dict:
    """Train one model with one seed; all its scores."""
    experiment = recipe(model, o.steps, seed, o.count)
    objective, dataset, started = experiment.objective(), experiment.data.build(32), []
    folder = o.folder / f"{model}-{seed}"
    if experiment.model.regions:
        probe = first_pictures(dataset)
        found = audition(
            experiment.model.build, objective, dataset, experiment.training, probe, folder=folder, tries=o.tries
        )
        experiment.training.seed, started = found.seed, found.tried
    torch.manual_seed(experiment.training.seed)
    state = train(
        experiment.model.build(),
        objective,
        dataset,
        experiment.training,
        folder=folder,
        progress=not o.quiet,
    )
    ema, K = state.ema.eval(), PRESETS[PRESET][1].model.regions
    result = {"model": model, "seed": seed, "steps": state.step, "seconds": state.seconds}
    result |= {"trained_with_seed": experiment.training.seed, "starts": started}
    arrays = {}
    for name, pictures in (("plain", test), ("close", close)):
        if experiment.model.regions:
            fit, found = pictures.segment(ema, objective.schedule)
        else:
            fit, found = kmeans_features(ema, pictures.fit, pictures.images, K, schedule=objective.schedule)
        scores = pictures.score_masks(fit, found, K)
        if name == "plain":
            result |= scores
            arrays = {"regions": hard(found).numpy().astype(np.uint8), "map": np.asarray(scores["map"])}
            if experiment.model.regions:
                health = mask_health(found)
                result["health"] = {
                    "occupancy": list(health.occupancy),
                    "entropy": health.entropy,
                    "variation": health.variation,
                    "says": health.problems,
                }
        else:
            result["close"] = scores
    if model == "parallel":
        result["miou_at"] = {str(t): miou_at(ema, objective.schedule, test, t, K) for t in TIMES}
    with torch.no_grad():
        generator, even = torch.Generator().manual_seed(0), DenoisingObjective(objective.schedule)
        losses = [float(even(ema, part, generator)[0]) for part in test.images.split(100)]
    result["loss"] = sum(losses) / len(losses)
    if experiment.model.regions:
        result["loss_with_other_masks"] = loss_with_other_masks(ema, objective.schedule, test.images)
    samples, regions = draw(ema, objective.schedule, o.samples, steps=SAMPLER_STEPS, seed=0)
    judge = FactorClassifier.from_pretrained(course.asset("shapes_features"))
    result["frechet"] = frechet_distance(judge.extract(test.images[: o.samples]), judge.extract(samples))
    arrays |= {"samples": to_uint8(samples)} | ({} if regions is None else {"sample_regions": regions.numpy()})
    with atomic_write(o.folder / f"{model}-{seed}.npz") as path, open(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    return result | PROVENANCE


@torch.no_grad()
def loss_with_other_masks(model, schedule, images: torch.Tensor) -> float:
    """The denoising error when each picture gets the masks of another one: near the loss if the decoder ignores masks."""

    def swapped(x_t: torch.Tensor, t: torch.Tensor) -> Prediction:
        h_mid, h_enc, emb = model.encode(x_t, t)
        masks = model.mask_generator(h_mid, h_enc, emb).roll(1, dims=0)
        return Prediction(noise=model.decode(h_mid, h_enc, emb, masks))

    generator, even = torch.Generator().manual_seed(0), DenoisingObjective(schedule)
    losses = [float(even(swapped, part, generator)[0]) for part in images.split(100)]
    return sum(losses) / len(losses)


def miou_at(model, schedule, test: ShapesTest, t: int, regions: int) -> float:
    """mIoU at another noise, map and scores on the first 250 pictures each."""
    fit, found = (model.segment(images[:250], t, schedule=schedule) for images in (test.fit, test.images))
    scores = score_regions(fit, test.fit_labels[:250], found, test.labels[:250], len(CLASSES), regions, oracle=False)
    return scores["miou"]


def cost(rounds: int, batch: int) -> dict[str, dict]:
    """Parameters, FLOPs of a training step, and its time: the median over rounds in which all models take turns."""
    experiments = {name: recipe(name, 1, 0, 1000) for name in MODELS}
    built = {name: e.model.build() for name, e in experiments.items()}
    rates = {name: torch.optim.Adam(model.parameters()) for name, model in built.items()}
    objective, times = PRESETS[PRESET][1].objective(), {name: [] for name in MODELS}
    images = torch.rand(batch, 3, 32, 32) * 2 - 1
    for _ in range(rounds + 2):
        for name, model in built.items():
            started = time.perf_counter()
            objective(model, images)[0].backward()
            rates[name].step()
            rates[name].zero_grad()
            times[name].append(time.perf_counter() - started)
    rows = {}
    for name, e in experiments.items():
        counted = picture(e)
        rows[name] = {
            "parameters": counted["parameters"],
            "mflops": counted["flops"] * batch / 1e6,
            "step_ms": 1000 * statistics.median(times[name][2:]),
        }
    return rows


def provenance() -> dict:
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return {"commit": commit(), "machine": machine}


def judged(seeds: list[int], folder: Path, test: ShapesTest, steps: int = 600, pictures: int = 4000) -> dict:
    """Agreement with a supervised U-Net, pixel by pixel, on the samples of the runs in the folder (table 2.5, bottom)."""
    indices, _ = split_indices(train=pictures, test=10_000, seed=0)
    labelled, K = Shapes3D(size=32, indices=indices), PRESETS[PRESET][1].model.regions
    torch.manual_seed(0)
    network = replace(PRESETS[PRESET][1].model, regions=len(CLASSES)).build()
    dataset = LabelledImages(labelled.images(), coarse(labelled.labels(), "three").long())
    config = TrainingConfig(steps=steps, batch_size=16, learning_rate=2e-3, warmup=50, ema_decay=0.98)
    network = train(network, LabelObjective(), dataset, config, progress=False).ema.eval()
    found, truth = classify(network, test.images), test.labels.long()
    rows = {"judge": {"accuracy": accuracy(found, truth), "miou": float(iou(found, truth, len(CLASSES)).mean())}}
    schedule = PRESETS[PRESET][1].objective().schedule
    for seed in seeds:
        for model in ("parallel", "plain", "plain-wide"):
            if not (folder / f"{model}-{seed}.npz").is_file():
                continue
            with np.load(folder / f"{model}-{seed}.npz") as arrays:
                samples, mapping = from_uint8(arrays["samples"]), torch.from_numpy(arrays["map"])
                regions = torch.from_numpy(arrays["sample_regions"]).long() if "sample_regions" in arrays else None
            answer, ema = classify(network, samples), load_model(folder / f"{model}-{seed}").eval()
            row = rows.setdefault(model, {"seeds": [], "agreement": []})
            if regions is None:
                fit, regions = kmeans_features(ema, test.fit, samples, K, schedule=schedule)
                mapping = match_regions(fit, test.fit_labels.long(), len(CLASSES), count=K)
            else:  # the masks of the last evaluation; and those of the finished picture, seen at t = 30
                again = apply_map(ema.segment(samples, schedule=schedule), mapping)
                row.setdefault("agreement_at_30", []).append(accuracy(again, answer))
            row["seeds"].append(seed)
            row["agreement"].append(accuracy(apply_map(regions, mapping), answer))
    return rows


PROVENANCE: dict[str, str] = {}  # of the code that runs, so taken at the start


def merge(o: argparse.Namespace, reference: dict | None) -> None:
    """All runs of the folder in one file; what was measured once for all of them is kept from it."""
    report = json.loads(o.json.read_text()) if o.json.is_file() else {}
    runs = [json.loads(file.read_text()) for file in sorted(o.folder.glob("*-[0-9]*.json"))]
    order = list(MODELS)
    report |= {
        "command": "python benchmarks/ablations.py --seeds 0 1 2 --folder runs/ablations --json FILE",
        "commits": sorted({r["commit"] for r in runs}),
        "seeds": sorted({r["seed"] for r in runs}),
    }
    report |= {"reference": reference} if reference else {}
    report["runs"] = sorted(runs, key=lambda r: (order.index(r["model"]), r["seed"]))
    with atomic_write(o.json) as path:
        path.write_text(json.dumps(report, indent=1) + "\n")


def table(runs: list[dict]) -> str:
    """Mean and range over seeds."""
    lines = [f"{'':11} seeds   mIoU               object             Fréchet distance   loss"]

    def cell(values, digits):
        return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})".ljust(18)

    for name in MODELS:
        rows = [r for r in runs if r["model"] == name]
        if rows:
            columns = (
                ([r["miou"] for r in rows], 3),
                ([r["per_class_iou"][2] for r in rows], 2),
                ([r["frechet"] for r in rows], 1),
                ([r["loss"] for r in rows], 4),
            )
            lines.append(f"{name:11} {len(rows):5}   " + " ".join(cell(*column) for column in columns))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="every model once with each")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which (all)")
    parser.add_argument("--steps", type=int, default=1200, help="of each training (1200)")
    parser.add_argument("--tries", type=int, default=6, help="starts to choose from, by the mirror test")
    parser.add_argument("--count", type=int, default=20_000, help="training pictures")
    parser.add_argument("--test", type=int, default=1000, help="test pictures")
    parser.add_argument("--samples", type=int, default=320, help="pictures on each side of the Fréchet distance")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--folder", type=Path, required=True, help="what each run leaves")
    parser.add_argument("--json", type=Path, help="where to merge the runs of the folder")
    parser.add_argument("--cost", action="store_true", help="only measure parameters, FLOPs and time of a step")
    parser.add_argument("--judge", action="store_true", help="only judge the samples of the runs in the folder")
    parser.add_argument("--rounds", type=int, default=21, help="of --cost")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    o = parser.parse_args()
    if o.samples > o.test:
        parser.error(f"--samples {o.samples} needs as many test pictures, and --test is {o.test}")
    if o.threads:
        torch.set_num_threads(o.threads)
    o.folder.mkdir(parents=True, exist_ok=True)
    PROVENANCE.update(provenance())
    if o.judge:
        rows = judged(o.seeds, o.folder, ShapesTest.render(32, o.test))
        print(json.dumps(rows, indent=1))
        if o.json:
            report = json.loads(o.json.read_text()) if o.json.is_file() else {}
            with atomic_write(o.json) as path:
                path.write_text(json.dumps(report | {"judged": rows}, indent=1) + "\n")
        return
    if o.cost:
        rows = cost(o.rounds, PRESETS[PRESET][1].training.batch_size)
        for name, row in rows.items():
            print(
                f"{name:11} {row['parameters']:9} parameters {row['mflops']:8.0f} MFLOP {row['step_ms']:7.1f} ms a step"
            )
        if o.json:
            report = json.loads(o.json.read_text()) if o.json.is_file() else {}
            with atomic_write(o.json) as path:
                path.write_text(json.dumps(report | {"cost": rows, "cost_machine": PROVENANCE}, indent=1) + "\n")
        return
    test, close = (ShapesTest.render(32, o.test, layout=layout) for layout in ("plain", "close"))
    judge = FactorClassifier.from_pretrained(course.asset("shapes_features"))
    features = judge.extract(test.images)
    reference = {
        "baselines": test.baselines(PRESETS[PRESET][1].model.regions),
        "baselines_close": close.baselines(PRESETS[PRESET][1].model.regions),
        "frechet_noise": frechet_distance(features[: o.samples], judge.extract(torch.randn(o.samples, 3, 32, 32))),
    }
    if o.test >= 2 * o.samples:
        reference["frechet_other_half"] = frechet_distance(features[: o.samples], features[o.samples : 2 * o.samples])
    for seed in o.seeds:  # outermost, so that every model has its first seed early
        for model in o.models:
            file = o.folder / f"{model}-{seed}.json"
            if not file.is_file():
                result = run(model, seed, o, test, close)
                with atomic_write(file) as path:
                    path.write_text(json.dumps(result, indent=1) + "\n")
                print(
                    f"{model} seed {seed}: mIoU {result['miou']:.3f}, Fréchet {result['frechet']:.1f}, loss "
                    f"{result['loss']:.4f}, {result['seconds']:.0f} s",
                    flush=True,
                )
            if o.json:
                merge(o, reference)
    print(table([json.loads(file.read_text()) for file in sorted(o.folder.glob("*-[0-9]*.json"))]))


if __name__ == "__main__":
    main()
