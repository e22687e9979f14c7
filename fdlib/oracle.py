"""Denoisers with a closed form: the exact answer to test samplers, losses and networks against.

Where the data's distribution is known and simple, Bayes' rule gives E[x_0 | x_t] exactly, and with it the perfect denoiser.
Both classes below have the interface of every denoiser, ``forward(x_t, t) -> Prediction``, and more: samples of the data,
the log-density and the score of every noised marginal, the posterior of x_0.

Data are vectors (B, D); images (B, C, H, W) work too, as vectors of C H W numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fdlib.denoiser import Prediction
from fdlib.schedule import NoiseSchedule


class GaussianMixtureOracle(nn.Module):
    """The exact denoiser of a mixture of Gaussians  sum_k w_k N(mean_k, cov_k).

    Args:
        schedule: the forward process.
        means: (K, D).
        covariances: (K, D, D) symmetric positive definite, or (K,) or a number: variances of round components.
        weights: (K,) positive; they are normalised. Equal by default.

    Noising keeps each component Gaussian,  p_t(x) = sum_k w_k N(a_t mean_k, a_t^2 cov_k + s_t^2 I), and the denoiser is the
    mean of the posterior, a mixture itself. Computed in the eigenbasis of each covariance, so every t costs the same.
    """

    def __init__(
        self, schedule: NoiseSchedule, means: Tensor, covariances: Tensor | float, weights: Tensor | None = None
    ):
        super().__init__()
        means = torch.as_tensor(means)
        if means.ndim != 2 or not means.is_floating_point():
            raise ValueError(f"means must be a float tensor (K, D), got {means.dtype} {tuple(means.shape)}")
        K, D = means.shape
        covariances = torch.as_tensor(covariances, dtype=means.dtype)
        if covariances.ndim < 2:
            covariances = covariances.expand(K)[:, None, None] * torch.eye(D, dtype=means.dtype)
        if covariances.shape != (K, D, D):
            raise ValueError(
                f"covariances must be (K, D, D), (K,) or a number with K={K}, D={D}; got {tuple(covariances.shape)}"
            )
        weights = torch.ones(K, dtype=means.dtype) if weights is None else torch.as_tensor(weights, dtype=means.dtype)
        if weights.shape != (K,) or not (weights > 0).all():
            raise ValueError(f"weights must be {K} positive numbers, got {weights.tolist()}")
        if not torch.allclose(covariances, covariances.mT):
            raise ValueError("covariances must be symmetric")
        variances, axes = torch.linalg.eigh(covariances)
        if not (variances > 0).all():
            raise ValueError(
                f"covariances must be positive definite: the smallest eigenvalue is {float(variances.min()):g}"
            )
        self.schedule = schedule
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)  # (K, D) along
        self.register_buffer("axes", axes)  # (K, D, D) the columns
        self.register_buffer("log_weights", torch.log(weights / weights.sum()))

    def forward(self, x_t: Tensor, t: Tensor | int) -> Prediction:
        """The exact E[noise | x_t]."""
        flat = x_t.flatten(1)
        a, s = self.schedule.at(t, like=flat)
        log_density, x0 = self._components(flat, t)
        responsibilities = torch.softmax(self.log_weights + log_density, dim=1)
        mean = torch.einsum("bk,bkd->bd", responsibilities, x0)
        return Prediction(noise=((flat - a * mean) / s).reshape(x_t.shape))

    def log_density(self, x: Tensor, t: Tensor | int) -> Tensor:
        """(B,) log p_t(x) of the data noised to time t (``CLEAN`` for the data themselves)."""
        return torch.logsumexp(self.log_weights + self._components(x.flatten(1), t)[0], dim=1)

    def score(self, x: Tensor, t: Tensor | int) -> Tensor:
        """The gradient of log p_t at x, of the shape of x, by its own formula: sum_k r_k (a mean_k - x) / variance."""
        flat = x.flatten(1)
        a, s = self.schedule.at(t, like=flat)
        residual, total = self._project(flat, a, s)
        pull = torch.einsum("kde,bke->bkd", self.axes, -residual / total)
        return torch.einsum("bk,bkd->bd", self.responsibilities(flat, t), pull).reshape(x.shape)

    def responsibilities(self, x: Tensor, t: Tensor | int) -> Tensor:
        """(B, K) probability that each x_t came from each component."""
        return torch.softmax(self.log_weights + self._components(x.flatten(1), t)[0], dim=1)

    def posterior(self, x_t: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """Mean (B, D) and covariance (B, D, D) of x_0 given x_t."""
        flat = x_t.flatten(1)
        a, s = self.schedule.at(t, like=flat)
        log_density, means = self._components(flat, t)
        r = torch.softmax(self.log_weights + log_density, dim=1)
        mean = torch.einsum("bk,bkd->bd", r, means)
        s2 = torch.as_tensor(s**2).reshape(-1, 1, 1)
        a2 = torch.as_tensor(a**2).reshape(-1, 1, 1)
        within = self.variances * s2 / (a2 * self.variances + s2)  # (B or 1, K, D) in each eigenbasis
        within = torch.einsum("kde,bke,kfe->bkdf", self.axes, within.expand(len(flat), -1, -1), self.axes)
        centred = means - mean[:, None]
        between = torch.einsum("bkd,bke->bkde", centred, centred)
        return mean, torch.einsum("bk,bkde->bde", r, within + between)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n, D) samples of the data."""
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype, device=self.means.device)
        return self.means[k] + torch.einsum("bde,be->bd", self.axes[k], self.variances[k].sqrt() * z)

    def _project(self, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """x - a mean_k along the axes of component k, and the noised variance there; both (B, K, D) or broadcastable."""
        a, s = (torch.as_tensor(v).reshape(-1, 1, 1) for v in (a, s))
        residual = torch.einsum("kde,bkd->bke", self.axes, x[:, None] - a * self.means)
        return residual, a**2 * self.variances + s**2

    def _components(self, x: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """(B, K) log-density of each component at time t, and (B, K, D) each one's E[x0 | x_t]."""
        a, s = self.schedule.at(t, like=x)
        residual, total = self._project(x, a, s)
        log_density = -0.5 * (residual**2 / total + total.log() + math.log(2 * math.pi)).sum(-1)
        gain = torch.as_tensor(a).reshape(-1, 1, 1) * self.variances / total
        return log_density, self.means + torch.einsum("kde,bke->bkd", self.axes, gain * residual)


class GaussianOracle(GaussianMixtureOracle):
    """The exact denoiser of one Gaussian N(mean, covariance): its ODE has a solution in closed form, too.

    Args:
        mean: (D,). covariance: (D, D), or a number for a round one.
    """

    def __init__(self, schedule: NoiseSchedule, mean: Tensor, covariance: Tensor | float):
        mean = torch.as_tensor(mean)
        super().__init__(schedule, mean[None], torch.as_tensor(covariance, dtype=mean.dtype)[None])

    def flow(self, x_t: Tensor, t: int, t_next: int) -> Tensor:
        """Where the probability-flow ODE carries x_t from time t to t_next, exactly.

        Along each axis of the covariance the flow only shifts and stretches: the standardised coordinate
        (x - a mean) / sqrt(a^2 variance + s^2) stays the same.
        """
        flat = x_t.flatten(1)
        (a, s), (a_next, s_next) = self.schedule.at(t, flat), self.schedule.at(t_next, flat)
        residual, total = self._project(flat, a, s)
        stretch = ((a_next**2 * self.variances + s_next**2) / total).sqrt()
        moved = torch.einsum("kde,bke->bkd", self.axes, stretch * residual)[:, 0]
        return (a_next * self.means[0] + moved).reshape(x_t.shape)
