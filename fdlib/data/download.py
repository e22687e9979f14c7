"""Downloading the files of ``fdlib.data.registry``: an interrupted download goes on where it stopped, a wrong file is refused."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fdlib.data.registry import File, Source
from fdlib.files import DiskFull, free_bytes

TIMEOUT_S = 60
BLOCK = 1 << 20


class DownloadError(RuntimeError):
    """A file cannot be downloaded, or is not what the registry says; the message names the fix."""


class Resuming:
    """A downloader for pooch that keeps what it has in NAME.part and asks the server for the rest only."""

    def __init__(self, part: Path):
        self.part = part

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        import requests
        from tqdm.auto import tqdm

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
            if answer.status_code == 416:  # nothing is left to send: the part is whole, or longer than the file
                have_it = answer.headers.get("Content-Range", "").rsplit("/", 1)[-1] == str(have)
                if not have_it:
                    self.part.unlink()
                    raise DownloadError(f"{self.part.name} was longer than {url} and is removed: download again")
            else:
                answer.raise_for_status()
                if answer.status_code != 206:  # a server that cannot go on begins again
                    have = 0
                left = int(answer.headers.get("Content-Length", 0))
                if left > free_bytes(self.part.parent):
                    raise DiskFull(self.part, left)
                bar = tqdm(total=have + left, initial=have, unit="B", unit_scale=True, desc=self.part.stem, delay=1)
                with open(self.part, "ab" if have else "wb") as file, bar:
                    for block in answer.iter_content(BLOCK):
                        file.write(block)
                        bar.update(len(block))
                got = self.part.stat().st_size - have
                if left and got < left:
                    raise OSError(f"the connection ended after {got:,} of {left:,} bytes")
        os.replace(self.part, output_file)


def download(source: Source, folder: Path) -> list[Path]:
    """Have all files of a data set in ``folder``, checked and unpacked; what is there already is checked, not downloaded again.

    Raises:
        DownloadError: the data set must be fetched by hand, a connection failed (what came is kept: run it again), or a file
            is not the one that the registry describes.
        DiskFull: no room.
    """
    import pooch

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for file in source.files:
        path = folder / file.name
        if path.exists() and (wrong := difference(path, file)):
            raise DownloadError(f"{path}: {wrong}. Delete it to download it again")
        if not path.exists() and file.url is None:
            continue
        if not path.exists():
            known = f"sha256:{file.sha256}" if file.sha256 else f"md5:{file.md5}" if file.md5 else None
            try:
                pooch.retrieve(
                    file.url, known, fname=file.name, path=folder, downloader=Resuming(folder / f"{file.name}.part")
                )
            except ValueError as error:  # pooch's word for a wrong checksum; it has removed the file
                raise DownloadError(
                    f"what came from {file.url} is not {file.name} ({error}). A page of the network in between, or the file has "
                    f"changed: see {source.page}"
                ) from error
            except DownloadError:
                raise
            except OSError as error:
                if isinstance(error, DiskFull):
                    raise
                raise DownloadError(
                    f"{file.name} could not be downloaded from {file.url} ({error}). Run the same command again: it goes on "
                    f"where it stopped. If it stays so, see {source.page}"
                ) from error
        if file.unpack:
            _unpack(path, folder)
        paths.append(path)
    if source.manual:
        raise DownloadError(
            f"{source.title} cannot be downloaded without you. {source.manual}\nPage: {source.page}\n"
            f"Then have in {folder}: {source.layout}"
        )
    return paths


def difference(path: Path, file: File) -> str | None:
    """How a file on the disk differs from its entry, None where it does not as far as is known."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"expected {file.size:,} bytes, got {size:,}"
    for name in ("sha256", "md5"):
        wanted = getattr(file, name)
        if wanted:
            with open(path, "rb") as opened:
                found = hashlib.file_digest(opened, name).hexdigest()
            return None if found == wanted else f"expected {name} {wanted}, got {found}"
    return None


def verify(source: Source, folder: Path) -> Iterator[tuple[str, str]]:
    """(file name, "ok" or what is wrong with it) for each file of a data set.

    "no checksum is known" is said where there is none to compare with.
    """
    for file in source.files:
        path = folder / file.name
        if not path.is_file():
            yield file.name, "missing"
        elif wrong := difference(path, file):
            yield file.name, wrong
        else:
            yield file.name, "ok" if file.sha256 or file.md5 else "there; no checksum is known"


def _unpack(path: Path, folder: Path) -> None:
    """Unpack an archive once; a marker beside it says that it was done to the end. Members cannot leave the folder."""
    marker = path.with_name(f".{path.name}.unpacked")
    if marker.exists():
        return
    if path.name.endswith((".tgz", ".tar", ".tar.gz")):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)  # zipfile drops drive letters, leading slashes and ".."
    else:
        return
    marker.touch()
