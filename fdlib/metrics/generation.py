"""How close generated pictures come to real ones: a Fréchet distance that works offline.

The usual FID compares features of an Inception network trained on ImageNet. Here the pictures are 3D Shapes, so the features
come from a small network that we trained to name the factors of a scene (hues, scale, shape, orientation) and ship with the
course. Its distances are comparable with each other, not with published FIDs. For photos, ``Inception`` has the usual features.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlib import samplers
from fdlib.denoiser import Denoiser, Model, check_images
from fdlib.files import cache_folder, sha256
from fdlib.schedule import NoiseSchedule, time_grid


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


# ---------------------------------------------------------------------- generated pictures


def draw(
    model: Denoiser,
    schedule: NoiseSchedule,
    count: int,
    steps: int = 50,
    sampler: str = "dpm_solver_pp",
    label: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor | None]:
    """Pictures from noise, in batches: (N, 3, H, W) in [-1, 1], and the region of each pixel, uint8 (N, H, W), or None.

    Args:
        steps: solver steps; for "ddpm" at equal distances, for others denser at low noise.
        sampler: the name of a function of ``fdlib.samplers``.
        label: the class of all pictures, for a conditional model; drawn at random for each by default.
    """
    generator, device = torch.Generator().manual_seed(seed), next(model.parameters()).device
    images, regions = [], []
    grid = time_grid(schedule.T, min(steps, schedule.T), **({} if sampler == "ddpm" else {"power": 2}))
    for start in range(0, count, batch_size):
        n = min(batch_size, count - start)
        noise = torch.randn(n, 3, model.image_size, model.image_size, generator=generator)
        condition = {}
        if getattr(model, "classes", None):
            drawn = torch.randint(model.classes, (n,), generator=generator)
            condition = {"label": (drawn if label is None else torch.full((n,), label)).to(device)}
        last = []
        made = getattr(samplers, sampler)(
            model,
            schedule,
            noise.to(device),
            timesteps=grid,
            condition=condition,
            clip_x0=True,
            callback=lambda step, last=last: last.__setitem__(slice(None), [step.prediction.masks]),
            **({"generator": torch.Generator(device).manual_seed(seed + start)} if sampler == "ddpm" else {}),
        )
        images.append(made.clamp(-1, 1).cpu())
        if last[0] is not None:
            regions.append(last[0].argmax(1).to(torch.uint8).cpu())
    return torch.cat(images), torch.cat(regions) if regions else None


# ---------------------------------------------------------------------- the usual FID

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = (
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # its first digits are in its name
)


def inception_weights() -> Path:
    """Where the Inception weights of the usual FID are looked for: ``fdlib.files.cache_folder()``/inception."""
    return cache_folder() / "inception" / INCEPTION_FILE


class Inception:
    """Features of the Inception network that published FIDs are computed with (Heusel et al. 2017), by torch-fidelity.

    Args:
        weights: the file; ``inception_weights()`` by default. Nothing is downloaded, and nothing in it is run: it is read as
            tensors only.
        check: compare its SHA-256. Other weights give other distances, comparable with nobody's.

    Raises:
        FileNotFoundError: no such file; the message says where it is to be had and where it goes. ValueError: another file.
        ImportError: torch-fidelity is missing (``pip install 'fdlib[scale]'``).
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None, check: bool = True, device: str = "cpu"):
        path = Path(weights) if weights is not None else inception_weights()
        if not path.is_file():
            raise FileNotFoundError(
                f"the Inception weights that FID needs are not at {path}. Download {INCEPTION_URL} (SHA-256 {INCEPTION_SHA256}) "
                "and put it there"
            )
        if check and (found := sha256(path)) != INCEPTION_SHA256:
            raise ValueError(f"{path} is not {INCEPTION_FILE}: expected SHA-256 {INCEPTION_SHA256}, got {found}")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        tensors = torch.load(path, map_location="cpu", weights_only=True)
        with tempfile.NamedTemporaryFile(
            suffix=".pth"
        ) as clean:  # torch-fidelity unpickles; so it gets what we have read
            torch.save(tensors, clean.name)
            self.network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=clean.name)
        self.network.to(device)
        self.device = device

    @torch.no_grad()
    def extract(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """(N, 2048) features of images (N, 3, H, W) in [-1, 1], rounded to 8 bits first, as files of pictures are."""
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return torch.cat([self.network(part.to(self.device))[0].cpu() for part in pixels.split(batch_size)])
