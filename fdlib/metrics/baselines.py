"""What any segmenter must be compared with: regions found by colour, by place, or in the features of a plain denoiser.

Each returns integer regions (N, H, W), to be scored exactly as a model's masks are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlib.denoiser import check_images
from fdlib.process import add_noise
from fdlib.schedule import NoiseSchedule
from fdlib.unet import UNet, Upsample


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


def disc(images: Tensor, radius: float) -> Tensor:
    """1 within ``radius`` pixels of the middle of the frame and 0 elsewhere, int64 (N, H, W): the same for every picture."""
    check_images(images)
    N, _, H, W = images.shape
    y, x = torch.arange(H) - (H - 1) / 2, torch.arange(W) - (W - 1) / 2
    return (y[:, None] ** 2 + x**2 <= radius**2).long().expand(N, H, W)


def grabcut(images: Tensor, border: int = 3, rounds: int = 5) -> Tensor:
    """Foreground (1) and background (0) of each picture by itself, int64 (N, H, W) (Rother et al. 2004, by OpenCV).

    Args:
        images: (N, 3, H, W) in [-1, 1].
        border: pixels along the frame that are taken for background; the rest is what may be foreground.
        rounds: of the algorithm.

    Needs OpenCV (``pip install 'fdlib[scale]'``).
    """
    import cv2

    check_images(images, channels=3)
    N, _, H, W = images.shape
    pixels = (
        ((images.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).flip(-1).contiguous().numpy()
    )  # blue first
    found = torch.empty(N, H, W, dtype=torch.long)
    for i, picture in enumerate(pixels):
        cv2.setRNGSeed(0)
        mask, models = torch.zeros(H, W, dtype=torch.uint8).numpy(), torch.zeros(2, 1, 65, dtype=torch.float64).numpy()
        frame = (border, border, W - 2 * border, H - 2 * border)
        cv2.grabCut(picture, mask, frame, models[0], models[1], rounds, cv2.GC_INIT_WITH_RECT)
        found[i] = torch.from_numpy((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD))
    return found


# ---------------------------------------------------------------------- the features of a plain denoiser


@torch.no_grad()
def decoder_features(
    model: UNet,
    images: Tensor,
    times: Sequence[int] = (50, 150, 250),
    schedule: NoiseSchedule | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What a plain denoiser knows of each pixel: (N, D, H, W), the last features of each stage of the decoder, up-sampled.

    As in DatasetDDPM (Baranchuk et al. 2022, section 4), whose times these are; D counts all stages at all times.

    Args:
        images: (N, C, H, W) in [-1, 1].
        generator: of the noise; seed 0 by default.
    """
    schedule, generator = schedule or NoiseSchedule.linear(1000), generator or torch.Generator().manual_seed(0)
    layers, kept = list(model.decoder.layers), []
    ends = [a for a, b in zip(layers, [*layers[1:], None], strict=True) if b is None or isinstance(b, Upsample)]
    hooks = [layer.register_forward_hook(lambda _layer, _inputs, output: kept.append(output)) for layer in ends]
    device = next(model.parameters()).device
    try:
        for t in times:
            x_t = add_noise(schedule, images, t, torch.randn(images.shape, generator=generator))
            model(x_t.to(device), torch.full((len(images),), t, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    size = images.shape[2:]
    return torch.cat([F.interpolate(h, size, mode="bilinear", align_corners=False).cpu() for h in kept], dim=1)


def kmeans_features(
    model: UNet,
    fit: Tensor,
    images: Tensor,
    regions: int,
    times: Sequence[int] = (50, 150, 250),
    schedule: NoiseSchedule | None = None,
    seed: int = 0,
    pixels: int = 50_000,
    batch_size: int = 100,
) -> list[Tensor]:
    """K-means on the features of a plain denoiser: what the thesis calls DatasetDDPM-unsup (2.4.1). No label is used.

    Args:
        model: a plain U-Net that was trained to denoise.
        fit: (M, 3, H, W) in [-1, 1], pictures to find the clusters in (training pictures).
        images: (N, 3, H, W), pictures to segment.
        regions: K.
        pixels: about this many of ``fit``'s pixels, drawn at random, are clustered, each feature scaled to unit variance.

    Returns:
        the regions of ``fit`` and of ``images``, int64 (M, H, W) and (N, H, W). Needs scikit-learn.
    """
    from sklearn.cluster import KMeans

    def batches(pictures: Tensor, noise: int):
        generator = torch.Generator().manual_seed(noise)
        for part in pictures.split(batch_size):
            yield decoder_features(model, part, times, schedule, generator)

    draw, each, drawn = torch.Generator().manual_seed(seed), max(1, pixels // len(fit)), []
    for found in batches(fit, 0):
        flat = found.flatten(2)  # (n, D, HW)
        chosen = torch.stack([torch.randperm(flat.shape[2], generator=draw)[:each] for _ in flat])
        drawn.append(flat.gather(2, chosen[:, None].expand(-1, flat.shape[1], -1)).movedim(1, 2).flatten(0, 1))
    sample = torch.cat(drawn)
    mean, std = sample.mean(0), sample.std(0).clamp(min=1e-6)
    clusters = KMeans(regions, n_init=4, random_state=seed).fit(((sample - mean) / std).numpy())
    centres = torch.from_numpy(clusters.cluster_centers_).float()
    # |f - c|^2 without |f|^2, of the scaled features
    weight, bias = centres / std, 0.5 * (centres**2).sum(1) + (centres / std) @ mean
    return [
        torch.cat(
            [(torch.einsum("ndhw,kd->nkhw", f, weight) - bias[:, None, None]).argmax(1) for f in batches(x, noise)]
        )
        for x, noise in ((fit, 0), (images, 1))
    ]
