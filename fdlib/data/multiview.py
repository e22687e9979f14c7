"""Pictures of one scene from many sides, with the camera of each: rendered here, or read from the formats that others use.

    data = MultiView.render("car", views=120, size=32, seed=0)       # exact poses, masks and depth; seed=1: other views
    data[0]                       # {"image": (3, 32, 32) in [-1, 1], "c2w": (4, 4), "index": 0}
    data.images, data.c2w, data.focal, data.near, data.far, data.bound

    MultiView.from_blender(folder, "train")    transforms_train.json and PNG: the synthetic scenes of Mildenhall et al. 2020
    MultiView.from_llff(folder)                poses_bounds.npy and images: the forward-facing scenes of Mildenhall et al. 2019
    MultiView.from_srn(folder)                 rgb/, pose/, intrinsics.txt: the ShapeNet cars of Sitzmann et al. 2019
    MultiView.from_npz(file, "train")          arrays: train_premult_rgba, train_c2w, focal

Whatever the file says, here the camera has OpenGL axes (``fdlib.cameras``), the image is square, its centre is the principal
point, and the focal length is in pixels of the image as it is.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fdlib.cameras import check_poses, convert, direction, focal_length, look_at, spherical
from fdlib.data.multiview_renderer import SCENES, Range, render_views
from fdlib.denoiser import check_images

WHITE = 1.0
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
BLENDER_RANGE = (2.0, 6.0)  # near and far of the synthetic scenes, whose cameras are 4.03 from the origin
BLENDER_BOUND = 1.5
SRN_RANGE = (0.8, 1.8)  # of the ShapeNet cars, seen from a sphere of radius 1.3
SRN_BOUND = 0.5


class MultiView(Dataset):
    """Views of one scene. Items are {"image": (3, S, S) in [-1, 1], "c2w": (4, 4), "index": int}.

    Args and attributes:
        images: float (N, 3, S, S) in [-1, 1], on the background; at least two views.
        c2w: camera-to-world matrices (N, 4, 4), OpenGL axes.
        focal: focal length in pixels.
        near, far: distances from the camera between which the scene lies, along rays of length 1.
        bound: half the side of a cube around the origin that holds the scene, for a field that needs one; may be None.
        masks: (N, S, S) in [0, 1], the share of the pixel that the scene covers; None if unknown.
        depth: (N, S, S), distance from the camera along the ray through the pixel's centre, infinite where there is nothing;
            None if unknown.
        background: the grey level, in [0, 1], behind the scene.
        names: one name a view, such as its file; None if there are none.

    Raises:
        TypeError, ValueError: shapes that do not fit, images that are not square or not in [-1, 1], a single view, no poses,
        poses with NaN or whose 3x3 part is no rotation, near >= far.
    """

    def __init__(
        self,
        images: Tensor,
        c2w: Tensor | None,
        focal: float,
        near: float,
        far: float,
        bound: float | None = None,
        masks: Tensor | None = None,
        depth: Tensor | None = None,
        background: float = WHITE,
        names: Sequence[str] | None = None,
    ):
        _check_views(images, c2w, focal, near, far)
        n, size = len(images), images.shape[-1]
        for name, value in (("masks", masks), ("depth", depth)):
            if value is not None and value.shape != (n, size, size):
                raise ValueError(f"{name} must have the shape ({n}, {size}, {size}), got {tuple(value.shape)}")
        if names is not None and len(names) != n:
            raise ValueError(f"names must be {n}, one a view, got {len(names)}")
        self.images, self.c2w, self.focal = images.float(), c2w.to(images.device).float(), float(focal)
        self.near, self.far, self.bound = float(near), float(far), None if bound is None else float(bound)
        self.masks, self.depth, self.background = masks, depth, float(background)
        self.names = None if names is None else list(names)

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # negative indices count from the end; outside, an IndexError
        return {"image": self.images[index], "c2w": self.c2w[index], "index": index}

    def __repr__(self) -> str:
        return f"MultiView({len(self)} views, {self.size}x{self.size}, focal {self.focal:g})"

    def subset(self, indices: Sequence[int] | Tensor) -> MultiView:
        """Some of the views (at least two), in the given order."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        masks, depth = (None if x is None else x[indices] for x in (self.masks, self.depth))
        names = None if self.names is None else [self.names[i] for i in indices.tolist()]
        return self._like(self.images[indices], self.c2w[indices], self.focal, masks, depth, names)

    def resize(self, size: int) -> MultiView:
        """The views at ``size`` pixels, each the mean of a box of old ones; the focal length shrinks with them.

        Masks are averaged too. Depth is the mean over the old pixels that met something.

        Raises:
            ValueError: size does not divide the present size.
        """
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= self.size or self.size % size:
            choices = [s for s in range(4, self.size + 1) if self.size % s == 0]
            raise ValueError(
                f"size must divide {self.size}, so that a pixel is a box of old ones: {choices}; got {size!r}"
            )
        box = self.size // size
        masks = None if self.masks is None else F.avg_pool2d(self.masks[:, None], box)[:, 0]
        depth = None
        if self.depth is not None:
            met = self.depth.isfinite()
            total = F.avg_pool2d(torch.where(met, self.depth, 0.0)[:, None], box)[:, 0]
            depth = torch.where(total > 0, total / F.avg_pool2d(met.to(total)[:, None], box)[:, 0], math.inf)
        return self._like(F.avg_pool2d(self.images, box), self.c2w, self.focal / box, masks, depth, self.names)

    def _like(self, images, c2w, focal, masks, depth, names) -> MultiView:
        return MultiView(images, c2w, focal, self.near, self.far, self.bound, masks, depth, self.background, names)

    # ------------------------------------------------------------------ rendered

    @classmethod
    def render(
        cls,
        scene: str = "car",
        views: int = 120,
        size: int = 32,
        seed: int = 0,
        *,
        azimuth: Range | None = None,
        elevation: Range | None = None,
        radius: float | Range | None = None,
        field_of_view: float | None = None,
        supersample: int = 3,
        background: float = WHITE,
    ) -> MultiView:
        """Views of a procedural scene (``multiview_renderer.SCENES``), from cameras drawn at random.

        Held-out views are those of another seed. 120 views of the car at 32 pixels take about a second.

        Args:
            scene: "car", "tower", "cup", "plane" (objects within the unit ball) or "desk" (forward-facing).
            views: how many, at least 2. size: pixels along a side. seed: of the cameras.
            azimuth, elevation: ranges in radians from which each camera is drawn, uniformly; by default the scene's own, for
                objects all around and .1 to 1 above the horizon.
            radius: distance of the cameras from the origin, a number or a range; 3 for objects.
            field_of_view: in radians; .7 for objects.
            supersample: rays a pixel in each direction, odd.
            background: grey level in [0, 1].

        Raises:
            ValueError: an unknown scene, ranges in degrees, a camera inside the scene, views < 2, an even ``supersample``.
        """
        if scene not in SCENES:
            raise ValueError(f"scene must be one of {', '.join(SCENES)}, got {scene!r}")
        world = SCENES[scene]
        for name, value, low in (("views", views, 2), ("size", size, 4), ("supersample", supersample, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")
        if supersample % 2 == 0:
            raise ValueError(f"supersample must be odd, so that one ray meets the pixel's centre, got {supersample}")
        azimuth = _range("azimuth", azimuth or world.azimuth, -2 * math.pi, 4 * math.pi)
        elevation = _range("elevation", elevation or world.elevation, -math.pi / 2, math.pi / 2)
        radius = world.radius if radius is None else radius
        radius = _range("radius", radius if isinstance(radius, Sequence) else (radius, radius), 0, math.inf)
        behind = (
            2.0 if world.forward_facing else 1.0
        )  # what lies behind the origin, farthest in the corners of a picture
        near, far = radius[0] - 1.0, radius[1] + behind
        if near <= 0:
            raise ValueError(f"radius must be more than 1: the scene reaches that far, got {radius[0]:g}")
        # Each camera has its own five numbers, so that the first views of a longer set are the same.
        drawn = torch.rand(views, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        at = [low + (high - low) * drawn[:, k] for k, (low, high) in enumerate((azimuth, elevation, radius))]
        eye = spherical(*at)
        ahead = direction(sum(world.azimuth) / 2, sum(world.elevation) / 2).to(eye)
        aside = eye - (eye @ ahead)[:, None] * ahead  # how far from the line through the middle of the patch
        target = (1 - world.converge) * aside + world.jitter * (2 * drawn[:, 3:] - 1)
        c2w = look_at(eye, target).float()
        focal = focal_length(world.field_of_view if field_of_view is None else field_of_view, size)
        colour, masks, depth = render_views(world, c2w, size, focal, supersample)
        images = _on_background(colour, masks, background)
        return cls(images, c2w, focal, near, far, world.bound, masks, depth, background)

    # ------------------------------------------------------------------ read

    @classmethod
    def from_blender(
        cls,
        folder: str | os.PathLike[str],
        split: str = "train",
        *,
        size: int | None = None,
        near: float = BLENDER_RANGE[0],
        far: float = BLENDER_RANGE[1],
        bound: float | None = BLENDER_BOUND,
        background: float = WHITE,
    ) -> MultiView:
        """``transforms_{split}.json`` and its pictures: NeRF's synthetic scenes, and what follows their format.

        Args:
            folder: where the JSON file is; the pictures' paths in it are relative to this.
            split: "train", "val", "test", ...
            size: reduce the pictures to so many pixels as they are read (by averaging boxes: size must divide theirs).
            near, far, bound: those of the synthetic scenes, which the format does not hold.
            background: the grey level that transparent pixels are laid on. (PNG colours are not premultiplied.)

        Raises:
            FileNotFoundError: no such split (the message lists those that are there), or missing pictures, counted and named.
            ValueError: damaged JSON, frames without a pose, poses with NaN, pictures that are not square or of several sizes.
        """
        folder = Path(folder)
        file = folder / f"transforms_{split}.json"
        if not file.is_file():
            found = sorted(path.stem.removeprefix("transforms_") for path in folder.glob("transforms_*.json"))
            have = f"it has the splits {', '.join(found)}" if found else "it holds no transforms_*.json at all"
            raise FileNotFoundError(f"{folder} has no split {split!r} ({file.name}): {have}")
        try:
            described = json.loads(file.read_text())
            frames = list(described["frames"])
            paths = [frame["file_path"] for frame in frames]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is no list of frames with a file_path each ({error!r})") from error
        without = [path for path, frame in zip(paths, frames) if "transform_matrix" not in frame]
        if without:
            raise ValueError(f"{file}: images without poses (no transform_matrix): {_few(without)}")
        c2w = _matrices([frame["transform_matrix"] for frame in frames], (4, 4), f"{file}: transform_matrix")
        files = [_with_suffix(folder / path) for path in paths]
        _all_there(files, folder, f"{file.name} names")
        images, masks, full = _read(files, size, background)
        if "camera_angle_x" in described:
            focal = focal_length(float(described["camera_angle_x"]), full)
        elif "fl_x" in described:
            focal = float(described["fl_x"]) * full / float(described.get("w", full))
        else:
            raise ValueError(
                f"{file} has neither camera_angle_x (radians) nor fl_x (pixels): the focal length is unknown"
            )
        focal *= images.shape[-1] / full
        return cls(images, c2w, focal, near, far, bound, masks, None, background, paths)

    @classmethod
    def from_llff(cls, folder: str | os.PathLike[str], *, images: str = "images", size: int | None = None) -> MultiView:
        """``poses_bounds.npy`` and a folder of images (Mildenhall et al. 2019): 17 numbers a view, a 3x5 matrix [R | t | hwf] in
        LLFF's axes (down, right, back) and the nearest and farthest depth.

        Pictures are cut to the square in their middle, which leaves the focal length as it is, and belong to the poses in the
        order of their names. Positions stay in the file's own unit and frame; near and far are .9 and 1.1 times the bounds.

        Args:
            images: the subfolder; a reduced one (``images_8``) is found to be reduced by its size.
            size: reduce the pictures to so many pixels as they are read (size must divide the square's side).

        Raises:
            FileNotFoundError: no poses_bounds.npy, no such subfolder. ValueError: another shape, NaN, more images than poses or
            fewer, several focal lengths.
        """
        folder = Path(folder)
        file = folder / "poses_bounds.npy"
        if not file.is_file():
            raise FileNotFoundError(f"{folder} has no poses_bounds.npy: images without poses are no LLFF scene")
        try:
            rows = np.load(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if rows.ndim != 2 or rows.shape[1] != 17:
            raise ValueError(f"{file} must have the shape (N, 17), got {rows.shape}")
        files = _pictures(folder / images)
        if len(files) != len(rows):
            raise ValueError(
                f"{folder} has {len(rows)} poses and {len(files)} images in {images}/: each image needs its pose"
            )
        matrices = _matrices(rows[:, :15].reshape(-1, 3, 5), (3, 5), f"{file}: poses")
        height, width, focal = matrices[0, :, 4].tolist()
        if not torch.allclose(matrices[:, :, 4], matrices[:1, :, 4]):
            raise ValueError(f"{file}: all views must have one size and focal length")
        c2w = torch.eye(4, dtype=matrices.dtype).repeat(len(rows), 1, 1)
        c2w[:, :3] = matrices[:, :, :4]
        c2w = convert(c2w, "llff", "opengl")
        made, masks, full = _read(files, size, WHITE, crop=True)
        focal *= full / min(height, width)  # of the square as it lies on the disk
        near, far = 0.9 * float(rows[:, 15].min()), 1.1 * float(rows[:, 16].max())
        names = [path.name for path in files]
        return cls(made, c2w, focal * made.shape[-1] / full, near, far, None, masks, None, WHITE, names)

    @classmethod
    def from_srn(
        cls,
        folder: str | os.PathLike[str],
        *,
        size: int | None = None,
        near: float = SRN_RANGE[0],
        far: float = SRN_RANGE[1],
        bound: float | None = SRN_BOUND,
        background: float = WHITE,
    ) -> MultiView:
        """One object of the ShapeNet sets of Sitzmann et al. (2019): ``rgb/*.png``, ``pose/*.txt`` of the same names (16 numbers,
        camera to world, OpenCV axes), and ``intrinsics.txt`` ("focal cx cy 0", two lines, "height width").

        Args:
            size: reduce the pictures to so many pixels as they are read.
            near, far, bound: those of the cars, seen from a sphere of radius 1.3.

        Raises:
            FileNotFoundError: a missing part, poses of images counted and named. ValueError: files of another form, NaN.
        """
        folder = Path(folder)
        for part in ("rgb", "pose", "intrinsics.txt"):
            if not (folder / part).exists():
                raise FileNotFoundError(f"{folder} has no {part}: an SRN object has rgb/, pose/ and intrinsics.txt")
        files = _pictures(folder / "rgb")
        poses = [folder / "pose" / f"{path.stem}.txt" for path in files]
        _all_there(poses, folder, "the images in rgb/ want")
        try:
            lines = [[float(x) for x in line.split()] for line in (folder / "intrinsics.txt").read_text().splitlines()]
            (focal, cx, cy), (height, width) = lines[0][:3], lines[3][:2]
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{folder / 'intrinsics.txt'} must hold 'focal cx cy 0', two lines, 'height width'"
            ) from error
        if height != width or abs(cx - width / 2) > 0.51 or abs(cy - height / 2) > 0.51:
            raise ValueError(
                f"{folder / 'intrinsics.txt'}: the image must be square with the principal point in its middle, got "
                f"{height:g}x{width:g} and ({cx:g}, {cy:g})"
            )
        c2w = _matrices([_numbers(path) for path in poses], (16,), f"{folder / 'pose'}").view(-1, 4, 4)
        images, masks, _ = _read(files, size, background)
        focal *= images.shape[-1] / width
        c2w, names = convert(c2w, "opencv", "opengl"), [path.name for path in files]
        return cls(images, c2w, focal, near, far, bound, masks, None, background, names)

    @classmethod
    def from_npz(
        cls,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        near: float = BLENDER_RANGE[0],
        far: float = BLENDER_RANGE[1],
        bound: float | None = BLENDER_BOUND,
        background: float = WHITE,
    ) -> MultiView:
        """Arrays in one file: ``{split}_premult_rgba`` uint8 (N, S, S, 4), colours already multiplied by alpha;
        ``{split}_c2w`` (N, 4, 4), OpenGL axes; ``focal`` in pixels, or ``camera_angle_x`` in radians.

        On white, such a pixel is rgb + (255 - alpha).

        Raises:
            FileNotFoundError: no such file. KeyError: an array is missing (the message lists those that are there).
            ValueError: arrays of another shape or type, NaN.
        """
        with np.load(path, allow_pickle=False) as file:
            splits = sorted(name.removesuffix("_c2w") for name in file.files if name.endswith("_c2w"))
            for name in (f"{split}_premult_rgba", f"{split}_c2w"):
                if name not in file.files:
                    have = f"it has the splits {', '.join(splits)}" if splits else f"it has {', '.join(file.files)}"
                    raise KeyError(f"{path} has no array {name}: {have}")
            rgba, poses = file[f"{split}_premult_rgba"], file[f"{split}_c2w"]
            if rgba.dtype != np.uint8 or rgba.ndim != 4 or rgba.shape[-1] != 4 or rgba.shape[1] != rgba.shape[2]:
                raise ValueError(
                    f"{path}: {split}_premult_rgba must be uint8 (N, S, S, 4), got {rgba.dtype} {rgba.shape}"
                )
            if "focal" in file.files:
                focal = float(file["focal"])
            elif "camera_angle_x" in file.files:
                focal = focal_length(float(file["camera_angle_x"]), rgba.shape[2])
            else:
                raise KeyError(f"{path} has neither focal nor camera_angle_x")
        c2w = _matrices(poses, (4, 4), f"{path}: {split}_c2w")
        if len(c2w) != len(rgba):
            raise ValueError(f"{path}: {len(rgba)} images and {len(c2w)} poses in the split {split!r}")
        values = torch.from_numpy(rgba).float() / 255
        images = _on_background(values[..., :3], values[..., 3], background)
        return cls(images, c2w, focal, near, far, bound, values[..., 3].contiguous(), None, background)


# ---------------------------------------------------------------------- pieces


def _on_background(premultiplied: Tensor, alpha: Tensor, background: float) -> Tensor:
    """Images (N, 3, S, S) in [-1, 1] from colours (N, S, S, 3) in [0, 1], already multiplied by alpha (N, S, S)."""
    if not 0 <= background <= 1:
        raise ValueError(f"background must be a grey level in [0, 1], got {background!r}")
    colour = premultiplied + (1 - alpha[..., None]) * background
    return (colour.movedim(-1, 1) * 2 - 1).clamp(-1, 1).contiguous()


def _read(files: Sequence[Path], size: int | None, background: float, crop: bool = False) -> tuple[Tensor, Any, int]:
    """Images (N, 3, S, S) in [-1, 1], alpha (N, S, S) or None if the first picture has none, and S as it was on the disk."""
    images, alphas, first = [], [], None
    for path in files:
        try:
            with Image.open(path) as picture:
                transparent = picture.has_transparency_data
                pixels = np.asarray(picture.convert("RGBA"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read as a picture: {error}") from error
        if crop:
            side = min(pixels.shape[:2])
            top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
            pixels = pixels[top : top + side, left : left + side]
        if first is None:
            first = pixels.shape
            if first[0] != first[1]:
                raise ValueError(
                    f"{path} is {first[1]}x{first[0]} pixels: images must be square, cut them to their middle"
                )
            if size is not None and (size < 1 or first[0] % size):
                raise ValueError(f"size must divide {first[0]}, the size of {path.name}, got {size}")
        elif pixels.shape != first:
            raise ValueError(
                f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, the first view {first[1]}x{first[0]}"
            )
        values = torch.from_numpy(pixels.astype(np.float32) / 255)
        # Averaging must follow the multiplication: the colour of transparent pixels means nothing.
        values = torch.cat([values[..., :3] * values[..., 3:], values[..., 3:]], -1).movedim(-1, 0)[None]
        values = values if size is None else F.avg_pool2d(values, first[0] // size)
        images.append(_on_background(values[:, :3].movedim(1, -1), values[:, 3], background))
        alphas.append(values[:, 3] if transparent else None)
    masks = None if any(alpha is None for alpha in alphas) else torch.cat(alphas)
    return torch.cat(images), masks, first[0]


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})")
    return files


def _with_suffix(path: Path) -> Path:
    """The file that a frame names; the synthetic scenes leave ".png" out."""
    return path if path.suffix.lower() in PICTURES else path.with_name(path.name + ".png")


def _all_there(files: Sequence[Path], folder: Path, who: str) -> None:
    missing = [str(path.relative_to(folder)) for path in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: {who} {len(files)} files, of which {len(missing)} are missing: {_few(missing)}"
        )


def _few(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _numbers(path: Path) -> list[float]:
    try:
        return [float(x) for x in path.read_text().split()]
    except ValueError as error:
        raise ValueError(f"{path} must hold 16 numbers, a camera-to-world matrix: {error}") from error


def _matrices(values: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """Float64 (N, *shape), refused with the place named if they are something else."""
    try:
        matrices = torch.as_tensor(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be matrices of numbers {shape}: {error}") from error
    if matrices.shape[1:] != shape:
        raise ValueError(f"{what} must have the shape (N, {', '.join(map(str, shape))}), got {tuple(matrices.shape)}")
    return matrices


def _range(name: str, value: Range, low: float, high: float) -> Range:
    first, last = (float(x) for x in value)
    if not (low <= first <= last <= high) or not math.isfinite(last):
        hint = "" if name == "radius" else f", within {low:.3g} .. {high:.3g} radians (not degrees)"
        raise ValueError(f"{name} must be a range (lowest, highest){hint}, got ({first:g}, {last:g})")
    return first, last


def _check_views(images: Tensor, c2w: Tensor | None, focal: float, near: float, far: float) -> None:
    if isinstance(images, Tensor) and images.ndim == 4 and images.shape[2] != images.shape[3]:
        raise ValueError(
            f"images must be square, got {images.shape[2]}x{images.shape[3]}: cut each to the square in its middle, which "
            "leaves the focal length as it is"
        )
    check_images(images, "images", channels=3)
    if c2w is None:
        raise ValueError(
            "c2w is missing: images without poses make no multi-view set; for images alone use ArrayImages"
        )
    check_poses(c2w)
    if c2w.shape != (len(images), 4, 4):
        raise ValueError(f"c2w must be ({len(images)}, 4, 4), one matrix an image, got {tuple(c2w.shape)}")
    if len(images) < 2:
        raise ValueError("a single view says nothing about the third dimension: pass at least two")
    if not 0 < focal < math.inf:
        raise ValueError(f"focal must be a positive number of pixels, got {focal!r}")
    if not 0 <= near < far < math.inf:
        raise ValueError(f"near and far must satisfy 0 <= near < far, got {near!r} and {far!r}")
