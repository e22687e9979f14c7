"""Pictures of images, masks, point clouds and curves, in one style that colour-blind readers can use.

Functions that draw *return* what they drew: a matplotlib ``Figure``, an RGB array, or an HTML player. A notebook shows
the last value of a cell by itself; anywhere else in a cell write ``display(...)``. Figures are not registered with
pyplot, so nothing appears twice and a long loop keeps no figures in memory.

Images are float (B, C, H, W) in [-1, 1] with C = 1 or 3 (a small overshoot, as noise has, is clipped), or uint8
(B, H, W, C); one image without the first axis, or a list of images of one size, will do too.
"""

from __future__ import annotations

import functools
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
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
except ImportError as error:
    raise ImportError("fdlib.viz needs matplotlib and IPython: pip install 'fdlib[course]'") from error

__all__ = [
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

Density = Callable[[Tensor], Tensor]  # (M, 2) points -> (M,) values of a density

LINE_COLOURS = tuple(OKABE_ITO[name] for name in ("blue", "vermillion", "green", "orange", "purple", "sky", "black"))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#262626", "#6B6B6B"
DPI = 100  # pictures are laid out in pixels: one figure pixel each, or a whole number, keeps edges crisp

STYLE: dict[str, Any] = {
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=LINE_COLOURS),
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "image.cmap": "cividis",
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Give your own matplotlib figures the look of this module's, from now on."""
    mpl.rcParams.update(STYLE)


def _styled(draw: Callable) -> Callable:
    """Draw in the style whatever the notebook has set, and leave the settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        # not mpl.rc_context: that would also undo `interactive`, which a notebook's backend sets when it is first used
        before = {name: mpl.rcParams[name] for name in STYLE}
        mpl.rcParams.update(STYLE)
        try:
            result = draw(*args, **kwargs)
        finally:
            mpl.rcParams.update(before)
        if isinstance(result, Figure):
            plt.close(result)  # forget it, do not destroy it: see the module's head
        return result

    return wrapper


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


@_styled
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


@_styled
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


@_styled
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


@_styled
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


# ---------------------------------------------------------------------- curves


@_styled
def plot_curves(
    histories: Mapping[str, Any],
    x: str = "step",
    y: str = "loss",
    log: bool = False,
    smoothing: float = 0.0,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """Training curves, one line a label; several seeds of a label become their median and the band from least to most.

    Args:
        histories: label -> history, or label -> list of histories (seeds). A history is a list of records, as a JSONL
            log has them ([{"step": 0, "loss": 1.1}, …]; records without x or y are passed over), or a mapping of
            columns ({"step": [0, …], "loss": [1.1, …]}).
        x, y: which entries to draw.
        log: logarithmic y axis.
        smoothing: 0 draws the values; .9, say, their mean weighted by .9^distance, with the values faint behind.
        title, xlabel, ylabel: texts; the labels are x and y by default.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
    figure, axes = plt.subplots(figsize=(7, 4))
    for i, (label, history) in enumerate(histories.items()):
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        style = "-" if i < len(LINE_COLOURS) else "--"
        runs = [_columns(run, x, y, label) for run in _runs(history)]
        smooth = [(xs, _smooth(ys, smoothing)) for xs, ys in runs]
        if len(runs) == 1:
            (xs, middle), raw = smooth[0], runs[0][1]
            if smoothing:
                axes.plot(xs, raw, color=colour, alpha=0.22, linewidth=0.8)
        else:
            xs = np.unique(np.concatenate([xs for xs, _ in smooth]))
            xs = xs[
                (xs >= max(s[0][0] for s in smooth)) & (xs <= min(s[0][-1] for s in smooth))
            ]  # where all have values
            if not len(xs):
                raise ValueError(f"the runs of {label!r} have no common range of {x!r}")
            values = np.stack([np.interp(xs, *s) for s in smooth])
            middle = np.median(values, axis=0)
            axes.fill_between(xs, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
            label = f"{label} (median of {len(runs)})"
        alone = {"marker": "o"} if len(xs) == 1 else {}
        axes.plot(xs, middle, style, color=colour, label=label, **alone)
    axes.set(xlabel=xlabel or x, ylabel=ylabel or y, title=title)
    axes.margins(x=0.02)
    if log:
        axes.set_yscale("log")
    axes.legend()
    return figure


@_styled
def plot_convergence(
    table: Mapping[str, Mapping[int, float | Sequence[float]]],
    orders: Sequence[float] = (1, 2),
    xlabel: str = "evaluations of the network",
    ylabel: str = "error",
    title: str = "",
) -> Figure:
    """Errors over evaluations, both logarithmic, beside lines of the slopes that orders of convergence predict.

    Args:
        table: label -> {evaluations: error, or a list of errors over seeds}; of a list, median and range are drawn.
        orders: a grey line error = c / evaluations^order for each.
        xlabel, ylabel, title: texts.
    """
    figure, axes = plt.subplots(figsize=(7, 4.6))
    medians: list[tuple[float, float]] = []
    for i, (label, errors) in enumerate(table.items()):
        xs = sorted(errors)
        values = [np.atleast_1d(np.asarray(errors[n], float)) for n in xs]
        if not xs or min(xs) <= 0 or not all(np.isfinite(v).all() and (v > 0).all() for v in values):
            raise ValueError(f"the entries of {label!r} must be positive numbers: their logarithms are drawn")
        middle = np.array([np.median(v) for v in values])
        medians += zip(xs, middle)
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        axes.plot(xs, middle, marker=MARKERS[i % len(MARKERS)], color=colour, label=label)
        if max(len(v) for v in values) > 1:
            axes.fill_between(xs, [v.min() for v in values], [v.max() for v in values], color=colour, alpha=0.18, lw=0)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    if medians:
        first, last = min(n for n, _ in medians), max(n for n, _ in medians)
        start = 1.5 * max(e for n, e in medians if n == first)  # above the curves, which are to be compared with them
        low, high = axes.get_ylim()
        for order in orders:
            end = min(last, first * (start / low) ** (1 / order))  # stay inside the picture
            bottom = start * (first / end) ** order
            axes.plot([first, end], [start, bottom], ":", color=FAINT, linewidth=1.2, zorder=1)
            offset = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"order {order:g}", (end, bottom), color=FAINT, fontsize=10, annotation_clip=False, **offset)
        axes.set_ylim(low, max(high, 1.3 * start))
        ticks = sorted({n for n, _ in medians})
        axes.set_xticks(ticks if len(ticks) <= 10 else ticks[:: len(ticks) // 10 + 1])
        axes.xaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
        axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.legend()
    return figure


@_styled
def plot_schedule(schedules: Any) -> Figure:
    """a_t, s_t and the log signal-to-noise ratio log(a_t^2 / s_t^2) of noise schedules, over t / T.

    Args:
        schedules: label -> schedule, or one schedule; a schedule has float64 tables ``a`` and ``s`` of shape (T,).
    """
    if not isinstance(schedules, Mapping):
        schedules = {"": schedules}
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.2))
    for i, (label, schedule) in enumerate(schedules.items()):
        a, s = (torch.as_tensor(table).double().cpu().numpy() for table in (schedule.a, schedule.s))
        time = np.arange(len(a)) / len(a)
        with np.errstate(divide="ignore"):
            log_snr = 2 * (np.log(a) - np.log(s))
        log_snr[~np.isfinite(log_snr)] = np.nan  # no signal left at all
        style = {
            "color": LINE_COLOURS[i % len(LINE_COLOURS)],
            "linestyle": ("-", "--", "-.", ":")[i % 4],
            "label": label,
        }
        for panel, curve in zip(panels, (a, s, log_snr)):
            panel.plot(time, curve, **style)
    for panel, title in zip(panels, (r"signal $a_t$", r"noise $s_t$", r"log-SNR $\log\,a_t^2/s_t^2$")):
        panel.set(title=title, xlabel=r"$t\,/\,T$")
    if any(schedules):
        panels[0].legend()
    return figure


# ---------------------------------------------------------------------- points in the plane


@_styled
def scatter_2d(
    points: Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray],
    density: Density | None = None,
    limits: float | None = None,
    title: str = "",
) -> Figure:
    """Points in the plane, over a map of a density.

    Args:
        points: (N, 2), or label -> (N, 2).
        density: takes (M, 2) float64 points and gives their (M,) densities, for example
            ``lambda x: mixture.log_density(x, CLEAN).exp()``.
        limits: the picture shows [-limits, limits] in both directions; by default as the points need.
        title: a text above.
    """
    clouds = points if isinstance(points, Mapping) else {"": points}
    clouds = {label: _as_points(cloud, 2) for label, cloud in clouds.items()}
    limits = limits or _limits(np.concatenate(list(clouds.values())))
    figure, axes = plt.subplots(figsize=(5, 5))
    _plane(axes, limits, density, title)
    for i, (label, cloud) in enumerate(clouds.items()):
        colour = _point_colour(i, density is not None)
        size = float(np.clip(6000 / len(cloud), 7, 30))
        axes.scatter(*cloud.T, s=size, color=colour, alpha=0.75, edgecolors="white", linewidths=0.3, label=label)
    if any(clouds):
        axes.legend(loc="upper right", labelcolor="white" if density is not None else INK)
    return figure


# ---------------------------------------------------------------------- animations


@_styled
def animate_trajectories(
    trajectory: Tensor | np.ndarray,
    density: Density | None = None,
    labels: Sequence[Any] | None = None,
    limits: float | None = None,
    tail: int = 8,
    frames: int = 40,
    fps: int = 10,
    max_bytes: int = 2_000_000,
) -> HTML:
    """Points that move through the plane, as a player: play, pause, slider.

    Args:
        trajectory: (S, N, 2), the positions of N points at S times.
        density, limits: as in `scatter_2d`.
        labels: one for each of the S times.
        tail: how many earlier positions trail behind a point.
        frames: at most so many of the S times are shown, evenly spaced.
        fps: frames a second.
        max_bytes: size of the result; more frames are left out if needed.

    Returns:
        ``IPython.display.HTML``, which needs nothing from the network.
    """
    path = _as_points(trajectory, 3)
    check_texts(labels, len(path), "times")
    labels = [f"step {i}" for i in range(len(path))] if labels is None else labels
    limits = limits or _limits(path[[0, -1]])
    figure, axes = plt.subplots(figsize=(4.6, 4.6), dpi=90, layout="constrained")
    _plane(axes, limits, density, "")
    colour = _point_colour(0, density is not None)
    lines = mpl.collections.LineCollection([], colors=[colour], linewidths=0.8, alpha=0.4)
    axes.add_collection(lines)
    dots = axes.scatter(*path[0].T, s=14, color=colour, edgecolors="white", linewidths=0.3, zorder=3)
    pictures, chosen = [], evenly(len(path), frames)
    for i in chosen:
        dots.set_offsets(path[i])
        lines.set_segments(path[max(0, i - tail) : i + 1].swapaxes(0, 1) if i else [])
        pictures.append(_render(figure))
    plt.close(figure)
    return player(pictures, [str(labels[i]) for i in chosen], "points moving through the plane", fps, 1, max_bytes)


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
    bottom = 17 * len(lines) + 8 if lines else 0
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


def _plane(axes, limits: float, density: Density | None, title: str) -> None:
    """Equal, quiet axes over [-limits, limits]^2, with the density as a map where there is one."""
    if density is not None:
        line = torch.linspace(-limits, limits, 160, dtype=torch.float64)
        yy, xx = torch.meshgrid(line, line, indexing="ij")
        values = density(torch.stack([xx, yy], -1).reshape(-1, 2)).detach().cpu().double().reshape(160, 160).numpy()
        extent = (-limits, limits, -limits, limits)
        axes.imshow(values, extent=extent, origin="lower", cmap="cividis", interpolation="bilinear", vmin=0)
        axes.grid(False)
    axes.set(xlim=(-limits, limits), ylim=(-limits, limits), aspect="equal", title=title)


def _point_colour(i: int, on_density: bool) -> str:
    """Blue and orange are the colours of cividis, so points on a density start with vermillion."""
    on_dark = ("vermillion", "sky", "purple", "green", "black")
    return OKABE_ITO[on_dark[i % len(on_dark)]] if on_density else LINE_COLOURS[i % len(LINE_COLOURS)]


def _limits(points: np.ndarray) -> float:
    return 1.1 * max(float(np.abs(points).max(initial=0)), 1e-3)


def _as_points(points: Tensor | np.ndarray, ndim: int) -> np.ndarray:
    array = np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, dtype=np.float64)
    if array.ndim != ndim or array.shape[-1] != 2 or array.size == 0:
        raise ValueError(f"expected points of the shape {'(N, 2)' if ndim == 2 else '(S, N, 2)'}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("points contain NaN or infinity: the sampler that made them has diverged")
    return array


def _runs(history: Any) -> list[Any]:
    """The runs (seeds) of one label: a history alone is one run."""
    if isinstance(history, Mapping) or not len(history):
        return [history]
    first = history[0]
    is_record = isinstance(first, Mapping) and all(np.ndim(value) == 0 for value in first.values())
    return [history] if is_record else list(history)


def _columns(history: Any, x: str, y: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(history, Mapping):
        missing = [name for name in (x, y) if name not in history]
        pairs = [] if missing else list(zip(history[x], history[y], strict=True))
        names = sorted(history)
    else:
        pairs = [(record[x], record[y]) for record in history if x in record and y in record]
        names = sorted({name for record in history for name in record})
    if not pairs:
        raise ValueError(f"the history of {label!r} has no {x!r} with {y!r}; it has {', '.join(names) or 'nothing'}")
    xs, ys = np.array(pairs, dtype=np.float64).T
    return xs, ys


def _smooth(values: np.ndarray, smoothing: float) -> np.ndarray:
    """Mean weighted by smoothing^distance, to both sides: the usual one-sided average would lag behind the curve."""

    def one_sided(series: np.ndarray) -> np.ndarray:
        total, result = 0.0, []
        for value in series:
            total = smoothing * total + value
            result.append(total)
        return np.array(result)

    def both(series: np.ndarray) -> np.ndarray:
        return one_sided(series) + one_sided(series[::-1])[::-1] - series

    return both(values) / both(np.ones(len(values)))


def _fitting_scale(pixels: np.ndarray, columns: int) -> int:
    """Enlarge an image to about 112 pixels on the screen, as far as a row of them stays within the page."""
    width = pixels.shape[2]
    return max(1, min(round(112 / width), (WIDEST - 20) // (columns * width)))


def _render(figure: Figure) -> np.ndarray:
    """The figure as pixels (H, W, 3)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
