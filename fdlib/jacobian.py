"""A denoiser as a function at one place, its Jacobian as products, and that Jacobian's leading singular directions.

At a fixed noisy picture x_t the denoiser is a function of any one of its inner features; a ``Spot`` says of which:

    f(h) = noise predicted from x_t, with h in the place of the middle block's output,    J = df/dh

No Jacobian is ever written down: products J v and J^T u come from ``torch.func``, singular vectors from subspace iteration.

    J = Jacobian(Spot(denoiser, schedule, x_t, t))
    top_singular(J.push, J.pull, start=torch.randn(8, J.D), k=5)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fdlib.denoiser import Prediction, check_size
from fdlib.process import convert
from fdlib.schedule import NoiseSchedule

Space = Literal["h", "x", "branch"]
SPACES: tuple[Space, ...] = ("h", "x", "branch")


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
