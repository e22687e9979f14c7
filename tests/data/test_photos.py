"""Folders of real files, made on the spot: what becomes of each kind, with pixels known by hand."""

import errno
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdlib import files as fdlib_files
from fdlib.data import photos
from fdlib.data.photos import ArrayImages, ImageFolder
from fdlib.images import from_uint8, to_uint8

FLOWERS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "flowers17_64.npz"

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture(colour=RED, width=20, height=20, mode="RGB"):
    return Image.new(mode, (width, height), colour)


def one(folder, **options):
    """The single image of a folder, as uint8 (size, size, 3)."""
    dataset = ImageFolder(folder, progress=False, **{"size": 8, **options})
    assert len(dataset) == 1
    return to_uint8(dataset[0]["image"])


def corners_and_colours(pixels):
    """The colours at the four corners, clockwise from the upper left."""
    return [tuple(int(v) for v in pixels[y, x]) for y, x in ((0, 0), (0, -1), (-1, -1), (-1, 0))]


@pytest.fixture
def quarters():
    """8x8 pixels: red, green, blue, white, clockwise from the upper left."""
    pixels = np.empty((8, 8, 3), np.uint8)
    pixels[:4, :4], pixels[:4, 4:], pixels[4:, 4:], pixels[4:, :4] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


# ---------------------------------------------------------------------- the sample


def test_a_sample_and_a_batch(tmp_path):
    for i, colour in enumerate([RED, GREEN, BLUE]):
        picture(colour).save(tmp_path / f"{i}.png")
    dataset = ImageFolder(tmp_path, size=8)
    sample = dataset[1]
    assert sample["index"] == 1 and type(sample["index"]) is int
    assert sample["image"].dtype == torch.float32 and sample["image"].shape == (3, 8, 8)
    assert sample["image"][:, 0, 0].tolist() == [-1, 1, -1]
    assert dataset[-1]["index"] == 2
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=3)))
    assert batch["image"].shape == (3, 3, 8, 8) and batch["index"].tolist() == [0, 1, 2]
    assert torch.equal(batch["image"], dataset.batch([0, 1, 2])["image"])
    assert torch.equal(batch["image"][2], dataset[2]["image"])
    for wrong in (3, -4):
        with pytest.raises(IndexError, match="out of range for 3 images"):
            dataset[wrong]


def test_pixels_of_the_right_size_are_not_touched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for crop in ("centre", "stretch", "pad"):
        assert np.array_equal(one(tmp_path, crop=crop), pixels)


def test_order_is_that_of_the_relative_path_in_every_folder_depth(tmp_path):
    names = ["b/2.png", "a.png", "b/10.png", "ü mit Leer zeichen/日本.png", "b.png", "c/d/e/f.PNG"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / name)
    assert ImageFolder(tmp_path, size=8, workers=3).files == sorted(names)
    assert ImageFolder(tmp_path, size=8, recursive=False).files == ["a.png", "b.png"]


def test_hidden_files_and_circles_of_links(tmp_path):
    (tmp_path / ".thumbnails").mkdir()
    picture().save(tmp_path / ".thumbnails" / "a.png")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "deep").mkdir()
    picture().save(tmp_path / "deep" / "a.png")
    try:
        (tmp_path / "deep" / "circle").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no symbolic links")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ImageFolder(tmp_path, size=8).files == ["deep/a.png"]


# ---------------------------------------------------------------------- kinds of pictures


def test_exif_orientation_turns_the_picture(tmp_path, quarters):
    # 6: the camera was held upright, the stored picture must be turned clockwise by 90 degrees to look right
    expected = {
        1: [RED, GREEN, BLUE, WHITE],
        3: [BLUE, WHITE, RED, GREEN],
        6: [WHITE, RED, GREEN, BLUE],
        2: [GREEN, RED, WHITE, BLUE],
    }
    for orientation, colours in expected.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        quarters.resize((64, 64), Image.Resampling.NEAREST).save(
            tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0
        )
        seen = np.array(corners_and_colours(one(tmp_path)), int)
        assert np.abs(seen - np.array(colours)).max() <= 6, orientation  # JPEG's rounding


def test_damaged_exif_beside_sound_pixels_is_ignored(tmp_path):
    picture(BLUE).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff", quality=100)
    assert np.abs(one(tmp_path).astype(int) - BLUE).max() <= 3


def test_cmyk(tmp_path):
    picture((0, 255, 255, 0), mode="CMYK").save(tmp_path / "a.jpg", quality=100)  # no cyan, all magenta and yellow
    assert np.abs(one(tmp_path).astype(int) - RED).max() <= 4


def test_grey_and_black_and_white(tmp_path):
    picture(77, mode="L").save(tmp_path / "a.png")
    picture(1, mode="1").save(tmp_path / "b.png")
    dataset = ImageFolder(tmp_path, size=8)
    assert dataset.images[0, 3, 3].tolist() == [77, 77, 77] and dataset.images[1, 3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    # 65535 -> 255, 257 v -> v, half of it -> 128 (rounded); Pillow's own conversion makes all of these 255
    for value, expected in {0: 0, 257: 1, 32768: 128, 257 * 200: 200, 65535: 255}.items():
        Image.fromarray(np.full((20, 20), value, np.uint16)).save(tmp_path / f"a.{suffix}")
        assert np.array_equal(np.unique(one(tmp_path)), [expected])


def test_float_pictures(tmp_path):
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / "a.tif")
    assert np.array_equal(np.unique(one(tmp_path)), [128])
    Image.fromarray(np.full((20, 20), 300.0, np.float32)).save(tmp_path / "b.tif")
    with pytest.warns(UserWarning, match=r"b\.tif \(float pixels 300 \.\. 300 are not in \[0, 1\]\)"):
        assert len(ImageFolder(tmp_path, size=8)) == 1


def test_transparency_lies_on_white(tmp_path):
    picture((255, 0, 0, 51), mode="RGBA").save(tmp_path / "a.png")  # a fifth red: (255, 204, 204)
    assert one(tmp_path)[4, 4].tolist() == [255, 204, 204]
    (tmp_path / "a.png").unlink()
    picture((0, 0), mode="LA").save(tmp_path / "b.png")
    assert one(tmp_path)[4, 4].tolist() == [255, 255, 255]


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.paste(1, (4, 0, 8, 8))
    image.save(tmp_path / "a.png", transparency=0)
    assert corners_and_colours(one(tmp_path)) == [WHITE, GREEN, GREEN, WHITE]


def test_an_animation_gives_its_first_frame(tmp_path):
    picture(BLUE).save(tmp_path / "a.gif", save_all=True, append_images=[picture(RED), picture(GREEN)], duration=100)
    assert one(tmp_path)[4, 4].tolist() == list(BLUE)


# ---------------------------------------------------------------------- sizes


def test_crops(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)  # three squares side by side: red, green, blue
    pixels[:, :20], pixels[:, 20:40], pixels[:, 40:] = RED, GREEN, BLUE
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(np.unique(one(tmp_path, crop="centre", size=20).reshape(-1, 3), axis=0), [GREEN])
    stretched = one(tmp_path, crop="stretch", size=20)
    assert [stretched[10, x].tolist() for x in (1, 10, 18)] == [list(RED), list(GREEN), list(BLUE)]
    padded = one(tmp_path, crop="pad", size=60)
    assert np.array_equal(padded[20:40], pixels)  # whole and untouched in the middle
    assert (padded[:20] == 255).all() and (padded[40:] == 255).all()


def test_reduction_averages_instead_of_picking_pixels(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # a checkerboard of single pixels: grey from afar
    Image.fromarray(board).save(tmp_path / "a.png")
    assert np.abs(one(tmp_path, size=8).astype(int) - 127.5).max() < 4


def test_very_flat_and_very_small_pictures(tmp_path):
    picture(RED, width=3000, height=1).save(tmp_path / "flat.png")
    picture(RED, width=1, height=1).save(tmp_path / "dot.png")
    for crop in ("centre", "stretch", "pad"):
        dataset = ImageFolder(tmp_path, size=8, crop=crop)
        assert len(dataset) == 2 and (dataset.images[0] == RED).all()


def test_large_jpeg_decoded_small_looks_like_the_full_one(tmp_path):
    y, x = np.mgrid[0:512, 0:512] / 511
    scene = np.stack([x, y, np.sin(9 * x) / 2 + 0.5], -1)
    Image.fromarray((scene * 255).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    full = np.asarray(Image.open(tmp_path / "a.jpg").resize((16, 16), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(one(tmp_path, size=16) - full).max() <= 3


# ---------------------------------------------------------------------- what is no picture


@pytest.fixture
def mixed(tmp_path):
    """Two good pictures and four files that give none."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8))
    noise.save(folder / "good.jpg")
    picture(GREEN).save(folder / "zz.png")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:4000])
    (folder / "text.jpg").write_text("no picture at all")
    (folder / "empty.png").touch()
    damaged = bytearray((folder / "zz.png").read_bytes())
    damaged[damaged.index(b"IDAT") + 8] ^= 0xFF
    (folder / "damaged.png").write_bytes(damaged)
    return folder


def test_unreadable_files_are_named_counted_and_skipped(mixed):
    with pytest.warns(UserWarning, match="4 of 6 files in .* were skipped") as caught:
        dataset = ImageFolder(mixed, size=8)
    assert dataset.files == ["good.jpg", "zz.png"] and len(dataset) == 2
    assert dataset[1]["image"][:, 0, 0].tolist() == [-1, 1, -1]  # the index skips over the gaps
    reasons = dict(dataset.skipped)
    assert sorted(reasons) == ["cut.jpg", "damaged.png", "empty.png", "text.jpg"] and all(reasons.values())
    assert "truncated" in reasons["cut.jpg"] and reasons["text.jpg"] == "not a picture of a known format"
    message = str(caught[0].message)
    assert len(caught) == 1 and all(name in message for name in reasons)
    assert caught[0].filename == __file__  # the warning points at the caller


def test_only_five_of_many_are_printed(tmp_path):
    picture().save(tmp_path / "good.png")
    for i in range(7):
        (tmp_path / f"{i}.jpg").write_text("x")
    with pytest.warns(UserWarning, match="and 2 more") as caught:
        assert len(ImageFolder(tmp_path, size=8).skipped) == 7
    assert "6.jpg" not in str(caught[0].message)


def test_a_decompression_bomb_is_skipped(tmp_path, monkeypatch):
    picture().save(tmp_path / "good.png")

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)  # 2.5 gigapixels in 70 bytes
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.warns(UserWarning, match="bomb.png"):
        assert ImageFolder(tmp_path, size=8).files == ["good.png"]
    (tmp_path / "bomb.png").unlink()
    picture(width=30, height=30).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)  # Pillow itself only warns up to twice its limit
    with pytest.warns(UserWarning, match="30x30 pixels are more than PIL.Image.MAX_IMAGE_PIXELS = 600"):
        assert ImageFolder(tmp_path, size=8).files == ["good.png"]


def test_no_program_is_started_for_postscript(tmp_path, monkeypatch):
    picture().save(tmp_path / "good.png")
    picture().save(tmp_path / "drawing.eps")
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.warns(UserWarning, match="drawing.eps"):
        assert len(ImageFolder(tmp_path, size=8)) == 1


def test_broken_link_and_pipe(tmp_path):
    picture().save(tmp_path / "good.png")
    try:
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
        os.mkfifo(tmp_path / "pipe.png")
    except (OSError, AttributeError):
        pytest.skip("this system makes no links or pipes")
    with pytest.warns(UserWarning, match=r"1 of 2 files.*gone\.png"):
        assert len(ImageFolder(tmp_path, size=8)) == 1


def test_a_name_that_is_no_text_can_be_reported(tmp_path, capsys):
    picture().save(tmp_path / "good.png")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.jpg")).write_text("x")
    except OSError:
        pytest.skip("this file system wants names that are text")
    with pytest.warns(UserWarning) as caught:
        ImageFolder(tmp_path, size=8, cache=tmp_path / "cache")
    print(str(caught[0].message))


def test_folders_without_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing"):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds no files"):
        ImageFolder(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        ImageFolder(tmp_path / "notes.txt")
    for cache in (False, tmp_path / "cache"):
        with pytest.raises(
            ValueError, match=r"holds no readable picture: all 1 files were skipped, notes\.txt because"
        ):
            ImageFolder(tmp_path, cache=cache)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 8.0}, {"size": True}, {"crop": "center"}, {"workers": 0}])
def test_wrong_options_are_named(tmp_path, wrong):
    picture().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImageFolder(tmp_path, **wrong)


# ---------------------------------------------------------------------- the cache


def count_decodes(monkeypatch):
    calls = []
    real = photos.open_picture
    monkeypatch.setattr(photos, "open_picture", lambda path, *rest: calls.append(path) or real(path, *rest))
    return calls


@pytest.mark.filterwarnings("ignore:4 of 6 files")
def test_cache_is_used_the_second_time_and_equal(mixed, tmp_path, monkeypatch):
    plain = ImageFolder(mixed, size=8)
    first = ImageFolder(mixed, size=8, cache=tmp_path / "cache")
    calls = count_decodes(monkeypatch)
    with pytest.warns(UserWarning, match="4 of 6 files"):  # said again each time
        second = ImageFolder(mixed, size=8, cache=tmp_path / "cache")
    assert calls == []
    for cached in (first, second):
        assert isinstance(cached.images, np.memmap)
        assert np.array_equal(plain.images, cached.images)
        assert (plain.files, plain.skipped) == (cached.files, cached.skipped)
    assert torch.equal(plain[1]["image"], second[1]["image"])


@pytest.mark.filterwarnings("ignore:4 of 6 files")
def test_cache_follows_files_and_options(mixed, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    ImageFolder(mixed, size=8, cache=cache)
    calls = count_decodes(monkeypatch)
    ImageFolder(mixed, size=9, cache=cache)
    assert len(calls) == 6
    ImageFolder(mixed, size=8, crop="pad", cache=cache)
    assert len(calls) == 12
    os.utime(mixed / "zz.png", (1, 1))
    ImageFolder(mixed, size=8, cache=cache)
    assert len(calls) == 18


@pytest.mark.parametrize("damage", ["truncated", "bit", "no description", "bad description"])
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    picture(RED).save(tmp_path / "a.png")
    cache = tmp_path / "cache"
    ImageFolder(tmp_path, size=8, cache=cache)
    pixels, description = next(cache.glob("*.npy")), next(cache.glob("*.json"))
    content = pixels.read_bytes()
    if damage == "truncated":
        pixels.write_bytes(content[:-10])
    elif damage == "bit":
        pixels.write_bytes(content[:-1] + b"\x07")
    elif damage == "bad description":
        description.write_text("{")
    else:
        description.unlink()
    if damage == "no description":  # a process was killed between the two: nothing is wrong, only unfinished
        again = ImageFolder(tmp_path, size=8, cache=cache)
    else:
        with pytest.warns(UserWarning, match=r"cache .* is damaged .*building it again"):
            again = ImageFolder(tmp_path, size=8, cache=cache)
    assert (again.images == RED).all() and pixels.read_bytes() == content
    assert len(list(cache.iterdir())) == 2


def test_cache_true_is_the_library_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLIB_CACHE", str(tmp_path / "library"))
    (tmp_path / "pictures").mkdir()
    picture().save(tmp_path / "pictures" / "a.png")
    ImageFolder(tmp_path / "pictures", size=8, cache=True)
    assert len(list((tmp_path / "library").glob("photos-*.npy"))) == 1


def test_cache_within_the_folder_is_not_read_as_pictures(tmp_path):
    picture().save(tmp_path / "a.png")
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert ImageFolder(tmp_path, size=8, cache=tmp_path / "cache").files == ["a.png"]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    with pytest.raises(ValueError, match="cannot be the folder of pictures itself"):
        ImageFolder(tmp_path, size=8, cache=tmp_path)


def test_full_disk_names_folder_and_bytes_and_leaves_nothing(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")
    cache = tmp_path / "cache"
    monkeypatch.setattr(fdlib_files, "free_bytes", lambda folder: 100)
    with pytest.raises(fdlib_files.DiskFull) as caught:  # 8 * 8 * 3 and the header do not fit: refused before decoding
        ImageFolder(tmp_path, size=8, cache=cache)
    assert str(cache) in str(caught.value) and "1,216 bytes" in str(caught.value)
    assert list(cache.iterdir()) == []

    monkeypatch.undo()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(photos, "_write_header", full)
    with pytest.raises(fdlib_files.DiskFull, match="1,216 bytes"):
        ImageFolder(tmp_path, size=8, cache=cache)
    assert list(cache.iterdir()) == []


def test_a_mapped_file_goes_to_workers_by_name(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        picture((i, 0, 0), 64, 64).save(folder / f"{i}.png")
    mapped = ImageFolder(folder, size=64, cache=tmp_path / "cache")
    sent = pickle.dumps(mapped)
    assert len(sent) < 2000 < mapped.images.nbytes
    assert torch.equal(pickle.loads(sent)[3]["image"], mapped[3]["image"])
    in_memory = pickle.loads(pickle.dumps(ImageFolder(folder, size=64)))
    assert torch.equal(in_memory[3]["image"], mapped[3]["image"])


# ---------------------------------------------------------------------- arrays


def test_arrays_of_both_kinds_give_the_same_samples():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    from_pixels, from_floats = ArrayImages(pixels), ArrayImages(from_uint8(pixels).double())
    assert len(from_pixels) == 5
    for dataset in (from_pixels, from_floats, ArrayImages(torch.from_numpy(pixels))):
        sample = dataset[3]
        assert sample["image"].dtype == torch.float32 and sample["image"].shape == (3, 6, 7)
        assert np.array_equal(to_uint8(sample["image"]), pixels[3])
        assert torch.equal(dataset.batch(torch.tensor([4, -2]))["index"], torch.tensor([4, 3]))


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (np.zeros((2, 4, 4, 3), np.int64), TypeError, "int64"),
        (np.zeros((2, 4, 4, 3), np.float32), TypeError, "torch tensor"),
        ([[0]], TypeError, "list"),
        (np.zeros((2, 3, 4, 4), np.uint8), ValueError, r"\(2, 3, 4, 4\)"),
        (np.zeros((4, 4, 3), np.uint8), ValueError, r"\(4, 4, 3\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), ValueError, "N >= 1"),
        (torch.zeros(2, 4, 4, 3), ValueError, r"float \(N, 3, H, W\)"),
        (torch.full((2, 3, 4, 4), 7.0), ValueError, r"\[-1, 1\]"),
        (torch.full((2, 3, 4, 4), torch.nan), ValueError, r"\[-1, 1\]"),
    ],
)
def test_arrays_that_are_no_images(images, error, match):
    with pytest.raises(error, match=match):
        ArrayImages(images)


def test_array_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=pixels, other=pixels[:2])
    np.save(tmp_path / "a.npy", pixels)
    np.save(tmp_path / "floats.npy", from_uint8(pixels).numpy())
    assert len(ArrayImages.from_file(tmp_path / "a.npz", key="other")) == 2
    for name in ("a.npz", "a.npy", "floats.npy"):
        assert np.array_equal(to_uint8(ArrayImages.from_file(tmp_path / name).batch(range(5))["image"]), pixels), name
    mapped = ArrayImages.from_file(str(tmp_path / "a.npy"))
    assert isinstance(mapped.images, np.memmap)
    assert torch.equal(pickle.loads(pickle.dumps(mapped))[2]["image"], mapped[2]["image"])


def test_array_files_that_are_wrong(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 64, 64, 3), np.uint8), labels=np.zeros(3))
    with pytest.raises(KeyError, match=r"no array 'photos'; it has images, labels"):
        ArrayImages.from_file(tmp_path / "a.npz", key="photos")
    with pytest.raises(FileNotFoundError):
        ArrayImages.from_file(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"\.npz or \.npy"):
        ArrayImages.from_file(tmp_path / "a.h5")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    np.save(tmp_path / "a.npy", np.zeros((3, 64, 64, 3), np.uint8))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    for name in ("cut.npz", "cut.npy", "text.npy", "objects.npy"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            ArrayImages.from_file(tmp_path / name)
    np.save(tmp_path / "wrong.npy", np.zeros((3, 5), np.uint8))
    with pytest.raises(ValueError, match=r"wrong\.npy: .*\(3, 5\)"):
        ArrayImages.from_file(tmp_path / "wrong.npy")


@pytest.mark.skipif(not FLOWERS.exists(), reason="the Flowers-17 photos are not beside this checkout (../shared/data)")
def test_real_photos_as_array_and_as_folder(tmp_path):
    flowers = ArrayImages.from_file(FLOWERS)
    assert len(flowers) == 1160 and flowers[0]["image"].shape == (3, 64, 64)
    for i in range(0, 1160, 100):
        Image.fromarray(flowers.images[i]).save(tmp_path / f"{i:04}.png")
    folder = ImageFolder(tmp_path, size=64)
    assert torch.equal(folder.batch(range(12))["image"], flowers.batch(range(0, 1160, 100))["image"])
