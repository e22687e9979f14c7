"""What not knowing the cameras costs: a training step with 8 candidates against one with known poses.

    python benchmarks/pose_step.py [--rounds 15] [--json FILE]

Same views, scene, pixels and samples. With known poses nothing is predicted: 128 pixels of each of 32 views are rendered
from the true cameras and compared. With 8 candidates the encoder runs, every candidate is scored on 48 pixels without
gradient, and the best is rendered on the same 128. The two take turns and the ratio is formed pair by pair.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from fdlib.data.multiview import MultiView
from fdlib.presets import POSES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="pairs of steps to time")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    experiment, views = POSES["balanced"], MultiView.render("car", views=120, size=32, seed=0)
    model, objective = experiment.build(views), experiment.objective()
    batch, render_pixels = experiment.training.batch_size, experiment.loss.render_pixels
    x0, c2w = views.images[:batch], views.c2w[:batch]
    generator = torch.Generator().manual_seed(0)

    def known() -> torch.Tensor:
        pixels = torch.randperm(views.size**2, generator=generator)[:render_pixels]
        return F.mse_loss(model.render(c2w, pixels, generator), x0.flatten(2)[:, :, pixels])

    def unknown() -> torch.Tensor:
        return objective(model, {"image": x0}, generator)[0]

    def seconds(loss) -> float:
        started = time.perf_counter()
        loss().backward()
        elapsed = time.perf_counter() - started
        model.zero_grad()
        return elapsed

    for loss in (known, unknown):  # warm up
        seconds(loss)
    pairs = []
    for i in range(arguments.rounds):
        times = {loss: seconds(loss) for loss in ((known, unknown) if i % 2 == 0 else (unknown, known))}
        pairs.append((times[known], times[unknown]))
    result = {
        "candidates": experiment.model.candidates,
        "known_ms": 1000 * statistics.median(a for a, _ in pairs),
        "unknown_ms": 1000 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(
        f"known poses {result['known_ms']:.0f} ms, 8 candidates {result['unknown_ms']:.0f} ms: {result['ratio']:.2f} times"
    )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
