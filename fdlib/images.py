"""Pixels on disk and screen are uint8 (B, H, W, C), models see float (B, C, H, W) in [-1, 1]: there and back.

Grids of images and coloured masks are made here too, as arrays of pixels, without a plotting library. Where images are
only looked at, they may be float (B, C, H, W) in [-1, 1] with C = 1 or 3 (a small overshoot, as noise has, is clipped)
or uint8 (B, H, W, C); one image without the first axis, or a list of images of one size, will do too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Images = Tensor | np.ndarray | Sequence[Any]

ABSURD = 20.0  # noisy images reach about 5 and are clipped for display; beyond this the scale must be wrong

# Okabe and Ito (2008): eight colours that stay apart for every common kind of colour vision.
OKABE_ITO = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "black": "#000000",
    "yellow": "#F0E442",
}
# Neighbours in this order differ in lightness too, so regions survive grey printing.
_REGION_NAMES = ("blue", "orange", "green", "purple", "yellow", "vermillion", "sky", "black")
REGION_COLOURS = np.array([list(bytes.fromhex(OKABE_ITO[name][1:])) for name in _REGION_NAMES], np.uint8)  # (8, 3) RGB
IGNORED = np.array([190, 190, 190], np.uint8)  # the colour of a pixel without a label


def from_uint8(pixels: np.ndarray | Tensor) -> Tensor:
    """Pixels 0..255 to what models see: value / 127.5 - 1, so 0 -> -1 and 255 -> 1.

    Args:
        pixels: uint8, (B, H, W, C), or one image (H, W, C).

    Returns:
        Float32 (B, C, H, W) or (C, H, W) in [-1, 1], in memory of its own.
    """
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.array(pixels))  # a copy: torch warns about read-only memory, cached files say
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels must be uint8 (0..255), got {pixels.dtype}")
    if pixels.ndim not in (3, 4):
        raise ValueError(f"pixels must have the shape (B, H, W, C) or (H, W, C), got {tuple(pixels.shape)}")
    return pixels.movedim(-1, -3).contiguous().float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> np.ndarray:
    """Images in [-1, 1] to pixels 0..255, rounded, clipped: the exact inverse of `from_uint8`.

    Values a little outside, as in samples and noisy images, are clipped.

    Args:
        images: float, (B, C, H, W), or one image (C, H, W).

    Returns:
        uint8 array (B, H, W, C) or (H, W, C).

    Raises:
        ValueError: NaN or infinite values, or values so large (> 20) that they cannot be meant for [-1, 1].
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a float tensor in [-1, 1], got {kind}")
    if images.ndim not in (3, 4):
        raise ValueError(f"images must have the shape (B, C, H, W) or (C, H, W), got {tuple(images.shape)}")
    images = images.detach().float().cpu()
    if images.numel():
        low, high = (float(value) for value in torch.aminmax(images))
        if not np.isfinite([low, high]).all():
            raise ValueError("images contain NaN or infinity: the model or the sampler that made them has diverged")
        if max(-low, high) > ABSURD:
            raise ValueError(f"images must be in [-1, 1], got {low:.4g} .. {high:.4g}: for 0..255 use x / 127.5 - 1")
    pixels = images.clamp(-1, 1).add(1).mul_(127.5).round_().to(torch.uint8)
    return pixels.movedim(-3, -1).contiguous().numpy()


def as_pixels(images: Images) -> np.ndarray:
    """Any images this module accepts (see its head) as RGB pixels, uint8 (B, H, W, 3).

    Raises:
        TypeError, ValueError: integers other than uint8, NaN, a scale that is not [-1, 1], or a wrong shape.
    """
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("images is an empty list")
        each = [as_pixels(image) for image in images]
        sizes = sorted({pixels.shape[1:3] for pixels in each})
        if len(sizes) > 1:
            raise ValueError(f"images must have one size, got {', '.join(f'{h}x{w}' for h, w in sizes)}")
        return np.concatenate(each)
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images))
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be float in [-1, 1] or uint8, got {kind}")
    pixels = images.detach().cpu().numpy() if images.dtype == torch.uint8 else None
    axes = "(B, C, H, W)" if pixels is None else "(B, H, W, C)"
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(f"images must have the shape {axes} and not be empty, got {tuple(images.shape)}")
    if images.shape[-3 if pixels is None else -1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels in the shape {axes}, got {tuple(images.shape)}")
    if pixels is None:
        pixels = to_uint8(images)
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def image_grid(
    images: Images,
    columns: int = 8,
    titles: Sequence[str] | None = None,
    scale: int = 1,
    padding: int = 2,
    background: int = 255,
) -> np.ndarray:
    """Images side by side, as pixels: for saving, logging and widgets.

    Args:
        images: B images, see the module's head.
        columns: images a row; fewer if there are fewer.
        titles: one short text an image, written above it.
        scale: each pixel becomes scale x scale pixels.
        padding: pixels between images and around the grid.
        background: grey value 0..255 between them.

    Returns:
        uint8 (H, W, 3); without titles H = rows * (scale * h + padding) + padding, W likewise.
    """
    pixels = enlarge(as_pixels(images), scale)
    check_texts(titles, len(pixels))
    font = ImageFont.load_default(max(10, min(13, pixels.shape[2] // 5))) if titles else None
    head = font.size + 5 if font else 0
    grid, corners = mosaic(pixels, columns, padding, padding + head, background, top=padding + head)
    if font:
        canvas = Image.fromarray(grid)
        for (y, x), title in zip(corners, titles):
            middle = x + pixels.shape[2] / 2
            ink = 0 if background > 127 else 255
            ImageDraw.Draw(canvas).text((middle, y - 3), str(title), fill=(ink,) * 3, font=font, anchor="ms")
        grid = np.asarray(canvas)
    return grid


def label_map_colours(labels: Tensor | np.ndarray) -> np.ndarray:
    """Label maps, integer (..., H, W), as colours, uint8 (..., H, W, 3).

    Label k has colour ``REGION_COLOURS[k % 8]``; negative labels, pixels without one, are grey.
    """
    labels = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if labels.dtype.kind not in "iu" or labels.ndim < 2:
        raise ValueError(f"labels must be integers (..., H, W), got {labels.dtype} {labels.shape}")
    return np.where((labels < 0)[..., None], IGNORED, REGION_COLOURS[labels % len(REGION_COLOURS)])


def overlay_masks(
    images: Images, masks: Tensor | np.ndarray, alpha: float = 0.45, boundaries: bool = True, scale: int = 1
) -> np.ndarray:
    """Soft masks as colours laid over their images.

    A pixel becomes (1 - alpha) image + alpha sum_k m_k colour_k: an undecided pixel shows the mixture.

    Args:
        images: B images of H x W pixels, see the module's head.
        masks: float (B, K, H, W) in [0, 1], K <= 8, summing to 1 over K (integer (B, H, W) label maps will do too).
        alpha: 0 shows the images alone, 1 the masks alone.
        boundaries: draw a white line where the strongest mask changes.
        scale: each pixel becomes scale x scale pixels, but the lines stay one pixel wide.

    Returns:
        uint8 (B, scale * H, scale * W, 3).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    pixels, masks = as_pixels(images), as_masks(masks)
    if (len(pixels), *pixels.shape[1:3]) != (len(masks), *masks.shape[2:]):
        raise ValueError(
            f"masks {masks.shape} must fit the {len(pixels)} images of {pixels.shape[1]}x{pixels.shape[2]}"
        )
    colours = np.einsum("bkhw,kc->bhwc", masks, REGION_COLOURS[: masks.shape[1]].astype(np.float64))
    mixed = enlarge(((1 - alpha) * pixels + alpha * colours).round().clip(0, 255).astype(np.uint8), scale)
    if boundaries:
        strongest = enlarge(masks.argmax(1)[..., None], scale)[..., 0]
        edge = np.zeros(strongest.shape, bool)
        edge[:, :, 1:] |= strongest[:, :, 1:] != strongest[:, :, :-1]
        edge[:, 1:] |= strongest[:, 1:] != strongest[:, :-1]
        mixed[edge] = 255
    return mixed


def png_bytes(pixels: np.ndarray) -> bytes:
    """An RGB picture, uint8 (H, W, 3), as a PNG file in memory."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def mosaic(
    pixels: np.ndarray, columns: int, gap: int, row_gap: int, background: int = 255, top: int = 0
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Pixels (B, h, w, 3) laid out in rows: the picture, and the (y, x) of each image's upper left corner."""
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    count, height, width, _ = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (top + rows * height + (rows - 1) * row_gap + gap, gap + columns * (width + gap), 3)
    picture = np.full(shape, background, np.uint8)
    corners = []
    for i, image in enumerate(pixels):
        y, x = top + i // columns * (height + row_gap), gap + i % columns * (width + gap)
        picture[y : y + height, x : x + width] = image
        corners.append((y, x))
    return picture, corners


def as_masks(masks: Tensor | np.ndarray) -> np.ndarray:
    """Masks as float64 (B, K, H, W); integer label maps (B, H, W) become one-hot."""
    array = np.asarray(masks.detach().cpu() if isinstance(masks, Tensor) else masks)
    if array.dtype.kind in "iu" and array.ndim == 3:
        if array.min() < 0:
            raise ValueError("label maps must be >= 0 to be drawn as masks")
        array = np.moveaxis(np.eye(int(array.max()) + 1)[array], -1, 1)
    if array.dtype.kind != "f" or array.ndim != 4:
        raise ValueError(
            f"masks must be float (B, K, H, W) or integer labels (B, H, W), got {array.dtype} {array.shape}"
        )
    if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):
        raise ValueError(
            f"masks must lie in [0, 1], got {array.min():.3g} .. {array.max():.3g}: apply softmax to logits"
        )
    if array.shape[1] > len(REGION_COLOURS):
        raise ValueError(f"at most {len(REGION_COLOURS)} regions can be told apart by colour, got {array.shape[1]}")
    return array.astype(np.float64)


def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """(B, H, W, C) with each pixel repeated scale x scale times."""
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale must be a whole number >= 1, got {scale!r}")
    return pixels.repeat(scale, 1).repeat(scale, 2) if scale > 1 else pixels


def check_texts(titles: Sequence[Any] | None, count: int, what: str = "images") -> None:
    if titles is not None and len(titles) != count:
        raise ValueError(f"expected one text for each of the {count} {what}, got {len(titles)}")
