"""``python -m fdlib.data list | download NAME | verify NAME | prepare NAME``: data sets, from their pages to one array."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from fdlib.data.benchmarks import READERS, listing
from fdlib.data.download import DownloadError, download, verify
from fdlib.data.pictures import Crop
from fdlib.data.prepare import open_prepared, prepare, prepared_folder
from fdlib.data.registry import SCENES, SOURCES, data_folder, source


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fdlib.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is: title, licence, size, layout, where it would lie")
    for name, text in (
        ("download", "download, check and unpack; an interrupted download goes on where it stopped"),
        ("verify", "check downloaded files, and prepared arrays, against their checksums"),
        ("prepare", "decode a split to one uint8 array that training maps into memory"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", help="of the data set, as `list` shows it")
        command.add_argument("--folder", type=Path, help="where the data set lies (FDLIB_DATA/NAME)")
        if name == "prepare":
            command.add_argument("--split", help="train, test, ... (the reader's first)")
            command.add_argument("--size", type=int, default=64, help="pixels along a side (64)")
            command.add_argument("--protocol", help="of splitting: redo or official, where there is a choice")
            command.add_argument(
                "--crop", choices=get_args(Crop), default="centre", help="how to make pictures square (centre)"
            )
            command.add_argument("--to", type=Path, help="where to write (FDLIB_DATA/prepared)")
            command.add_argument("--limit", type=int, help="only the first so many pictures")
    options = parser.parse_args(arguments)
    try:
        return {"list": show, "download": fetch, "verify": check, "prepare": make}[options.command](options)
    except (DownloadError, ValueError, OSError) as error:  # what the user can mend is said in a line
        print(f"error: {error}", file=sys.stderr)
        return 1


def show(options: argparse.Namespace) -> int:
    for name, entry in SOURCES.items():
        folder = data_folder() / name
        size = sum(file.size or 0 for file in entry.files)
        reader = READERS.get(name)
        print(f"{name}: {entry.title}")
        print(
            f"  {'there' if folder.is_dir() else 'not there'}: {folder}{f'  ({size / 2**20:,.0f} MiB)' if size else ''}"
        )
        print(f"  licence: {entry.licence}\n  layout: {entry.layout}\n  page: {entry.page}")
        if reader:
            print(f"  splits: {', '.join(reader.splits)}; protocols: {', '.join(reader.protocols)}")
        if entry.manual:
            print(f"  by hand: {entry.manual}")
    return 0


def fetch(options: argparse.Namespace) -> int:
    entry = source(options.name)
    folder = options.folder or data_folder() / options.name
    print(f"{entry.title}\nlicence: {entry.licence}")
    for path in download(entry, folder):
        print(f"{path} is there and as it should be")
    return 0


def check(options: argparse.Namespace) -> int:
    entry, failed = source(options.name), False
    folder = options.folder or data_folder() / options.name
    for name, verdict in verify(entry, folder):
        failed |= not verdict.startswith(("ok", "there"))
        print(f"{name}: {verdict}")
    for split in READERS[options.name].splits if options.name in READERS and folder.is_dir() else ():
        try:
            print(f"split {split}: {len(listing(options.name, folder, split).images):,} pictures")
        except ValueError:
            continue  # a split that this protocol has not
        except OSError as error:
            failed = True
            print(f"split {split}: {error}")
    for path in sorted(prepared_folder().glob(f"{options.name}-*.json")):
        try:
            prepared = open_prepared(path.with_suffix(".npy"), check=True)
            print(f"{path.stem}: ok, {prepared.about['count']:,} pictures")
        except (ValueError, OSError) as error:
            failed = True
            print(f"{path.stem}: {error}")
    return int(failed)


def make(options: argparse.Namespace) -> int:
    source(options.name)
    folder = options.folder or data_folder() / options.name
    if options.name in SCENES:
        print(f"nothing to prepare: scripts/train.py reads it as it is, --views.path {folder}/...")
        return 0
    path = prepare(
        options.name,
        folder,
        options.split,
        options.size,
        protocol=options.protocol,
        crop=options.crop,
        to=options.to,
        limit=options.limit,
    )
    print(f"{path}: {open_prepared(path).about['count']:,} pictures of {options.size}x{options.size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
