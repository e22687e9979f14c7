"""How well cameras that nobody gave agree with the true ones, and pictures rendered from them with real pictures.

Images alone fix cameras only up to a similarity: the whole scene, cameras included, may be turned, moved and scaled. So the
estimated cameras are first laid over the true ones (``align_cameras``), then compared one by one (``pose_errors``), and the
same is done with the poses shuffled, since an alignment flatters even nonsense (``shuffled_baseline``).

    poses (N, 4, 4)   camera-to-world, both sets in one axis convention (``fdlib.cameras.convert``); tensors or arrays
    rotation          degrees                       centre    distance, in the units of the true cameras
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from itertools import permutations, product
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from fdlib.cameras import CONVENTIONS, check_poses, convert, rotation_angle

Poses = Tensor | np.ndarray


@dataclass(frozen=True)
class Similarity:
    """x -> scale rotation x + translation, from the estimated world to the true one; rotation (3, 3), translation (3,)."""

    scale: float
    rotation: Tensor
    translation: Tensor

    def apply(self, c2w: Poses) -> Tensor:
        """The cameras (..., 4, 4) after the similarity: centres go as points do, axes are only turned."""
        c2w = torch.as_tensor(c2w)
        check_poses(c2w)
        s, R, t = self.scale, self.rotation.to(c2w), self.translation.to(c2w)
        moved = torch.cat([R @ c2w[..., :3, :3], (s * c2w[..., :3, 3] @ R.T + t)[..., None]], -1)
        return torch.cat([moved, c2w[..., 3:, :]], -2)


def align_cameras(estimated_c2w: Poses, true_c2w: Poses) -> Similarity:
    """The similarity that brings the estimated camera centres nearest to the true ones, by least squares (Umeyama 1991).

    Args:
        estimated_c2w, true_c2w: (N, 4, 4), the same cameras in the same order, N >= 3.

    Centres alone decide; rotations are left to be judged. Mirrored solutions are excluded: mirrored cameras are wrong.

    Raises:
        ValueError: fewer than 3 cameras, different numbers, NaN, no rotation, or centres of either set that (nearly) coincide
            or lie on a line, where the alignment is not determined.
    """
    estimated, true = _pair(estimated_c2w, true_c2w)
    x, y = estimated[:, :3, 3], true[:, :3, 3]
    _spread_out(x, "estimated_c2w")
    _spread_out(y, "true_c2w")
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    U, S, Vh = torch.linalg.svd(y.T @ x)
    signs = torch.ones(3, dtype=S.dtype)
    signs[2] = torch.sign(torch.linalg.det(U @ Vh))  # the axis that matters least pays for excluding reflections
    rotation = (U * signs) @ Vh
    scale = float((S * signs).sum() / x.square().sum())
    if not scale > 1e-9 * float(y.norm() / x.norm()):
        raise ValueError("the centres of estimated_c2w and true_c2w have nothing in common: the best scale is 0")
    return Similarity(scale, rotation, mean_y - scale * rotation @ mean_x)


def pose_errors(estimated_c2w: Poses, true_c2w: Poses, similarity: Similarity | None = None) -> dict:
    """Errors of each camera after alignment.

    Args:
        estimated_c2w, true_c2w: (N, 4, 4).
        similarity: by default fitted on these cameras. For held-out views give the one fitted on training views: then one
            camera is enough, and the fit has not seen what it is judged by.

    Returns:
        {"rotation_deg": (N,), "centre": (N,), "scale": float}, float64.

    Warns:
        UserWarning: all cameras are turned by 90, 120 or 180 degrees in the same way (``axes_hint``).

    Raises:
        ValueError: as ``align_cameras``.
    """
    return _errors(estimated_c2w, true_c2w, similarity, hint=True)


def shuffled_baseline(
    estimated_c2w: Poses, true_c2w: Poses, seed: int = 0, similarity: Similarity | None = None
) -> dict:
    """``pose_errors`` when each camera is given another one's pose: what the alignment alone achieves, so chance.

    Give the true poses twice to ask what chance is for a perfect set. No camera keeps its own pose. After a shuffle the
    alignment's rotation is arbitrary, and common to all cameras, so the mean rotation error differs much from seed to seed
    (86 to 153 degrees for Lego's cameras): average over several.
    """
    estimated, true = _pair(estimated_c2w, true_c2w)
    if len(true) < 2:
        raise ValueError("estimated_c2w must hold at least 2 poses to shuffle, got 1")
    order = torch.randperm(len(true), generator=torch.Generator().manual_seed(seed))
    shuffled = torch.empty_like(estimated)
    shuffled[order] = estimated[order.roll(1)]  # one long cycle: nobody stays
    return _errors(shuffled, true, similarity, hint=False)


def relative_rotation_accuracy(
    estimated_c2w: Poses, true_c2w: Poses, thresholds: tuple[float, ...] = (5, 15, 30)
) -> dict[float, float]:
    """Of all pairs of cameras, the share whose relative rotation is right to so many degrees: {threshold: share}.

    The rotation from camera i to camera j is Ro_i^T Ro_j: turning the world does not change it, so nothing is aligned.
    """
    estimated, true = (poses[:, :3, :3] for poses in _pair(estimated_c2w, true_c2w))
    if len(true) < 2:
        raise ValueError("estimated_c2w must hold at least 2 poses to form a pair, got 1")
    i, j = torch.triu_indices(len(true), len(true), offset=1)
    relative = (poses[i].mT @ poses[j] for poses in (estimated, true))
    error = torch.rad2deg(rotation_angle(*relative))
    return {threshold: float((error <= threshold).double().mean()) for threshold in thresholds}


# ---------------------------------------------------------------------- wrong camera axes


@dataclass(frozen=True)
class AxesHint:
    """What is wrong with the camera axes, and the remedy; ``str()`` says it.

    Args:
        axes: (3, 3), to be multiplied from the right to the estimated rotations.
        before, after: median rotation error in degrees, without and with it.
        conversions: pairs (source, target) for ``fdlib.cameras.convert`` that do the same; there may be none.
    """

    axes: Tensor
    before: float
    after: float
    conversions: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        calls = " or ".join(f'fdlib.cameras.convert(estimated, "{a}", "{b}")' for a, b in self.conversions)
        return (
            f"all cameras are turned by about {self.before:.0f} degrees in the same way: estimated and true poses have "
            f"different camera axes. With the estimated rotations times {self.axes.int().tolist()} from the right the median "
            f"error is {self.after:.2g} degrees" + (f"; {calls} does that." if calls else ".")
        )


def axes_hint(estimated_c2w: Poses, true_c2w: Poses, similarity: Similarity | None = None) -> AxesHint | None:
    """Do the rotations agree but for the names of the camera's axes? Tries all 24 ways to name them; None if that is not it.

    The sign of it: after alignment of the centres, rotation errors near 90, 120 or 180 degrees, alike for all cameras.
    """
    estimated, true = _pair(estimated_c2w, true_c2w)
    similarity = similarity or align_cameras(estimated, true)
    return _axes_hint(similarity.apply(estimated)[:, :3, :3], true[:, :3, :3])


def _axes_hint(aligned: Tensor, true: Tensor) -> AxesHint | None:
    median = lambda axes: float(torch.rad2deg(rotation_angle(aligned @ axes, true)).median())  # noqa: E731
    before = median(torch.eye(3, dtype=aligned.dtype))
    if before < 60:  # the nearest other naming is 90 degrees away
        return None
    namings = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        axes = torch.eye(3, dtype=aligned.dtype)[:, list(order)] * torch.tensor(signs, dtype=aligned.dtype)
        if torch.linalg.det(axes) > 0:
            namings.append(axes)
    after, best = min(((median(axes), k) for k, axes in enumerate(namings)), key=lambda pair: pair[0])
    if after > 20:
        return None
    eye = torch.eye(4, dtype=aligned.dtype)
    pairs = [(a, b) for a in CONVENTIONS for b in CONVENTIONS if a != b]
    fitting = tuple((a, b) for a, b in pairs if torch.equal(convert(eye, a, b)[:3, :3], namings[best]))
    return AxesHint(namings[best], before, after, fitting)


# ---------------------------------------------------------------------- pictures


def psnr(image: Tensor, target: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio in decibels,  10 log10(data_range^2 / mean squared error).

    Args:
        image, target: (B, C, H, W), giving (B,), or of any other shape, giving one number. Average over images afterwards,
            as is usual; the mean of the errors gives another value.
        data_range: 2 for images in [-1, 1], 1 for [0, 1].

    Equal images have infinite PSNR.

    >>> psnr(torch.full((1, 4, 4), 0.1), torch.zeros(1, 4, 4), data_range=1.0).round().item()
    20.0
    """
    _same_images(image, target, data_range)
    error = (image - target).square()
    error = error.flatten(1).mean(1) if image.ndim == 4 else error.mean()
    return 10 * torch.log10(data_range**2 / error)


def ssim(image: Tensor, target: Tensor, data_range: float) -> Tensor:
    """Structural similarity (Wang et al. 2004) of images (B, C, H, W): (B,), 1 for equal ones. Needs torchmetrics."""
    _same_images(image, target, data_range, batched=True)
    measure = _torchmetrics("SSIM").structural_similarity_index_measure
    return measure(image, target, data_range=data_range, reduction="none").reshape(len(image))


def lpips(image: Tensor, target: Tensor, data_range: float, network: str = "alex") -> float:
    """LPIPS (Zhang et al. 2018), the mean over images (B, 3, H, W): 0 for equal ones. Needs torchmetrics and torchvision.

    Args:
        data_range: 2 for images in [-1, 1], 1 for [0, 1].
        network: "alex", "vgg" or "squeeze". Its weights are downloaded on first use.

    Raises:
        RuntimeError: the weights cannot be had, offline say. ImportError: a package is missing.
    """
    _same_images(image, target, data_range, batched=True)
    if data_range not in (1, 2):
        raise ValueError(f"data_range must be 1 (images in [0, 1]) or 2 (in [-1, 1]), got {data_range}")
    if network not in ("alex", "vgg", "squeeze"):
        raise ValueError(f"network must be alex, vgg or squeeze, got {network!r}")
    measure = _torchmetrics("LPIPS", "torchvision").learned_perceptual_image_patch_similarity
    low = 0.0 if data_range == 1 else -1.0  # a prediction may overshoot; torchmetrics refuses that
    image, target = (part.clamp(low, 1) for part in (image, target))
    try:
        return float(measure(image, target, net_type=network, normalize=data_range == 1))
    except OSError as error:  # urllib's and torch.hub's errors are of this kind
        raise RuntimeError(
            f"the weights of LPIPS's {network} network could not be downloaded ({error}). On a machine with network run it "
            "once, then copy the folder torch.hub.get_dir() from there; or report PSNR and SSIM, which need no weights"
        ) from error


# ---------------------------------------------------------------------- pieces


def _errors(estimated_c2w: Poses, true_c2w: Poses, similarity: Similarity | None, hint: bool) -> dict:
    estimated, true = _pair(estimated_c2w, true_c2w)
    similarity = similarity or align_cameras(estimated, true)
    aligned = similarity.apply(estimated)
    # one camera or two may be 90 degrees off by mistake; three that agree in it may not
    if hint and len(true) >= 3 and (found := _axes_hint(aligned[:, :3, :3], true[:, :3, :3])):
        warnings.warn(str(found), UserWarning, stacklevel=3)
    return {
        "rotation_deg": torch.rad2deg(rotation_angle(aligned[:, :3, :3], true[:, :3, :3])),
        "centre": (aligned[:, :3, 3] - true[:, :3, 3]).norm(dim=1),
        "scale": similarity.scale,
    }


def _pair(estimated_c2w: Poses, true_c2w: Poses) -> tuple[Tensor, Tensor]:
    """Both sets checked, as float64 on the CPU."""
    result = []
    for poses, name in ((estimated_c2w, "estimated_c2w"), (true_c2w, "true_c2w")):
        poses = torch.as_tensor(poses).detach().cpu()
        check_poses(poses, name)
        if poses.ndim != 3:
            raise ValueError(f"{name} must be (N, 4, 4), got {tuple(poses.shape)}")
        result.append(poses.double())
    if len(result[0]) != len(result[1]):
        raise ValueError(f"estimated_c2w and true_c2w must be as many, got {len(result[0])} and {len(result[1])}")
    if not len(result[0]):
        raise ValueError("estimated_c2w is empty: there is nothing to compare")
    return result[0], result[1]


def _spread_out(centres: Tensor, name: str) -> None:
    """Refuse centres that do not determine a similarity."""
    if len(centres) < 3:
        raise ValueError(
            f"{name} holds {len(centres)} camera(s), but an alignment needs at least 3; to judge fewer, fit the similarity on "
            "other views and pass it as similarity="
        )
    spread = torch.linalg.svdvals(centres - centres.mean(0))
    size = float(centres.norm(dim=1).max())
    if float(spread[0]) <= 1e-5 * size or size == 0:
        raise ValueError(
            f"the centres of {name} (nearly) coincide: no scale and no rotation can be fitted to one point"
        )
    if float(spread[1]) <= 1e-3 * float(spread[0]):
        raise ValueError(
            f"the centres of {name} (nearly) lie on a line: the rotation about that line is not determined"
        )


def _same_images(image: Tensor, target: Tensor, data_range: float, batched: bool = False) -> None:
    if image.shape != target.shape:
        raise ValueError(f"image and target must be of one shape, got {tuple(image.shape)} and {tuple(target.shape)}")
    if not (image.is_floating_point() and target.is_floating_point()):
        raise TypeError(f"image and target must be float tensors, got {image.dtype} and {target.dtype}")
    if not image.numel() or (batched and image.ndim != 4):
        raise ValueError(f"image and target must be (B, C, H, W) and not empty, got {tuple(image.shape)}")
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")
    if not (torch.isfinite(image).all() and torch.isfinite(target).all()):
        raise ValueError("image or target holds NaN or infinite values")
    seen = float(target.max() - target.min())
    if seen > 1.001 * data_range:
        raise ValueError(f"target spans {seen:.3g}, more than data_range={data_range}: pass 2 for images in [-1, 1]")


def _torchmetrics(what: str, *others: str) -> ModuleType:
    """torchmetrics.functional.image: an optional neighbour, asked for by name so that nothing else depends on it."""
    try:
        for name in others:
            importlib.import_module(name)
        return importlib.import_module("torchmetrics.functional.image")
    except ImportError as error:
        packages = " ".join(("'torchmetrics>=1.0'", *others))
        raise ImportError(f"{what} is computed by torchmetrics, which is not here: pip install {packages}") from error
