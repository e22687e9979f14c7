"""The thesis's Flower-64 configuration on one GPU: images a second, share of the peak, and its regions' scores after N minutes.

    python benchmarks/flower64.py --data flowers17_64.npz --minutes 20 --teraflops 989 --json FILE     # an H100's bf16 peak

Data: an .npz with ``images`` (N, 64, 64, 3) uint8, ``labels`` (M, 64, 64) uint8 (1 flower, 0 left out, all else background) and
``labelled_index`` (M,). The model trains on pictures without labels and on the first half of the labelled ones, never seeing a
label; the map from regions to classes is fitted on that half, and the scores are of the other half, which it never saw. Beside
them two baselines without learning: all foreground, and a disc in the middle.

FLOPs are counted (``benchmarks/costs.py``), so the share of the peak is of useful work. On a CPU, with a ``-laptop`` preset, it
is a test of this script.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from costs import picture

from fdlib import course
from fdlib.data.photos import ArrayImages
from fdlib.files import atomic_write
from fdlib.images import from_uint8
from fdlib.metrics.segmentation import IGNORE, accuracy, apply_map, dice, hard, iou, match_regions
from fdlib.presets import PRESETS
from fdlib.training import TrainingState, train


def load(path: Path, size: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures to train on; pictures and labels to fit the map on; pictures and labels to score."""
    with np.load(path, allow_pickle=False) as file:
        images, labels, index = file["images"], torch.from_numpy(file["labels"]).long(), file["labelled_index"]
    labels = torch.where(labels == 0, IGNORE, (labels == 1).long())
    images = (
        F.adaptive_avg_pool2d(torch.from_numpy(images).movedim(3, 1).float(), size).round().byte().movedim(1, 3)
    ).numpy()
    labels = F.interpolate(labels[:, None].float(), size, mode="nearest")[:, 0].long()
    half = len(index) // 2
    unseen = np.zeros(len(images), bool)
    unseen[index[half:]] = True
    fit, test = (from_uint8(images[rows]) for rows in (index[:half], index[half:]))
    return images[~unseen], fit, labels[:half], test, labels[half:]


def scores(predicted: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    return {
        "accuracy": 100 * accuracy(predicted, labels),
        "iou": 100 * float(iou(predicted, labels, 2)[1]),
        "dice": 100 * float(dice(predicted, labels, 2)[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the .npz of pictures and labels")
    parser.add_argument("--preset", default="flower64", help="flower64, or flower64-laptop")
    parser.add_argument("--minutes", type=float, default=20, help="of training (20)")
    parser.add_argument("--batch", type=int, help="pictures a step (the preset's)")
    parser.add_argument(
        "--teraflops", type=float, default=312, help="the device's peak in this precision (312: an A100 in bf16)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the network")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--keep", type=Path, help="folder for the model")
    o = parser.parse_args()
    experiment = PRESETS[o.preset][1]
    training, fit, fit_labels, test, test_labels = load(o.data, experiment.model.image_size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = replace(
        experiment.training, batch_size=o.batch or experiment.training.batch_size, seed=o.seed, workers=0, compile=o.compile,
        steps=10**7, log_every=10, mixed_precision=course.precision() if device == "cuda" else "no",
    )  # fmt: skip
    torch.manual_seed(o.seed)
    model, objective, started, marks = experiment.model.build(), experiment.objective(), time.monotonic(), []

    def stop(state: TrainingState) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        marks.append((state.step, time.perf_counter()))
        state.interrupted = time.monotonic() - started > 60 * o.minutes

    state = train(model, objective, ArrayImages(training), config, callbacks=[stop], callback_every=10)
    (a, began), (b, ended) = marks[len(marks) // 5], marks[-1]  # without warming up and compiling
    speed = (b - a) * config.batch_size / (ended - began) if b > a else float("nan")
    ema = state.ema.eval()
    regions = [hard(ema.segment(x.to(device), schedule=objective.schedule).cpu()) for x in (fit, test)]
    mapping = match_regions(regions[0], fit_labels, 2, count=ema.regions)
    axis = torch.linspace(-1, 1, test.shape[-1])
    disc = (axis[:, None] ** 2 + axis**2 < 2 / torch.pi).long().expand(test_labels.shape)
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "preset": o.preset,
        "precision": config.mixed_precision,
        "compile": o.compile,
        "steps": state.step,
        "images_per_second": speed,
        "share_of_peak": speed * picture(experiment)["flops"] / (o.teraflops * 1e12),
        "pictures": {"training": len(training), "fit": len(fit), "test": len(test)},
        "this model": scores(apply_map(regions[1], mapping), test_labels),
        "all foreground": scores(torch.ones_like(test_labels), test_labels),
        "a disc in the middle": scores(disc, test_labels),
    }
    print(json.dumps(report, indent=1))
    if o.json:
        with atomic_write(o.json) as path:
            path.write_text(json.dumps(report, indent=1) + "\n")
    if o.keep:
        ema.save_pretrained(o.keep)


if __name__ == "__main__":
    main()
