"""One picture file, and the label map that belongs to it, cut to one size in the same way.

open_picture("tulip.jpg", size=64)                       # uint8 (64, 64, 3)
fit_labels(label_map, size=64, crop="centre")            # uint8 (64, 64), nearest neighbour: classes are never mixed
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

Crop = Literal["centre", "stretch", "pad"]

EXTERNAL_FORMATS = {"EPS", "WMF"}  # Pillow draws these with another program, which a folder of photos must not start
IGNORE = 255  # of label maps: belongs to no class, and is left out of every score


def open_picture(path: str | os.PathLike[str], size: int = 64, crop: Crop = "centre") -> np.ndarray:
    """One picture as uint8 RGB (size, size, 3); see `ImageFolder` for what is done to it.

    Raises:
        Whatever Pillow raises for a file that is no picture or a damaged one: OSError, ValueError, SyntaxError, …
    """
    Image.init()
    with Image.open(path, formats=[name for name in Image.OPEN if name not in EXTERNAL_FORMATS]) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise ValueError(f"{image.width}x{image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS = {limit}")
        image.draft(None, (3 * size, 3 * size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is enough
        image.load()
        picture = _as_rgb(_upright(image))
    width, height = picture.size
    filter_, gap = Image.Resampling.LANCZOS, 3.0
    if crop == "centre":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        picture = picture.resize((size, size), filter_, box=box, reducing_gap=gap)
    elif crop == "stretch":
        picture = picture.resize((size, size), filter_, reducing_gap=gap)
    else:
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        whole = Image.new("RGB", (size, size), "white")
        whole.paste(picture.resize(inner, filter_, reducing_gap=gap), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        picture = whole
    return np.asarray(picture)


def _upright(image: Image.Image) -> Image.Image:
    """Turn and mirror the picture as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data beside sound pixels: Pillow's parser raises many kinds
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow to 8-bit RGB, transparency on white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)  # convert("L") would clip at 255 and give white
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"integer pixels {values.min()} .. {values.max()} do not fit 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"float pixels {values.min():g} .. {values.max():g} are not in [0, 1]")
        image = Image.fromarray((values * 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def fit_labels(labels: np.ndarray, size: int, crop: Crop = "centre") -> np.ndarray:
    """A label map uint8 (H, W) cut and resized as ``open_picture`` does it with the picture: uint8 (size, size).

    By nearest neighbour. What "pad" adds is labelled IGNORE.
    """
    picture = Image.fromarray(labels)
    width, height = picture.size
    nearest = Image.Resampling.NEAREST
    if crop == "centre":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        picture = picture.resize((size, size), nearest, box=(left, top, left + side, top + side))
    elif crop == "stretch":
        picture = picture.resize((size, size), nearest)
    else:
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        whole = Image.new("L", (size, size), IGNORE)
        whole.paste(picture.resize(inner, nearest), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        picture = whole
    return np.asarray(picture)
