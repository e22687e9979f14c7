"""Painted flowers on a meadow of noise: a stand-in for photos where none can be shipped, with the truth known to the pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PETALS = [(0.9, 0.8, -0.7), (0.8, -0.3, 0.3), (0.3, -0.2, 0.8), (0.9, 0.9, 0.9), (0.9, 0.2, -0.8)]
GREEN, EYE = (-0.55, -0.2, -0.75), (0.5, 0.3, -0.8)
FINER = 4  # times finer than the pictures it is painted, then averaged


def painted_flowers(n: int, size: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """One flower a picture: five to seven petals of one of five colours, somewhere near the middle.

    Args:
        n: number of pictures.
        size: height and width in pixels.
        seed: the same seed paints the same flowers.

    Returns:
        pictures (n, 3, size, size) in [-1, 1], and where the flower is: bool (n, size, size).

    Raises:
        ValueError: n or size < 1.

    >>> pictures, flower = painted_flowers(4)
    >>> pictures.shape, flower.shape, flower.dtype
    (torch.Size([4, 3, 32, 32]), torch.Size([4, 32, 32]), torch.bool)
    """
    if n < 1 or size < 1:
        raise ValueError(f"n and size must be at least 1, got n={n}, size={size}")
    generator, fine = torch.Generator().manual_seed(seed), FINER * size
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, fine)] * 2, indexing="ij")
    pictures, flowers = [], []
    for _ in range(n):
        u = torch.rand(6, generator=generator)
        x0, y0 = x - 0.4 * (u[0] - 0.5), y - 0.4 * (u[1] - 0.5)
        radius, angle, petals = torch.hypot(x0, y0), torch.atan2(y0, x0) + 6 * u[2], int(5 + 3 * u[3])
        edge = (0.5 + 0.25 * u[4]) * (0.7 + 0.3 * torch.cos(petals * angle))
        inside, eye = radius < edge, radius < 0.12
        leaves = torch.randn(1, 1, 12, 12, generator=generator)
        leaves = F.interpolate(leaves, (fine, fine), mode="bicubic", align_corners=False)[0]
        meadow = _colour(GREEN) + 0.2 * leaves + 0.1 * torch.randn(3, fine, fine, generator=generator)
        petal = _colour(PETALS[int(5 * u[5])]) * (1 - 0.4 * (radius / edge - 0.6).abs())
        picture = torch.where(eye, _colour(EYE), torch.where(inside, petal, meadow))
        pictures.append(F.avg_pool2d(picture.clamp(-1, 1), FINER))
        flowers.append(F.avg_pool2d((inside | eye).float()[None], FINER)[0] > 0.5)
    return torch.stack(pictures), torch.stack(flowers)


def _colour(rgb: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rgb)[:, None, None]
