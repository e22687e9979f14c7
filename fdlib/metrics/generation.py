"""How close generated pictures come to real ones: a Fréchet distance that works offline.

The usual FID compares features of an Inception network trained on ImageNet. Here the pictures are 3D Shapes, so the features
come from a small network that we trained to name the factors of a scene (hues, scale, shape, orientation) and ship with the
course. Its distances are comparable with each other, not with published FIDs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlib.denoiser import Model, check_images


class FactorClassifier(Model):
    """Names the factors of a rendered scene; the layer before the answers serves as features.

    Args:
        sizes: number of values of each factor, in the order of ``fdlib.data.shapes3d.FACTORS``.
        features: D, the length of the feature vector.
        channels: width of the first layer.

    Trained *with* labels, on rendered pictures. It only ever judges; nothing that it knows enters a denoiser's training.
    """

    SIZE = 32  # pixels; other sizes are resized to it

    def __init__(self, sizes: Sequence[int] = (10, 10, 10, 8, 4, 15), features: int = 64, channels: int = 32):
        super().__init__()
        self.sizes = tuple(sizes)
        widths = [3, channels, 2 * channels, 4 * channels]
        layers: list[nn.Module] = []
        for narrow, wide in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(8, wide), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (self.SIZE // 8) ** 2, features))
        self.heads = nn.Linear(features, sum(sizes))

    def features(self, images: Tensor) -> Tensor:
        """(B, D) features of images (B, 3, H, W) in [-1, 1]."""
        check_images(images, channels=3)
        if images.shape[2:] != (self.SIZE, self.SIZE):
            images = F.interpolate(
                images, size=(self.SIZE, self.SIZE), mode="bilinear", antialias=True, align_corners=False
            )
        return self.trunk(images)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of each factor: a list of (B, sizes[i])."""
        return list(self.heads(F.silu(self.features(images))).split(self.sizes, dim=1))

    @torch.no_grad()
    def extract(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """(B, D) features, in batches, without gradient, clipped to [-1, 1] first: samples overshoot a little."""
        return torch.cat([self.features(part.clamp(-1, 1)) for part in images.split(batch_size)])


@dataclass
class FactorObjective:
    """Cross-entropy summed over the factors: the objective of ``FactorClassifier``. Not for denoisers: it reads labels."""

    noise: float = 0.1
    """Standard deviation of the noise added to training pictures, so that features do not hang on single pixels."""

    def __call__(
        self, network: FactorClassifier, batch: Mapping, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict]:
        images, factors = batch["image"], batch["factors"]
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        logits = network((images + self.noise * noise).clamp(-1, 1))
        loss = sum(F.cross_entropy(part, factors[:, i].long()) for i, part in enumerate(logits))
        accuracy = torch.stack(
            [(part.argmax(1) == factors[:, i]).float().mean() for i, part in enumerate(logits)]
        ).mean()
        return loss, {"accuracy": accuracy.detach()}


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Fréchet distance of two feature sets, each described by a Gaussian (Heusel et al. 2017, equation 6).

        |mean_a - mean_b|^2 + trace(cov_a + cov_b - 2 (cov_a cov_b)^{1/2})

    Args:
        features_a, features_b: (N, D) and (M, D), N and M > 1. It is biased upward for few examples: compare only distances
            from equally many.

    >>> a = torch.tensor([[0.0], [2.0]])                 # mean 1, variance 2
    >>> frechet_distance(a, a + 3)                       # only the means differ, by 3
    9.0
    """
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"{name} must be (N, D) with N >= 2, got {tuple(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError(f"{name} holds NaN or infinite values")
    if features_a.shape[1] != features_b.shape[1]:
        raise ValueError(f"features must have the same length, got {features_a.shape[1]} and {features_b.shape[1]}")
    a, b = features_a.double(), features_b.double()
    cov_a, cov_b = (torch.cov(f.T).reshape(f.shape[1], f.shape[1]) for f in (a, b))
    # (cov_a cov_b)^{1/2} has the eigenvalues of root_a cov_b root_a, which is symmetric: no complex square roots
    root_a = _root(cov_a)
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(distance))


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
