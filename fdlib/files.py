"""Writing files so that a crash, a full disk or a killed process never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STALE_AFTER_S = 3600  # an unfinished file nobody has written to for this long belongs to a process that was killed


class DiskFull(OSError):
    """The disk has no room for a file; the message names the folder and the bytes needed."""

    def __init__(self, path: Path, needed: int | None = None, written: int = 0):
        free = free_bytes(path.parent)
        needs = f"more than {_readable(max(written, free))}" if needed is None else _readable(needed)
        message = (
            f"The disk is full: {path.name} needs {needs}, and {_readable(free)} are free in {path.parent}. "
            "Nothing was left half-written. Free some space or choose another folder "
            "(downloads and caches go where the environment variable FDLIB_CACHE points)."
        )
        super().__init__(errno.ENOSPC, message)

    def __str__(self) -> str:
        return self.strerror


def cache_folder() -> Path:
    """The folder of downloads and computed caches: `FDLIB_CACHE` if set, else the system's cache folder for fdlib."""
    chosen = os.environ.get("FDLIB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch  # only here: the rest of the module needs nothing but the standard library

    return Path(pooch.os_cache("fdlib"))


@contextmanager
def atomic_write(path: str | os.PathLike[str], size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place when the block succeeds and vanishes when it fails.

        with atomic_write("run/checkpoint.pt") as temporary:
            torch.save(state, temporary)

    A reader sees the old file or the whole new one. The temporary name keeps the suffix of `path`, because `np.save`,
    Pillow and matplotlib choose their format by it. Missing parent folders are made.

    Args:
        path: the file to write or replace.
        size: bytes that will be needed, if known: a disk without them fails at once rather than after the work.

    Raises:
        DiskFull: the disk has not, or no longer, the room.
        FileNotFoundError: the block ended without writing the temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    if size is not None and size > free_bytes(path.parent):
        raise DiskFull(path, size)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}.partial{path.suffix}")
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"nothing was written to the temporary file meant for {path}")
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except Exception as error:
        written = temporary.stat().st_size if temporary.exists() else 0
        full = _means_full(error, path.parent)  # asked before the removal frees the space again
        temporary.unlink(missing_ok=True)
        if full and not isinstance(error, DiskFull):
            raise DiskFull(path, size, written) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)  # after KeyboardInterrupt too; already moved away after success


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes that can still be written in `folder`."""
    return shutil.disk_usage(folder).free


def _flush_to_disk(path: Path) -> None:
    """Make the bytes durable before the rename: otherwise a power cut can leave the new name on an empty file."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _means_full(error: BaseException | None, folder: Path) -> bool:
    """Whether `error`, or an error that caused it, says that the disk is full.

    torch, HDF5 and safetensors wrap the system's error in their own, some without its number, hence the last test.
    """
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return free_bytes(folder) < 4096


def _remove_stale(path: Path) -> None:
    """Remove unfinished files of this target that a killed process has left, but none that is being written now."""
    for leftover in path.parent.glob(f".{_escape(path.stem)}.*.partial{_escape(path.suffix)}"):
        try:
            if time.time() - leftover.stat().st_mtime > STALE_AFTER_S:
                leftover.unlink()
        except OSError:
            pass  # another process was faster, or the folder is read-only: the write itself will say so


def _escape(text: str) -> str:
    """Quote the characters that mean something in a glob pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _readable(size: int) -> str:
    """1536 -> '1,536 bytes (0.0 MiB)': exact for a program, readable for a person."""
    return f"{size:,} bytes ({size / 2**20:.1f} MiB)"
