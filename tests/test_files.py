"""Atomic writing: the old file or the whole new one, never something between."""

import errno
import hashlib
import os
import time

import numpy as np
import pytest

from fdlib import files


def listing(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    target = tmp_path / "new" / "folder" / "a.txt"  # parents are made
    for text in ("first", "second"):
        with files.atomic_write(target) as temporary:
            temporary.write_text(text)
            assert temporary.parent == target.parent  # the same file system, or the rename would not be atomic
        assert target.read_text() == text
    assert listing(target.parent) == ["a.txt"]


def test_temporary_name_keeps_the_suffix(tmp_path):
    with files.atomic_write(tmp_path / "array.npy") as temporary:
        np.save(temporary, np.arange(3))  # np.save would append .npy to any other name
    assert np.load(tmp_path / "array.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), files.atomic_write(target) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.txt"), files.atomic_write(tmp_path / "a.txt"):
        pass


def test_too_large_a_file_is_refused_before_the_work(tmp_path):
    entered = False
    with pytest.raises(files.DiskFull) as caught, files.atomic_write(tmp_path / "big.npy", size=10**18):
        entered = True
    assert not entered and listing(tmp_path) == []
    assert "1,000,000,000,000,000,000 bytes" in str(caught.value) and str(tmp_path) in str(caught.value)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("wrapped", [False, True])
def test_no_space_on_the_way_names_folder_and_bytes(tmp_path, wrapped):
    with pytest.raises(files.DiskFull) as caught, files.atomic_write(tmp_path / "a.bin", size=5000) as temporary:
        temporary.write_bytes(b"x" * 100)
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if wrapped:  # as torch.save and HDF5 do
                raise RuntimeError("writer failed") from error
            raise
    assert str(tmp_path) in str(caught.value) and "5,000 bytes" in str(caught.value)
    assert listing(tmp_path) == []


def test_an_error_without_a_number_on_a_full_disk_is_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 0)
    with pytest.raises(files.DiskFull), files.atomic_write(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"x")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3")


def test_leftovers_of_killed_processes_go_but_not_those_in_use(tmp_path):
    old, fresh, other = (tmp_path / f".{name}.partial.pt" for name in ("model[1].aaaa", "model[1].bbbb", "else.cccc"))
    for leftover in (old, fresh, other):
        leftover.write_bytes(b"half")
    for leftover in (old, other):
        os.utime(leftover, (time.time() - 2 * files.STALE_AFTER_S,) * 2)
    with files.atomic_write(tmp_path / "model[1].pt") as temporary:
        temporary.write_bytes(b"whole")
    assert not old.exists() and fresh.exists() and other.exists()


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"fdlib" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"fdlib" * 100_000).hexdigest()


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLIB_CACHE", str(tmp_path / "here"))
    assert files.cache_folder() == tmp_path / "here"
    monkeypatch.delenv("FDLIB_CACHE")
    assert "fdlib" in str(files.cache_folder())
