"""Region-based editing: move one region of a picture and leave the rest alone.

    latent = invert(denoiser, schedule, images, method="edict")                          # fdlib.inversion
    found  = find_directions(denoiser, schedule, x_t, t, mask, k=5)                       # fdlib.directions
    result = edit(denoiser, schedule, latent, found, strength=1.0, index=0)

An edited denoiser is a denoiser (``EditedDenoiser``), so every sampler and every inversion takes it. A factorized model can also
be edited by its own bottleneck (``Recomposed``): one region swapped, moved or re-noised, no direction needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fdlib import inversion
from fdlib.denoiser import Prediction
from fdlib.directions import Directions, find_directions
from fdlib.inversion import Latent
from fdlib.jacobian import Branches, middle_of, middle_output
from fdlib.process import add_noise, convert
from fdlib.schedule import NoiseSchedule

# ---------------------------------------------------------------------- applying a direction


class EditedDenoiser(nn.Module):
    """A denoiser whose middle feature moves along a direction while t is in a window; elsewhere, the denoiser itself.

        h' = h + strength |h| v

    Args:
        directions: of space "h" or "branch"; or {t: Directions}, of which each t takes the nearest.
        index: which of the k directions.
        strength: in units of the picture's own |h|; a number, or (B,) for each picture its own.
        window: (low, high), both included: the times at which the edit is on.
        step: None applies the move as it is. A small number, .05 say, moves h only by ``step * |h|`` and takes the change of the
            prediction times strength / step: the network is used where it is linear, which is all that a Jacobian knows of.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: NoiseSchedule,
        directions: Directions | Mapping[int, Directions],
        strength: float | Tensor,
        index: int = 0,
        *,
        window: tuple[int, int] | None = None,
        step: float | None = None,
    ):
        super().__init__()
        self.path = dict(directions) if isinstance(directions, Mapping) else {directions.t: directions}
        first = next(iter(self.path.values()))
        if first.space == "x":
            raise ValueError('directions in x_t space are added to a latent once: use edit(..., space "x") or shift()')
        if not 0 <= index < first.vectors.shape[1]:
            raise ValueError(f"index must be one of the {first.vectors.shape[1]} directions, got {index}")
        low, high = window or (0, schedule.T - 1)
        if not 0 <= low <= high < schedule.T:
            raise ValueError(f"window must be (low, high) within 0 .. {schedule.T - 1}, got {window}")
        if step is not None and not step > 0:
            raise ValueError(f"step must be > 0 or None, got {step}")
        self.denoiser, self.schedule, self.index, self.step = denoiser, schedule, index, step
        self.strength, self.window = torch.as_tensor(strength, dtype=torch.float32), (low, high)

    @property
    def middle(self) -> nn.Module:
        return middle_of(self.denoiser)

    def forward(self, x_t: Tensor, t: Tensor, **condition) -> Prediction:
        now = int(t[0])
        if not self.window[0] <= now <= self.window[1]:
            return self.denoiser(x_t, t, **condition)
        found = self.path[min(self.path, key=lambda at: abs(at - now))]
        v = found.vectors[:, self.index].to(x_t)
        if len(v) not in (1, len(x_t)):
            raise ValueError(f"directions are of {len(v)} pictures, the batch has {len(x_t)}: pick one, directions[i]")
        strength = self.strength.to(x_t).reshape(-1, *[1] * (v.ndim - 1))
        size = strength if self.step is None else strength.sign() * self.step

        def move(h: Tensor) -> Tensor:
            return h + size * h.flatten(1).norm(dim=1).reshape(-1, *[1] * (h.ndim - 1)) * v

        if found.space == "branch":
            branches = Branches(self.denoiser, x_t, t, found.region, **condition)
            base, edited = branches.prediction(branches.h_mid), branches.prediction(move(branches.h_mid))
        else:
            base = None if self.step is None else self.denoiser(x_t, t, **condition)
            with middle_output(self.denoiser, move):
                edited = self.denoiser(x_t, t, **condition)
        if self.step is None:
            return edited
        times = strength.abs().reshape(-1, 1, 1, 1) / self.step
        return replace(base, **{base.kind: base.value + times * (edited.value - base.value)})


@dataclass(frozen=True)
class Edit:
    """images: (B, C, H, W) edited. unedited: the same latent without the edit, which is what to compare with.

    blown: (B,) True where the edit left the range of pictures: not finite, or beyond 3 in more than 1 % of the values.
    """

    images: Tensor
    unedited: Tensor
    blown: Tensor


def edit(
    denoiser: nn.Module,
    schedule: NoiseSchedule,
    latent: Latent,
    directions: Directions | Mapping[int, Directions],
    strength: float | Tensor,
    index: int = 0,
    *,
    window: tuple[int, int] | None = None,
    step: float | None = None,
    unedited: Tensor | None = None,
    condition: Mapping | None = None,
    callback: inversion.Callback | None = None,
) -> Edit:
    """Apply one direction while coming back from a latent, by the method that the latent was inverted with.

    The latent is that of ``inversion.invert`` (real pictures) or ``inversion.from_noise`` (new ones). Directions of space "x"
    are added to the latent, ``strength`` in units of |x|, so it must have been inverted to their time, a grid ``timesteps``.
    The other arguments are those of ``EditedDenoiser``; ``unedited`` saves a pass if you have it already.

    Warns:
        RuntimeWarning: some pictures blew up; ``Edit.blown`` says which.
    """
    options = dict(condition=condition, progress=False)
    if unedited is None:
        unedited = inversion.sample(denoiser, schedule, latent, **options)
    first = directions if isinstance(directions, Directions) else next(iter(directions.values()))
    if first.space == "x":
        images = inversion.sample(denoiser, schedule, shift(latent, first, strength, index), callback, **options)
    else:
        edited = EditedDenoiser(denoiser, schedule, directions, strength, index, window=window, step=step)
        images = inversion.sample(edited, schedule, latent, callback, **options)
    wild = (~images.isfinite() | (images.abs() > 3)).flatten(1).float().mean(1)
    blown = (wild > 0.01) | ~images.isfinite().flatten(1).all(1)
    if blown.any():
        warnings.warn(
            f"strength {strength if isinstance(strength, float) else 'given'} blows up {int(blown.sum())} of {len(blown)} "
            "pictures: take a smaller one, or a window that begins at a lower t",
            RuntimeWarning,
            stacklevel=2,
        )
    return Edit(images, unedited, blown)


def shift(latent: Latent, directions: Directions, strength: float | Tensor, index: int = 0) -> Latent:
    """The latent moved along a direction of x_t space: x + strength |x| v.

    Raises:
        ValueError: the latent is not at the directions' time; a bdia latent, whose two times cannot both be moved.
    """
    if latent.grid[0] != directions.t:
        raise ValueError(
            f"directions are of t = {directions.t}, the latent is at t = {latent.grid[0]}: invert with timesteps that begin there"
        )
    if latent.method == "bdia":
        raise ValueError('a "bdia" latent holds two times, only one of which would move: invert with "ddim" or "edict"')
    v = directions.vectors[:, index].to(latent.x)
    size = torch.as_tensor(strength).to(v).reshape(-1, 1, 1, 1)
    return latent.shifted(size * latent.x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) * v)


def find_path(
    denoiser: nn.Module,
    schedule: NoiseSchedule,
    trajectory: Mapping[int, Tensor],
    times: Sequence[int],
    mask: Tensor,
    k: int = 5,
    **options,
) -> dict[int, Directions]:
    """Directions at several times of a recorded trajectory ({t: x_t}, of ``inversion.record``), aligned to the first.

    Each wanted time takes the nearest recorded one. The other arguments are those of ``find_directions``.
    """
    path: dict[int, Directions] = {}
    for wanted in times:
        t = min(trajectory, key=lambda at: abs(at - wanted))
        found = find_directions(denoiser, schedule, trajectory[t], t, mask, k, **options)
        path[t] = found if not path else found.aligned(next(iter(path.values())))
    return path


# ---------------------------------------------------------------------- editing by the factorized bottleneck


class Recomposed(nn.Module):
    """A factorized denoiser, one of whose regions comes from another picture: its mask and its branch are exchanged.

        m'_k = m_k(source),   m'_j = m_j (1 - m'_k) / (1 - m_k)  for j != k,
        noise = sum_j m'_j noise_j,  with noise_k the one that leads to the clean picture that the source's branch k predicts

    The source is a recorded trajectory {t: x_t} (``inversion.record``): of another picture, to *swap* a region; of the picture
    itself, shifted, to *move* it (``moved``); of the picture under fresh noise, to *re-noise* it (``renoised``). Outside of
    ``window`` the denoiser is left alone, so that the last, clean steps can mend the seam.
    """

    def __init__(
        self,
        denoiser,
        schedule: NoiseSchedule,
        source: Mapping[int, Tensor],
        region: int,
        window: tuple[int, int] | None = None,
    ):
        super().__init__()
        if not hasattr(denoiser, "branches") or denoiser.decoding == "concat":
            raise TypeError(f"denoiser must be a FactorizedUNet with branches, got a {type(denoiser).__name__}")
        if not 0 <= region < denoiser.regions or denoiser.regions < 2:
            raise ValueError(f"region must be one of 0 .. {denoiser.regions - 1}, of at least two; got {region}")
        if not source:
            raise ValueError("source is empty: pass the trajectory {t: x_t} of inversion.record")
        self.denoiser, self.schedule, self.source, self.region = denoiser, schedule, dict(source), region
        self.window = window or (min(source), max(source))

    def forward(self, x_t: Tensor, t: Tensor, **condition) -> Prediction:
        now, k = int(t[0]), self.region
        if not self.window[0] <= now <= self.window[1]:
            return self.denoiser(x_t, t, **condition)
        if now not in self.source:
            raise ValueError(f"source has no x_t at t = {now}: record it on the same grid as the latent")
        other = self.source[now].to(x_t).expand_as(x_t)
        net = self.denoiser
        own, theirs = net.encode(x_t, t, **condition), net.encode(other, t, **condition)
        masks, m_k = net.mask_generator(*own), net.mask_generator(*theirs)[:, k : k + 1]
        others = masks.clone()
        others[:, k] = 0
        others = others + 1e-9  # where the others had no mask at all they share what they get
        others[:, k] = 0
        masks = others * (1 - m_k) / others.sum(1, keepdim=True)
        masks = torch.cat([masks[:, :k], m_k, masks[:, k + 1 :]], dim=1)
        values = net.branches(*own, masks)
        # the source's branch speaks of the source's noise: what it says of the clean picture carries over, the noise does not
        told = Prediction(**{net.predicts: net.branches(*theirs, masks)[:, k]})
        clean = Prediction(x0=convert(self.schedule, told, other, now, "x0"))
        theirs_k = convert(self.schedule, clean, x_t, now, net.predicts)[:, None]
        values = torch.cat([values[:, :k], theirs_k, values[:, k + 1 :]], dim=1)
        value = torch.einsum("bkchw,bkhw->bchw", values, masks)
        return Prediction(**{net.predicts: value}, masks=masks)


def moved(trajectory: Mapping[int, Tensor], down: int, right: int) -> dict[int, Tensor]:
    """A trajectory shifted by pixels (what leaves on one side comes back on the other), for ``Recomposed``."""
    return {t: x.roll((down, right), dims=(2, 3)) for t, x in trajectory.items()}


def renoised(
    denoiser, schedule: NoiseSchedule, images: Tensor, grid: Sequence[int], generator: torch.Generator | None = None
) -> dict[int, Tensor]:
    """A trajectory that starts from the images under fresh noise at ``grid[0]`` and is sampled on, for ``Recomposed``."""
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    latent = Latent(add_noise(schedule, images, grid[0], noise), None, "ddim", tuple(grid), {})
    return inversion.record(denoiser, schedule, latent, progress=False)[1]
