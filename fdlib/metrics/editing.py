"""What an edit changed, where, and by how much: change inside over change outside, and the factors of a rendered scene.

locality(edited, unedited, mask)["ratio"]           # median over pictures; read it beside the error of inversion alone
FactorRegressor.fit().changes(unedited, edited)     # {"object_hue": (B,), ...} in standard deviations
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fdlib import course
from fdlib.data.shapes3d import FACTORS, SHAPES, Shapes3D, factor_values, split_indices
from fdlib.directions import check_mask
from fdlib.metrics.generation import FactorClassifier

HUES = ("floor_hue", "wall_hue", "object_hue")


def locality(edited: Tensor, unedited: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Squared change inside and outside of a region, for each picture (B,).

    Args:
        edited, unedited: (B, C, H, W). "unedited" went through the same inversion and sampling, without the edit, so the
            error of the inversion is in neither number; report it beside them (``inversion.round_trip``).
        mask: as for ``find_directions``, in [0, 1].

    Returns:
        inside, outside: RMS change a value, over the region and over the rest. energy: summed squared change inside over
        summed squared change outside, the stricter ratio where regions are small. ratio: mean square over mean square.
    """
    weight = check_mask(mask, edited).expand_as(edited)
    square = (edited - unedited).square()
    sums = [(w * square).flatten(1).sum(1) for w in (weight, 1 - weight)]
    means = [total / w.flatten(1).sum(1) for total, w in zip(sums, (weight, 1 - weight), strict=True)]
    tiny = torch.finfo(edited.dtype).tiny
    return {
        "inside": means[0].sqrt(),
        "outside": means[1].sqrt(),
        "energy": sums[0] / sums[1].clamp(min=tiny),
        "ratio": means[0] / means[1].clamp(min=tiny),
    }


def match_strength(
    apply: Callable[[Tensor], Tensor],
    unedited: Tensor,
    mask: Tensor,
    target: float,
    start: float = 0.5,
    rounds: int = 4,
    largest: float = 1e3,
) -> tuple[Tensor, Tensor]:
    """For each picture, the strength at which the RMS change inside of the mask is ``target``: (strengths (B,), images).

    Two methods can be compared only where they change the region equally. ``apply`` maps strengths (B,) to images; each round
    multiplies a strength by target / change (damped), which suffices for changes that grow with strength. The images are
    those of the round that came nearest, picture by picture.
    """
    B = len(unedited)
    strength = torch.full((B,), float(start))
    best, best_images, gap = strength.clone(), unedited.clone(), torch.full((B,), float("inf"))
    for _ in range(rounds):
        images = apply(strength)
        change = locality(torch.nan_to_num(images, nan=1e3).clamp(-1e3, 1e3), unedited, mask)["inside"]
        away = (change / target).log().abs()
        nearer = away < gap
        gap, best = torch.where(nearer, away, gap), torch.where(nearer, strength, best)
        best_images = torch.where(nearer[:, None, None, None], images, best_images)
        strength = (strength * (target / change.clamp(min=1e-6)).clamp(0.2, 5)).clamp(max=largest)
    return best, best_images


@dataclass
class FactorRegressor:
    """Reads the factors of rendered scenes as continuous quantities: ridge regression on the features of ``shapes_features``.

    A classifier's answer jumps from one grid value to the next; small drifts need a smooth one. Hues are circular: their cosine
    and sine are regressed. Trained *with* labels on rendered pictures; it only ever judges.

    weights: (D, outputs). errors: {factor: RMS error on held-out pictures, in standard deviations of the factor}.
    """

    judge: FactorClassifier
    weights: Tensor
    errors: dict[str, float]

    @classmethod
    def fit(cls, count: int = 4000, test: int = 500, ridge: float = 1e-6) -> FactorRegressor:
        """On ``count`` pictures of the training split; ``errors`` from ``test`` of the held-out ones."""
        judge = FactorClassifier.from_pretrained(course.asset("shapes_features"))
        train_indices, test_indices = split_indices(train=count, test=10_000, seed=0)
        data, held_out = Shapes3D(32, train_indices), Shapes3D(32, test_indices[-test:])
        F, Y = _design(judge, data.images()), _targets(data.factors)
        penalty = ridge * len(F) * torch.eye(F.shape[1], dtype=F.dtype)
        made = cls(judge, torch.linalg.solve(F.T @ F + penalty, F.T @ Y), {})
        found, true = made.read(held_out.images()), factor_values(held_out.factors)
        made.errors = {
            name: float(_distance(name, found[name], _true(name, true)).square().mean().sqrt() / STDS[name])
            for name in FACTORS
        }
        return made

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """{factor: (B,)} hues in turns, scale, orientation in degrees; shape as (B, 4) scores, about one-hot."""
        out = _design(self.judge, images.clamp(-1, 1)) @ self.weights
        read = {name: torch.atan2(out[:, 2 * i + 1], out[:, 2 * i]) / (2 * torch.pi) for i, name in enumerate(HUES)}
        return read | {"scale": out[:, 6], "shape": out[:, 7:11], "orientation": out[:, 11]}

    def changes(self, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        """How far each factor moved, (B,) in standard deviations of the factor over the data set (hues: over the circle)."""
        a, b = self.read(before), self.read(after)
        return {name: (_distance(name, a[name], b[name]) / STDS[name]).float() for name in FACTORS}


STDS = {
    **dict.fromkeys(HUES, 12**-0.5),  # turns: uniform on [-1/2, 1/2]
    "scale": float(torch.linspace(0.75, 1.25, 8).std(correction=0)),
    "shape": (3 / 16) ** 0.5 * 2**0.5,  # one-hot over four, distance of two scores: a full change of shape is 2.3
    "orientation": float((torch.arange(-7, 8) * 30 / 7).std(correction=0)),
}


def _distance(name: str, a: Tensor, b: Tensor) -> Tensor:
    if name in HUES:
        return ((a - b + 0.5) % 1 - 0.5).abs()
    return (a - b).norm(dim=-1) if name == "shape" else (a - b).abs()


def _true(name: str, values: Tensor) -> Tensor:
    column = values[:, list(FACTORS).index(name)]
    return torch.eye(len(SHAPES), dtype=values.dtype)[column.long()] if name == "shape" else column


def _targets(factors: Tensor) -> Tensor:
    values = factor_values(factors)
    hues = [f(2 * torch.pi * values[:, i]) for i in range(3) for f in (torch.cos, torch.sin)]
    return torch.stack([*hues, values[:, 3], *_true("shape", values).T, values[:, 5]], dim=1)


@torch.no_grad()
def _design(judge: FactorClassifier, images: Tensor) -> Tensor:
    """(B, D) regressors: 1, the features, their squares and products."""
    f = judge.extract(images).double()
    f = f / f.norm(dim=1, keepdim=True)
    i, j = torch.triu_indices(f.shape[1], f.shape[1])
    return torch.cat([f.new_ones(len(f), 1), f, f[:, i] * f[:, j]], dim=1)
