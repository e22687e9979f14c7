"""What any segmenter must be compared with: regions found without learning anything about pictures.

Each returns integer regions (N, H, W), to be scored exactly as a model's masks are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fdlib.denoiser import check_images


def kmeans_colours(fit: Tensor, images: Tensor, regions: int, seed: int = 0, pixels: int = 50_000) -> Tensor:
    """Each pixel goes to the nearest of K colours, found by k-means on the pixels of other pictures.

    Args:
        fit: (M, 3, H, W) in [-1, 1], pictures to find the colours in (training pictures).
        images: (N, 3, H, W), pictures to segment.
        regions: K.
        pixels: at most this many of ``fit``'s pixels, drawn at random, are clustered.

    Returns:
        int64 (N, H, W). Needs scikit-learn (``pip install 'fdlib[course]'``).
    """
    from sklearn.cluster import KMeans

    check_images(fit, "fit")
    check_images(images)
    colours = fit.movedim(1, -1).flatten(0, 2)
    chosen = torch.randperm(len(colours), generator=torch.Generator().manual_seed(seed))[:pixels]
    model = KMeans(regions, n_init=4, random_state=seed).fit(colours[chosen].numpy())
    everything = images.movedim(1, -1).flatten(0, 2).contiguous().numpy()
    return torch.from_numpy(model.predict(everything)).long().reshape(len(images), *images.shape[2:])


def kmeans_each(images: Tensor, regions: int, place: float = 0.0, seed: int = 0) -> Tensor:
    """K-means within each picture by itself, int64 (N, H, W), clusters ordered by their mean height in the picture.

    Args:
        images: (N, 3, H, W) in [-1, 1].
        regions: K.
        place: weight of a pixel's coordinates, in [-1, 1], beside its colour.
    """
    from sklearn.cluster import KMeans

    check_images(images)
    N, _, H, W = images.shape
    grid = torch.stack(torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij"))
    result = torch.empty(N, H, W, dtype=torch.long)
    for i, image in enumerate(images):
        features = torch.cat([image, place * grid]).flatten(1).T.contiguous().numpy()
        found = torch.from_numpy(KMeans(regions, n_init=2, random_state=seed).fit_predict(features)).long()
        height = grid[0].flatten()
        means = torch.stack(
            [height[found == k].mean() if (found == k).any() else torch.tensor(2.0) for k in range(regions)]
        )
        result[i] = means.argsort().argsort()[found].reshape(H, W)
    return result


def chance(images: Tensor, regions: int, seed: int = 0) -> Tensor:
    """A random region for every pixel, int64 (N, H, W)."""
    shape = (len(images), *images.shape[2:])
    return torch.randint(regions, shape, generator=torch.Generator().manual_seed(seed))
