"""Pictures of images, masks, point clouds and curves, in one style that colour-blind readers can use.

Functions that draw *return* what they drew: a matplotlib ``Figure``, an RGB array, or an HTML player. A notebook shows
the last value of a cell by itself; anywhere else in a cell write ``display(...)``. Figures are not registered with
pyplot, so nothing appears twice and a long loop keeps no figures in memory.

Images are float (B, C, H, W) in [-1, 1] with C = 1 or 3 (a small overshoot, as noise has, is clipped), or uint8
(B, H, W, C); one image without the first axis, or a list of images of one size, will do too.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fdlib.files import atomic_write
from fdlib.images import (
    OKABE_ITO,
    REGION_COLOURS,
    Images,
    as_masks,
    as_pixels,
    check_texts,
    enlarge,
    image_grid,
    label_map_colours,
    mosaic,
    overlay_masks,
    to_uint8,
)

try:
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from IPython.display import HTML
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.textpath import TextPath

    from fdlib.player import WIDEST, evenly, player
    from fdlib.plots import (
        DPI,
        FAINT,
        LINE_COLOURS,
        STYLE,
        animate_trajectories,
        plot_convergence,
        plot_curves,
        plot_schedule,
        scatter_2d,
        styled,
        use_style,
    )
except ImportError as error:
    raise ImportError("fdlib.viz needs matplotlib and IPython: pip install 'fdlib[course]'") from error

__all__ = [
    "LINE_COLOURS",
    "OKABE_ITO",
    "REGION_COLOURS",
    "animate_images",
    "animate_trajectories",
    "image_grid",
    "label_map_colours",
    "overlay_masks",
    "plot_convergence",
    "plot_curves",
    "plot_schedule",
    "save",
    "scatter_2d",
    "show_images",
    "show_masks",
    "show_rows",
    "show_strip",
    "to_uint8",
    "use_style",
]


def save(figure: Figure | np.ndarray | Tensor, path: str | os.PathLike[str], dpi: int | None = None) -> None:
    """Write a figure, or an RGB array uint8 (H, W, 3), as PNG (or by the suffix); the whole file or none.

    Raises:
        DiskFull: no room; what was there before stays.
    """
    with atomic_write(path) as temporary:
        if isinstance(figure, Figure):
            figure.savefig(temporary, dpi=dpi or figure.dpi)
        else:
            pixels = as_pixels(figure)
            if len(pixels) != 1:
                raise ValueError(f"save takes one picture, got {len(pixels)}: make an image_grid of them first")
            Image.fromarray(pixels[0]).save(temporary)


# ---------------------------------------------------------------------- images


@styled
def show_images(
    images: Images,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    scale: int | None = None,
    caption: str = "",
) -> Figure:
    """Images in a grid, each pixel a crisp square.

    Args:
        images: B images, see the module's head.
        titles: one short text an image.
        columns: images a row.
        scale: screen pixels an image pixel; by default as fits.
        caption: a sentence below: what is there to be seen.
    """
    pixels = as_pixels(images)
    check_texts(titles, len(pixels))
    columns = min(columns, len(pixels))
    pixels = enlarge(pixels, scale or _fitting_scale(pixels, columns))
    head = 20 if titles is not None else 0
    grid, corners = mosaic(pixels, columns, 4, 4 + head, top=4 + head)
    figure, axes = _picture(grid, caption=caption)
    for (y, x), title in zip(corners, titles or ()):
        axes.text(x + pixels.shape[2] / 2, y - 4, title, ha="center", va="bottom", fontsize=10)
    return figure


@styled
def show_rows(
    rows: Mapping[str, Images],
    titles: Sequence[str] | None = None,
    scale: int | None = None,
    caption: str = "",
) -> Figure:
    """One labelled row of images for each entry: samplers, models or stages to compare.

    Args:
        rows: label -> images; all of one size, rows may differ in length.
        titles: one short text a column.
        scale: screen pixels an image pixel; by default as fits.
        caption: a sentence below.
    """
    if not rows:
        raise ValueError("rows is empty: pass {label: images}")
    return _rows(list(rows), [as_pixels(images) for images in rows.values()], titles, scale, caption)


@styled
def show_strip(
    images: Images, labels: Sequence[Any] | None = None, scale: int | None = None, caption: str = ""
) -> Figure:
    """A development over time, from left to right.

    Args:
        images: (S, C, H, W), one image through S stages; or (S, B, C, H, W), a row for each of the B images.
        labels: one for each stage, above it: "t = 999", …
        scale, caption: as in `show_images`.
    """
    stages = np.stack([as_pixels(stage) for stage in images], axis=1)  # (B, S, H, W, 3): a stage is one image or B
    return _rows([""] * len(stages), list(stages), labels, scale, caption)


# ---------------------------------------------------------------------- masks


@styled
def show_masks(
    images: Images,
    masks: Tensor | np.ndarray,
    names: Sequence[str] | None = None,
    each: bool = False,
    alpha: float = 0.45,
    caption: str = "",
) -> Figure:
    """Images, their soft masks in colours, and both together, one image a column, with a legend.

    Args:
        images: B images, see the module's head.
        masks: float (B, K, H, W) in [0, 1], or integer (B, H, W) label maps.
        names: of the K regions.
        each: add a row for each single mask (0 dark, 1 bright).
        alpha: strength of the colours in the overlay.
        caption: a sentence below.
    """
    pixels, masks = as_pixels(images), as_masks(masks)
    count = masks.shape[1]
    names = [f"region {k}" for k in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"names must be one for each of the {count} regions, got {len(names)}")
    scale = _fitting_scale(pixels, len(pixels))
    rows = {
        "image": enlarge(pixels, scale),
        "masks": overlay_masks(pixels, masks, 1.0, False, scale),
        "overlay": overlay_masks(pixels, masks, alpha, True, scale),
    }
    if each:
        for k, name in enumerate(names):
            shades = mpl.colormaps["cividis"](masks[:, k])[..., :3] * 255
            rows[name] = enlarge(shades.round().astype(np.uint8), scale)
    figure = show_rows(rows, scale=1, caption=caption)
    handles = [Patch(facecolor=REGION_COLOURS[k] / 255, label=name) for k, name in enumerate(names)]
    _grow(figure, bottom=28)
    figure.legend(handles=handles, loc="lower center", ncols=min(count, 6), handlelength=1, handleheight=1)
    return figure


@styled
def show_tree(
    image: Images, masks: Tensor, regions: Sequence[int], scale: int | None = None, caption: str = ""
) -> Figure:
    """Masks within masks of one image, level by level (thesis figures 2.16 and 2.17).

    The first row has the image and, for each level, the partition that its masks make (a colour a node). Below, a row for
    each node that is cut, with the masks of its regions (0 dark, 1 bright).

    Args:
        image: one image, see the module's head.
        masks: (leaves, H, W) or (1, leaves, H, W), of a ``HierarchicalUNet``.
        regions: of each level, ``model.regions_per_level``.
        scale: screen pixels an image pixel; by default as fits.
        caption: a sentence below.
    """
    from fdlib.hierarchical import coarsen

    pixels, leaves = as_pixels(image), masks.detach().cpu()
    leaves = leaves[None] if leaves.ndim == 3 else leaves
    if len(pixels) != 1 or len(leaves) != 1:
        raise ValueError(f"show_tree draws one image, got {len(pixels)} images and masks of {len(leaves)}")
    levels = [coarsen(leaves, regions, level)[0] for level in range(1, len(regions) + 1)]
    partitions = [label_map_colours(nodes.argmax(0)[None]) for nodes in levels]
    rows = {"image, partitions": np.concatenate([pixels, *partitions])}
    for level, nodes in enumerate(levels, start=1):
        for parent, children in enumerate(nodes.unflatten(0, (-1, regions[level - 1]))):
            path = np.unravel_index(parent, regions[: level - 1]) if level > 1 else ()
            name = f"level {level}" + (f", in {'.'.join(str(k) for k in path)}" if level > 1 else "")
            rows[name] = (mpl.colormaps["cividis"](children.numpy())[..., :3] * 255).round().astype(np.uint8)
    return show_rows(rows, scale=scale, caption=caption)


def animate_images(
    frames: Tensor | np.ndarray | Sequence[Images],
    labels: Sequence[Any] | None = None,
    columns: int = 8,
    scale: int | None = None,
    fps: int = 8,
    max_frames: int = 60,
    max_bytes: int = 2_000_000,
) -> HTML:
    """A grid of images that changes over time, as a player: play, pause, slider.

    Args:
        frames: (S, B, C, H, W) in [-1, 1], or a list of S batches; (S, C, H, W) for one image.
        labels: one for each frame: "t = 999", …
        columns: images a row.
        scale: screen pixels an image pixel; by default as fits.
        fps, max_frames, max_bytes: as in `animate_trajectories`; pictures are compressed harder where needed.

    Returns:
        ``IPython.display.HTML``, which needs nothing from the network.
    """
    if len(frames) == 0:
        raise ValueError("frames is empty")
    check_texts(labels, len(frames), "frames")
    chosen = evenly(len(frames), max_frames)
    pictures = [image_grid(frames[i], columns, padding=1) for i in chosen]
    first = as_pixels(frames[0])
    texts = [str(labels[i]) if labels is not None else f"frame {i}" for i in chosen]
    zoom = scale or _fitting_scale(first, min(columns, len(first)))
    return player(pictures, texts, f"{len(first)} images changing over time", fps, zoom, max_bytes)


# ---------------------------------------------------------------------- helpers


def _rows(
    labels: list[str], rows: list[np.ndarray], titles: Sequence[Any] | None, scale: int | None, caption: str
) -> Figure:
    """Rows of pixels (B, H, W, 3), a label before each (none: all empty) and titles above the first."""
    if len({pixels.shape[1:] for pixels in rows}) > 1:
        raise ValueError(f"all rows must have images of one size, got {[pixels.shape[1:3] for pixels in rows]}")
    columns = max(len(pixels) for pixels in rows)
    check_texts(titles, columns, "columns")
    white = np.full((1, *rows[0].shape[1:]), 255, np.uint8)
    pixels = np.concatenate([np.concatenate([row, white.repeat(columns - len(row), 0)]) for row in rows])
    pixels = enlarge(pixels, scale or _fitting_scale(pixels, columns))
    grid, corners = mosaic(pixels, columns, 4, 6, top=4 + (20 if titles is not None else 0))
    labels = [textwrap.fill(str(label), 18) for label in labels]
    left = max(_text_width(line, STYLE["font.size"]) for label in labels for line in [*label.splitlines(), ""])
    figure, axes = _picture(grid, left=left + 16 if left else 0, caption=caption)
    for (y, x), label in zip(corners[::columns], labels):
        axes.text(x - 10, y + pixels.shape[1] / 2, label, ha="right", va="center", linespacing=1.2)
    for (y, x), title in zip(corners, titles if titles is not None else ()):
        axes.text(x + pixels.shape[2] / 2, y - 4, str(title), ha="center", va="bottom", fontsize=10)
    return figure


def _text_width(text: str, size: float) -> int:
    """Pixels that a line of text takes, at a font size in points."""
    return round(TextPath((0, 0), text, size=size).get_extents().width * DPI / 72) if text.strip() else 0


def _picture(pixels: np.ndarray, left: int = 0, caption: str = "") -> tuple[Figure, Any]:
    """A figure that shows pixels one to one, and axes whose coordinates are those pixels; margins in pixels too."""
    height, width, _ = pixels.shape
    lines = textwrap.wrap(caption, max(24, int((left + width) / 7.6)))
    bottom = 18 * len(lines) + 8 if lines else 0
    shrink = min(1.0, 1.2 * WIDEST / (left + width))  # beyond that, smaller than one to one
    figure = plt.figure(figsize=((left + width) * shrink / DPI, (height + bottom) * shrink / DPI), layout="none")
    axes = figure.add_axes(
        (left / (left + width), bottom / (height + bottom), width / (left + width), height / (height + bottom))
    )
    axes.imshow(
        pixels, interpolation="nearest" if shrink == 1 else "antialiased", aspect="auto", extent=(0, width, height, 0)
    )
    axes.axis("off")
    if lines:
        axes.text(
            4 - left, height + 6, "\n".join(lines), ha="left", va="top", fontsize=10, color=FAINT, linespacing=1.25
        )
    return figure, axes


def _grow(figure: Figure, bottom: int) -> None:
    """Add a margin of so many pixels below what is drawn, which keeps its size."""
    width, height = figure.get_size_inches()
    taller = height + bottom / DPI
    figure.set_size_inches(width, taller)
    for axes in figure.axes:
        x, y, w, h = axes.get_position().bounds
        axes.set_position((x, (y * height + bottom / DPI) / taller, w, h * height / taller))


def _fitting_scale(pixels: np.ndarray, columns: int) -> int:
    """Enlarge an image to about 112 pixels on the screen, as far as a row of them stays within the page."""
    width = pixels.shape[2]
    return max(1, min(round(112 / width), (WIDEST - 20) // (columns * width)))
