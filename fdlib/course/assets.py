"""Checkpoints and small fixtures: from the checkout where there is one, else downloaded and checked.

`data/registry.json` lists each file below `data/` with its size and SHA-256, and the base URL to download it from;
the wheel carries a copy among its metadata. `make registry` re-writes it after a checkpoint changed.
"""

from __future__ import annotations

import difflib
import importlib.metadata as metadata
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from fdlib.course.first_cell import REPOSITORY
from fdlib.course.session import checkout
from fdlib.files import atomic_write, cache_folder, sha256

BASE_URL = f"{REPOSITORY}/raw/main/data/"
PREFIXES = ("", "checkpoints/", "fixtures/")  # "shapes32_unet" is short for "checkpoints/shapes32_unet"
NOT_ASSETS = ("registry.json", "README.md")
TIMEOUT_S = 60


class AssetError(RuntimeError):
    """An asset is unknown, cannot be downloaded or is not what the registry says; the message names the fix."""


def asset(name: str) -> Path:
    """The folder or file of an asset on this machine, downloaded first if need be.

    Args:
        name: a folder or file below `data/`, with or without its leading `checkpoints/` or `fixtures/`. All of
            "shapes32_unet", "checkpoints/shapes32_unet" and "checkpoints/shapes32_unet/config.json" work.

    It is looked for, in this order, in the folder `FDLIB_CHECKPOINTS` (your own checkpoints in the shipped ones'
    place), in the `data/` of the checkout, in the `data/` of `FDLIB_SOURCE` where that is a folder, and in the cache
    (`FDLIB_CACHE`). A cached file is checked by size and SHA-256 each time and downloaded again if it was damaged.
    `FDLIB_ASSETS_URL` downloads from another base URL.

    Raises:
        AssetError: no such asset (the nearest names are offered), or the download failed or is not what it should be.
    """
    wanted = _clean(name)
    for root, path in _local_candidates(wanted):
        if path.exists() and path.resolve().is_relative_to(root.resolve()):
            return path

    registry = read_registry()
    key, files = _select(registry["files"], wanted)
    folder = cache_folder() / "assets"
    for file in files:
        _ensure(name, folder / file, _url(registry, file), registry["files"][file])
    return folder / key


def results(study: str) -> Any | None:
    """What the study `benchmarks/{study}.py` has measured, from its file in the checkout's `benchmarks/results/`.

    Where there is none, as in an installed package, it says so and returns None: a chapter goes on without its stored runs.
    """
    file = f"benchmarks/results/{study}.json"
    for base in _checkouts():
        if (base / file).is_file():
            return json.loads((base / file).read_text(encoding="utf-8"))
    print(f"The stored results are in {file} of the source checkout; it is not here.")
    return None


def read_registry() -> dict[str, Any]:
    """The registry: `base_url`, and `files`, which maps each path below `data/` to its `size` and `sha256`."""
    root = checkout()
    if root is not None:
        path = root / "data" / "registry.json"
        text = path.read_text(encoding="utf-8") if path.is_file() else None
    else:
        text = metadata.distribution("fdlib").read_text("extra_metadata/registry.json")
    return json.loads(text) if text else {"base_url": BASE_URL, "files": {}}


def make_registry(data: Path) -> dict[str, Any]:
    """The registry of the files below `data`. Entries of the old one with a `url` of their own are kept as they are."""
    path = data / "registry.json"
    old = json.loads(path.read_text(encoding="utf-8"))["files"] if path.is_file() else {}
    files = {key: entry for key, entry in old.items() if "url" in entry}
    for file in sorted(data.rglob("*")):
        key = file.relative_to(data).as_posix()
        hidden = any(part.startswith((".", "__")) for part in PurePosixPath(key).parts)
        if file.is_file() and not hidden and key not in NOT_ASSETS:
            files[key] = {"size": file.stat().st_size, "sha256": sha256(file)}
    return {"base_url": BASE_URL, "files": dict(sorted(files.items()))}


def update_registry(data: Path) -> bool:
    """Re-write `data`/registry.json from the files; returns whether it changed."""
    path = data / "registry.json"
    text = json.dumps(make_registry(data), indent=2) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


# ---------------------------------------------------------------------------------------------- inside


def _clean(name: str) -> str:
    """`name` as a relative POSIX path; anything that could leave the data folder is refused."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise AssetError(
            f"name: {name!r} is not the name of an asset; give a path below data/, such as 'shapes32_unet'."
        )
    return str(path)


def _local_candidates(wanted: str) -> Iterable[tuple[Path, Path]]:
    """(root, path) pairs at which `wanted` may lie without a download."""
    own = os.environ.get("FDLIB_CHECKPOINTS")
    if own:
        root = Path(own).expanduser()
        yield root, root / wanted.removeprefix("checkpoints/")
    for base in _checkouts():
        if (base / "data").is_dir():
            for prefix in PREFIXES:
                yield base / "data", base / "data" / (prefix + wanted)


def _checkouts() -> Iterable[Path]:
    """Where the course's source may lie on this machine: around this package, and where `FDLIB_SOURCE` says."""
    source = os.environ.get("FDLIB_SOURCE", "")
    return (base for base in (checkout(), Path(source).expanduser() if source else None) if base is not None)


def _select(files: dict[str, Any], wanted: str) -> tuple[str, list[str]]:
    """The registry's path for `wanted` and the files it stands for: itself, or all files below it."""
    for prefix in PREFIXES:
        key = prefix + wanted
        found = [file for file in files if file == key or file.startswith(key + "/")]
        if found:
            return key, found
    names = sorted(_names(files))
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are: {', '.join(names) or 'none yet'}."
    raise AssetError(f"There is no asset {wanted!r}. {hint}")


def _names(files: Iterable[str]) -> set[str]:
    """The names to offer: each checkpoint's and fixture's short name, each single file's path."""
    names = set()
    for file in files:
        for prefix in PREFIXES[1:]:
            if file.startswith(prefix):
                names.add(file.removeprefix(prefix).split("/")[0])
                break
        else:
            names.add(file)
    return names


def _url(registry: dict[str, Any], file: str) -> str:
    base = os.environ.get("FDLIB_ASSETS_URL")
    if base:
        return f"{base.rstrip('/')}/{file}"
    return registry["files"][file].get("url") or f"{registry['base_url'].rstrip('/')}/{file}"


def _ensure(name: str, path: Path, url: str, entry: dict[str, Any]) -> None:
    """Have at `path` the file that `entry` describes, or raise and leave nothing half-written."""
    if path.is_file() and _difference(path, entry) is None:
        return
    import pooch

    damaged = f" The copy in the cache was damaged ({_difference(path, entry)})." if path.is_file() else ""
    with atomic_write(path, size=entry["size"]) as temporary:
        try:
            pooch.HTTPDownloader(timeout=TIMEOUT_S)(url, str(temporary), None)
        except Exception as error:  # requests has a family of its own, urllib3 another; a full disk is told as such
            if _is_local(error):
                raise
            raise AssetError(
                f"Asset {name!r}: {path.name} could not be downloaded from {url} ({_reason(error)}).{damaged} "
                "Check the connection and run the cell again, or point FDLIB_ASSETS_URL at a mirror of data/."
            ) from error
        difference = _difference(temporary, entry)
        if difference is not None:
            raise AssetError(
                f"Asset {name!r}: what came from {url} is not {path.name}: {difference}. Nothing was kept. "
                "A truncated download, or a page of the network in between: run the cell again. If it stays, this "
                f"fdlib is older than the file: upgrade it (pip install --upgrade --no-deps git+{REPOSITORY})."
            )


def _difference(path: Path, entry: dict[str, Any]) -> str | None:
    """How the file differs from the registry's `entry`, or None."""
    size = path.stat().st_size
    if size != entry["size"]:
        return f"expected {entry['size']:,} bytes, got {size:,}"
    actual = sha256(path)
    return None if actual == entry["sha256"] else f"expected SHA-256 {entry['sha256']}, got {actual}"


def _is_local(error: BaseException) -> bool:
    """Whether the error is this machine's (disk, permissions) rather than the network's."""
    import requests

    return isinstance(error, OSError) and not isinstance(error, requests.RequestException) and error.errno is not None


def _reason(error: BaseException) -> str:
    """One line of what went wrong; the network libraries' own messages nest five deep."""
    return f"{type(error).__name__}: {str(error)[:200]}"
