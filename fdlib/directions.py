"""Directions in which one region of a picture changes and the rest does not, found without labels or training.

At a fixed noisy picture x_t the denoiser is a function of any one of its inner features; we take h, the middle block's output,

    f(h) = noise predicted from x_t, with h in the place of the middle feature,           J = df/dh
    J_M = M * J,   J_rest = (1 - M) * J                                                   for a region's mask M

The leading right singular vectors of J_M are what moves the region most; V_rest, the leading r' ones of J_rest, what moves the
rest most. A direction v of J_M with its part in V_rest taken out moves the rest by no more than J_rest's next singular value:

    v_edit = (I - V_rest V_rest^T) v / |...|,        |J_rest v_edit| <= sigma_{r'+1}(J_rest)

So we read the abstract of Li et al. 2024, "Unsupervised Region-Based Image Editing of Denoising Diffusion Models". The variants
beside it (directions found *within* the complement, a softened complement, x_t in the place of h, one branch of a factorized
model, a linear step) are ours or of the papers named there. No Jacobian is ever written down: products J v and J^T u come from
``torch.func``, singular vectors from subspace iteration.

    found = find_directions(denoiser, schedule, x_t, t, mask, k=5)       # fdlib.editing applies them
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fdlib.denoiser import Prediction, check_size
from fdlib.files import atomic_write, cache_folder
from fdlib.process import convert
from fdlib.schedule import NoiseSchedule

Space = Literal["h", "x", "branch"]
Projection = Literal["none", "project", "restrict", "soften"]
SPACES: tuple[Space, ...] = ("h", "x", "branch")
PROJECTIONS: tuple[Projection, ...] = ("none", "project", "restrict", "soften")


# ---------------------------------------------------------------------- where an edit enters a network


def middle_of(denoiser: nn.Module) -> nn.Module:
    """The module whose output is h: ``middle`` of a U-Net, of the first level of a hierarchical one, of an adapter.

    Raises:
        TypeError: the denoiser has none.
    """
    found = getattr(denoiser, "middle", None)
    if found is None and hasattr(denoiser, "levels"):
        found = denoiser.levels[0].middle
    if not isinstance(found, nn.Module):
        raise TypeError(
            f"denoiser: a {type(denoiser).__name__} has no middle block to edit; give an outside network an attribute "
            "`middle` that is one (DiffusersDenoiser does)"
        )
    return found


@contextlib.contextmanager
def middle_output(denoiser: nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within the block, ``change(h)`` takes h's place at every call of the denoiser (None: h stays as it is)."""
    handle = middle_of(denoiser).register_forward_hook(lambda _module, _inputs, h: change(h))
    try:
        yield
    finally:
        handle.remove()


class DiffusersDenoiser(nn.Module):
    """An unconditional ``diffusers.UNet2DModel`` as a denoiser of this course: (x_t, t) -> ``Prediction``.

    Args:
        model: the network, with ``mid_block`` and ``config.sample_size``, ``config.in_channels``.
        predicts: what it was trained to predict: "noise" (diffusers' "epsilon"), "x0" ("sample") or "velocity" ("v_prediction").
    """

    def __init__(self, model: nn.Module, predicts: str = "noise"):
        super().__init__()
        if not isinstance(getattr(model, "mid_block", None), nn.Module):
            raise TypeError(f"model: a {type(model).__name__} has no mid_block; it must be a diffusers UNet2DModel")
        self.model, self.predicts = model, predicts
        self.image_size, self.image_channels = model.config.sample_size, model.config.in_channels

    @classmethod
    def from_pretrained(cls, name: str, predicts: str = "noise", **options) -> DiffusersDenoiser:
        """Load a ``UNet2DModel`` from a folder or the Hub (needs diffusers, which the extra `dev` has)."""
        from diffusers import UNet2DModel

        return cls(UNet2DModel.from_pretrained(name, use_safetensors=True, **options).eval(), predicts)

    @property
    def middle(self) -> nn.Module:
        return self.model.mid_block

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        check_size(x_t, "x_t", self.image_channels, self.image_size)
        return Prediction(**{self.predicts: self.model(x_t, t).sample})


@dataclass
class Spot:
    """The network as a function at one place: a noisy picture x_t (1, C, H, W) at time t.

    Args:
        denoiser: a UNet, FactorizedUNet, HierarchicalUNet, DiffusersDenoiser, or anything with an attribute ``middle``.
        space: what moves. "h": the middle feature; "x": x_t itself, as in low-rank controllable editing (Chen et al. 2024);
            "branch": the middle feature in one region's branch only (FactorizedUNet), all masks held.
        region: which branch, for space="branch".
        of: the function's value: "noise" or "x0".
        condition: keyword arguments for the denoiser.

    ``point`` (1, ...) is where the network itself stands, ``value(p)`` is f there or anywhere else.
    """

    denoiser: nn.Module
    schedule: NoiseSchedule
    x_t: Tensor
    t: int
    space: Space = "h"
    region: int | None = None
    of: Literal["noise", "x0"] = "noise"
    condition: Mapping | None = None

    @torch.no_grad()
    def __post_init__(self) -> None:
        check_size(self.x_t, "x_t")
        if self.space not in SPACES:
            raise ValueError(f"space must be one of {', '.join(SPACES)}, got {self.space!r}")
        if not 0 <= self.t < self.schedule.T:
            raise ValueError(f"t must lie in 0 .. {self.schedule.T - 1} for this schedule, got {self.t}")
        self.times = torch.full((len(self.x_t),), self.t, device=self.x_t.device)
        self.condition = dict(self.condition or {})
        if self.space == "x":
            self.point = self.x_t
        elif self.space == "branch":
            self.branches = Branches(self.denoiser, self.x_t, self.times, self.region, **self.condition)
            self.point = self.branches.h_mid
        else:
            seen: list[Tensor] = []
            with middle_output(self.denoiser, lambda h: seen.append(h.clone())):
                self.denoiser(self.x_t, self.times, **self.condition)
            self.point = seen[0]

    def value(self, p: Tensor) -> Tensor:
        """f at points p (n, ...), (n, C, H, W)."""
        n = len(p)
        x = p if self.space == "x" else _rows(self.x_t, n)
        if self.space == "branch":
            prediction = self.branches.prediction(p)
        else:
            condition = {key: _rows(value, n) for key, value in self.condition.items()}
            change = (lambda h: p) if self.space == "h" else (lambda h: None)
            with middle_output(self.denoiser, change):
                prediction = self.denoiser(x, _rows(self.times, n), **condition)
        return convert(self.schedule, prediction, x, self.t, self.of)


def _rows(tensor: Tensor, n: int) -> Tensor:
    """One row as n (or n rows as they are)."""
    return tensor if len(tensor) == n else tensor.repeat(n, *[1] * (tensor.ndim - 1))


class Branches:
    """A factorized network's last stage, sum_j m_j noise_j, with the middle feature of branch k free and all else held."""

    def __init__(self, denoiser, x_t: Tensor, t: Tensor, k: int | None, **condition):
        if not hasattr(denoiser, "branches") or getattr(denoiser, "decoding", "concat") == "concat":
            raise TypeError(
                f'space="branch" needs a FactorizedUNet with branches, got a {type(denoiser).__name__}: take space="h"'
            )
        if k is None or not 0 <= k < denoiser.regions:
            raise ValueError(f"region must be one of 0 .. {denoiser.regions - 1}, the model's branches, got {k}")
        self.denoiser, self.k = denoiser, k
        self.h_mid, self.h_enc, self.emb = denoiser.encode(x_t, t, **condition)
        self.masks = denoiser.mask_generator(self.h_mid, self.h_enc, self.emb)
        self.values = denoiser.branches(self.h_mid, self.h_enc, self.emb, self.masks)  # (B, K, C, H, W)

    def prediction(self, h: Tensor) -> Prediction:
        """For middle features h of as many rows as x_t had, or any number where it had one."""
        h_enc, n = [_rows(part, len(h)) for part in self.h_enc], len(h)
        emb, masks, values = _rows(self.emb, n), _rows(self.masks, n), _rows(self.values, n)
        edited = self.denoiser.branches(h, h_enc, emb, masks)[:, self.k]
        value = torch.einsum("bkchw,bkhw->bchw", values, masks) + masks[:, self.k, None] * (edited - values[:, self.k])
        return Prediction(**{self.denoiser.predicts: value}, masks=masks)


# ---------------------------------------------------------------------- Jacobians as products, singular directions from them


class Jacobian:
    """J = df/dp at a spot, as products with k vectors at a time: ``push`` (k, D) -> (k, N) is J v, ``pull`` is J^T u.

    Where the network allows it (``vmap``), it runs once and only the vectors ride along, at most ``rows`` at a time; else it runs
    on as many copies of the picture. Memory is a few times that of a pass over ``rows`` pictures. Fused attention kernels have
    no forward-mode derivative: within the products the plain one is taken, and what was set before is restored after.
    """

    def __init__(self, spot: Spot, rows: int = 64):
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self.spot, self.rows = spot, rows
        self.shape, self.D, self.N = spot.point.shape, spot.point.numel(), spot.x_t.numel()
        self.copies = spot.space == "x"  # our encoder sets a memory layout, which vmap refuses
        self._back: Callable | None = None

    def push(self, v: Tensor) -> Tensor:
        f, p = self.spot.value, self.spot.point
        if not self.copies:
            try:
                one = lambda part: torch.func.jvp(f, (p,), (part[None],))[1][0]  # noqa: E731
                return self._each(torch.func.vmap(one), v, self.shape)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                self.copies = True
        return self._each(lambda part: torch.func.jvp(f, (_rows(p, len(part)),), (part,))[1], v, self.shape)

    def pull(self, u: Tensor) -> Tensor:
        f, p = self.spot.value, self.spot.point
        if self.copies:
            return self._each(lambda part: torch.func.vjp(f, _rows(p, len(part)))[1](part)[0], u, self.spot.x_t.shape)
        if self._back is None:  # the pass that a transpose goes back through is kept
            with _plain_derivatives(self.spot.denoiser):
                self._back = torch.func.vjp(f, p)[1]
        return self._each(torch.func.vmap(lambda part: self._back(part[None])[0][0]), u, self.spot.x_t.shape)

    def _each(self, product: Callable, vectors: Tensor, shape: torch.Size) -> Tensor:
        with _plain_derivatives(self.spot.denoiser):
            parts = [product(part.reshape(-1, *shape[1:])) for part in vectors.split(self.rows)]
        return torch.cat(parts).detach().reshape(len(vectors), -1)


@contextlib.contextmanager
def _plain_derivatives(module: nn.Module) -> Iterator[None]:
    """Within the block no parameter asks for a gradient, and attention takes the kernel that has all derivatives."""
    asked = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in asked:
            p.requires_grad_(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for p in asked:
            p.requires_grad_(True)


@dataclass
class Subspace:
    """Leading right singular vectors (k, D), singular values (k,), and how far the subspace still moved."""

    vectors: Tensor
    values: Tensor
    residual: float
    iterations: int


@torch.no_grad()
def top_singular(
    push: Callable[[Tensor], Tensor],
    pull: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int,
    tolerance: float = 1e-2,
    iterations: int = 30,
) -> Subspace:
    """The k leading right singular vectors of a linear map, by subspace iteration (Halko et al. 2011, algorithm 4.4).

    Convergence is that of the *subspace*, |(I - V V^T) V_before|: where singular values are close, single vectors go on
    turning within it long after it stands still.

    Args:
        push, pull: (m, D) -> (m, N), the map, and back, its transpose.
        start: (m, D) random, m >= k; the m - k extra vectors speed convergence.
        tolerance, iterations: stop when the subspace moves by less (a Frobenius norm), or after so many rounds.
    """
    V, residual, done = _orthonormal(start), float("inf"), 0
    for done in range(1, iterations + 1):  # noqa: B007
        V, U, _ = _ritz(V, push(V))
        before, V = V[:k], _orthonormal(pull(U))
        residual = float((before - before @ V.T @ V).norm())
        if residual < tolerance:
            break
    V, _, values = _ritz(V, push(V))
    return Subspace(V[:k], values[:k], residual, done)


def _ritz(V: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V and U = J V turned within their span, so that U's rows are orthogonal and fall in length: (V, U, lengths)."""
    turn, values, _ = torch.linalg.svd(U, full_matrices=False)
    return turn.T @ V, turn.T @ U, values


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T)[0].T


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
        rest_rank: r'.
        extra, tolerance, iterations: of ``top_singular``. rows: vectors a pass, a bound on memory. seed: of its start.
        cache: where found directions are kept; the key holds the model's weights, the picture, the mask, t and all settings.

    Raises:
        ValueError: a mask of another size, with values outside of [0, 1], empty or full; k + rest_rank above the dimension.
        TypeError: a network without a middle block or, for space="branch", without branches.
    """
    if projection not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}, got {projection!r}")
    rest_rank = 0 if projection == "none" else rest_rank
    masks = check_mask(mask, x_t)
    settings = dict(
        k=k, space=space, region=region, of=of, projection=projection, rest_rank=rest_rank, ridge=ridge, extra=extra,
        tolerance=tolerance, iterations=iterations, seed=seed,
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
    if k < 1 or rank < 0 or k + rank > J.D:
        raise ValueError(
            f"k={k} directions beside rest_rank={rank} need k >= 1, rest_rank >= 0 and at most {J.D} together, the "
            f"dimension of space={J.spot.space!r}"
        )
    M = mask.expand(J.spot.x_t.shape).reshape(1, -1)
    generator = torch.Generator().manual_seed(settings["seed"])

    def leading(weight: Tensor, count: int, W: Callable[[Tensor], Tensor]) -> Subspace:
        """Of diag(weight) J W, for a symmetric W."""
        size = min(J.D, count + settings["extra"])
        start = torch.randn(size, J.D, generator=generator).to(J.spot.x_t)
        push, pull = (lambda v: weight * J.push(W(v))), (lambda u: W(J.pull(weight * u)))
        return top_singular(push, pull, W(start), count, settings["tolerance"], settings["iterations"])

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
