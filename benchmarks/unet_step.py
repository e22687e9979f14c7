"""A training step (forward and backward) of our U-Net against diffusers' UNet2DModel of the same shape, in one run.

    python benchmarks/unet_step.py [--rounds 15] [--json FILE]

The two take turns on the same batch and the ratio is formed pair by pair, so that a drifting machine cancels out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from fdlib.unet import UNet

# size, channels, multipliers, blocks, sizes with attention, batch
CONFIGURATIONS = {
    "small-32": (32, 32, (1, 2, 2), 1, (16,), 16),
    "medium-32": (32, 64, (1, 2, 2), 2, (16,), 8),
    "medium-64": (64, 64, (1, 2, 3, 4), 2, (16,), 2),
}


def theirs(
    size: int, channels: int, multipliers: tuple[int, ...], blocks: int, attention: tuple[int, ...]
) -> UNet2DModel:
    sizes = [size >> level for level in range(len(multipliers))]
    return UNet2DModel(
        sample_size=size,
        block_out_channels=[channels * m for m in multipliers],
        layers_per_block=blocks,
        down_block_types=["AttnDownBlock2D" if s in attention else "DownBlock2D" for s in sizes],
        up_block_types=["AttnUpBlock2D" if s in attention else "UpBlock2D" for s in reversed(sizes)],
        attention_head_dim=None,
        norm_num_groups=8,
    )


def seconds(model: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> float:
    started = time.perf_counter()
    prediction = model(x, t)
    value = prediction.noise if hasattr(prediction, "noise") else prediction.sample
    F.mse_loss(value, x).backward()
    elapsed = time.perf_counter() - started
    model.zero_grad()
    return elapsed


def compare(name: str, rounds: int) -> dict:
    size, channels, multipliers, blocks, attention, batch = CONFIGURATIONS[name]
    torch.manual_seed(0)
    ours, other = (
        UNet(size, channels, multipliers, blocks, attention),
        theirs(size, channels, multipliers, blocks, attention),
    )
    x, t = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
    for model in (ours, other, ours, other):  # warm up
        seconds(model, x, t)
    pairs = []
    for i in range(rounds):
        order = (ours, other) if i % 2 == 0 else (other, ours)
        times = {id(model): seconds(model, x, t) for model in order}
        pairs.append((times[id(ours)], times[id(other)]))
    ratios = sorted(a / b for a, b in pairs)
    return {
        "configuration": name,
        "parameters": [ours.parameter_count, sum(p.numel() for p in other.parameters())],
        "ours_ms": 1000 * statistics.median(a for a, _ in pairs),
        "diffusers_ms": 1000 * statistics.median(b for _, b in pairs),
        "ratio_median": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="pairs of steps to time")
    parser.add_argument("--configurations", nargs="*", default=list(CONFIGURATIONS), choices=list(CONFIGURATIONS))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.configurations:
        row = compare(name, arguments.rounds)
        rows.append(row)
        low, high = row["ratio_range"]
        print(
            f"{name:10}  ours {row['ours_ms']:7.1f} ms   diffusers {row['diffusers_ms']:7.1f} ms   "
            f"ratio {row['ratio_median']:.3f} ({low:.3f} .. {high:.3f})   parameters {row['parameters']}"
        )
    if arguments.json:
        result = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
