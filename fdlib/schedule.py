"""How much signal and how much noise is left at each time: a_t and s_t.

Every formula in this library is written in the two numbers of

    x_t = a_t x_0 + s_t noise ,                                    a_t = sqrt(alpha_bar_t),  s_t = sqrt(1 - alpha_bar_t)

(thesis equation 2.1; Ho et al. 2020, equation 4), so another path from data to noise is just another schedule.

The index ``t`` runs from 0 to T-1 and ``alpha_bars[t]`` belongs to it. The thesis counts from 1; our "t = 30" is index 30.
The clean image, before any noise, has no index of its own; grids of times write ``CLEAN`` (-1) for it: a = 1, s = 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLEAN = -1  # the "index" of the clean image on a grid of times: a = 1, s = 0


class NoiseSchedule:
    """The table of a_t and s_t for t = 0 .. T-1, in float64.

    Args:
        a: (T,) share of the signal, decreasing in t, in (0, 1].
        s: (T,) standard deviation of the noise, increasing in t, > 0.
        name: how ``repr`` calls it.

    >>> schedule = NoiseSchedule.linear(T=1000)
    >>> round(float(schedule.alpha_bars[30]), 5)
    0.98771
    """

    def __init__(self, a: Tensor, s: Tensor, name: str = "custom"):
        a, s = torch.as_tensor(a, dtype=torch.float64).cpu(), torch.as_tensor(s, dtype=torch.float64).cpu()
        if a.ndim != 1 or a.shape != s.shape or len(a) == 0:
            raise ValueError(
                f"a and s must be two tables of the same length T >= 1, got {tuple(a.shape)} and {tuple(s.shape)}"
            )
        if not (torch.isfinite(a).all() and torch.isfinite(s).all() and (a >= 0).all() and (s > 0).all()):
            raise ValueError("a must be >= 0 and s > 0 everywhere, and both finite")
        if not (torch.diff(s / a) > 0).all():
            raise ValueError("noise over signal, s / a, must grow with t: later times are noisier")
        self.a, self.s, self.name = a, s, name
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}  # a and s as ``at`` has handed them out

    @classmethod
    def from_betas(cls, betas: Tensor, name: str = "custom") -> NoiseSchedule:
        """The variance-preserving schedule of the step variances ``betas`` (T,), each in (0, 1)."""
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError(f"betas must lie strictly between 0 and 1, got {betas.min():g} .. {betas.max():g}")
        log_alpha_bars = torch.log1p(-betas).cumsum(0)
        # expm1 keeps all digits of 1 - alpha_bar where alpha_bar is close to 1
        return cls(torch.exp(log_alpha_bars / 2), torch.sqrt(-torch.expm1(log_alpha_bars)), name)

    @classmethod
    def linear(
        cls, T: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02, rescale: bool = False
    ) -> NoiseSchedule:
        """Betas that grow linearly (Ho et al. 2020, section 4; thesis 2.4).

        The numbers are meant for T = 1000. With T = 100 they leave alpha_bar_T = .364: a third of the picture's
        variance survives to the end. ``rescale=True`` multiplies the betas by 1000 / T, so that any T ends in noise.
        """
        _check_T(T)
        factor = 1000 / T if rescale else 1.0
        if beta_max * factor >= 1:
            raise ValueError(
                f"T={T} is too few steps to rescale beta_max={beta_max} (it becomes {beta_max * factor:g} >= 1): "
                "take a larger T or NoiseSchedule.cosine(T)"
            )
        return cls.from_betas(
            torch.linspace(beta_min * factor, beta_max * factor, T, dtype=torch.float64), f"linear(T={T})"
        )

    @classmethod
    def cosine(cls, T: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> NoiseSchedule:
        """alpha_bar follows a squared cosine; betas are capped at ``beta_max`` (Nichol and Dhariwal 2021, equation 17)."""
        _check_T(T)
        u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls.from_betas((1 - f[1:] / f[:-1]).clamp(max=beta_max), f"cosine(T={T})")

    @property
    def T(self) -> int:
        return len(self.a)

    @property
    def alpha_bars(self) -> Tensor:
        """(T,) a_t^2, the share of the signal's variance."""
        return self.a**2

    @property
    def alphas(self) -> Tensor:
        """(T,) alpha_t = alpha_bar_t / alpha_bar_{t-1}."""
        return 1 - self.betas

    @property
    def betas(self) -> Tensor:
        """(T,) variance added by the step that ends at t: s_t^2 - (a_t / a_{t-1})^2 s_{t-1}^2."""
        a_before = torch.cat([self.a.new_ones(1), self.a[:-1]])
        s_before = torch.cat([self.s.new_zeros(1), self.s[:-1]])
        return self.s**2 - (self.a / a_before) ** 2 * s_before**2

    @property
    def snr(self) -> Tensor:
        """(T,) signal-to-noise ratio a_t^2 / s_t^2."""
        return (self.a / self.s) ** 2

    def at(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t in the dtype and on the device of ``like``, shaped to multiply it.

        Args:
            t: an index (or ``CLEAN``) for the whole batch, or an integer tensor (B,) of indices 0 .. T-1.
            like: (B, ...) the batch that a_t and s_t will multiply.

        Raises:
            TypeError: t is not an integer. ValueError: t is out of range or of the wrong length.
        """
        if isinstance(t, int) and not isinstance(t, bool):
            if t == CLEAN:
                return like.new_ones(()), like.new_zeros(())
            t = torch.tensor(t)
        t = check_timesteps(t, self.T, batch=len(like) if isinstance(t, Tensor) and t.ndim else None)
        shape = (-1,) + (1,) * (like.ndim - 1) if t.ndim else ()
        key = (like.dtype, like.device)
        if key not in self._tables:  # the dtype first: MPS has no float64
            self._tables[key] = torch.stack([self.a, self.s]).to(like.dtype).to(like.device)
        a, s = self._tables[key][:, t.to(like.device).long()]
        return a.reshape(shape), s.reshape(shape)

    def __repr__(self) -> str:
        return f"NoiseSchedule.{self.name}: alpha_bar from {self.alpha_bars[0]:.5f} to {self.alpha_bars[-1]:.2g}"


def check_timesteps(t: Tensor, T: int, batch: int | None = None) -> Tensor:
    """``t`` itself, if it holds integer indices 0 .. T-1 and, with ``batch``, is one index an image."""
    if not isinstance(t, Tensor) or t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"t must be an integer index or a tensor of integer indices 0 .. {T - 1}, got {kind}")
    if t.numel() and not (0 <= int(t.min()) and int(t.max()) < T):
        raise ValueError(
            f"t must lie in 0 .. {T - 1} (this schedule has T = {T} steps, counted from 0), "
            f"got {int(t.min())} .. {int(t.max())}"
        )
    if batch is not None and t.shape != (batch,):
        raise ValueError(f"t must hold one index an image, shape ({batch},), got {tuple(t.shape)}")
    return t


def time_grid(T: int, steps: int, power: float = 1.0) -> list[int]:
    """``steps`` + 1 times from pure noise to the clean image, T (1 - i / steps)^power - 1: T-1 first, ``CLEAN`` last.

    ``power`` = 1 spaces them evenly; 2 is denser near the clean image (the quadratic grid of Song et al. 2021, appendix D.2),
    which is where second-order samplers need it.

    >>> time_grid(1000, 4), time_grid(1000, 4, power=2)
    ([999, 749, 499, 249, -1], [999, 561, 249, 61, -1])
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number >= 1, got {steps!r}")
    if steps > T:
        raise ValueError(f"steps={steps} is more than the schedule's T={T} times: take steps <= {T}")
    if not power >= 1:
        raise ValueError(f"power must be >= 1, got {power}")
    grid = [round(T * (1 - i / steps) ** power) - 1 for i in range(steps + 1)]
    for i in reversed(range(steps)):
        grid[i] = max(grid[i], grid[i + 1] + 1)  # where rounding made two times equal
    return grid


def _check_T(T: int) -> None:
    if not isinstance(T, int) or T < 1:
        raise ValueError(f"T must be a whole number of steps >= 1, got {T!r}")
