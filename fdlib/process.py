"""The forward process, what a denoiser can predict about it, and the plain denoising loss.

    x_t = a_t x_0 + s_t noise                                       (thesis equation 2.1)

Noise, clean image and velocity say the same thing: given x_t, each gives the others exactly, by

    velocity = a_t noise - s_t x_0        (Salimans and Ho 2022, appendix D)

For a path with a_t^2 + s_t^2 != 1 the velocity's inverse divides by a_t^2 + s_t^2; the formulas below keep that factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlib.denoiser import QUANTITIES, Prediction, Quantity, batch_images, check_images
from fdlib.schedule import NoiseSchedule


def add_noise(schedule: NoiseSchedule, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
    """x_t = a_t x_0 + s_t noise (thesis equation 2.1).

    Args:
        x0: (B, ...) clean data, float; images in [-1, 1].
        t: (B,) integer indices 0 .. T-1, or one index for all.
        noise: of the shape of x0, from a standard normal distribution.

    >>> add_noise(NoiseSchedule.linear(), torch.ones(1, 1), 30, torch.zeros(1, 1)).item()     # sqrt(.98771)
    0.99383...
    """
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        kind = x0.dtype if isinstance(x0, Tensor) else type(x0).__name__
        raise TypeError(f"x0 must be a float tensor, got {kind}: for 0..255 pixels use images.float() / 127.5 - 1")
    if x0.shape != noise.shape:
        raise ValueError(f"noise must have the shape of x0, {tuple(x0.shape)}, got {tuple(noise.shape)}")
    a, s = schedule.at(t, like=x0)
    return a * x0 + s * noise


# ---------------------------------------------------------------------- noise <-> x0 <-> velocity


def to_noise(schedule: NoiseSchedule, prediction: Prediction, x_t: Tensor, t: Tensor | int) -> Tensor:
    """The noise that the prediction implies, of the shape of x_t."""
    a, s = schedule.at(t, like=x_t)
    if prediction.kind == "noise":
        return prediction.noise
    if prediction.kind == "x0":
        return (x_t - a * prediction.x0) / s
    return (a * prediction.velocity + s * x_t) / (a**2 + s**2)


def to_x0(schedule: NoiseSchedule, prediction: Prediction, x_t: Tensor, t: Tensor | int) -> Tensor:
    """The clean image that the prediction implies, of the shape of x_t."""
    a, s = schedule.at(t, like=x_t)
    if prediction.kind == "x0":
        return prediction.x0
    if prediction.kind == "noise":
        return (x_t - s * prediction.noise) / a
    return (a * x_t - s * prediction.velocity) / (a**2 + s**2)


def to_velocity(schedule: NoiseSchedule, prediction: Prediction, x_t: Tensor, t: Tensor | int) -> Tensor:
    """The velocity a_t noise - s_t x_0 that the prediction implies, of the shape of x_t."""
    if prediction.kind == "velocity":
        return prediction.velocity
    a, s = schedule.at(t, like=x_t)
    return a * to_noise(schedule, prediction, x_t, t) - s * to_x0(schedule, prediction, x_t, t)


def convert(schedule: NoiseSchedule, prediction: Prediction, x_t: Tensor, t: Tensor | int, to: Quantity) -> Tensor:
    """The prediction as "noise", "x0" or "velocity"."""
    if to not in QUANTITIES:
        raise ValueError(f"to must be one of {', '.join(QUANTITIES)}, got {to!r}")
    return {"noise": to_noise, "x0": to_x0, "velocity": to_velocity}[to](schedule, prediction, x_t, t)


def posterior(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: int, t_next: int) -> tuple[Tensor, Tensor]:
    """Mean (like x_t) and variance (a scalar) of q(x_{t_next} | x_t, x_0), for an earlier time t_next < t.

    Ho et al. 2020, equations 6 and 7, for any two times. With r = a_t / a_next and v = s_t^2 - r^2 s_next^2, the variance
    that was added between them:  mean = (v a_next x_0 + r s_next^2 x_t) / s_t^2,  variance = v s_next^2 / s_t^2.
    """
    a, s = schedule.at(t, like=x_t)
    a_next, s_next = schedule.at(t_next, like=x_t)
    r = a / a_next
    v = s**2 - r**2 * s_next**2
    return (v * a_next * x0 + r * s_next**2 * x_t) / s**2, v * s_next**2 / s**2


# ---------------------------------------------------------------------- random numbers of a batch that is shared out


def by_row(
    draw: Callable[[int, torch.Generator | None], Tensor], rows: int, generator: torch.Generator | None
) -> Tensor:
    """``draw(rows, generator)``: random numbers for each image of a batch, (rows, ...), that do not depend on who computes it.

    Where the training loop has cut the batch into parts, for several processes or to save memory, its generator knows which
    rows of the whole batch these are (``fdlib.workers.PartGenerator``). Then the numbers of the whole batch are drawn and its
    own rows are taken, so that one process or eight, one part or four, see the same times and the same noise.
    Draw with ``by_row`` in objectives and augmentations; other draws are independent in each part.
    """
    if getattr(generator, "rows", None) != rows:
        return draw(rows, generator)
    return draw(generator.total, generator.whole)[generator.first : generator.first + rows]


# ---------------------------------------------------------------------- which t to train on

TimestepDistribution = Callable[[int, int, torch.Generator | None, torch.device], Tensor]


def uniform_t(n: int, T: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
    """(n,) indices, each of 0 .. T-1 equally likely (thesis algorithm 1)."""
    return by_row(lambda n, g: torch.randint(T, (n,), generator=g, device=device), n, generator)


@dataclass(frozen=True)
class PowerT:
    """t = T u^power with u uniform: more steps at low noise for power > 1; ``PowerT(1)`` is uniform.

    ``below`` is the share of the schedule that is drawn from: t = below T u^power. It lies in (0, 1], or a ValueError says so.
    """

    power: float = 2.0
    below: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.below <= 1:
            raise ValueError(f"below must be a share of the schedule in (0, 1], got {self.below}")

    def __call__(
        self, n: int, T: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        u = by_row(lambda n, g: torch.rand(n, generator=g, device=device), n, generator)
        end = max(1, round(T * self.below))
        return (end * u**self.power).long().clamp(max=end - 1)


@dataclass(frozen=True)
class LogitNormalT:
    """t / T = sigmoid(z), z normal: most steps at middle noise (Esser et al. 2024, section 3.1)."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(
        self, n: int, T: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        z = by_row(lambda n, g: torch.randn(n, generator=g, device=device), n, generator)
        return (T * torch.sigmoid(self.mean + self.std * z)).long().clamp(max=T - 1)


# ---------------------------------------------------------------------- the loss


@dataclass
class DenoisingObjective:
    """The plain denoising error E || noise - predicted noise ||^2, averaged over pixels (thesis equation 2.8, algorithm 1).

    An *objective* is what the training loop is given: ``objective(denoiser, batch, generator) -> loss, log``.

    Args:
        schedule: the noise schedule to train on.
        timesteps: which t to draw; ``uniform_t`` is the thesis's.
        quantity: the error is measured in this one; a network that predicts another is converted exactly.
        condition: keys of the batch that are handed to the denoiser as keyword arguments ("label", say). Empty: the
            network sees nothing but x_t and t, so labels that a data set carries for evaluation cannot enter training.
    """

    schedule: NoiseSchedule
    timesteps: TimestepDistribution = uniform_t
    quantity: Quantity = "noise"
    condition: Sequence[str] = ()

    def __call__(
        self, denoiser, batch: Tensor | Mapping, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        x0 = batch_images(batch)
        check_images(x0, "the batch's images")
        t = self.timesteps(len(x0), self.schedule.T, generator, x0.device)
        size = x0.shape[1:]
        noise = by_row(
            lambda n, g: torch.randn(n, *size, generator=g, device=x0.device, dtype=x0.dtype), len(x0), generator
        )
        x_t = add_noise(self.schedule, x0, t, noise)
        prediction = denoiser(x_t, t, **{key: batch[key] for key in self.condition})
        target = convert(self.schedule, Prediction(noise=noise), x_t, t, self.quantity)
        estimate = convert(self.schedule, prediction, x_t, t, self.quantity)
        return F.mse_loss(estimate.float(), target.float()), {}
