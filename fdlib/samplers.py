"""From noise to an image: four samplers and one inversion, with one signature.

    ddpm            random steps down the reverse chain            thesis equations 2.9 and 2.10, algorithm 2
    ddim            deterministic for eta = 0, random for eta > 0  Song et al. 2021 (DDIM), equation 12
    dpm_solver_pp   second-order multistep, 2M                     Lu et al. 2022 (DPM-Solver++), algorithm 2
    ode             Heun's method on d(x/a) = noise d(s/a)         Karras et al. 2022, algorithm 1
    ddim_invert     from an image back to its noise                Song et al. 2021, section 4.3

All of them take ``(denoiser, schedule, x_T, steps=..., callback=..., generator=...)`` and walk down one grid of times
(``schedule.time_grid``: T-1 first, the clean image, ``CLEAN``, last). Formulas are written in a_t and s_t; ``a, s`` belong
to the present time, ``a_next, s_next`` to the next, less noisy one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fdlib.denoiser import Denoiser, Prediction
from fdlib.process import convert, posterior
from fdlib.schedule import CLEAN, NoiseSchedule, time_grid


@dataclass
class SamplerStep:
    """What a callback sees after each step.

    ``i`` counts steps from 0; ``t`` is where the step started and ``t_next`` where it ended; ``x_t`` and ``x`` are the batch
    at these times; ``x0`` is the clean image predicted at t; ``prediction`` is all that the denoiser said (masks, poses);
    ``evaluations`` counts the denoiser's evaluations so far.
    """

    i: int
    t: int
    t_next: int
    x_t: Tensor
    x: Tensor
    x0: Tensor
    prediction: Prediction
    evaluations: int


Callback = Callable[[SamplerStep], None]


class _Run:
    """What the samplers share: the checked grid, the progress bar, counted evaluations, callbacks."""

    def __init__(
        self,
        denoiser,
        schedule: NoiseSchedule,
        x: Tensor,
        steps: int,
        timesteps: Sequence[int] | None,
        callback: Callback | None,
        condition: Mapping,
        clip_x0: bool,
        progress: bool | None,
    ):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x_T must be a float tensor, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
        self.denoiser, self.schedule, self.callback = denoiser, schedule, callback
        self.condition, self.clip_x0, self.progress = condition, clip_x0, progress
        self.grid = time_grid(schedule.T, steps) if timesteps is None else _check_grid(timesteps, schedule.T)
        self.evaluations = 0

    def steps(self, grid: Sequence[int] | None = None) -> Iterator[tuple[int, int, int]]:
        """(i, t, t_next) for each step, behind a progress bar that appears only if sampling takes more than two seconds."""
        pairs = list(pairwise(grid or self.grid))
        bar = tqdm(pairs, desc="sampling", leave=False, delay=2, disable=self.progress is False)
        yield from ((i, t, t_next) for i, (t, t_next) in enumerate(bar))

    def evaluate(self, x: Tensor, t: int) -> tuple[Prediction, Tensor, Tensor]:
        """The denoiser's prediction at time t, also as x0 and as noise."""
        self.evaluations += 1
        prediction = self.denoiser(x, torch.full((len(x),), t, device=x.device), **self.condition)
        x0 = convert(self.schedule, prediction, x, t, "x0")
        if not self.clip_x0:
            return prediction, x0, convert(self.schedule, prediction, x, t, "noise")
        x0 = x0.clamp(-1, 1)
        return prediction, x0, convert(self.schedule, Prediction(x0=x0), x, t, "noise")

    def report(self, i: int, t: int, t_next: int, x_t: Tensor, x: Tensor, x0: Tensor, prediction: Prediction) -> None:
        if self.callback:
            self.callback(SamplerStep(i, t, t_next, x_t, x, x0, prediction, self.evaluations))


@torch.no_grad()
def ddpm(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    steps: int | None = None,
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
    *,
    sigma: str = "beta",
    timesteps: Sequence[int] | None = None,
    condition: Mapping | None = None,
    clip_x0: bool = False,
    progress: bool | None = None,
) -> Tensor:
    """Sample by the reverse Markov chain (thesis equations 2.9 and 2.10, algorithm 2).

        x_next = 1/r (x - v / s noise) + sigma z,      r = a / a_next,  v = s^2 - r^2 s_next^2

    With consecutive times r^2 is alpha_t and v is beta_t: the thesis's formula to the letter. No noise is added on the
    last step.

    Args:
        denoiser: any model with ``forward(x_t, t) -> Prediction``.
        schedule: the schedule that it was trained on.
        x_T: (B, ...) standard normal noise.
        steps: number of evaluations, 1 .. T; all T times by default.
        callback: is given a ``SamplerStep`` after each step.
        generator: source of the random numbers z.
        sigma: "beta" (variance v) or "posterior" (variance of q(x_next | x, x0), the smaller one): the two ends of the
            range in Ho et al. 2020, section 3.2.
        timesteps: an explicit decreasing grid of times in place of ``steps``, its end included.
        condition: keyword arguments for the denoiser.
        clip_x0: clamp the predicted clean image to [-1, 1] at every step (diffusers does so by default; equation 2.9
            does not).
        progress: False switches the progress bar off.

    Returns:
        (B, ...) samples, like x_T.
    """
    if sigma not in ("beta", "posterior"):
        raise ValueError(f'sigma must be "beta" or "posterior", got {sigma!r}')
    steps = schedule.T if steps is None else steps
    run = _Run(denoiser, schedule, x_T, steps, timesteps, callback, condition or {}, clip_x0, progress)
    x = x_T
    for i, t, t_next in run.steps():
        prediction, x0, _ = run.evaluate(x, t)
        mean, variance = posterior(schedule, x0, x, t, t_next)  # equation 2.9's mean, written with x0 in place of noise
        if sigma == "beta":
            (a, s), (a_next, s_next) = schedule.at(t, x), schedule.at(t_next, x)
            variance = s**2 - (a / a_next) ** 2 * s_next**2
        z = _randn_like(x, generator) if t_next != CLEAN else torch.zeros_like(x)  # equation 2.10
        x, x_t = mean + variance.sqrt() * z, x
        run.report(i, t, t_next, x_t, x, x0, prediction)
    return x


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    steps: int = 50,
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
    *,
    eta: float = 0.0,
    timesteps: Sequence[int] | None = None,
    condition: Mapping | None = None,
    clip_x0: bool = False,
    progress: bool | None = None,
) -> Tensor:
    """Sample along straight lines between predicted image and predicted noise (Song et al. 2021, equation 12).

        x_next = a_next x0 + sqrt(s_next^2 - sigma^2) noise + sigma z

    Args:
        eta: 0 is deterministic; 1 adds as much noise as ``ddpm(sigma="posterior")``.

    The other arguments are those of ``ddpm``.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    run = _Run(denoiser, schedule, x_T, steps, timesteps, callback, condition or {}, clip_x0, progress)
    x = x_T
    for i, t, t_next in run.steps():
        prediction, x0, noise = run.evaluate(x, t)
        a_next, s_next = schedule.at(t_next, x)
        sigma = eta * posterior(schedule, x0, x, t, t_next)[1].sqrt() if eta else torch.zeros_like(s_next)
        x_t, x = x, a_next * x0 + (s_next**2 - sigma**2).clamp(min=0).sqrt() * noise
        if eta and t_next != CLEAN:
            x = x + sigma * _randn_like(x, generator)
        run.report(i, t, t_next, x_t, x, x0, prediction)
    return x


@torch.no_grad()
def dpm_solver_pp(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    steps: int = 20,
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
    *,
    timesteps: Sequence[int] | None = None,
    condition: Mapping | None = None,
    clip_x0: bool = False,
    progress: bool | None = None,
) -> Tensor:
    """DPM-Solver++ (2M): remember the last prediction, and extrapolate (Lu et al. 2022, algorithm 2).

    In lambda = log(a / s) the solution is an exponential integral of x0; with h the step in lambda and k = h_before / h,

        D = x0 + (x0 - x0_before) / (2 k),      x_next = s_next / s x + a_next (1 - e^{-h}) D

    One evaluation a step, second order. The first step and the step onto the clean image, where h is infinite, are of
    first order (D = x0). Deterministic: ``generator`` is accepted, as by every sampler, and not used. The other arguments
    are those of ``ddpm``.
    """
    run = _Run(denoiser, schedule, x_T, steps, timesteps, callback, condition or {}, clip_x0, progress)
    x, x0_before, h_before = x_T, None, None
    for i, t, t_next in run.steps():
        prediction, x0, _ = run.evaluate(x, t)
        (a, s), (a_next, s_next) = schedule.at(t, x), schedule.at(t_next, x)
        shrink = a * s_next / (s * a_next)  # e^{-h}; 0 on the step onto the clean image
        h = _lambda(schedule, t_next) - _lambda(schedule, t) if t_next != CLEAN else None
        D = x0
        if x0_before is not None and h is not None:
            D = x0 + (x0 - x0_before) / (2 * h_before / h)
        x_t, x = x, s_next / s * x + a_next * (1 - shrink) * D
        x0_before, h_before = x0, h
        run.report(i, t, t_next, x_t, x, x0, prediction)
    return x


@torch.no_grad()
def ode(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    steps: int = 25,
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
    *,
    timesteps: Sequence[int] | None = None,
    condition: Mapping | None = None,
    clip_x0: bool = False,
    progress: bool | None = None,
) -> Tensor:
    """Integrate the probability-flow ODE by Heun's method (Karras et al. 2022, algorithm 1).

    In y = x / a and u = s / a the flow is dy/du = noise(x, t). Euler's step is DDIM; Heun's averages the slope with that
    at the step's end: second order, two evaluations a step (one on the step onto the clean image, where u = 0 and there is
    nothing to evaluate). Deterministic: ``generator`` is accepted, as by every sampler, and not used. The other arguments
    are those of ``ddpm``.
    """
    run = _Run(denoiser, schedule, x_T, steps, timesteps, callback, condition or {}, clip_x0, progress)
    x = x_T
    for i, t, t_next in run.steps():
        prediction, x0, noise = run.evaluate(x, t)
        (a, s), (a_next, s_next) = schedule.at(t, x), schedule.at(t_next, x)
        x_t, x = x, a_next * x0 + s_next * noise  # Euler
        if t_next != CLEAN:
            _, _, noise_next = run.evaluate(x, t_next)
            y = x_t / a + (s_next / a_next - s / a) * (noise + noise_next) / 2
            x = a_next * y
        run.report(i, t, t_next, x_t, x, x0, prediction)
    return x


@torch.no_grad()
def ddim_invert(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x0: Tensor,
    steps: int = 50,
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
    *,
    timesteps: Sequence[int] | None = None,
    iterations: int = 1,
    condition: Mapping | None = None,
    progress: bool | None = None,
) -> Tensor:
    """The noise x_T from which ``ddim`` with the same grid returns to x0, approximately.

    Each DDIM step down, from ``t_next`` to ``t``, uses the noise predicted at its noisy end, which on the way up is not
    known yet; the first guess takes the prediction at the present x instead (Song et al. 2021, section 4.3).
    ``iterations`` > 1 repeats the step with the guess put in its place, a fixed point that makes the inversion exact where
    it converges.

    Args:
        x0: (B, ...) images to invert. timesteps: the *decreasing* grid of the sampler, as everywhere.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1, got {iterations}")
    run = _Run(denoiser, schedule, x0, steps, timesteps, callback, condition or {}, False, progress)
    x = x0
    for i, t, t_next in run.steps(run.grid[::-1]):
        (a, s), (a_next, s_next) = schedule.at(t, x), schedule.at(t_next, x)
        x_t, guess = x, x
        for _ in range(iterations):
            prediction, x0_next, noise = run.evaluate(guess, t_next)
            guess = a_next / a * (x_t - s * noise) + s_next * noise
        x = guess
        run.report(i, t, t_next, x_t, x, x0_next, prediction)
    return x


def _lambda(schedule: NoiseSchedule, t: int) -> float:
    """log(a_t / s_t), in float64 whatever the batch's dtype: differences of it are small."""
    return float(torch.log(schedule.a[t] / schedule.s[t]))


def _randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def _check_grid(timesteps: Sequence[int], T: int) -> list[int]:
    grid = [int(t) for t in timesteps]
    if len(grid) < 2 or any(t <= t_next for t, t_next in pairwise(grid)):
        raise ValueError(f"timesteps must be two or more strictly decreasing times, got {grid[:6]}")
    if grid[0] >= T or grid[-1] < CLEAN:
        raise ValueError(
            f"timesteps must lie in {T - 1} .. 0, or end with {CLEAN} for the clean image; got {grid[0]} .. {grid[-1]}"
        )
    return grid
