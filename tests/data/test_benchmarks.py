"""Readers of the thesis's data sets, on tiny data in the formats in which they are distributed."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from fdlib.data.benchmarks import CELEBA_HAIR, CELEBA_REST, CELEBA_SKIN, READERS, VOC_CLASSES, listing
from fdlib.data.photos import ArrayImages
from fdlib.data.pictures import IGNORE, fit_labels, open_picture
from fdlib.data.prepare import open_prepared, prepare
from fdlib.data.registry import SCENES, SOURCES

RNG = np.random.default_rng(0)


def picture(path, height=40, width=60, **options):
    """A smooth picture, so that JPEG keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).save(path, **options)


def grey(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def square(value=1, height=40, width=60):
    """A label map with a square in its middle."""
    array = np.zeros((height, width), np.uint8)
    array[10:30, 20:40] = value
    return array


def make_flowers(root, count=9):
    for n in range(1, count + 1):
        picture(root / f"jpg/image_{n:05}.jpg")
        painted = np.full((40, 60, 3), (0, 0, 254), np.uint8)
        painted[10:30, 20:40] = (230, 120, 60)
        (root / "segmim").mkdir(exist_ok=True)
        Image.fromarray(painted).save(root / f"segmim/segmim_{n:05}.jpg", quality=90)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1 + n % 3 for n in range(count)]], np.uint8)})
    savemat(root / "setid.mat", {"trnid": [[1, 2]], "valid": [[3]], "tstid": [list(range(4, count + 1))]})


def make_cub(root):
    cub = root / "CUB_200_2011"
    names = [f"{c:03}.Bird_{c}/Bird_{c}_{i}.jpg" for c in (1, 2) for i in range(3)]
    for name in names:
        picture(cub / "images" / name)
        grey(root / "segmentations" / name.replace(".jpg", ".png"), square(204))  # four of five annotators
    lines = lambda values: "".join(f"{i + 1} {v}\n" for i, v in enumerate(values))  # noqa: E731
    (cub / "images.txt").write_text(lines(names))
    (cub / "train_test_split.txt").write_text(lines([1, 0, 1, 0, 1, 1]))
    (cub / "image_class_labels.txt").write_text(lines([1, 1, 1, 2, 2, 2]))
    (cub / "train_val_test_split.txt").write_text(lines([0, 0, 0, 1, 2, 2]))


def make_ffhq(root):
    for n in (0, 1, 1000, 60000):
        picture(root / f"thumbnails128x128/{n // 1000 * 1000:05}/{n:05}.png", 32, 32)


def make_celebamask(root):
    for n in (0, 1, 2000):
        picture(root / f"CelebA-HQ-img/{n}.jpg", 64, 64)
        anno = root / f"CelebAMask-HQ-mask-anno/{n // 2000}"
        everywhere, top = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
        everywhere[4:28, 4:28], top[4:12, 4:28] = 255, 255
        hat, cloth = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
        hat[:4, :], cloth[24:, :] = 255, 255
        for part, mask in {"skin": everywhere, "hair": top, "nose": everywhere & 0, "hat": hat, "cloth": cloth}.items():
            anno.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).convert("RGB").save(anno / f"{n:05}_{part}.png")
    rows = ["    idx  orig_idx  orig_file", "0  7  000008.jpg", "1  8  000009.jpg", "2000  9  000010.jpg"]
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(rows) + "\n")
    (root / "list_eval_partition.txt").write_text("000008.jpg 0\n000009.jpg 1\n000010.jpg 2\n")


def make_imagenet(root):
    for wnid in ("n01440764", "n01443537"):
        for split, names in {"train": (f"{wnid}_1", f"{wnid}_2"), "val": ("ILSVRC2012_val_00000001",)}.items():
            for name in names:
                picture(root / split / wnid / f"{name}.JPEG", format="JPEG")


def make_imagenets(root):
    for wnid, number in (("n01440764", 1), ("n15075141", 919)):
        picture(root / "validation" / wnid / "ILSVRC2012_val_00000293.JPEG", format="JPEG")
        ids = square().astype(np.int32) * number
        ids[0, :] = 1000
        rgb = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], -1).astype(np.uint8)
        grey(root / "validation-segmentation" / wnid / "ILSVRC2012_val_00000293.png", rgb)


def make_voc(root):
    voc = root / "VOCdevkit/VOC2012"
    for i, name in enumerate(("2007_000033", "2007_000042")):
        picture(voc / f"JPEGImages/{name}.jpg")
        mask = square(1 + i)
        mask[9, :], mask[32:, 12:24] = 255, 2 - i  # a border, and an object of the other class
        image = Image.fromarray(mask, mode="P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [200] * 759)  # the numbers are classes, the colours are not
        (voc / "SegmentationClass").mkdir(exist_ok=True)
        image.save(voc / f"SegmentationClass/{name}.png")
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in {"train": "2007_000033", "val": "2007_000042", "trainval": "2007_000033\n2007_000042"}.items():
        (voc / f"ImageSets/Segmentation/{split}.txt").write_text(names + "\n")


def make_davis(root):
    davis = root / "DAVIS"
    for video, frames in {"bear": 3, "dog": 2}.items():
        for i in range(frames):
            picture(davis / f"JPEGImages/480p/{video}/{i:05}.jpg")
            mask = square(1)
            mask[:5, :5] = 2  # a second object
            image = Image.fromarray(mask, mode="P")
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
            (davis / f"Annotations/480p/{video}").mkdir(parents=True, exist_ok=True)
            image.save(davis / f"Annotations/480p/{video}/{i:05}.png")
    (davis / "ImageSets/2017").mkdir(parents=True)
    (davis / "ImageSets/2017/val.txt").write_text("bear\n")
    (davis / "ImageSets/2017/train.txt").write_text("dog\n")


MAKERS = {
    "flowers102": make_flowers, "cub200": make_cub, "ffhq": make_ffhq, "celebamask": make_celebamask, "imagenet": make_imagenet,
    "imagenets": make_imagenets, "voc2012": make_voc, "davis2017": make_davis,
}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    def make(name):
        root = tmp_path / name
        root.mkdir()
        MAKERS[name](root)
        return root

    return make


# ---------------------------------------------------------------------- each data set


@pytest.mark.parametrize("protocol, counts", [("redo", (6, 1, 2)), ("official", (2, 1, 6))])
def test_flowers(made, protocol, counts):
    root = made("flowers102")
    for split, count in zip(("train", "val", "test"), counts):
        found = listing("flowers102", root, split, protocol)
        assert len(found.images) == len(found.groups) == count
        agreement = (found.labels(0) == square()).mean()
        assert agreement > 0.98 and found.labels(0).dtype == np.uint8, agreement  # but for the JPEG's edges
    test = listing("flowers102", root, "test", "redo")
    assert [path.name for path in test.images] == ["image_00001.jpg", "image_00002.jpg"] and test.groups == ["1", "2"]


def test_cub(made):
    root = made("cub200")
    assert [len(listing("cub200", root, split).images) for split in ("train", "test")] == [4, 2]
    redo = [listing("cub200", root, split, "redo") for split in ("train", "val", "test")]
    assert [len(x.images) for x in redo] == [3, 1, 2]
    assert redo[2].groups == ["002.Bird_2"] * 2
    assert (redo[0].labels(1) == square()).all()
    with pytest.raises(
        ValueError, match="split must be one of train, test for cub200 and protocol='official', got 'val'"
    ):
        listing("cub200", root, "val")


def test_ffhq(made):
    root = made("ffhq")
    assert [len(listing("ffhq", root, split).images) for split in ("all", "train", "val")] == [4, 3, 1]
    assert listing("ffhq", root, "val").images[0].name == "60000.png"


def test_celebamask(made):
    root = made("celebamask")
    assert [listing("celebamask", root, split).images[0].name for split in ("train", "val", "test")] == [
        "0.jpg",
        "1.jpg",
        "2000.jpg",
    ]
    labels = listing("celebamask", root, "test").labels(0)
    assert (labels[14:24, 4:28] == 1).all() and (labels[4:12, 4:28] == 2).all()  # face; hair over it
    assert (
        (labels[:4] == 2).all() and (labels[24:] == 0).all() and (labels[5:23, :4] == 0).all()
    )  # hat; clothes; behind
    assert len(set(CELEBA_SKIN) | set(CELEBA_HAIR) | set(CELEBA_REST)) == 18  # with the background all 19 labels


def test_imagenet(made):
    root = made("imagenet")
    train = listing("imagenet", root)
    assert len(train.images) == 4 and train.labels is None and train.groups == ["n01440764"] * 2 + ["n01443537"] * 2
    assert len(listing("imagenet", root, "val").images) == 2


def test_imagenets(made):
    found = listing("imagenets", made("imagenets"))
    for i in range(2):  # class 919 needs the second byte
        labels = found.labels(i)
        assert (labels[0] == IGNORE).all() and (labels[1:] == square()[1:]).all()


def test_voc(made):
    root = made("voc2012")
    assert [len(listing("voc2012", root, split).images) for split in ("train", "val", "trainval")] == [1, 1, 2]
    labels = listing("voc2012", root, "val").labels(0)
    assert (
        set(np.unique(labels)) == {0, 1, 2, 255}
        and labels[20, 30] == 2
        and VOC_CLASSES[2] == "bicycle"
        and len(VOC_CLASSES) == 21
    )


def test_davis(made):
    root = made("davis2017")
    found = listing("davis2017", root)
    assert found.groups == ["bear"] * 3 and len(listing("davis2017", root, "train").images) == 2
    assert found.labels(0)[0, 0] == 1 and found.labels(0).sum() == 25 + 400


def test_every_reader_has_a_source_and_a_test():
    assert READERS.keys() == MAKERS.keys() == SOURCES.keys() - SCENES.keys() - {"shapes3d"}


# ---------------------------------------------------------------------- one array


@pytest.mark.parametrize("name", MAKERS)
def test_prepare_makes_one_array_of_any_of_them(made, tmp_path, name):
    root = made(name)
    path = prepare(name, root, size=16, to=tmp_path / "out", progress=False)
    found, prepared = listing(name, root), open_prepared(path, check=True)
    assert path.name == f"{name}-{READERS[name].splits[0]}-16.npy"
    assert isinstance(prepared.images, np.memmap) and prepared.images.shape == (len(found.images), 16, 16, 3)
    assert prepared.images.dtype == np.uint8 and prepared.about["protocol"] == READERS[name].protocols[0]
    for i, file in enumerate(found.images):
        assert (prepared.images[i] == open_picture(file, 16)).all()
        if found.labels:
            assert (prepared.masks[i] == fit_labels(found.labels(i), 16)).all()
    if found.groups:
        names = prepared.about["groups"]
        assert names == sorted(set(found.groups)) and [names[g] for g in prepared.groups] == found.groups
    sample = prepared.dataset(labels=bool(found.groups))[0]
    assert sample["image"].shape == (3, 16, 16) and ("label" in sample) == bool(found.groups)
    assert "mask" not in sample and "labels" not in sample
    again = pickle.loads(pickle.dumps(prepared.dataset()))  # as a DataLoader's workers get it: by name, not by content
    assert torch.equal(again[0]["image"], sample["image"]) and len(pickle.dumps(prepared.dataset())) < 1000
    assert isinstance(ArrayImages.from_file(path).images, np.memmap)  # and any other program can map it


def test_prepare_the_official_3d_shapes(tmp_path):
    pytest.importorskip("h5py")
    from fdlib.data.shapes3d import Shapes3D, write_h5
    from fdlib.images import to_uint8

    (tmp_path / "shapes3d").mkdir()
    write_h5(tmp_path / "shapes3d/3dshapes.h5", torch.arange(0, 480_000, 40_000), size=16)
    path = prepare("shapes3d", tmp_path / "shapes3d", size=8, to=tmp_path / "out", progress=False)
    prepared = open_prepared(path, check=True)
    expected = to_uint8(Shapes3D(size=8, source=tmp_path / "shapes3d/3dshapes.h5").images())
    assert path.name == "shapes3d-all-8.npy" and (prepared.images == expected).all() and len(prepared.images) == 12
    with pytest.raises(FileNotFoundError, match=r"3dshapes\.h5"):
        prepare("shapes3d", tmp_path, size=8, to=tmp_path)


def test_masks_are_cut_as_pictures_are(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 10:50] = 1
    assert fit_labels(mask, 20, "centre").all()  # the middle square
    assert fit_labels(mask, 60, "stretch").mean() == pytest.approx(2 / 3)
    padded = fit_labels(mask, 60, "pad")
    assert (padded[:10] == IGNORE).all() and (padded[10:50] == mask).all()


def test_prepare_limits_and_crops(made, tmp_path):
    root = made("voc2012")
    path = prepare("voc2012", root, "trainval", 20, limit=1, crop="stretch", to=tmp_path, progress=False)
    assert open_prepared(path).about["count"] == 1 and open_prepared(path).about["crop"] == "stretch"


def test_a_few_damaged_pictures_are_skipped_and_named(made, tmp_path, monkeypatch):
    root = made("flowers102")
    (root / "jpg/image_00005.jpg").write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"1 of 6 pictures .* cannot be read; the first is jpg/image_00005\.jpg: not a picture"
    ):
        prepare("flowers102", root, size=8, to=tmp_path, progress=False)
    assert not list(tmp_path.glob("*.json"))
    monkeypatch.setattr("fdlib.data.prepare.MANY", 0.5)
    with pytest.warns(UserWarning, match="1 of 6 pictures were skipped"):
        path = prepare("flowers102", root, size=8, to=tmp_path, progress=False)
    prepared = open_prepared(path)
    assert len(prepared.images) == len(prepared.masks) == len(prepared.groups) == 5
    assert prepared.about["skipped"] == [["jpg/image_00005.jpg", "not a picture of a known format"]]


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.with_suffix(".json").unlink(), "is not prepared: python -m fdlib.data prepare"),
    (lambda path: path.write_bytes(path.read_bytes()[:400]), "is damaged"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "checksum of flowers102-train-8.npy is wrong"),
    (lambda path: path.with_suffix(".json").write_text("{"), "is damaged"),
])  # fmt: skip
def test_a_damaged_preparation_is_refused(made, tmp_path, damage, message):
    path = prepare("flowers102", made("flowers102"), size=8, to=tmp_path, progress=False)
    damage(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_prepared(path, check=True)


def test_a_full_disk_is_found_out_before_the_work(made, tmp_path, monkeypatch):
    from fdlib.files import DiskFull

    root = made("voc2012")
    monkeypatch.setattr("fdlib.data.prepare.free_bytes", lambda folder: 100)
    with pytest.raises(DiskFull):
        prepare("voc2012", root, size=64, to=tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name, options, message", [
    ("flower102", {}, "there is no reader 'flower102': did you mean flowers102"),
    ("flowers102", dict(split="dev"), "split must be one of train, val, test for flowers102, got 'dev'"),
    ("flowers102", dict(protocol="mine"), "protocol must be one of redo, official"),
    ("flowers102", dict(size=0), "size must be a whole number of pixels"),
])  # fmt: skip
def test_bad_input(made, tmp_path, name, options, message):
    root = made("flowers102")
    with pytest.raises(ValueError, match=message):
        prepare(name, root, **options, to=tmp_path)


@pytest.mark.parametrize("name, missing", [
    ("flowers102", "setid.mat"), ("flowers102", "segmim"), ("cub200", "segmentations"), ("cub200", "CUB_200_2011/images.txt"),
    ("celebamask", "list_eval_partition.txt"), ("imagenets", "validation-segmentation"),
    ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"), ("davis2017", "DAVIS/ImageSets/2017/val.txt"),
])  # fmt: skip
def test_what_a_folder_lacks_is_named(made, name, missing):
    import shutil

    root = made(name)
    target = root / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(FileNotFoundError, match=missing.split("/")[-1]):
        listing(name, root, "test" if name == "celebamask" else None)


def test_a_missing_split_is_named(made, tmp_path):
    import shutil

    root = made("imagenet")
    shutil.rmtree(root / "val")
    with pytest.raises(FileNotFoundError, match="has no val"):
        listing("imagenet", root, "val")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        listing("imagenet", tmp_path / "nowhere")


def test_labels_of_a_set_of_pictures():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    data = ArrayImages(images, [2, 0, 1])
    assert [row["label"].item() for row in data.__getitems__([0, 1, 2])] == [2, 0, 1]
    assert torch.equal(data.batch([2, 0])["label"], torch.tensor([1, 2])) and "label" not in ArrayImages(images)[0]
    with pytest.raises(ValueError, match=r"labels must be \(3,\), one an image"):
        ArrayImages(images, [1])


# ---------------------------------------------------------------------- the command line


def test_from_the_command_line(made, tmp_path, monkeypatch, capsys):
    from fdlib.data.__main__ import main

    monkeypatch.setenv("FDLIB_DATA", str(tmp_path))
    made("voc2012")
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in SOURCES) and "licence" in listed and "by hand" in listed
    assert main(["prepare", "voc2012", "--size", "16"]) == 0
    assert "1 pictures of 16x16" in capsys.readouterr().out
    assert json.loads((tmp_path / "prepared/voc2012-val-16.json").read_text())["classes"] == list(VOC_CLASSES)
    assert main(["verify", "voc2012"]) == 1  # the archive is not there; the prepared split is
    out = capsys.readouterr().out
    assert "VOCtrainval_11-May-2012.tar: missing" in out and "voc2012-val-16: ok, 1 pictures" in out
    assert "split trainval: 2 pictures" in out
    (tmp_path / "voc2012/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").unlink()
    assert main(["verify", "voc2012"]) == 1 and "split train: " in capsys.readouterr().out
    assert main(["prepare", "llff"]) == 0 and "nothing to prepare" in capsys.readouterr().out
    assert main(["prepare", "voc", "--size", "16"]) == 1
    assert "error: there is no data set 'voc': did you mean voc2012" in capsys.readouterr().err
    assert main(["download", "imagenet"]) == 1
    assert "cannot be downloaded without you. Register" in capsys.readouterr().err
