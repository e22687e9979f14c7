"""Photographs as data sets: any folder of pictures, or an array of them.

Both give ``{"image": float (3, H, W) in [-1, 1], "index": int}``, and "label" where there are classes:

    ImageFolder("holiday/", size=64)                          # every readable picture below the folder
    ArrayImages.from_file("flowers17_64.npz", key="images")   # uint8 (N, H, W, 3) in a file
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from fdlib.data.pictures import Crop, open_picture
from fdlib.denoiser import check_images
from fdlib.files import atomic_write, cache_folder, sha256
from fdlib.images import from_uint8

CACHE_FORMAT = 1  # raise it when decoding changes, so that older caches are not used


class ArrayImages(Dataset):
    """Images that lie in memory, or in a memory-mapped file, as a data set.

    Args:
        images: uint8 (N, H, W, 3), array or tensor; or float tensor (N, 3, H, W) in [-1, 1].
        labels: (N,) a class number for each, if there are any: what a conditional model is trained with.

    Raises:
        TypeError, ValueError: another dtype, shape or range, or no image at all; labels of another number.
    """

    labels: Tensor | None = None

    def __init__(self, images: np.ndarray | Tensor, labels: np.ndarray | Tensor | None = None):
        self._mapped: Path | None = None
        self.images = _check_array(images)
        if labels is not None:
            self.labels = torch.as_tensor(np.array(labels), dtype=torch.int64)
            if self.labels.shape != (len(self.images),):
                raise ValueError(f"labels must be ({len(self.images)},), one an image, got {tuple(self.labels.shape)}")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], key: str = "images") -> ArrayImages:
        """The images of an ``.npz`` file (the array named ``key``) or an ``.npy`` file (memory-mapped, ``key`` unused).

        Raises:
            FileNotFoundError: no such file. KeyError: the file has no array of that name.
            ValueError: not such a file, a truncated one, or an array that holds no images.
        """
        path = Path(path)
        if path.suffix not in (".npz", ".npy"):
            raise ValueError(f"{path} must be an .npz or .npy file")
        try:
            loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
            if path.suffix == ".npz":
                with loaded:
                    names = loaded.files
                    array = loaded[key] if key in names else None
            else:
                array = loaded
        except FileNotFoundError:
            raise
        except Exception as error:  # numpy passes on what zip, zlib and its own header parser raise
            raise ValueError(f"{path} cannot be read as {path.suffix}: is it truncated? ({error})") from error
        if array is None:
            raise KeyError(f"{path} has no array {key!r}; it has {', '.join(names) or 'none'}: pass one as key")
        try:
            dataset = cls(torch.from_numpy(np.array(array)) if array.dtype.kind == "f" else array)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from error
        dataset._mapped = path if isinstance(dataset.images, np.memmap) else None
        return dataset

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"image": (3, H, W) float in [-1, 1], "index": int}; negative indices count from the end."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples of a batch, converted together; torch's DataLoader calls this and collates the list."""
        batch = self.batch(indices)
        batch["index"] = batch["index"].tolist()
        return [dict(zip(batch, row)) for row in zip(*batch.values())]

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """{"image": (B, 3, H, W) float in [-1, 1], "index": (B,) int64, "label" (B,)}, without the detour through samples."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        outside = (index < -len(self)) | (index >= len(self))
        if outside.any():
            raise IndexError(f"index {int(index[outside][0])} is out of range for {len(self)} images")
        index = index % len(self)
        found = self.images[index] if isinstance(self.images, Tensor) else from_uint8(self.images[index.numpy()])
        named = {} if self.labels is None else {"label": self.labels[index]}
        return {"image": found, "index": index, **named}

    def __getstate__(self) -> dict[str, Any]:
        """Hand DataLoader workers the name of a mapped file instead of its contents."""
        return {**self.__dict__, "images": None} if self._mapped else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._mapped:
            self.images = np.load(self._mapped, mmap_mode="r")


class ImageFolder(ArrayImages):
    """Every readable picture of a folder, cut to one size and decoded once, in the order of its relative path.

    Pictures are turned as their EXIF tag says, reduced with an antialiasing filter and made RGB: grey and 16-bit grey
    are repeated over the channels, transparency is laid on white, CMYK is converted without its colour profile, and
    an animation gives its first frame. Hidden files and folders are left out. Files that are no picture, are damaged
    or are suspiciously large (more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels) are skipped, with one warning that
    names them.

    Args:
        folder: where the pictures are.
        size: height and width of the images, in pixels.
        crop: "centre" cuts the largest square from the middle; "stretch" keeps everything and changes the aspect
            ratio; "pad" keeps everything and fills up with white.
        recursive: look into subfolders too.
        workers: threads that decode; by default one a CPU core.
        cache: where to keep the decoded pixels (N * size * size * 3 bytes) for the next time, to be mapped instead of
            held in memory: a folder, or True for `fdlib.files.cache_folder()`. By default they are kept in memory
            only. A change of any file in the folder, or of an option, makes a new cache.
        progress: show a progress bar when decoding takes longer than a second.

    Attributes:
        images: uint8 (N, size, size, 3).
        files: the relative path of each image.
        skipped: (relative path, reason) of each file that gave no image.

    Raises:
        FileNotFoundError, NotADirectoryError: the folder is missing, or is none.
        ValueError: no file in it is a readable picture, or an option is wrong.
        DiskFull: no room for the cache.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: int = 64,
        crop: Crop = "centre",
        recursive: bool = True,
        workers: int | None = None,
        cache: bool | str | os.PathLike[str] = False,
        progress: bool = True,
    ):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be a whole number of pixels >= 1, got {size!r}")
        if crop not in get_args(Crop):
            raise ValueError(f"crop must be one of {', '.join(get_args(Crop))}, got {crop!r}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.folder, self.size, self.crop = Path(folder), size, crop
        self._mapped = None
        store = None
        if cache is not False and cache is not None:
            store = cache_folder() if cache is True else Path(cache).expanduser()
        found = _find_files(self.folder, recursive, store)
        if not found:
            hint = "" if recursive else " (subfolders were left out: recursive=False)"
            raise ValueError(f"{self.folder} holds no files{hint}")
        decoded = _decode_all(self.folder, list(found), size, crop, workers or _cores(), progress)
        if store is None:
            self.images, self.files, self.skipped = _in_memory(decoded, len(found), size)
        else:
            key = {"format": CACHE_FORMAT, "size": size, "crop": crop, "files": sorted(found.items())}
            name = "photos-" + hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]
            self._mapped = store / f"{name}.npy"
            self.images, self.files, self.skipped = _cached(self._mapped, decoded, len(found), size)
        if self.skipped:
            warnings.warn(_describe_skipped(self.folder, self.skipped, len(found)), stacklevel=2)

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.folder)!r}, size={self.size}, crop={self.crop!r}): {len(self)} images"


# ---------------------------------------------------------------------- finding and decoding


def _find_files(folder: Path, recursive: bool, cache: Path | None) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file below the folder, by relative path, sorted; hidden ones left out."""
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; pass the folder of pictures")
    no_entry = cache.resolve() if cache is not None else None
    if no_entry == folder.resolve():
        raise ValueError(f"the cache cannot be the folder of pictures itself ({folder}): choose another")
    found, seen = {}, {no_entry, folder.resolve()}
    for root, folders, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(root, name)
            if not name.startswith("."):
                try:
                    status = path.stat()
                except OSError:  # a broken link: opening it will give the reason
                    found[path.relative_to(folder).as_posix()] = (-1, -1)
                    continue
                if stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                    found[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
        visible = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        folders.clear()
        for name in visible:  # each real folder once: links may form a circle
            real = Path(root, name).resolve()
            if real not in seen:
                seen.add(real)
                folders.append(name)
    return dict(sorted(found.items()))


Decoded = Iterator[tuple[str, np.ndarray | str]]  # relative path, and the pixels (size, size, 3) or why there are none


def _decode_all(folder: Path, names: list[str], size: int, crop: Crop, workers: int, progress: bool) -> Decoded:
    """Decode with several threads (Pillow releases the interpreter lock), in order.

    Raises:
        ValueError: after the last file, if none was a picture.
    """

    def decode(name: str) -> tuple[str, np.ndarray | str]:
        try:
            return name, open_picture(folder / name, size, crop)
        except Exception as error:  # Pillow's plugins raise nearly every kind there is on damaged files
            return name, _reason(error)

    any_picture, first_failure = False, ""
    bar = tqdm(total=len(names), desc="decoding pictures", unit="file", disable=not progress, delay=1, leave=False)
    with bar, ThreadPoolExecutor(workers) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # what matters of these becomes a reason for skipping
        for start in range(0, len(names), 256):  # in portions: the results that wait to be stored are bounded
            for result in pool.map(decode, names[start : start + 256]):
                bar.update()
                reason = result[1]
                if isinstance(reason, str):
                    first_failure = first_failure or f"{_printable(result[0])} because: {reason}"
                else:
                    any_picture = True
                yield result
    if not any_picture:
        raise ValueError(f"{folder} holds no readable picture: all {len(names)} files were skipped, {first_failure}")


def _in_memory(decoded: Decoded, count: int, size: int) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    images = np.empty((count, size, size, 3), np.uint8)
    files, skipped = [], []
    for name, pixels in decoded:
        if isinstance(pixels, str):
            skipped.append((name, pixels))
        else:
            images[len(files)] = pixels
            files.append(name)
    return images[: len(files)], files, skipped


def _cached(path: Path, decoded: Decoded, count: int, size: int) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """The pixels in the file at `path`, which is made if it is missing, and made again if it is damaged.

    A description beside it (.json) is written last and holds the checksum: without it there is no cache.
    """
    description = path.with_suffix(".json")
    if path.exists() and description.exists():
        try:
            saved = json.loads(description.read_text(encoding="ascii"))
            if sha256(path) != saved["sha256"]:
                raise ValueError("its checksum is wrong")
            return np.load(path, mmap_mode="r"), saved["files"], [tuple(pair) for pair in saved["skipped"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"the cache {path} is damaged ({error}): building it again", stacklevel=3)
    files, skipped = [], []
    with atomic_write(path, size=count * size * size * 3 + 1024) as temporary:
        with open(temporary, "wb") as file:
            header = _write_header(file, count, size)
            for name, pixels in decoded:  # plain writes: filling a mapped file on a full disk would kill the process
                if isinstance(pixels, str):
                    skipped.append((name, pixels))
                else:
                    file.write(pixels.tobytes())
                    files.append(name)
            file.seek(0)
            if _write_header(file, len(files), size) != header:
                raise RuntimeError("the .npy header changed its length with the number of images")
        checksum = sha256(temporary)
    with atomic_write(description) as temporary:
        saved = {"sha256": checksum, "files": files, "skipped": skipped}
        temporary.write_text(json.dumps(saved), encoding="ascii")
    return np.load(path, mmap_mode="r"), files, skipped


def _write_header(file, count: int, size: int) -> int:
    """Write the .npy header for `count` images; numpy leaves room in it for the number to change."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


# ---------------------------------------------------------------------- checks and words


def _check_array(images: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """The images as uint8 array (N, H, W, 3) or float32 tensor (N, 3, H, W) in [-1, 1], or an error."""
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        images = images.cpu().numpy()
    if not isinstance(images, (np.ndarray, Tensor)):
        raise TypeError(f"images must be a uint8 array or a float tensor, got {type(images).__name__}")
    if isinstance(images, np.ndarray) and images.dtype != np.uint8:
        raise TypeError(
            f"images must be a uint8 array (N, H, W, 3), got {images.dtype}: float images come as a torch tensor "
            "(N, 3, H, W) in [-1, 1]"
        )
    channels = 3 if isinstance(images, np.ndarray) else 1
    if images.ndim != 4 or images.shape[channels] != 3 or 0 in images.shape:
        expected = "uint8 (N, H, W, 3)" if channels == 3 else "float (N, 3, H, W)"
        raise ValueError(f"images must be {expected} with N >= 1, got the shape {tuple(images.shape)}")
    if isinstance(images, Tensor):
        check_images(images)
        images = images.detach().cpu().float()
    return images


def _describe_skipped(folder: Path, skipped: list[tuple[str, str]], count: int) -> str:
    shown = "; ".join(f"{_printable(name)} ({reason})" for name, reason in skipped[:5])
    more = f"; and {len(skipped) - 5} more, all of them in .skipped" if len(skipped) > 5 else ""
    return f"{len(skipped)} of {count} files in {folder} were skipped: {shown}{more}"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture of a known format"
    return str(error).strip() or type(error).__name__


def _printable(name: str) -> str:
    """A file name may hold bytes that are no text; printing it must not fail."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
