"""The data sets of the thesis, read as their authors distribute them: which pictures, which pixels are what, which split.

    pictures = listing("flowers102", folder, "test")            # a Listing: files, label maps, class names
    pictures.labels(0)                                          # uint8 (H, W): 0 background, 1 flower

Each reader states the literature's protocol and its source. ``fdlib.data.prepare`` makes one array of what is listed here.

| name | classes of the label maps | splits, and where they are from |
|---|---|---|
| flowers102 | background, flower | ``redo``: train 6149, val 1020, test 1020 (Chen et al. 2019); ``official``: 1020, 1020, 6149 |
| cub200 | background, bird | ``official``: train 5994, test 5794; ``redo``: train, val, test by a file of Chen et al. |
| ffhq | none | all; train (the first 60 000) and val (Karras et al. 2019) |
| celebamask | background, skin, hair | all; train, val, test of CelebA, by its own files |
| imagenet | none; labels are the 1000 classes | train, val |
| imagenets | background, object | train-semi, validation |
| voc2012 | background and 20 classes | train, val, trainval |
| davis2017 | background, object | train, val |

The thesis says that it splits Flower and CUB as Savarese et al. (2021) do, which we could not look up. ReDO's splits (Chen et
al. 2019) are what papers of that line use, but that the two are the same is not verified here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fdlib.data.pictures import IGNORE

CELEBA_SKIN = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip", "neck",
)  # fmt: skip
CELEBA_HAIR = ("hair", "hat")
CELEBA_REST = ("ear_r", "neck_l", "cloth")
"""CelebAMask-HQ's 18 parts (and background) as the thesis's three: skin, hair, background. The thesis prints no table; it says
that "hair" stands for what surrounds the face, so a hat counts as hair; ornaments and clothes count as background."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass
class Listing:
    """Pictures of one split.

    images: the files. labels: ``labels(i)`` is the label map of picture i, uint8 (H, W) in 0 .. len(classes) - 1 or IGNORE; None
    where a data set has none. classes: their names. groups: a name for each picture (its class, its video), or None.
    """

    images: list[Path]
    labels: Callable[[int], np.ndarray] | None = None
    classes: tuple[str, ...] = ()
    groups: list[str] | None = None


@dataclass(frozen=True)
class Reader:
    """How a data set is read: ``read(folder, split, protocol)``; splits and protocols that there are, the usual ones first."""

    read: Callable[[Path, str, str], Listing]
    splits: tuple[str, ...]
    protocols: tuple[str, ...] = ("official",)


def listing(name: str, folder: str | Path, split: str | None = None, protocol: str | None = None) -> Listing:
    """The pictures of a data set's split.

    Args:
        name: one of ``READERS``.
        folder: where the data set was unpacked.
        split: by default the first one of the reader, the one to train on.
        protocol: of splitting; see the table above.

    Raises:
        ValueError: an unknown name, split or protocol. FileNotFoundError: what the folder lacks, and the layout it needs.
    """
    reader = READERS.get(name)
    if reader is None:
        near = difflib.get_close_matches(name, READERS, n=3, cutoff=0.4)
        raise ValueError(f"there is no reader {name!r}: {'did you mean ' if near else ''}{', '.join(near or READERS)}")
    split, protocol = split or reader.splits[0], protocol or reader.protocols[0]
    for what, value, choices in (("split", split, reader.splits), ("protocol", protocol, reader.protocols)):
        if value not in choices:
            raise ValueError(f"{what} must be one of {', '.join(choices)} for {name}, got {value!r}")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: `python -m fdlib.data download {name}` says what it holds"
        )
    found = reader.read(folder, split, protocol)
    if not found.images:
        raise FileNotFoundError(f"{folder}: the split {split!r} of {name} is empty")
    return found


# ---------------------------------------------------------------------- flowers and birds


def flowers102(folder: Path, split: str, protocol: str) -> Listing:
    """setid.mat numbers the pictures of three sets. ReDO trains on the largest, "tstid", and tests on "trnid"; the authors of the
    data set the other way round. Segmented pictures are painted blue, (0, 0, 254), where there is no flower. ReDO takes as
    background a pixel with no red, no green, or a blue of 254; because of the JPEG's noise around that colour we add every pixel
    nearer to it than 90.
    """
    from scipy.io import loadmat

    _need(folder, "setid.mat", "jpg", "segmim", "imagelabels.mat")
    sets = {"redo": ("tstid", "valid", "trnid"), "official": ("trnid", "valid", "tstid")}[protocol]
    key = dict(zip(("train", "val", "test"), sets, strict=True))[split]
    numbers = loadmat(folder / "setid.mat")[key].ravel().tolist()
    classes = loadmat(folder / "imagelabels.mat")["labels"].ravel()

    def labels(i: int) -> np.ndarray:
        painted = _pixels(folder / "segmim" / f"segmim_{numbers[i]:05}.jpg").astype(np.int32)
        red, green, blue = (painted[..., c] for c in range(3))
        exact = (red == 0) | (green == 0) | (blue == 254)
        near = red**2 + green**2 + (blue - 254) ** 2 < 90**2
        return 1 - (exact | near).astype(np.uint8)

    images = [folder / "jpg" / f"image_{n:05}.jpg" for n in numbers]
    return Listing(images, labels, ("background", "flower"), [str(classes[n - 1]) for n in numbers])


def cub200(folder: Path, split: str, protocol: str) -> Listing:
    """Grey masks, the mean of several annotators: bird where more than half (ReDO). "redo" needs Chen et al.'s file
    train_val_test_split.txt (0 train, 1 val, 2 test) beside images.txt: 10 000 pictures to train on, 1 000 to test.
    """
    root = folder / "CUB_200_2011" if (folder / "CUB_200_2011").is_dir() else folder
    file, codes = ("train_test_split.txt", {"train": "1", "test": "0"})
    if protocol == "redo":
        file, codes = "train_val_test_split.txt", {"train": "0", "val": "1", "test": "2"}
    _need(root, "images.txt", file, "images")
    masks = next((m for m in (folder / "segmentations", root / "segmentations") if m.is_dir()), None)
    if masks is None:
        raise FileNotFoundError(f"{folder} has no segmentations/ (the archive segmentations.tgz)")
    if split not in codes:
        raise ValueError(f"split must be one of {', '.join(codes)} for cub200 and protocol={protocol!r}, got {split!r}")
    names = dict(line.split() for line in (root / "images.txt").read_text().splitlines())
    which = dict(line.split() for line in (root / file).read_text().splitlines())
    kept = [name for number, name in names.items() if which.get(number) == codes[split]]

    def labels(i: int) -> np.ndarray:
        with Image.open(masks / Path(kept[i]).with_suffix(".png")) as mask:
            return (np.asarray(mask.convert("L")) > 127).astype(np.uint8)

    return Listing([root / "images" / n for n in kept], labels, ("background", "bird"), [n.split("/")[0] for n in kept])


# ---------------------------------------------------------------------- faces


def ffhq(folder: Path, split: str, protocol: str) -> Listing:
    """Pictures by their numbers; the first 60 000 are the authors' training set."""
    found = {int(path.stem): path for path in folder.rglob("*.png") if path.stem.isdigit()}
    kept = {"all": found, "train": [n for n in found if n < 60_000], "val": [n for n in found if n >= 60_000]}[split]
    return Listing([found[n] for n in sorted(kept)])


def celebamask(folder: Path, split: str, protocol: str) -> Listing:
    """One picture a part, white where the part is; parts are painted in the order skin and other parts of the face, hair (so that
    hair over the face is hair), then what counts as background. Splits are CelebA's, through the mapping file.
    """
    images, masks = folder / "CelebA-HQ-img", folder / "CelebAMask-HQ-mask-anno"
    _need(folder, images.name, masks.name)
    numbers = sorted(int(path.stem) for path in images.glob("*.jpg"))
    if split != "all":
        _need(folder, "CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt")
        partition = dict(line.split() for line in (folder / "list_eval_partition.txt").read_text().splitlines() if line)
        rows = (folder / "CelebA-HQ-to-CelebA-mapping.txt").read_text().splitlines()[1:]
        original = {int(row.split()[0]): row.split()[2] for row in rows if row}
        code = {"train": "0", "val": "1", "test": "2"}[split]
        numbers = [n for n in numbers if partition[original[n]] == code]

    def labels(i: int) -> np.ndarray:
        n, result = numbers[i], None
        for part, value in (
            [(p, 1) for p in CELEBA_SKIN] + [(p, 2) for p in CELEBA_HAIR] + [(p, 0) for p in CELEBA_REST]
        ):
            file = masks / str(n // 2000) / f"{n:05}_{part}.png"
            if file.is_file():
                with Image.open(file) as mask:
                    there = np.asarray(mask.convert("L")) > 127
                result = np.zeros(there.shape, np.uint8) if result is None else result
                result[there] = value
        if result is None:
            raise FileNotFoundError(f"no mask of picture {n} in {masks / str(n // 2000)}")
        return result

    return Listing([images / f"{n}.jpg" for n in numbers], labels, ("background", "skin", "hair"))


# ---------------------------------------------------------------------- ImageNet


def imagenet(folder: Path, split: str, protocol: str) -> Listing:
    """One folder a class, named by its WordNet number; class k is the k-th of the sorted names, as everywhere."""
    _need(folder, split)
    images = _by_class(folder / split, ".JPEG")
    return Listing(images, None, (), [path.parent.name for path in images])


def imagenets(folder: Path, split: str, protocol: str) -> Listing:
    """PNG with a class number R + 256 G: 0 is "other", 1000 is to be ignored. Any class counts as object here, as in the thesis's
    two-class scores on Pixel-ImageNet (whose files we have not seen; it has 946 classes, this one 919).
    """
    _need(folder, split, f"{split}-segmentation")
    images = _by_class(folder / split, ".JPEG")

    def labels(i: int) -> np.ndarray:
        path = images[i]
        mask = _pixels(folder / f"{split}-segmentation" / path.parent.name / f"{path.stem}.png").astype(np.int32)
        number = mask[..., 0] + 256 * mask[..., 1]
        return np.where(number == 1000, IGNORE, (number > 0).astype(np.int32)).astype(np.uint8)

    return Listing(images, labels, ("background", "object"), [path.parent.name for path in images])


# ---------------------------------------------------------------------- VOC and DAVIS


def voc2012(folder: Path, split: str, protocol: str) -> Listing:
    """The pictures with class segmentations; borders and difficult objects are 255, ignored."""
    root = next(
        (r for r in (folder / "VOCdevkit/VOC2012", folder / "VOC2012", folder) if (r / "JPEGImages").is_dir()), folder
    )
    file = root / "ImageSets/Segmentation" / f"{split}.txt"
    _need(root, "JPEGImages", "SegmentationClass", str(file.relative_to(root)))
    names = file.read_text().split()

    def labels(i: int) -> np.ndarray:
        with Image.open(root / "SegmentationClass" / f"{names[i]}.png") as mask:
            return np.asarray(mask).astype(np.uint8)  # a palette picture: its numbers are the classes

    return Listing([root / "JPEGImages" / f"{name}.jpg" for name in names], labels, VOC_CLASSES)


def davis2017(folder: Path, split: str, protocol: str) -> Listing:
    """All frames of the split's videos; any annotated object is "object"."""
    root = folder / "DAVIS" if (folder / "DAVIS").is_dir() else folder
    file = f"ImageSets/2017/{split}.txt"
    _need(root, "JPEGImages/480p", "Annotations/480p", file)
    videos = (root / file).read_text().split()
    images = [path for video in videos for path in sorted((root / "JPEGImages/480p" / video).glob("*.jpg"))]

    def labels(i: int) -> np.ndarray:
        path = images[i]
        with Image.open(root / "Annotations/480p" / path.parent.name / f"{path.stem}.png") as mask:
            return (np.asarray(mask) > 0).astype(np.uint8)

    return Listing(images, labels, ("background", "object"), [path.parent.name for path in images])


READERS = {
    "flowers102": Reader(flowers102, ("train", "val", "test"), ("redo", "official")),
    "cub200": Reader(cub200, ("train", "test", "val"), ("official", "redo")),
    "ffhq": Reader(ffhq, ("all", "train", "val")),
    "celebamask": Reader(celebamask, ("all", "train", "val", "test")),
    "imagenet": Reader(imagenet, ("train", "val")),
    "imagenets": Reader(imagenets, ("validation", "train-semi")),
    "voc2012": Reader(voc2012, ("val", "train", "trainval")),
    "davis2017": Reader(davis2017, ("val", "train")),
}


# ---------------------------------------------------------------------- pieces


def _need(folder: Path, *names: str) -> None:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        from fdlib.data.registry import SOURCES

        layouts = [s.layout for s in SOURCES.values() if any(Path(n).parts[0] in s.layout for n in names)]
        hint = f"; expected there: {layouts[0]}" if layouts else ""
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}{hint}")


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _by_class(folder: Path, suffix: str) -> list[Path]:
    """Pictures in folders of their class, sorted."""
    found: Sequence[Path] = sorted(path for path in folder.glob(f"*/*{suffix}"))
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no folders of {suffix} pictures, one a class: sort the pictures into folders named by class"
        )
    return list(found)
