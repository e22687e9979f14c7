"""What K branches cost: a factorized training step against a plain one, one batch against a loop, and segmentation.

    python benchmarks/factorized_step.py [--rounds 11] [--json FILE]

- ``parallel``, K = 3, against the plain U-Net of the same shape: time, beside the ratio of their FLOPs (counted by torch);
- all branches in one batched pass against a loop over k that computes the same numbers;
- masks of 1 000 pictures of 32 x 32.

Competitors take turns on the same batch and ratios are formed pair by pair, so that a drifting machine cancels out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fdlib.denoiser import Prediction
from fdlib.factorized import FactorizedUNet, resize_masks
from fdlib.unet import UNet

# size, channels, multipliers, blocks, sizes with attention, fold, batch
CONFIGURATIONS = {
    "course-32": (32, 16, (1, 2, 2), 1, (), 2, 16),
    "course-32, batch 4": (32, 16, (1, 2, 2), 1, (), 2, 4),
    "medium-32": (32, 32, (1, 2, 2), 1, (8,), 1, 8),
}


class Looped(FactorizedUNet):
    """The same model, its branches one after the other (equations 2.6 and 2.7 as they are written)."""

    def forward(self, x_t, t, label=None):
        h_mid, h_enc, emb = self.encode(x_t, t, label)
        masks = self.mask_generator(h_mid, h_enc, emb)
        total = 0
        for k in range(self.regions):
            m_k = masks[:, k : k + 1]
            seen = [h * resize_masks(m_k, h.shape[-2:]) for h in h_enc]
            total = total + m_k * F.pixel_shuffle(self.decoder(h_mid, seen, emb), self.fold)
        return Prediction(noise=total, masks=masks)


def step(model: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> float:
    started = time.perf_counter()
    F.mse_loss(model(x, t).noise, x).backward()
    elapsed = time.perf_counter() - started
    model.zero_grad()
    return elapsed


def flops(model: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        step(model, x, t)
    return counter.get_total_flops()


def compare(name: str, rounds: int) -> dict:
    size, channels, multipliers, blocks, attention, fold, batch = CONFIGURATIONS[name]
    shape = dict(
        image_size=size, channels=channels, multipliers=multipliers, blocks=blocks, attention=attention, fold=fold
    )
    torch.manual_seed(0)
    models = {
        "plain": UNet(**shape),
        "batched": FactorizedUNet(**shape, regions=3),
        "looped": Looped(**shape, regions=3),
    }
    models["looped"].load_state_dict(models["batched"].state_dict())
    x, t = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
    with torch.no_grad():
        torch.testing.assert_close(models["batched"](x, t).noise, models["looped"](x, t).noise, rtol=1e-4, atol=1e-5)
    counted = {label: flops(model, x, t) for label, model in models.items()}
    for model in models.values():  # warm up
        step(model, x, t)
    times: dict[str, list[float]] = {label: [] for label in models}
    for i in range(rounds):
        order = list(models) if i % 2 == 0 else list(models)[::-1]
        for label in order:
            times[label].append(step(models[label], x, t))
    slower = [a / b for a, b in zip(times["batched"], times["plain"], strict=True)]
    faster = [a / b for a, b in zip(times["looped"], times["batched"], strict=True)]
    return {
        "configuration": name,
        "parameters": {label: model.parameter_count for label, model in models.items()},
        "ms": {label: 1000 * statistics.median(values) for label, values in times.items()},
        "flop_ratio": counted["batched"] / counted["plain"],
        "time_ratio": statistics.median(slower),
        "loop_over_batched": statistics.median(faster),
    }


def segmentation(count: int) -> dict:
    size, channels, multipliers, blocks, attention, fold, _ = CONFIGURATIONS["course-32"]
    model = FactorizedUNet(size, channels, multipliers, blocks, attention, fold=fold, regions=3)
    images = torch.rand(count, 3, size, size) * 2 - 1
    model.segment(images[:50])
    started = time.perf_counter()
    model.segment(images)
    return {"pictures": count, "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="steps to time of each")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rows = []
    for name in CONFIGURATIONS:
        row = compare(name, arguments.rounds)
        rows.append(row)
        print(
            f"{name:20} plain {row['ms']['plain']:6.1f} ms, K = 3 {row['ms']['batched']:6.1f} ms: {row['time_ratio']:.2f} times "
            f"(FLOPs {row['flop_ratio']:.2f} times); the loop takes {row['loop_over_batched']:.2f} times as long"
        )
    masks = segmentation(1000)
    print(f"segmentation of {masks['pictures']} pictures: {masks['seconds']:.2f} s")
    if arguments.json:
        result = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows, "segmentation": masks}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
