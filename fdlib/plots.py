"""Curves, and points in the plane, in the style that all of the library's figures share. Use it through `fdlib.viz`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from matplotlib.figure import Figure
from torch import Tensor

from fdlib.images import OKABE_ITO, check_texts
from fdlib.player import evenly, player

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


def styled(draw: Callable) -> Callable:
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


# ---------------------------------------------------------------------- curves


@styled
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


@styled
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


@styled
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


@styled
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


@styled
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


# ---------------------------------------------------------------------- helpers


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


def _render(figure: Figure) -> np.ndarray:
    """The figure as pixels (H, W, 3)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
