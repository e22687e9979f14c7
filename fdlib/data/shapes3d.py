"""3D Shapes: 480 000 pictures of an object in a room, rendered on the spot, with the exact label of every pixel.

    data = Shapes3D(size=32, count=10_000, seed=0)
    data[0]                  # {"image": (3, 32, 32) in [-1, 1], "labels": (32, 32), "factors": (6,), "index": int}

The genuine data set (Burgess and Kim 2018, https://github.com/google-deepmind/3d-shapes) is one file, `3dshapes.h5`,
without labels of pixels. Who has it passes its path as `source`; everybody else gets renderings that follow its order:
picture `i` shows the same six factors here and there. `python -m fdlib.data.shapes3d --out FILE.h5` writes a file like it.

The factors, windows and names are in `fdlib.data.shapes3d_factors`, geometry and light in `fdlib.data.shapes3d_renderer`;
what a user needs of both is here.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from fdlib.data.shapes3d_factors import (
    COARSE,
    COUNT,
    FACTORS,
    LABELS,
    SHAPES,
    Layout,
    check_layout,
    close_layout,
    coarse,
    factor_values,
    factors_to_index,
    generator,
    index_to_factors,
    number,
    random_layout,
    split_indices,
    values_to_factors,
    whole,
)
from fdlib.data.shapes3d_renderer import RENDERER_VERSION, Rendering, render
from fdlib.files import atomic_write, cache_folder
from fdlib.images import from_uint8, to_uint8

__all__ = [
    "COARSE", "COUNT", "FACTORS", "LABELS", "SHAPES", "Layout", "Rendering", "Shapes3D", "close_layout", "coarse",
    "factor_values", "factors_to_index", "index_to_factors", "random_layout", "render", "split_indices", "values_to_factors",
    "write_h5",
]  # fmt: skip

BATCH = 256  # pictures rendered, written or read at a time


class Shapes3D(Dataset):
    """Pictures of 3D Shapes, rendered (and cached on disk) or read from the official file.

    Args:
        size: height and width in pixels, at least 8. Pictures of a file are reduced by averaging boxes, so 64, 32, 16, 8.
        indices: which pictures, whole numbers 0..479 999 in any order.
        count: instead of `indices`, this many at random without repetition; without both, 10 000 renderings or the
            whole file.
        seed: of that choice, and of varied layouts.
        layout: "plain", the official camera; "varied", a fixed random window of the frame for each picture
            (`random_layout`); "close", one nearer to the object (`close_layout`); or a `Layout` of your own, one entry a
            picture. All but the first need renderings.
        source: "rendered", or the path of the official `3dshapes.h5` or of a file that `write_h5` made.
        cache: where renderings are kept between runs: True, the folder of `FDLIB_CACHE` or else the user's cache folder; a
            folder; False, in memory only. Files of a source are never copied.

    Items are dicts: "image" float32 (3, size, size) in [-1, 1], "index" int, "factors" int64 (6,), and for renderings
    "labels" uint8 (size, size).

    Raises:
        TypeError, ValueError: a bad argument, by name. FileNotFoundError: no such source. fdlib.files.DiskFull: no room
        for the cache.

    Example: Shapes3D(size=32, indices=[0])[0]["factors"] is [0, 0, 0, 0, 0, 0]: all red, a small cube, -30 degrees.
    """

    def __init__(
        self,
        size: int = 32,
        indices: Sequence[int] | np.ndarray | Tensor | None = None,
        *,
        count: int | None = None,
        seed: int = 0,
        layout: Literal["plain", "varied", "close"] | Layout = "plain",
        source: str | os.PathLike[str] = "rendered",
        cache: bool | str | os.PathLike[str] = True,
    ):
        self.size = number(size, "size", 8, 4096)
        self.file = _H5File(source, self.size) if source != "rendered" else None
        if indices is not None and count is not None:
            raise ValueError("pass indices or count, not both: indices names the pictures, count draws them at random")
        if indices is not None:
            self.indices = whole(indices, "indices").flatten()
            index_to_factors(self.indices)  # checks the range
        else:
            everything = torch.arange(COUNT) if self.file is None else self.file.indices
            if count is None:
                count = 10_000 if self.file is None else len(everything)
            count = number(count, "count", 1, len(everything))
            order = torch.randperm(len(everything), generator=generator(seed))
            whole_file = self.file is not None and count == len(everything)
            self.indices = everything if whole_file else everything[order[:count]]
        if len(self.indices) == 0:
            raise ValueError("indices is empty: name at least one picture")
        self.factors = index_to_factors(self.indices)
        self._layout = _resolve_layout(layout, len(self.indices), seed)
        if self.file is not None:
            if self._layout is not None:
                raise ValueError('layout must be "plain" for pictures of a file: only renderings can move the camera')
            self.file.find(self.indices)  # a missing picture is told now, not in the middle of training
            self._pixels = None
        elif cache is False:
            self._pixels = np.concatenate(list(self._render()))
        elif cache is True or isinstance(cache, (str, os.PathLike)):
            folder = cache_folder() / "shapes3d" if cache is True else Path(cache)
            self._pixels = _cached(folder / f"{self._cache_key()}.npy", len(self), self.size, self._render)
        else:
            raise TypeError(f"cache must be True, False or a folder, got {type(cache).__name__}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """A batch at once, as torch's DataLoader asks for it: one conversion instead of one a picture."""
        positions = self._positions(positions)
        images, labels = self.images(positions), None if self._pixels is None else self.labels(positions)
        items = []
        for k, position in enumerate(positions.tolist()):
            item = {"image": images[k], "index": int(self.indices[position]), "factors": self.factors[position]}
            items.append(item if labels is None else {**item, "labels": labels[k]})
        return items

    def images(self, positions: Sequence[int] | slice | Tensor | None = None) -> Tensor:
        """Pictures as one float32 tensor (N, 3, size, size) in [-1, 1]: all of them, or those at `positions`."""
        positions = self._positions(positions)
        if self._pixels is None:
            return from_uint8(self.file.read(self.indices[positions]))
        return from_uint8(self._pixels[positions.numpy(), ..., :3])

    def labels(self, positions: Sequence[int] | slice | Tensor | None = None) -> Tensor:
        """Labels as one uint8 tensor (N, size, size), indices of `LABELS`. ValueError for a file, which has none."""
        if self._pixels is None:
            raise ValueError('pictures of a file have no labels of pixels: use source="rendered"')
        return torch.from_numpy(self._pixels[self._positions(positions).numpy(), ..., 3].copy())

    def _positions(self, positions: Sequence[int] | slice | Tensor | None) -> Tensor:
        if positions is None or isinstance(positions, slice):
            return torch.arange(len(self))[positions or slice(None)]
        positions = whole(positions, "positions").flatten()
        if positions.numel() and (positions.min() < -len(self) or positions.max() >= len(self)):
            raise IndexError(
                f"positions {int(positions.min())} .. {int(positions.max())} in a set of {len(self)} pictures"
            )
        return positions % len(self)

    def _render(self) -> Iterator[np.ndarray]:
        """Batches of uint8 (B, size, size, 4): the colours and the label of each pixel."""
        bar = tqdm(total=len(self), desc="rendering 3D Shapes", unit="image", delay=2, leave=False)
        with bar:
            for rows in torch.arange(len(self)).split(BATCH):
                layout = None if self._layout is None else Layout(*(x[rows] for x in self._layout))
                made = render(self.factors[rows], self.size, layout)
                yield np.concatenate([to_uint8(made.images), made.labels[..., None].numpy()], axis=-1)
                bar.update(len(rows))

    def _cache_key(self) -> str:
        digest = hashlib.sha256(json.dumps([RENDERER_VERSION, self.size]).encode())
        for tensor in (self.indices, *(self._layout or ())):
            digest.update(tensor.numpy().tobytes())
        return f"{self.size}px-{len(self)}-{digest.hexdigest()[:20]}"


# ---------------------------------------------------------------------- the cache


def _cached(path: Path, count: int, size: int, make: Any) -> np.ndarray:
    """The memory-mapped array in the file at `path`, made if missing, and made again, with a warning, if damaged.

    The file is an .npy followed by the SHA-256 of its bytes: one file, so that two processes cannot mix up theirs.
    """
    shape = (count, size, size, 4)
    if path.exists():
        reason = _damage(path, shape)
        if reason is None:
            return np.load(path, mmap_mode="r")
        warnings.warn(f"the cache {path} is damaged ({reason}): rendering it again", stacklevel=3)
    with atomic_write(path, size=int(np.prod(shape)) + 1024) as temporary, open(temporary, "wb") as file:
        digest = hashlib.sha256()
        np.lib.format.write_array_header_1_0(
            writer := _HashingWriter(file, digest), {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        for batch in make():
            writer.write(batch.tobytes())
        file.write(digest.digest())
    return np.load(path, mmap_mode="r")


class _HashingWriter:
    def __init__(self, file, digest):
        self.file, self.digest = file, digest

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)


def _damage(path: Path, shape: tuple[int, ...]) -> str | None:
    """Why the file is not a whole cache, or None if it is."""
    try:
        digest, left = hashlib.sha256(), path.stat().st_size - 32
        with open(path, "rb") as file:
            while left > 0:
                data = file.read(min(left, 1 << 20))
                digest.update(data)
                left -= len(data)
            if file.read() != digest.digest():
                return "its checksum is wrong"
        if np.load(path, mmap_mode="r").shape != shape:
            return "it holds another array"
    except (OSError, ValueError) as error:
        return str(error)
    return None


# ---------------------------------------------------------------------- the official file


class _H5File:
    """`images` uint8 (N, s, s, 3) and `labels` float64 (N, 6) of an HDF5 file, read where asked.

    An HDF5 handle does not survive a fork (workers of a DataLoader), so each process opens its own, at its first read.
    """

    def __init__(self, source: str | os.PathLike[str], size: int):
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(f'source must be "rendered" or the path of a file, got {type(source).__name__}')
        self.path, self.size = Path(source), size
        if not self.path.is_file():
            advice = (
                "The official 3dshapes.h5 is not downloaded by this library: see https://github.com/google-deepmind/3d-shapes, "
                'or use source="rendered"'
            )
            if self.path.suffix or len(self.path.parts) > 1:
                raise FileNotFoundError(f"source: there is no file {self.path}. {advice}")
            raise ValueError(f'source must be "rendered" or the path of a file, got {str(source)!r}. {advice}')
        self._process, self._handle = -1, None
        file = self._open()
        missing = [name for name in ("images", "labels") if name not in file]
        if missing:
            raise ValueError(
                f"source: {self.path} has no {' and no '.join(map(repr, missing))}, it is not a 3D Shapes file"
            )
        images, labels = file["images"], file["labels"]
        n, side = images.shape[:1], images.shape[1:2]
        if images.dtype != np.uint8 or images.shape != (*n, *side, *side, 3) or labels.shape != (*n, 6):
            raise ValueError(
                f"source: {self.path} must hold images uint8 (N, s, s, 3) and labels (N, 6), as the official file with "
                f"N = {COUNT} and s = 64, got {images.dtype} {images.shape} and {labels.shape}"
            )
        self.box = side[0] // size
        if size * self.box != side[0]:
            possible = [side[0] // k for k in range(1, side[0] // 8 + 1) if side[0] % k == 0]
            raise ValueError(
                f"size must divide the {side[0]} pixels of {self.path}, so be one of {possible}; got {size}"
            )
        try:
            self.indices = factors_to_index(values_to_factors(labels[:]))
        except ValueError as error:
            raise ValueError(f"source: {self.path} has labels that are no factors of 3D Shapes: {error}") from error
        self._order = torch.argsort(self.indices, stable=True)
        self._sorted = self.indices[self._order]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": -1, "_handle": None}

    def find(self, indices: Tensor) -> np.ndarray:
        """The file's rows of these pictures."""
        place = torch.searchsorted(self._sorted, indices).clamp(max=len(self._sorted) - 1)
        absent = self._sorted[place] != indices
        if absent.any():
            raise ValueError(
                f"indices: {int(absent.sum())} of the {len(indices)} pictures are not among the {len(self._sorted)} in "
                f"{self.path}, the first is {int(indices[absent][0])}"
            )
        return self._order[place].numpy()

    def read(self, indices: Tensor) -> np.ndarray:
        """uint8 (N, size, size, 3)."""
        rows, back = np.unique(self.find(indices), return_inverse=True)  # h5py wants increasing rows
        images = self._open()["images"][rows]
        if self.box > 1:
            boxes = images.reshape(len(rows), self.size, self.box, self.size, self.box, 3)
            images = np.rint(boxes.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
        return images[back]

    def _open(self) -> Any:
        if self._process != os.getpid():
            import h5py  # only here: rendering needs it as little as most readers do

            try:
                self._handle = h5py.File(self.path, "r")
            except OSError as error:
                raise ValueError(f"source: {self.path} is not a readable HDF5 file ({error})") from error
            self._process = os.getpid()
        return self._handle


def write_h5(path: str | os.PathLike[str], indices: Tensor, size: int = 64, progress: bool = False) -> None:
    """Write renderings in the official format: `images` uint8 (N, size, size, 3), `labels` float64 (N, 6), the values.

    The file appears when it is complete, or not at all.

    Raises:
        TypeError, ValueError: a bad argument. fdlib.files.DiskFull: no room.

    Example: write_h5("little.h5", torch.arange(480)); Shapes3D(size=64, source="little.h5") reads it.
    """
    import h5py

    factors, size = index_to_factors(indices), number(size, "size", 8, 4096)
    if factors.ndim != 2 or len(factors) == 0:
        raise ValueError(f"indices must be one-dimensional and not empty, got the shape {tuple(factors.shape[:-1])}")
    n, portion = len(factors), min(16, len(factors))
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        images = file.create_dataset(
            "images", (n, size, size, 3), "uint8", chunks=(portion, size, size, 3), compression="gzip"
        )
        file.create_dataset("labels", data=factor_values(factors).numpy())
        with tqdm(total=n, desc=str(Path(path).name), unit="image", disable=not progress) as bar:
            for start in range(0, n, BATCH):
                part = factors[start : start + BATCH]
                images[start : start + len(part)] = to_uint8(render(part, size).images)
                bar.update(len(part))


# ---------------------------------------------------------------------- checks


def _resolve_layout(layout: Any, n: int, seed: int) -> Layout | None:
    if isinstance(layout, Layout):
        return check_layout(layout, n)
    if not isinstance(layout, str) or layout not in ("plain", "varied", "close"):
        raise ValueError(f'layout must be "plain", "varied", "close" or a Layout, got {layout!r}')
    return None if layout == "plain" else {"varied": random_layout, "close": close_layout}[layout](n, generator(seed))


# ---------------------------------------------------------------------- command line


@dataclass
class Options:
    """Render 3D Shapes into a file in the format of the official 3dshapes.h5."""

    out: Path
    """The file to write, FILE.h5. It is replaced if it exists."""
    count: int | None = None
    """Number of pictures, drawn at random without repetition; without it all 480 000, in the official order."""
    size: int = 64
    """Height and width in pixels, 64 in the official file."""
    seed: int = 0
    """Which pictures are drawn."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: `python -m fdlib.data.shapes3d --out FILE.h5 [--count N] [--size 64] [--seed 0]`."""
    import tyro

    options = tyro.cli(Options, args=arguments, prog="python -m fdlib.data.shapes3d")
    try:
        count = COUNT if options.count is None else number(options.count, "--count", 1, COUNT)
        chosen = torch.randperm(COUNT, generator=generator(options.seed))[:count].sort().values
        write_h5(options.out, chosen, options.size, progress=True)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{options.out}: {count} pictures of {options.size} x {options.size} pixels")


if __name__ == "__main__":
    main()
