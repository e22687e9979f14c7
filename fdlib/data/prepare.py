"""One memory-mapped array of a data set's split: decoded once, cut to one size, checked when it is opened.

prepare("flowers102", folder, "train", size=64)  ->  NAME = flowers102-train-64 in ``prepared_folder()``

NAME.npy           uint8 (N, size, size, 3), what training reads
NAME.masks.npy     uint8 (N, size, size) label maps, for scores only; where there are any
NAME.groups.npy    int64 (N,) class (or video) of each picture; where there are any
NAME.json          protocol, class names, file names, what was skipped and why, sizes and SHA-256; written last
"""

from __future__ import annotations

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from fdlib.data.benchmarks import READERS, Listing, listing
from fdlib.data.photos import ArrayImages, _cores, _reason, _write_header
from fdlib.data.pictures import Crop, fit_labels, open_picture
from fdlib.data.registry import data_folder
from fdlib.files import DiskFull, atomic_write, free_bytes, sha256

MANY = 0.01  # the share of pictures that may fail before `prepare` gives up


def prepared_folder() -> Path:
    """Where prepared arrays lie, below ``data_folder()``."""
    return data_folder() / "prepared"


def prepared_name(name: str, split: str | None, size: int) -> str:
    """The file name, without suffix, of a prepared split."""
    splits = READERS[name].splits if name in READERS else ("all",)
    return f"{name}-{split or splits[0]}-{size}"


@dataclass
class Prepared:
    """A prepared split, mapped: images uint8 (N, S, S, 3), masks uint8 (N, S, S) or None, groups int64 (N,) or None; its JSON."""

    images: np.ndarray
    masks: np.ndarray | None
    groups: np.ndarray | None
    about: dict[str, Any]

    def dataset(self, labels: bool = False) -> ArrayImages:
        """The pictures to train on, with the group's number as "label" if asked for. Label maps never come along."""
        data = ArrayImages(self.images, self.groups if labels else None)
        data._mapped = Path(self.images.filename) if isinstance(self.images, np.memmap) else None
        return data


def prepare(
    name: str,
    folder: str | Path,
    split: str | None = None,
    size: int = 64,
    *,
    protocol: str | None = None,
    crop: Crop = "centre",
    to: str | Path | None = None,
    limit: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Decode a split and write its arrays; returns the path of the images' .npy.

    Args:
        name, folder, split, protocol: as for ``benchmarks.listing``.
        size: pixels along a side. crop: as for ``ImageFolder``; "centre" is what ReDO and IEM do with Flower and CUB.
        to: where to write; ``prepared_folder()`` by default.
        limit: only the first so many pictures.
        workers: threads that decode.

    Raises:
        ValueError, FileNotFoundError: see ``benchmarks.listing``; or more than 1 % of the pictures cannot be read.
        DiskFull: no room; found out before anything is decoded.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a whole number of pixels >= 1, got {size!r}")
    if name == "shapes3d":
        return _prepare_shapes3d(Path(folder), size, Path(to or prepared_folder()), limit, progress)
    found = listing(name, folder, split, protocol)
    count = len(found.images) if limit is None else min(limit, len(found.images))
    target = Path(to or prepared_folder()) / f"{prepared_name(name, split, size)}.npy"
    target.parent.mkdir(parents=True, exist_ok=True)
    bytes_each = size * size * (4 if found.labels else 3)
    if count * bytes_each > free_bytes(target.parent):
        raise DiskFull(target, count * bytes_each)
    masks_path, groups_path = target.with_suffix(".masks.npy"), target.with_suffix(".groups.npy")
    target.with_suffix(".json").unlink(missing_ok=True)  # no description, no prepared split
    kept, skipped = [], []
    with atomic_write(target) as images_part:
        with open(images_part, "wb") as images_file:
            masks: list[np.ndarray] = []
            header = _write_header(images_file, count, size)
            for i, (pixels, labels) in _decoded(found, count, size, crop, workers or _cores(), progress):
                if isinstance(pixels, str):
                    skipped.append((str(found.images[i].relative_to(folder)), pixels))
                    continue
                images_file.write(pixels.tobytes())
                kept.append(i)
                if labels is not None:
                    masks.append(labels)
            images_file.seek(0)
            if _write_header(images_file, len(kept), size) != header:
                raise RuntimeError("the .npy header changed its length with the number of images")
        if len(skipped) > MANY * count:
            name_, reason = skipped[0]
            raise ValueError(
                f"{len(skipped)} of {count} pictures of {folder} cannot be read; the first is {name_}: {reason}"
            )
    written = [target]
    if found.labels:
        _save(masks_path, np.stack(masks))
        written.append(masks_path)
    groups = sorted(set(found.groups)) if found.groups else None
    if groups:
        number = {group: k for k, group in enumerate(groups)}
        _save(groups_path, np.array([number[found.groups[i]] for i in kept], np.int64))
        written.append(groups_path)
    about = {
        "name": name,
        "split": split or READERS[name].splits[0],
        "protocol": protocol or READERS[name].protocols[0],
        "crop": crop,
        "size": size,
        "count": len(kept),
        "classes": list(found.classes),
        "groups": groups,
        "files": [str(found.images[i].relative_to(folder)) for i in kept],
        "skipped": skipped,
        "sha256": {path.name: sha256(path) for path in written},
    }
    _describe(target, about)
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {count} pictures were skipped; {target.with_suffix('.json').name} names them",
            stacklevel=2,
        )
    return target


def _prepare_shapes3d(folder: Path, size: int, to: Path, limit: int | None, progress: bool) -> Path:
    """The official 3dshapes.h5 in the file's order: its compressed chunks are slow to read at random."""
    from fdlib.data.shapes3d import BATCH, Shapes3D

    data = Shapes3D(size=size, source=folder / "3dshapes.h5" if folder.is_dir() else folder)
    indices = data.indices[:limit]
    target = to / f"{prepared_name('shapes3d', None, size)}.npy"
    target.with_suffix(".json").unlink(missing_ok=True)
    bar = tqdm(total=len(indices), desc="reading 3D Shapes", unit="image", disable=not progress, delay=1)
    with atomic_write(target, size=len(indices) * size * size * 3 + 1024) as part, open(part, "wb") as file, bar:
        _write_header(file, len(indices), size)
        for some in indices.split(BATCH):
            file.write(data.file.read(some).tobytes())
            bar.update(len(some))
    about = {
        "name": "shapes3d",
        "split": "all",
        "protocol": "official",
        "crop": "averaged boxes",
        "size": size,
        "count": len(indices),
    }
    _describe(target, {**about, "classes": [], "groups": None, "skipped": [], "sha256": {target.name: sha256(target)}})
    return target


def _describe(target: Path, about: dict[str, Any]) -> None:
    """Write the description, last: without it there is no prepared split."""
    with atomic_write(target.with_suffix(".json")) as path:
        path.write_text(json.dumps(about) + "\n")


def open_prepared(path: str | Path, check: bool = False) -> Prepared:
    """What ``prepare`` wrote, by the path of its .npy.

    Args:
        check: compare the checksums too, which reads everything.

    Raises:
        FileNotFoundError: not prepared, or not to the end. ValueError: a damaged file.
    """
    path = Path(path)
    file = path.with_suffix(".json")
    if not path.is_file() or not file.is_file():
        raise FileNotFoundError(f"{path} is not prepared: python -m fdlib.data prepare NAME --split … --size …")
    try:
        about = json.loads(file.read_text())
        arrays = [
            np.load(part, mmap_mode="r", allow_pickle=False) if part.name in about["sha256"] else None
            for part in (path, path.with_suffix(".masks.npy"), path.with_suffix(".groups.npy"))
        ]
        if any(array is not None and len(array) != about["count"] for array in arrays):
            raise ValueError("arrays of another length than its description says")
        for name, wanted in about["sha256"].items() if check else ():
            if sha256(path.with_name(name)) != wanted:
                raise ValueError(f"the checksum of {name} is wrong")
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): prepare it again") from error
    return Prepared(*arrays, about)


def _decoded(found: Listing, count: int, size: int, crop: Crop, workers: int, progress: bool):
    """(number, (pixels, label map or None)) in order; a string in the place of pixels says why there are none."""

    def decode(i: int):
        try:
            pixels = open_picture(found.images[i], size, crop)
            return i, (pixels, fit_labels(found.labels(i), size, crop) if found.labels else None)
        except Exception as error:  # Pillow's plugins raise nearly every kind there is on damaged files
            return i, (_reason(error), None)

    bar = tqdm(total=count, desc="decoding pictures", unit="file", disable=not progress, delay=1)
    with bar, ThreadPoolExecutor(workers) as pool:
        for start in range(0, count, 256):  # in portions: the results that wait to be written are bounded
            for result in pool.map(decode, range(start, min(count, start + 256))):
                bar.update()
                yield result


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as part, open(part, "wb") as file:
        np.save(file, array)
