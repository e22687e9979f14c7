"""How many pictures of 3D Shapes are rendered a second.

    python benchmarks/shapes3d.py --threads 2
    python benchmarks/shapes3d.py --json > shapes3d.json

Each number is the best of several runs: on a machine that does other work as well, the best is the one to compare.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass

import torch
import tyro
from torch.utils.data import DataLoader

from fdlib.data.shapes3d import COUNT, Shapes3D, index_to_factors, random_layout, render

TARGETS = {32: 1000, 64: 300}  # pictures a second with two threads


@dataclass
class Options:
    """Time the renderer and the loader of 3D Shapes."""

    sizes: tuple[int, ...] = (32, 64)
    """Heights (and widths) in pixels."""
    threads: int = 2
    """Threads of torch."""
    count: int = 600
    """Pictures in each run."""
    repeats: int = 3
    """Runs, of which the best counts."""
    json: bool = False
    """Print JSON instead of a table."""


def best_rate(action, count: int, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)


def main() -> None:
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    factors = index_to_factors(torch.randint(COUNT, (options.count,), generator=generator))
    varied = random_layout(options.count, generator)
    results = []
    for size in options.sizes:
        render(factors[:8], size)  # warm up
        for name, layout in (("plain", None), ("varied", varied)):
            rate = best_rate(
                lambda size=size, layout=layout: render(factors, size, layout), options.count, options.repeats
            )
            results.append({"what": f"render, {name} layout", "size": size, "images_per_second": round(rate)})
        data = Shapes3D(size=size, count=options.count, cache=False)
        loader = DataLoader(data, batch_size=64, shuffle=True)
        rate = best_rate(lambda loader=loader: [None for _ in loader], options.count, options.repeats)
        results.append({"what": "read batches of 64", "size": size, "images_per_second": round(rate)})
    for row in results:
        if row["what"].startswith("render") and row["size"] in TARGETS:
            row["target"] = TARGETS[row["size"]]
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version(), "processor": platform.machine()}
        print(json.dumps({"threads": options.threads, **machine, "results": results}, indent=2))
        return
    for row in results:
        target = f"   (target {row['target']:,})" if "target" in row else ""
        print(f"{row['what']:22} {row['size']:4} px {row['images_per_second']:8,} images/s{target}")


if __name__ == "__main__":
    main()
