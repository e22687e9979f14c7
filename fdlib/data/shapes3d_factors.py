"""What a picture of 3D Shapes can show: its six factors, the window of the frame that is seen, its regions' names."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

FACTORS = {"floor_hue": 10, "wall_hue": 10, "object_hue": 10, "scale": 8, "shape": 4, "orientation": 15}
SHAPES = ("cube", "cylinder", "sphere", "capsule")
COUNT = 480_000
SIZES = torch.tensor(list(FACTORS.values()))
STRIDES = torch.tensor([48_000, 4_800, 480, 60, 15, 1])  # the last factor runs fastest
GRID = [
    *[torch.arange(10, dtype=torch.float64) / 10] * 3,  # hues, in turns
    torch.linspace(0.75, 1.25, 8, dtype=torch.float64),
    torch.arange(4, dtype=torch.float64),
    torch.arange(-7, 8, dtype=torch.float64)
    * 30
    / 7,  # degrees; linspace misses the 0 in the middle by a rounding error
]
LABELS = ("sky", "left wall", "right wall", "floor", "shadow", "object")
SKY, LEFT_WALL, RIGHT_WALL, FLOOR, SHADOW, OBJECT = range(6)
COARSE = {
    "three": {"floor": ("floor", "shadow"), "wall": ("left wall", "right wall", "sky"), "object": ("object",)},
    "four": {"floor": ("floor", "shadow"), "wall": ("left wall", "right wall"), "object": ("object",), "sky": ("sky",)},
    "object": {"background": ("sky", "left wall", "right wall", "floor", "shadow"), "object": ("object",)},
}


# ---------------------------------------------------------------------- factors


def index_to_factors(index: int | Sequence[int] | np.ndarray | Tensor) -> Tensor:
    """The six factor indices of pictures, in the official order.

    Args:
        index: whole numbers 0..479 999 of any shape (...).

    Returns:
        int64 (..., 6), in the order of `FACTORS`. index_to_factors(48_016) is [1, 0, 0, 0, 1, 1]: 48 000 + 15 + 1.

    Raises:
        TypeError: not whole numbers. ValueError: outside of 0..479 999.
    """
    index = whole(index, "index")
    if index.numel() and (index.min() < 0 or index.max() >= COUNT):
        raise ValueError(f"index must lie in 0..{COUNT - 1}, got {int(index.min())} .. {int(index.max())}")
    return index[..., None] // STRIDES % SIZES


def factors_to_index(factors: Sequence[Any] | np.ndarray | Tensor) -> Tensor:
    """The inverse of `index_to_factors`: int (..., 6) to int64 (...). factors_to_index([1, 0, 0, 0, 1, 1]) is 48_016.

    Raises:
        TypeError: not whole numbers. ValueError: not six of them, or one that its factor does not have.
    """
    return (check_factors(whole(factors, "factors")) * STRIDES).sum(-1)


def factor_values(factors: Sequence[Any] | np.ndarray | Tensor) -> Tensor:
    """Factor indices, int (..., 6), as the official file's labels: float64 (..., 6).

    Hues are in turns (0, .1, ... .9), the scale goes from .75 to 1.25, the orientation from -30 to 30 degrees.
    factor_values([5, 0, 9, 7, 2, 0]) is [.5, 0, .9, 1.25, 2, -30].
    """
    factors = check_factors(whole(factors, "factors"))
    return torch.stack([grid[factors[..., k]] for k, grid in enumerate(GRID)], dim=-1)


def values_to_factors(values: Sequence[Any] | np.ndarray | Tensor) -> Tensor:
    """The inverse of `factor_values`. Raises ValueError for values that are not on the official grid (tolerance 1e-3)."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if values.shape[-1:] != (6,):
        raise ValueError(f"values must have the shape (..., 6), got {tuple(values.shape)}")
    distance = [(values[..., k, None] - grid).abs().min(dim=-1) for k, grid in enumerate(GRID)]
    for name, (gap, _) in zip(FACTORS, distance, strict=True):
        if gap.numel() and not gap.max() < 1e-3:  # `not <` is true for NaN as well
            raise ValueError(f"{name}: the labels are not on the official grid, one is off by {float(gap.max()):.3g}")
    return torch.stack([nearest for _, nearest in distance], dim=-1)


def split_indices(train: int, test: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two disjoint random sets of pictures: (train,) and (test,) int64, each without repetition.

    The test set depends on its own size and the seed alone, so that longer training sets never reach into it.

        train, test = split_indices(train=20_000, test=1_000, seed=0)

    Raises:
        ValueError: a negative number, or more than 480 000 together.
    """
    train, test = number(train, "train", 0, COUNT), number(test, "test", 0, COUNT)
    if train + test > COUNT:
        raise ValueError(f"train + test must be at most {COUNT}, got {train} + {test}: ask for fewer pictures")
    order = torch.randperm(COUNT, generator=generator(seed))
    return order[test : test + train].clone(), order[:test].clone()


def coarse(labels: Tensor, scheme: Literal["three", "four", "object"] = "three") -> Tensor:
    """Merge labels (...) uint8 of `LABELS` into the classes of a scheme, in the order of `COARSE[scheme]`.

    "three": 0 floor with shadow, 1 walls with sky, 2 object. "four": the sky apart, as 3. "object": 1 object, 0 the rest.
    coarse(torch.tensor([0, 4, 5]), "three") is [1, 0, 2]: sky, shadow, object.

    Raises:
        ValueError: an unknown scheme or a label above 5. TypeError: labels that are not an integer tensor.
    """
    if scheme not in COARSE:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, COARSE))}, got {scheme!r}")
    labels = whole(labels, "labels")
    if labels.numel() and (labels.min() < 0 or labels.max() >= len(LABELS)):
        raise ValueError(
            f"labels must lie in 0..{len(LABELS) - 1} (LABELS), got {int(labels.min())} .. {int(labels.max())}"
        )
    to_class = {name: k for k, names in enumerate(COARSE[scheme].values()) for name in names}
    return torch.tensor([to_class[name] for name in LABELS], dtype=torch.uint8)[labels]


# ---------------------------------------------------------------------- windows of the frame


class Layout(NamedTuple):
    """Which part of the official frame is seen: a window that lies inside it, perhaps mirrored. One entry an image.

    zoom: (N,) width of the window over that of the frame, in (0, 1].
    shift_x, shift_y: (N,) its centre; the frame reaches from -1 (left, top) to 1, so at most 1 - zoom in size.
    flip: (N,) bool, mirror the window left to right.
    """

    zoom: Tensor
    shift_x: Tensor
    shift_y: Tensor
    flip: Tensor


def random_layout(
    n: int,
    generator: torch.Generator | None = None,
    zoom: tuple[float, float] = (0.55, 1.0),
    shift: float = 1.0,
    flip: bool = True,
) -> Layout:
    """Draw windows for training: a uniform width, a uniform place inside the frame, mirrored or not.

    Args:
        n: how many.
        generator: the source of randomness, on the CPU; None is torch's global one.
        zoom: the smallest and the largest width, 0 < smallest <= largest <= 1.
        shift: 0 keeps windows in the middle, 1 lets them lie anywhere inside the frame.
        flip: mirror every second one, on average.

    Raises:
        ValueError, TypeError: an argument outside of its range.

    Example: the window reaches from shift - zoom to shift + zoom and stays within -1 and 1.

        layout = random_layout(1000, torch.Generator().manual_seed(0))
        assert (layout.shift_x.abs() + layout.zoom <= 1 + 1e-6).all()
    """
    _check_draw(n, zoom)
    if not 0 <= shift <= 1:
        raise ValueError(f"shift must be between 0 (centred) and 1 (anywhere inside the frame), got {shift!r}")
    # always four numbers an image, so that an option changes nothing but what it names
    draw = torch.rand(n, 4, generator=generator)
    width = zoom[0] + (zoom[1] - zoom[0]) * draw[:, 0]
    room = (1 - width) * shift
    x, y = ((2 * draw[:, k] - 1) * room for k in (1, 2))
    return Layout(width, x, y, (draw[:, 3] < 0.5) & bool(flip))


def close_layout(
    n: int,
    generator: torch.Generator | None = None,
    zoom: tuple[float, float] = (0.3, 1.0),
    centre: tuple[float, float] = (0.0, 0.25),
    spread: float = 0.25,
) -> Layout:
    """Draw windows as a photographer frames a subject: about the middle of the room, from the whole of it to a close view.

    Widths are log-uniform, so that all scales are equally frequent. Up close, an object fills as much of the picture as floor
    and walls do, and its inside counts for more than its outline.

    Args:
        n, generator, zoom: as for ``random_layout``.
        centre: where windows are centred on average, (x, y) in the frame, which reaches from -1 (left, top) to 1.
        spread: their centres differ from that by up to this much, each way; windows are pushed back inside the frame.

    Raises:
        ValueError: an argument outside of its range.
    """
    _check_draw(n, zoom)
    if spread < 0 or not all(abs(c) <= 1 for c in centre):
        raise ValueError(f"spread must be >= 0 and centre inside the frame, -1 .. 1, got {spread!r} and {centre!r}")
    draw = torch.rand(n, 4, generator=generator)
    width = zoom[0] * (zoom[1] / zoom[0]) ** draw[:, 0]
    room = 1 - width
    x, y = ((c + (2 * draw[:, k] - 1) * spread).clamp(-room, room) for k, c in ((1, centre[0]), (2, centre[1])))
    return Layout(width, x, y, draw[:, 3] < 0.5)


def plain_layout(n: int) -> Layout:
    """The official camera, `n` times."""
    return Layout(torch.ones(n), torch.zeros(n), torch.zeros(n), torch.zeros(n, dtype=torch.bool))


# ---------------------------------------------------------------------- checks


def _check_draw(n: int, zoom: tuple[float, float]) -> None:
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"n must be a whole number, at least 0, got {n!r}")
    if not (isinstance(zoom, (tuple, list)) and len(zoom) == 2 and 0 < zoom[0] <= zoom[1] <= 1):
        raise ValueError(f"zoom must be a pair (smallest, largest) with 0 < smallest <= largest <= 1, got {zoom!r}")


def whole(values: Any, name: str) -> Tensor:
    """Whole numbers of any integer type as int64 tensor."""
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be whole numbers, got {type(values).__name__} ({error})") from error
    integer = tensor.dtype != torch.bool and not tensor.is_floating_point() and not tensor.is_complex()
    if not integer and tensor.numel():  # an empty list becomes a float tensor, and has nothing wrong in it
        raise TypeError(f"{name} must be whole numbers, got {tensor.dtype}")
    return tensor.to("cpu", torch.int64)


def number(value: Any, name: str, low: int, high: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in {low}..{high}, got {value}")
    return value


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(number(seed, "seed", 0, 2**63 - 1))


def check_factors(factors: Tensor) -> Tensor:
    if factors.shape[-1:] != (6,):
        raise ValueError(f"factors must have the shape (..., 6): {', '.join(FACTORS)}; got {tuple(factors.shape)}")
    for k, (name, size) in enumerate(FACTORS.items()):
        column = factors[..., k]
        if column.numel() and (column.min() < 0 or column.max() >= size):
            raise ValueError(
                f"factors: {name} must lie in 0..{size - 1}, got {int(column.min())} .. {int(column.max())}"
            )
    return factors


def as_values(factors: Any) -> Tensor:
    """Factor values float64 (N, 6) from indices or values, checked."""
    factors = torch.as_tensor(factors)
    if factors.ndim != 2 or factors.shape[1] != 6:
        raise ValueError(f"factors must have the shape (N, 6): {', '.join(FACTORS)}; got {tuple(factors.shape)}")
    if not factors.is_floating_point():
        return factor_values(factors)
    values = factors.detach().to("cpu", torch.float64)
    for k, (name, grid) in enumerate(zip(FACTORS, GRID, strict=True)):
        low, high = (0.0, 1.0) if name.endswith("hue") else (float(grid[0]), float(grid[-1]))
        column = values[:, k]
        if len(column) and not (column.min() >= low - 1e-6 and column.max() <= high + 1e-6):
            raise ValueError(
                f"factors: floating-point numbers are factor values, and {name} must then lie in {low:g} .. {high:g}, got "
                f"{float(column.min()):g} .. {float(column.max()):g}; pass factor indices as integers"
            )
    if (values[:, 4] != values[:, 4].round()).any():
        raise ValueError(
            f"factors: shape must be a whole number, {', '.join(f'{k} {s}' for k, s in enumerate(SHAPES))}"
        )
    return values


def check_layout(layout: Layout, n: int) -> Layout:
    if not isinstance(layout, Layout):
        raise TypeError(f"layout must be a Layout, as random_layout returns it, got {type(layout).__name__}")
    layout = Layout(*(torch.as_tensor(x).to("cpu") for x in layout))
    for name, x in zip(Layout._fields, layout, strict=True):
        if x.shape != (n,):
            raise ValueError(f"layout.{name} must have the shape ({n},), one entry a picture, got {tuple(x.shape)}")
    if n and not (layout.zoom.min() > 0 and layout.zoom.max() <= 1):
        raise ValueError(
            f"layout.zoom must lie in (0, 1], got {float(layout.zoom.min()):g} .. {float(layout.zoom.max()):g}"
        )
    for name in ("shift_x", "shift_y"):
        if not (getattr(layout, name).abs() <= 1 - layout.zoom + 1e-5).all():
            raise ValueError(f"layout.{name} must be at most 1 - zoom in size: the window must lie inside the frame")
    return layout
