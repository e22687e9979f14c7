"""Directions in which one region of a picture changes and the rest does not, found without labels or training.

With f(h) the noise that a denoiser predicts from x_t with h as its middle feature, and J = df/dh (``fdlib.jacobian``):

    J_M = M * J,   J_rest = (1 - M) * J                                                   for a region's mask M

The leading right singular vectors of J_M are what moves the region most; V_rest, the leading r' ones of J_rest, what moves the
rest most. A direction v of J_M with its part in V_rest taken out moves the rest by no more than J_rest's next singular value:

    v_edit = (I - V_rest V_rest^T) v / |...|,        |J_rest v_edit| <= sigma_{r'+1}(J_rest)

So we read the abstract of Li et al. 2024, "Unsupervised Region-Based Image Editing of Denoising Diffusion Models". The variants
beside it (directions found *within* the complement, a softened complement, x_t in the place of h, one branch of a factorized
model, a linear step) are ours or of the papers named there.

    found = find_directions(denoiser, schedule, x_t, t, mask, k=5)       # fdlib.editing applies them
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fdlib.files import atomic_write, cache_folder
from fdlib.jacobian import Jacobian, Space, Spot, Subspace, top_singular
from fdlib.schedule import NoiseSchedule

Projection = Literal["none", "project", "restrict", "soften"]
PROJECTIONS: tuple[Projection, ...] = ("none", "project", "restrict", "soften")


# ---------------------------------------------------------------------- directions of a region


@dataclass(frozen=True)
class Directions:
    """k directions for each of B pictures (or one picture's, to be tried on others).

    vectors: (B, k, *shape) of norm 1. inside, outside: (B, k), |J_M v| and |J_rest v|. t, space, region: where they live.
    residual: by how much the least converged subspace still moved.
    """

    vectors: Tensor
    inside: Tensor
    outside: Tensor
    t: int
    space: Space = "h"
    region: int | None = None
    residual: float = 0.0

    def __getitem__(self, picture: int) -> Directions:
        """Those of one picture, which ``EditedDenoiser`` applies to any batch: a transfer."""
        part = slice(picture, picture + 1) if picture != -1 else slice(picture, None)
        return replace(self, vectors=self.vectors[part], inside=self.inside[part], outside=self.outside[part])

    def aligned(self, reference: Directions) -> Directions:
        """The same span, its axes turned (orthogonal Procrustes) towards ``reference``: directions that keep their sense from
        one time to the next. ``inside`` and ``outside`` are no longer those of single directions: they become NaN."""
        here, there = self.vectors.flatten(2), reference.vectors.flatten(2)
        U, _, Vh = torch.linalg.svd(there @ here.mT)
        turned = U @ Vh @ here
        turned = (turned / turned.norm(dim=-1, keepdim=True)).reshape(self.vectors.shape)
        unknown = torch.full_like(self.inside, float("nan"))
        return replace(self, vectors=turned, inside=unknown, outside=unknown)


def find_directions(
    denoiser: nn.Module,
    schedule: NoiseSchedule,
    x_t: Tensor,
    t: int,
    mask: Tensor,
    k: int = 5,
    *,
    space: Space = "h",
    region: int | None = None,
    of: Literal["noise", "x0"] = "noise",
    projection: Projection = "project",
    support: Literal["everywhere", "region"] = "everywhere",
    rest_rank: int = 20,
    ridge: float = 0.01,
    extra: int = 5,
    tolerance: float = 1e-2,
    iterations: int = 30,
    rows: int = 64,
    seed: int = 0,
    condition: Mapping | None = None,
    cache: DirectionCache | None = None,
) -> Directions:
    """The k directions that move the masked region most, and the rest little.

    Args:
        denoiser, schedule, x_t, t, space, region, of, condition: see ``Spot``; x_t is (B, C, H, W), condition has B rows.
        mask: (H, W), (1, 1, H, W) or (B, 1, H, W) in [0, 1]: 1 inside the region.
        projection: "none": singular vectors of J_M as they are. "project": with their part in the rest's leading ``rest_rank``
            directions taken out, the abstract's method. "restrict": singular vectors of J_M (I - V_rest V_rest^T), so the
            directions are looked for where the rest stands still. "soften": the generalised eigenvectors that maximise
            |J_M v|^2 / (|J_rest v|^2 + lambda |v|^2), lambda = ridge * sigma_1(J_rest)^2, J_rest known by its ``rest_rank``.
        support: "region", in space="x" only: directions that leave x_t itself alone outside of the mask. What then moves there
            is only what the network makes of the change inside.
        rest_rank: r'.
        extra, tolerance, iterations: of ``top_singular``. rows: vectors a pass, a bound on memory. seed: of its start.
        cache: where found directions are kept; the key holds the model's weights, the picture, the mask, t and all settings.

    Raises:
        ValueError: a mask of another size, with values outside of [0, 1], empty or full; k + rest_rank above the dimension;
            support="region" in another space than "x".
        TypeError: a network without a middle block or, for space="branch", without branches.
    """
    if projection not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}, got {projection!r}")
    if support not in ("everywhere", "region"):
        raise ValueError(f"support must be everywhere or region, got {support!r}")
    if support == "region" and space != "x":
        raise ValueError(f'support="region" needs space="x": a mask of pixels has no places in space={space!r}')
    rest_rank = 0 if projection == "none" else rest_rank
    masks = check_mask(mask, x_t)
    settings = dict(
        k=k, space=space, region=region, of=of, projection=projection, support=support, rest_rank=rest_rank, ridge=ridge,
        extra=extra, tolerance=tolerance, iterations=iterations, seed=seed,
    )  # fmt: skip
    found = []
    training = denoiser.training
    denoiser.eval()
    try:
        for b in range(len(x_t)):
            one = {key: value[b : b + 1] for key, value in (condition or {}).items()}
            key = None if cache is None else cache.key(denoiser, schedule, x_t[b], masks[b], t, one, settings)
            kept = None if cache is None else cache.load(key)
            if kept is None:
                spot = Spot(denoiser, schedule, x_t[b : b + 1].detach(), t, space, region, of, one)
                kept = _directions(Jacobian(spot, rows), masks[b], settings)
                if cache is not None:
                    cache.save(key, kept)
            found.append(kept)
    finally:
        denoiser.train(training)
    vectors, inside, outside = (
        torch.cat([getattr(d, name) for d in found]) for name in ("vectors", "inside", "outside")
    )
    residual = max(d.residual for d in found)
    if residual > 10 * tolerance:
        warnings.warn(
            f"the directions have not converged: their subspace still moved by {residual:.2g} after {iterations} rounds "
            "(more iterations or a larger extra will help)",
            stacklevel=2,
        )
    return Directions(vectors, inside, outside, t, space, region, residual)


def _directions(J: Jacobian, mask: Tensor, settings: Mapping) -> Directions:
    """``find_directions`` for one picture."""
    k, rank, kind = settings["k"], settings["rest_rank"], settings["projection"]
    M = mask.expand(J.spot.x_t.shape).reshape(1, -1)
    confined = settings["support"] == "region"
    S = (M > 0).to(M) if confined else torch.ones(1, J.D).to(M)  # where directions may be other than 0
    D = int(S.sum())
    if k < 1 or rank < 0 or k + rank > D:
        raise ValueError(
            f"k={k} directions beside rest_rank={rank} need k >= 1, rest_rank >= 0 and at most {D} together, the "
            f"dimension of space={J.spot.space!r}{' inside of the mask' if confined else ''}"
        )
    generator = torch.Generator().manual_seed(settings["seed"])

    def leading(weight: Tensor, count: int, W: Callable[[Tensor], Tensor]) -> Subspace:
        """Of diag(weight) J diag(S) W, for a symmetric W."""
        size = min(D, count + settings["extra"])
        start = torch.randn(size, J.D, generator=generator).to(J.spot.x_t)
        push, pull = (lambda v: weight * J.push(S * W(v))), (lambda u: W(S * J.pull(weight * u)))
        return top_singular(push, pull, W(S * start), count, settings["tolerance"], settings["iterations"])

    rest = leading(1 - M, rank, lambda v: v) if rank else None

    def complement(v: Tensor) -> Tensor:
        return v - v @ rest.vectors.T @ rest.vectors

    def soften(v: Tensor) -> Tensor:
        # B^{-1/2} sqrt(lambda), for B = V_rest S^2 V_rest^T + lambda I
        least = settings["ridge"] * rest.values[0] ** 2
        factor = (least / (rest.values**2 + least)).sqrt() - 1
        return v + (v @ rest.vectors.T * factor) @ rest.vectors

    W = {"restrict": complement, "soften": soften}.get(kind, lambda v: v) if rank else (lambda v: v)
    region = leading(M, k, W)
    vectors = region.vectors
    if rank and kind in ("project", "restrict"):
        vectors = complement(complement(vectors))  # twice: rounding leaves a little the first time
    elif rank:
        vectors = soften(vectors)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    moved = J.push(vectors)
    inside, outside = ((weight * moved).norm(dim=1)[None] for weight in (M, 1 - M))
    residual = max(region.residual, rest.residual if rest else 0.0)
    shape = (1, k, *J.shape[1:])
    return Directions(vectors.reshape(shape), inside, outside, J.spot.t, J.spot.space, J.spot.region, residual)


def check_mask(mask: Tensor, images: Tensor) -> Tensor:
    """The mask as float (B, 1, H, W), or a ValueError that says what is wrong with it."""
    if not isinstance(mask, Tensor) or mask.is_complex():
        raise TypeError(f"mask must be a tensor, got {type(mask).__name__}")
    B, _, H, W = images.shape
    mask = mask.to(images)
    if mask.ndim == 2:
        mask = mask[None, None]
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[0] not in (1, B) or mask.shape[2:] != (H, W):
        raise ValueError(
            f"mask must be ({H}, {W}) or ({B}, 1, {H}, {W}), as large as the pictures, got {tuple(mask.shape)}"
        )
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError(f"mask must lie in [0, 1], 1 inside the region, got {mask.min():.3g} .. {mask.max():.3g}")
    share = mask.mean((1, 2, 3))
    if share.min() == 0 or share.max() == 1:
        raise ValueError(
            f"mask is {'empty' if share.min() == 0 else 'full'}: a region must have an inside and an outside"
        )
    return mask.expand(B, 1, H, W)


def box_mask(size: int, top: int, left: int, bottom: int, right: int) -> Tensor:
    """(size, size), 1 in rows top .. bottom-1 and columns left .. right-1."""
    if not (0 <= top < bottom <= size and 0 <= left < right <= size):
        raise ValueError(f"the box {top}..{bottom}, {left}..{right} must have an area within 0 .. {size}")
    mask = torch.zeros(size, size)
    mask[top:bottom, left:right] = 1
    return mask


def discovered_mask(masks: Tensor, row: int, column: int) -> tuple[Tensor, int]:
    """The region that a model found at a pixel you point to: its hard mask (B, 1, H, W), and which of the K regions it is.

    Args:
        masks: (B, K, H, W) of ``segment``. The region is the one with the most mask at the pixel, over all B pictures together.
    """
    if masks.ndim != 4 or not (0 <= row < masks.shape[2] and 0 <= column < masks.shape[3]):
        raise ValueError(f"row, column = {row}, {column} must lie in masks (B, K, H, W), here {tuple(masks.shape)}")
    k = int(masks[:, :, row, column].mean(0).argmax())
    return (masks.argmax(1, keepdim=True) == k).to(masks), k


# ---------------------------------------------------------------------- directions kept on disk


class DirectionCache:
    """Found directions in a folder, one file for each (weights, schedule, picture, mask, time, settings).

    Any of them changed is another file, so a stale direction cannot come back. Damaged files are computed again.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder) if folder is not None else cache_folder() / "directions"

    def key(self, denoiser: nn.Module, schedule: NoiseSchedule, x_t: Tensor, mask: Tensor, t: int, *more) -> str:
        digest = hashlib.sha256()
        tensors = {f"{type(denoiser).__qualname__}.{name}": value for name, value in denoiser.state_dict().items()}
        tensors |= {"a": schedule.a, "s": schedule.s, "x_t": x_t, "mask": mask}
        for part in more:
            tensors |= {key: value for key, value in part.items() if isinstance(value, Tensor)}
        for name, value in sorted(tensors.items()):
            value = value.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        plain = [{k: v for k, v in part.items() if not isinstance(v, Tensor)} for part in more]
        config = getattr(denoiser, "_hub_mixin_config", None) or {}
        digest.update(json.dumps([t, plain, config], sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def load(self, key: str) -> Directions | None:
        path = self.folder / f"{key}.safetensors"
        try:
            kept = load_file(path)
            told = json.loads(bytes(kept.pop("told").tolist()))
            return Directions(**kept, **told)
        except FileNotFoundError:
            return None
        except Exception as error:  # safetensors, JSON, missing names: whatever is wrong, the answer is the same
            warnings.warn(f"the cached directions {path.name} are damaged ({error}): finding them again", stacklevel=3)
            return None

    def save(self, key: str, found: Directions) -> None:
        told = {"t": found.t, "space": found.space, "region": found.region, "residual": found.residual}
        tensors = {name: getattr(found, name).contiguous() for name in ("vectors", "inside", "outside")}
        tensors["told"] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
        with atomic_write(self.folder / f"{key}.safetensors") as path:
            save_file(tensors, path)
