"""The thesis's Flower-64 configuration on one GPU: images a second, share of the peak, and its regions' scores after N minutes.

    python benchmarks/flower64.py --data flowers17_64.npz --minutes 20 --teraflops 989 --json FILE     # an H100's bf16 peak

Data, split and scores are those of ``benchmarks/flowers.py``: test pictures never enter training, the map from regions to
classes is fitted on other labelled pictures, and scores are means over the test pictures, in per cent. Beside them two
baselines without learning: all foreground, and a disc in the middle.

FLOPs are counted (``benchmarks/costs.py``), so the share of the peak is of useful work. On a CPU, with a ``-laptop`` preset, it
is a test of this script.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from costs import picture
from flowers import Flowers, scores

from fdlib import course
from fdlib.data.photos import ArrayImages
from fdlib.files import atomic_write
from fdlib.metrics.baselines import disc
from fdlib.metrics.segmentation import apply_map, hard, match_regions
from fdlib.presets import PRESETS
from fdlib.training import TrainingState, train


def load(path: Path, size: int) -> Flowers:
    """The photos and their split at another size."""
    data = Flowers(path)
    if size != data.test.shape[-1]:
        pixels = torch.from_numpy(data.train).movedim(3, 1).float()
        data.train = F.adaptive_avg_pool2d(pixels, size).round().byte().movedim(1, 3).numpy()
        for part in ("fit", "test"):
            setattr(data, part, F.adaptive_avg_pool2d(getattr(data, part), size))
            labels = getattr(data, f"{part}_labels")[:, None].float()
            setattr(data, f"{part}_labels", F.interpolate(labels, size, mode="nearest")[:, 0].long())
    return data


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
    data = load(o.data, experiment.model.image_size)
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

    state = train(model, objective, ArrayImages(data.train), config, callbacks=[stop], callback_every=10)
    (a, began), (b, ended) = marks[len(marks) // 5], marks[-1]  # without warming up and compiling
    speed = (b - a) * config.batch_size / (ended - began) if b > a else float("nan")
    ema = state.ema.eval()
    regions = [hard(ema.segment(x.to(device), schedule=objective.schedule).cpu()) for x in (data.fit, data.test)]
    mapping = match_regions(regions[0], data.fit_labels, 2, count=ema.regions)
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "preset": o.preset,
        "precision": config.mixed_precision,
        "compile": o.compile,
        "steps": state.step,
        "images_per_second": speed,
        "share_of_peak": speed * picture(experiment)["flops"] / (o.teraflops * 1e12),
        "pictures": {"training": len(data.train), "fit": len(data.fit), "test": len(data.test)},
        "this model": scores(apply_map(regions[1], mapping), data.test_labels),
        "all foreground": scores(torch.ones_like(data.test_labels), data.test_labels),
        "a disc in the middle": scores(disc(data.test, 24 * data.test.shape[-1] / 64), data.test_labels),
    }
    print(json.dumps(report, indent=1))
    if o.json:
        with atomic_write(o.json) as path:
            path.write_text(json.dumps(report, indent=1) + "\n")
    if o.keep:
        ema.save_pretrained(o.keep)


if __name__ == "__main__":
    main()
