"""Where each data set of the thesis comes from: what to download, how to check it, what it looks like on the disk.

``python -m fdlib.data list`` prints this. Checksums are those that others have published for the files (torchvision, TensorFlow
Datasets, users of the segmentations); where none is known there is none, and ``verify`` says so. Nobody has checked here that the
addresses still answer.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path

from fdlib.files import cache_folder


@dataclass(frozen=True)
class File:
    """A file to download: its address (None where one must log in), its name, bytes and checksums as far as they are known."""

    url: str | None
    name: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    unpack: bool = True


@dataclass(frozen=True)
class Source:
    """A data set: its files, its licence, and the layout that ``fdlib.data.benchmarks`` reads."""

    title: str
    page: str
    licence: str
    layout: str
    files: tuple[File, ...] = field(default=())
    manual: str | None = None
    """What must be done by hand, where no address can be downloaded without an account."""


VGG = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
CALTECH = "https://data.caltech.edu/records"

SOURCES: dict[str, Source] = {
    "flowers102": Source(
        "Oxford Flowers-102 with segmentations (Nilsback and Zisserman 2008)",
        f"{VGG}/index.html",
        "no licence stated; research use",
        "jpg/image_00001.jpg, segmim/segmim_00001.jpg, imagelabels.mat, setid.mat",
        (
            File(f"{VGG}/102flowers.tgz", "102flowers.tgz", md5="52808999861908f626f3c1f4e79d11fa"),
            File(f"{VGG}/102segmentations.tgz", "102segmentations.tgz", md5="51375996b6c4f367a4b9f4492d7ecef5"),
            File(f"{VGG}/imagelabels.mat", "imagelabels.mat", md5="e0620be6f572b9609742df49c70aed4d"),
            File(f"{VGG}/setid.mat", "setid.mat", md5="a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
    ),
    "cub200": Source(
        "Caltech-UCSD Birds-200-2011 with segmentations (Wah et al. 2011)",
        "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        "non-commercial research and education; the photographers keep their rights",
        "CUB_200_2011/{images.txt, train_test_split.txt, image_class_labels.txt, images/}, segmentations/",
        (
            File(
                f"{CALTECH}/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                "CUB_200_2011.tgz",
                1_150_585_339,
                "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            ),
            File(
                f"{CALTECH}/w9d68-gec53/files/segmentations.tgz?download=1",
                "segmentations.tgz",
                sha256="dc77f6cffea0cbe2e41d4201115c8f29a6320ecb04fffd2444f51b8066e4b84f",
            ),
        ),
    ),
    "ffhq": Source(
        "Flickr-Faces-HQ (Karras et al. 2019)",
        "https://github.com/NVlabs/ffhq-dataset",
        "CC BY-NC-SA 4.0; each photograph has a licence of its own",
        "00000.png ... 69999.png in any subfolders, as thumbnails128x128/00000/00000.png",
        manual="The page has a script that downloads thumbnails128x128 (enough for 64 and 128 px) from a shared drive.",
    ),
    "celebamask": Source(
        "CelebAMask-HQ (Lee et al. 2020)",
        "https://github.com/switchablenorms/CelebAMask-HQ",
        "non-commercial research and education",
        "CelebA-HQ-img/0.jpg, CelebAMask-HQ-mask-anno/0/00000_skin.png, CelebA-HQ-to-CelebA-mapping.txt; for the splits also "
        "CelebA's list_eval_partition.txt",
        manual="Download CelebAMask-HQ.zip by hand from the page (a shared drive); list_eval_partition.txt is on CelebA's page.",
    ),
    "imagenet": Source(
        "ImageNet, ILSVRC 2012 (Russakovsky et al. 2015)",
        "https://image-net.org/download.php",
        "non-commercial research and education, after registration",
        "train/n01440764/*.JPEG and val/n01440764/*.JPEG, one folder a class",
        (
            File(
                None,
                "ILSVRC2012_img_train.tar",
                sha256="b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
                md5="1d675b47d978889d74fa0da5fadfb00e",
                unpack=False,
            ),
            File(
                None,
                "ILSVRC2012_img_val.tar",
                sha256="c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
                md5="29b22e2961454d5413ddabcf34fc5622",
                unpack=False,
            ),
        ),
        manual="Register, download both archives, and unpack each class into a folder of its name.",
    ),
    "imagenets": Source(
        "ImageNet-S-919: pixel labels of ImageNet pictures (Gao et al. 2022), in place of Pixel-ImageNet",
        "https://github.com/LUSSeg/ImageNet-S",
        "annotations: see the page; pictures: as ImageNet",
        "validation/n01440764/*.JPEG and validation-segmentation/n01440764/*.png (or train-semi, train-semi-segmentation)",
        manual="The page has a script that builds the folder ImageNetS919 from your ImageNet and downloads the annotations.",
    ),
    "voc2012": Source(
        "PASCAL VOC 2012, train and val (Everingham et al. 2012)",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        "the photographs are Flickr's: its terms of use",
        "VOCdevkit/VOC2012/{JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt}",
        (
            File(
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "VOCtrainval_11-May-2012.tar",
                sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
                md5="6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
    ),
    "davis2017": Source(
        "DAVIS 2017, train and val at 480p (Pont-Tuset et al. 2017)",
        "https://davischallenge.org/davis2017/code.html",
        "BSD for the code; see the page for the videos",
        "DAVIS/{JPEGImages/480p/bear/00000.jpg, Annotations/480p/bear/00000.png, ImageSets/2017/{train,val}.txt}",
        (
            File(
                "https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip",
                "DAVIS-2017-trainval-480p.zip",
            ),
        ),
    ),
    "shapes3d": Source(
        "3D Shapes, the official file (Burgess and Kim 2018)",
        "https://github.com/google-deepmind/3d-shapes",
        "Apache-2.0",
        "3dshapes.h5",
        (
            File(
                "https://storage.googleapis.com/3d-shapes/3dshapes.h5",
                "3dshapes.h5",
                267_573_662,
                "0a0f6ed98baff276a50f3a081a7434d788da63cb135a98189b2a5b5769be1785",
                unpack=False,
            ),
        ),
    ),
}


SCENES = {
    "nerf_synthetic": Source(
        "NeRF's synthetic scenes: lego, drums and six others (Mildenhall et al. 2020)",
        "https://www.matthewtancik.com/nerf",
        "models by artists of Blend Swap, under Creative Commons licences that the archive names",
        "lego/transforms_train.json, lego/train/r_0.png, ...",
        manual="Download nerf_synthetic.zip by hand from the page (a shared drive).",
    ),
    "llff": Source(
        "LLFF's eight forward-facing scenes (Mildenhall et al. 2019)",
        "https://www.matthewtancik.com/nerf",
        "see the page",
        "fern/poses_bounds.npy, fern/images_8/*.png",
        manual="Download nerf_llff_data.zip by hand from the page (a shared drive).",
    ),
    "srn_cars": Source(
        "ShapeNet cars as rendered by Sitzmann et al. (2019)",
        "https://github.com/vsitzmann/scene-representation-networks",
        "ShapeNet's terms: non-commercial research and education",
        "one folder a car: rgb/*.png, pose/*.txt, intrinsics.txt",
        manual="Download cars_train.zip by hand from the page (a shared drive).",
    ),
}
"""Scenes need no preparation: ``scripts/train.py`` reads them as they are (--views.path)."""
SOURCES |= SCENES


def source(name: str) -> Source:
    """The entry of a data set.

    Raises:
        ValueError: no such data set; the nearest names are offered.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(SOURCES)}"
        raise ValueError(f"there is no data set {name!r}: {hint}")
    return SOURCES[name]


def data_folder() -> Path:
    """Where data sets lie: the environment variable FDLIB_DATA, or "data" in ``fdlib.files.cache_folder()``."""
    chosen = os.environ.get("FDLIB_DATA")
    return Path(chosen).expanduser() if chosen else cache_folder() / "data"
