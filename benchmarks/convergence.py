"""How fast the samplers converge: the measured order of DDIM, DPM-Solver++ (2M) and Heun on exact denoisers.

    python benchmarks/convergence.py            # a table for each problem
    python benchmarks/convergence.py --json     # the same as JSON

The network's place is taken by an oracle in float64, so what remains is the solver's own error. The order is the slope of
log(median error) over log(number of steps). The median over samples, not the mean: in a mixture a few trajectories start at a
separatrix between two modes and fall to the other side, and they would set the mean. Grids end at a fixed index > 0, because
every solver's last step, onto the clean image, is of first order.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fdlib import samplers
from fdlib.oracle import GaussianMixtureOracle, GaussianOracle
from fdlib.schedule import NoiseSchedule

SOLVERS = {
    "ddim": (samplers.ddim, 1),
    "dpm_solver_pp": (samplers.dpm_solver_pp, 2),
    "ode": (samplers.ode, 2),
}  # and their order
STEPS = (40, 57, 80, 113, 160)
END = 0.02  # share of T at which the grids end


def problem(kind: str, T: int) -> GaussianMixtureOracle:
    """A multimodal mixture or a single Gaussian, in the plane, at the scale of images."""
    schedule = NoiseSchedule.linear(T, rescale=True)  # T is large so that rounding times to indices does not matter
    if kind == "gaussian":
        covariance = torch.tensor([[0.30, 0.12], [0.12, 0.10]]).double()
        return GaussianOracle(schedule, torch.tensor([0.5, -0.3]).double(), covariance)
    means = torch.tensor([[-0.8, -0.5], [0.9, -0.3], [0.0, 0.9]]).double()
    return GaussianMixtureOracle(schedule, means, torch.tensor([0.02, 0.04, 0.03]), torch.tensor([0.3, 0.5, 0.2]))


def grid(schedule: NoiseSchedule, steps: int) -> list[int]:
    """``steps`` steps, equal in log(a / s), from T-1 down to END * T."""
    log_snr = torch.log(schedule.a / schedule.s).flip(0)  # increasing
    end = schedule.T - 1 - round(END * schedule.T)
    levels = torch.linspace(float(log_snr[0]), float(log_snr[end]), steps + 1, dtype=torch.float64)
    return [schedule.T - 1 - int((log_snr - level).abs().argmin()) for level in levels]


def median_errors(kind: str, solver: Callable[..., Tensor], steps: Sequence[int] = STEPS, samples: int = 128,
                  seed: int = 0, T: int = 20_000, reference_steps: int = 1000) -> list[float]:  # fmt: skip
    """The median over samples of the distance to the exact end of the trajectory, for each number of steps."""
    oracle = problem(kind, T)
    x_T = torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if isinstance(oracle, GaussianOracle):
        exact = oracle.flow(x_T, T - 1, grid(oracle.schedule, 1)[-1])  # in closed form
    else:
        exact = samplers.ode(
            oracle, oracle.schedule, x_T, timesteps=grid(oracle.schedule, reference_steps), progress=False
        )
    errors = []
    for n in steps:
        end = solver(oracle, oracle.schedule, x_T, timesteps=grid(oracle.schedule, n), progress=False)
        errors.append(float((end - exact).norm(dim=1).median()))
    return errors


def order(errors: Sequence[float], steps: Sequence[int] = STEPS) -> float:
    """Minus the slope of the least-squares line through (log steps, log error)."""
    x, y = [math.log(n) for n in steps], [math.log(e) for e in errors]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return -sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def measure(seed: int = 0) -> list[dict]:
    """One row for each problem and solver."""
    rows = []
    for kind in ("mixture", "gaussian"):
        for name, (solver, expected) in SOLVERS.items():
            errors = median_errors(kind, solver, seed=seed)
            rows.append({"problem": kind, "solver": name, "expected_order": expected, "order": order(errors), "seed": seed,
                         "steps": list(STEPS), "median_errors": errors})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = measure(arguments.seed)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"{'problem':10}{'solver':15}{'order':>7}  expected   median error after "
        + ", ".join(map(str, STEPS))
        + " steps"
    )
    for row in rows:
        errors = "  ".join(f"{e:.2e}" for e in row["median_errors"])
        print(f"{row['problem']:10}{row['solver']:15}{row['order']:7.3f}  {row['expected_order']:8}   {errors}")


if __name__ == "__main__":
    main()
