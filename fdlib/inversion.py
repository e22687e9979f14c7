"""From a real image to noise and back: DDIM's inversion, which is approximate, and two that are exact, behind one call.

    latent = invert(denoiser, schedule, images, steps=50, method="edict")
    again  = sample(denoiser, schedule, latent)              # the images, to rounding; with an edited denoiser, edited ones

An edit is only as local as the inversion is exact: what the round trip changes, it changes everywhere. The methods:

    ddim    one noise, one evaluation a step; each step up guesses the noise at its end     Song et al. 2021, section 4.3
    edict   two coupled noises that invert each other, two evaluations a step               Wallace et al. 2023, section 4
    bdia    one noise and the one before it, one evaluation a step                          Zhang et al. 2023, section 4

"Exact" means up to the dtype. The exact ones pay with latents that need not look like noise: print ``latent.std``.
Formulas are in a and s, as in ``fdlib.samplers``: ``a, s`` at the noisy end of a step, ``a_next, s_next`` at its clean end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fdlib import samplers
from fdlib.samplers import Callback, _Run
from fdlib.schedule import NoiseSchedule

Method = Literal["ddim", "edict", "bdia"]
METHODS: tuple[Method, ...] = ("ddim", "edict", "bdia")


@dataclass(frozen=True)
class Latent:
    """What an inversion found, all that ``sample`` needs to come back.

    x: (B, ...) the noisy image at ``grid[0]``. partner: the second tensor of the exact methods (edict: the coupled noise at
    ``grid[0]``; bdia: the noise at ``grid[1]``), None for ddim. grid: the decreasing times. options: those of the method.
    """

    x: Tensor
    partner: Tensor | None
    method: Method
    grid: tuple[int, ...]
    options: Mapping

    @property
    def std(self) -> float:
        """Standard deviation of x; 1 for the noise that a sampler expects at the last time."""
        return float(self.x.std())

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser that ``sample`` takes."""
        steps = len(self.grid) - 1
        return {"ddim": steps, "edict": 2 * steps, "bdia": steps if self.partner is None else steps - 1}[self.method]

    def shifted(self, delta: Tensor) -> Latent:
        """The same latent with ``delta`` added to x (and to edict's partner, which stands for the same image)."""
        partner = self.partner + delta if self.method == "edict" else self.partner
        return replace(self, x=self.x + delta, partner=partner)


def invert(
    denoiser,
    schedule: NoiseSchedule,
    x0: Tensor,
    steps: int = 50,
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
    *,
    method: Method = "ddim",
    timesteps: Sequence[int] | None = None,
    condition: Mapping | None = None,
    progress: bool | None = None,
    **options,
) -> Latent:
    """The latent from which ``sample`` returns to x0.

    Args:
        denoiser, schedule, steps, callback, generator, condition, progress: as for every sampler (``fdlib.samplers``).
        x0: (B, ...) images to invert.
        method: "ddim", "edict" or "bdia".
        timesteps: the *decreasing* grid in place of ``steps``; a grid that starts below T-1 inverts only up to there.
        options: ``iterations`` for ddim; ``p`` for edict (.93: the share of itself that each noise keeps when the two are
            mixed); ``gamma`` for bdia (1: how far a step is corrected by the one before).

    Raises:
        ValueError: an unknown method; p or gamma outside of (0, 1].
    """
    _check_method(method)
    up = {"ddim": _ddim_up, "edict": _edict_up, "bdia": _bdia_up}[method]
    run = _Run(denoiser, schedule, x0, steps, timesteps, callback, condition or {}, False, progress)
    x, partner = up(run, x0, **options)
    return Latent(x, partner, method, tuple(run.grid), options)


def sample(
    denoiser,
    schedule: NoiseSchedule,
    latent: Latent,
    callback: Callback | None = None,
    *,
    condition: Mapping | None = None,
    progress: bool | None = None,
) -> Tensor:
    """From a latent to images (B, ...), by the method that made it. The other arguments are those of every sampler."""
    run = _Run(denoiser, schedule, latent.x, 1, latent.grid, callback, condition or {}, False, progress)
    down = {"ddim": _ddim_down, "edict": _edict_down, "bdia": _bdia_down}[latent.method]
    return down(run, latent.x, latent.partner, **latent.options)


def from_noise(x_T: Tensor, T: int, steps: int = 50, method: Method = "ddim", **options) -> Latent:
    """A latent that no image was inverted to: pure noise (B, ...) at time T-1, for ``sample`` to start from."""
    from fdlib.schedule import time_grid

    _check_method(method)
    return Latent(x_T, x_T if method == "edict" else None, method, tuple(time_grid(T, steps)), options)


# ---------------------------------------------------------------------- DDIM


def _ddim_up(run: _Run, x0: Tensor, **options) -> tuple[Tensor, None]:
    settings = dict(timesteps=run.grid, callback=run.callback, condition=run.condition, progress=run.progress)
    return samplers.ddim_invert(run.denoiser, run.schedule, x0, **settings, **options), None


def _ddim_down(run: _Run, x: Tensor, _partner: None, **_options) -> Tensor:
    settings = dict(timesteps=run.grid, callback=run.callback, condition=run.condition, progress=run.progress)
    return samplers.ddim(run.denoiser, run.schedule, x, **settings)


# ---------------------------------------------------------------------- EDICT
# x' = A x + C noise(y),  y' = A y + C noise(x'),  then x = p x' + (1-p) y',  y = p y' + (1-p) x;   A = a_next / a,
# C = s_next - A s: a DDIM step for each of two noises with the *other's* prediction, so either can be undone given the other.


@torch.no_grad()
def _edict_down(run: _Run, x: Tensor, y: Tensor, p: float = 0.93) -> Tensor:
    _check_share("p", p)
    for i, t, t_next in run.steps():
        A, C = _ddim_step(run, x, t, t_next)
        x_t = x
        x = A * x + C * run.evaluate(y, t)[2]
        prediction, x0, noise = run.evaluate(x, t)
        y = A * y + C * noise
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        run.report(i, t, t_next, x_t, x, x0, prediction)
    return x


@torch.no_grad()
def _edict_up(run: _Run, x0: Tensor, p: float = 0.93) -> tuple[Tensor, Tensor]:
    _check_share("p", p)
    x = y = x0
    for i, t_next, t in run.steps(run.grid[::-1]):
        A, C = _ddim_step(run, x, t, t_next)
        x_t = x
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        y = (y - C * run.evaluate(x, t)[2]) / A
        prediction, guess, noise = run.evaluate(y, t)
        x = (x - C * noise) / A
        run.report(i, t_next, t, x_t, x, guess, prediction)
    return x, y


def _ddim_step(run: _Run, like: Tensor, t: int, t_next: int) -> tuple[Tensor, Tensor]:
    """A and C of DDIM's step x_next = A x + C noise."""
    (a, s), (a_next, s_next) = run.schedule.at(t, like), run.schedule.at(t_next, like)
    return a_next / a, s_next - a_next / a * s


# ---------------------------------------------------------------------- BDIA
# z_next = g z_before - g DDIM(z -> t_before) + DDIM(z -> t_next): linear in z_before, so it can be undone with the same
# evaluation, that at z.  t_before is the noisier neighbour of t on the grid, t_next the cleaner one.


@torch.no_grad()
def _bdia_down(run: _Run, x: Tensor, z: Tensor | None, gamma: float = 1.0) -> Tensor:
    _check_share("gamma", gamma)
    z_before, start = x, 1
    if z is None:  # from pure noise the first step is DDIM's
        prediction, x0, noise = run.evaluate(x, run.grid[0])
        z, start = _towards(run, x0, noise, run.grid[1]), 1
        run.report(0, run.grid[0], run.grid[1], x, z, x0, prediction)
    for i, t, t_next in run.steps(run.grid[1:]) if len(run.grid) > 2 else ():
        prediction, x0, noise = run.evaluate(z, t)
        t_before = run.grid[i]
        z_next = gamma * (z_before - _towards(run, x0, noise, t_before)) + _towards(run, x0, noise, t_next)
        z_before, z, z_t = z, z_next, z
        run.report(i + start, t, t_next, z_t, z, x0, prediction)
    return z


@torch.no_grad()
def _bdia_up(run: _Run, x0: Tensor, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
    _check_share("gamma", gamma)
    times = run.grid[::-1]
    prediction, guess, noise = run.evaluate(
        x0, times[1]
    )  # the first step up is DDIM's guess; the pair then fixes the rest
    A, C = _ddim_step(run, x0, times[1], times[0])
    z_next, z = x0, (x0 - C * noise) / A
    run.report(0, times[0], times[1], x0, z, guess, prediction)
    for i, t, t_before in run.steps(times[1:]) if len(times) > 2 else ():
        prediction, guess, noise = run.evaluate(z, t)
        z_before = (z_next - _towards(run, guess, noise, times[i])) / gamma + _towards(run, guess, noise, t_before)
        z_next, z, z_t = z, z_before, z
        run.report(i + 1, t, t_before, z_t, z, guess, prediction)
    return z, z_next


def _towards(run: _Run, x0: Tensor, noise: Tensor, t: int) -> Tensor:
    """DDIM's straight line through the predicted image and noise, at time t."""
    a, s = run.schedule.at(t, x0)
    return a * x0 + s * noise


# ---------------------------------------------------------------------- the table of round trips


@torch.no_grad()
def round_trip(denoiser, schedule: NoiseSchedule, x0: Tensor, steps: int = 50, **options) -> dict[str, float]:
    """How exactly an inversion returns: RMS and largest error, std of the latent, evaluations there and back."""
    count = 0

    def counted(x_t: Tensor, t: Tensor, **condition):
        nonlocal count
        count += 1
        return denoiser(x_t, t, **condition)

    latent = invert(counted, schedule, x0, steps, progress=False, **options)
    error = sample(counted, schedule, latent, progress=False) - x0
    return {
        "rms": float(error.square().mean().sqrt()),
        "largest": float(error.abs().max()),
        "latent_std": latent.std,
        "evaluations": count,
    }


def record(denoiser, schedule: NoiseSchedule, latent: Latent, **options) -> tuple[Tensor, dict[int, Tensor]]:
    """The images of a latent, and what the denoiser saw on the way: {t: x_t} for each step."""
    seen: dict[int, Tensor] = {}
    images = sample(denoiser, schedule, latent, callback=lambda step: seen.__setitem__(step.t, step.x_t), **options)
    return images, seen


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value}")
