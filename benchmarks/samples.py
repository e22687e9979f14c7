"""How well a denoiser of rendered 3D Shapes paints: held-out loss and the offline Fréchet distance, with baselines.

    python benchmarks/samples.py [--model data/checkpoints/shapes32_unet] [--count 500] [--json FILE]

Held-out pictures are the first of ``split_indices(train=0, test=10_000, seed=0)``, which no preset trains on. Beside each
distance stand those of the other half of the real pictures (nobody can do better) and of pure noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import torch

from fdlib import course, samplers
from fdlib.data.shapes3d import Shapes3D, split_indices
from fdlib.metrics.generation import FactorClassifier, frechet_distance
from fdlib.process import DenoisingObjective
from fdlib.schedule import NoiseSchedule, time_grid
from fdlib.unet import UNet

SAMPLERS = {
    "ddpm, 50 steps": (samplers.ddpm, 50, 1),
    "ddpm, 100 steps": (samplers.ddpm, 100, 1),
    "ddim, 50 steps, quadratic": (samplers.ddim, 50, 2),
    "dpm_solver_pp, 20 steps, quadratic": (samplers.dpm_solver_pp, 20, 2),
}


def measure(model: Path, count: int, seeds: list[int]) -> dict:
    """All figures of one model; the samples' seeds give the spread."""
    denoiser, schedule = UNet.from_pretrained(model), NoiseSchedule.linear()
    judge = FactorClassifier.from_pretrained(course.asset("shapes_features"))
    _, test = split_indices(train=0, test=10_000, seed=0)
    real = Shapes3D(size=denoiser.image_size, indices=test[: 2 * count]).images()
    features = judge.extract(real[:count])

    with torch.no_grad():
        generator, objective = torch.Generator().manual_seed(0), DenoisingObjective(schedule)
        losses = [float(objective(denoiser, part, generator)[0]) for part in real[:count].split(100)]
    result = {
        "model": model.name,
        "parameters": denoiser.parameter_count,
        "pictures": count,
        "held_out_loss": sum(losses) / len(losses),
        "other_half": frechet_distance(features, judge.extract(real[count:])),
        "noise": frechet_distance(features, judge.extract(torch.randn(real[:count].shape))),
        "samplers": {},
    }
    for name, (sampler, steps, power) in SAMPLERS.items():
        distances, started = [], time.perf_counter()
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            parts = torch.randn(real[:count].shape, generator=generator).split(100)
            grid = time_grid(schedule.T, steps, power=power)
            options = dict(timesteps=grid, generator=generator, clip_x0=True, progress=False)
            images = torch.cat([sampler(denoiser, schedule, z, **options) for z in parts])
            distances.append(frechet_distance(features, judge.extract(images)))
        seconds = (time.perf_counter() - started) / len(seeds)
        result["samplers"][name] = {"frechet": distances, "seconds": seconds}
        print(f"{name:36} {distances}  {100 * max(distances) / result['noise']:.1f} % of noise at most", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/checkpoints/shapes32_unet"), help="folder of a model")
    parser.add_argument("--count", type=int, default=500, help="pictures on each side of a distance")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the samples")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    result = measure(arguments.model, arguments.count, arguments.seeds)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    result |= {
        "commit": commit,
        "seeds": arguments.seeds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
