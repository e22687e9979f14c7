"""Are regions emerging? Three numbers that need no label, a verdict in words, and a picture to watch while training.

    occupancy   the share of the pictures that each region holds: (K,), sums to 1
    entropy     how undecided pixels are: 0 when each is sure of its region, 1 when none has any preference
    variation   how much of the masks depends on the picture rather than on the place in the frame: 0 when every picture
                is cut in the same way, 1 when the place says nothing

Masks can fail in ways that the denoising loss hides: one region takes everything, or all stay grey, or every picture is cut
along the same lines. All three can be seen without a label, so that they may be seen, and acted on, during training.

A fourth failure is decided within some fifty steps and never mended: stripes from left to right, which tell the decoder where
in the frame it is. ``mirror_agreement`` finds it without a label, and ``audition`` looks for a seed that starts without it.
On photos starts fail in other ways: there ``mask_balance`` judges, after a decoder has learned under ``random_regions``.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from fdlib.process import by_row
from fdlib.runs import saved_seed
from fdlib.training import Objective, TrainingConfig, TrainingState, train

TAKES_ALL, UNUSED, GREY, FIXED = 0.95, 0.01, 0.9, 0.05
PASSED = 0.5  # what an audition asks of a start
SCALE = 3  # screen pixels a pixel of the live picture


@dataclass(frozen=True)
class MaskHealth:
    """The numbers of this module for one set of masks; ``str()`` says them in a line."""

    occupancy: tuple[float, ...]
    entropy: float
    variation: float

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        K = len(self.occupancy)
        if K == 1:
            return []
        found = []
        if max(self.occupancy) > TAKES_ALL:
            k = self.occupancy.index(max(self.occupancy))
            found.append(f"collapsed: region {k} holds {self.occupancy[k]:.0%} of all pixels")
        elif unused := [k for k, share in enumerate(self.occupancy) if share < UNUSED]:
            found.append(f"unused: region {', '.join(map(str, unused))} holds less than {UNUSED:.0%}")
        if self.entropy > GREY:
            found.append("grey: pixels have no preferred region yet")
        elif self.variation < FIXED and not found:
            found.append("fixed: all pictures are cut in the same way")
        return found

    @property
    def collapsed(self) -> bool:
        """Whether one region holds (nearly) everything, masks are grey, or the same in all pictures."""
        return any(not problem.startswith("unused") for problem in self.problems)

    def __str__(self) -> str:
        shares = " ".join(f"{share:.0%}" for share in self.occupancy)
        verdict = "; ".join(self.problems) or "healthy"
        return f"occupancy {shares}, entropy {self.entropy:.2f}, variation {self.variation:.2f}: {verdict}"


def mask_health(masks: Tensor) -> MaskHealth:
    """Judge soft masks (N, K, H, W) of N different pictures, N at least 2 (some 100 make steady numbers).

    Pictures should differ in layout: where all of them show floor at the bottom, correct masks vary little too.

    Raises:
        ValueError: another shape, or a single picture.
    """
    if masks.ndim != 4 or len(masks) < 2:
        raise ValueError(f"masks must have the shape (N, K, H, W) with N >= 2 pictures, got {tuple(masks.shape)}")
    masks = masks.detach().float()
    K, occupancy = masks.shape[1], masks.mean(dim=(0, 2, 3))
    entropy = -torch.special.xlogy(masks, masks).sum(1).mean() / math.log(K) if K > 1 else torch.tensor(0.0)
    total = (masks - occupancy[:, None, None]).square().mean()  # variance over pictures and places together
    within = masks.var(dim=0, unbiased=False).mean()  # and over pictures, at each place
    return MaskHealth(tuple(occupancy.tolist()), float(entropy), float(within / total) if total > 1e-8 else 0.0)


@dataclass
class MaskWatch:
    """A callback for ``train``: judges the masks of the averaged weights and, in a notebook, shows them as they change.

        watch = MaskWatch(pictures)
        train(..., callbacks=[watch], callback_every=200)
        watch.history[-1]

    Args:
        images: (N, C, H, W) pictures of different layouts, N >= 2.
        t: noise at which they are segmented.
        show: how many of them to draw (0: none).

    Attributes:
        history: (step, MaskHealth) pairs. frames: the pictures drawn so far, uint8 (H, W, 3), for a slider afterwards.
    """

    images: Tensor
    t: int = 30
    show: int = 8
    history: list[tuple[int, MaskHealth]] = field(default_factory=list)
    frames: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self._live = None

    def __call__(self, state: TrainingState) -> None:
        masks = state.ema.segment(self.images.to(next(state.ema.parameters()).device), self.t).cpu()
        self.history.append((state.step, mask_health(masks)))
        if self.show:
            from fdlib import viz, widgets  # drawing needs the course's packages, judging does not

            pictures = self.images[: self.show].cpu()
            self.frames.append(viz.image_grid(viz.overlay_masks(pictures, masks[: self.show], scale=SCALE), self.show))
            self._live = self._live or widgets.live_picture()
            self._live.update(self.frames[-1], f"step {state.step}: {self.history[-1][1]}")


# ---------------------------------------------------------------------- starting well


def random_regions(
    n: int,
    regions: int,
    size: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Soft masks (n, K, size, size) that have nothing to do with any picture: blobs of all sizes, from soft to nearly hard.

    A decoder that has learned to work with these, in place of masks that are learned beside it, prefers no cut because it is used
    to it. What the masks find when they begin to learn is then decided by the pictures (``benchmarks/flowers.md``):

        DenoisingObjective(schedule, condition=("masks",))              # with an augmentation that adds batch["masks"]
    """

    def draw(n: int, generator: torch.Generator | None) -> Tensor:
        options = dict(generator=generator, device=device)
        logits = torch.empty(n, regions, size, size, device=device)
        cells = torch.randint(2, 6, (n,), **options).tolist()  # how fine the blobs are
        grid = torch.randn(n, regions, 5, 5, **options) + 0.8 * torch.randn(n, regions, 1, 1, **options)
        for i, c in enumerate(cells):
            logits[i] = F.interpolate(grid[i : i + 1, :, :c, :c], (size, size), mode="bicubic", align_corners=True)[0]
        sharpness = torch.exp(4 * torch.rand(n, 1, 1, 1, **options))
        return (sharpness * logits).softmax(dim=1)

    return by_row(draw, n, generator)


def mirror_agreement(denoiser: nn.Module, images: Tensor, t: int = 30, **condition: Tensor) -> float:
    """The share of pixels whose region stays the same when the picture is mirrored, left to right.

    A mirrored room is a room: regions found by looking are found in the mirror too (near 1). Stripes that name the left and
    the right of the frame are not (near 0). No label is read.

    Args:
        denoiser: a model with ``segment``.
        images: (N, C, H, W) in [-1, 1]; some 100 pictures make a steady number.
        t: noise at which they are segmented.
        condition: what a conditional model wants, one row an image (``label=``).
    """
    images = images.to(next(denoiser.parameters()).device)
    seen, mirrored = (denoiser.segment(pictures, t, **condition).argmax(1) for pictures in (images, images.flip(3)))
    return float((seen == mirrored.flip(2)).float().mean())


def mask_balance(denoiser: nn.Module, images: Tensor, t: int = 30, **condition: Tensor) -> float:
    """How evenly the regions share the pixels: K times the smallest share, 1 where all are equal; 0 for collapsed masks.

    For photos: a region that held hardly any pixels after some hundred steps had found edges and specks, and in none of our
    trials became an object (``benchmarks/flowers.md``). Arguments as for ``mirror_agreement``.
    """
    masks = denoiser.segment(images.to(next(denoiser.parameters()).device), t, **condition)
    health = mask_health(masks)
    return 0.0 if health.collapsed else len(health.occupancy) * min(health.occupancy)


@dataclass(frozen=True)
class Audition:
    """The seed to train with, what every seed that was tried showed, (seed, the judge's number), and its first steps.

    ``folder`` holds the first steps of the seed found, as a run that ``train`` goes on with.
    """

    seed: int
    tried: tuple[tuple[int, float], ...]
    folder: Path
    judge: str = "mirror agreement"
    _temporary: TemporaryDirectory | None = field(default=None, repr=False, compare=False)  # lives as long as this does

    def __str__(self) -> str:
        if not self.tried:
            return f"{self.folder} holds a run with seed {self.seed}, which goes on"
        tried = ", ".join(f"seed {seed}: {number:.2f}" for seed, number in self.tried)
        return f"{self.judge}: {tried}; training with seed {self.seed}"


def audition(
    build: Callable[[], nn.Module],
    objective: Objective,
    dataset: Dataset,
    config: TrainingConfig,
    images: Tensor,
    *,
    folder: str | Path | None = None,
    steps: int = 60,
    tries: int = 10,
    judge: Callable[..., float] | None = None,
    augment: Callable | None = None,
    **condition: Tensor,
) -> Audition:
    """Train a few steps with one seed after the other until the regions pass a test that reads no label.

    The training proper goes on from there, and is the very run that this seed alone would have given:

        found = audition(build, objective, dataset, config, images)
        config.seed = found.seed
        train(build(), objective, dataset, config, folder=found.folder)

    Args:
        build: makes the untrained model; called after ``torch.manual_seed(seed)``.
        config: of the whole training, of which the first ``steps`` are run. ``config.seed`` is tried first, then
            ``config.seed + 1000``, ``+ 2000``, ...
        images: (N, C, H, W) training pictures to judge by.
        folder: where the run with the seed found shall be; by default one that is deleted with the ``Audition`` returned. If it
            holds a run already, its seed is the answer and nothing is tried.
        steps: length of a try.
        tries: seeds to try; if none passes, the best of them is taken and a warning says so.
        judge: ``(denoiser, images, **condition) -> number``, passed above 1/2: ``mirror_agreement`` (the
            default) or ``mask_balance``.
        augment: as for ``train``, which must then be given the same.
        condition: what a conditional model wants to know of ``images``, one row an image (``label=``).

    For one process; several would not agree on when to end a try.

    Raises:
        ValueError: ``tries`` or ``steps`` < 1. KeyboardInterrupt: Ctrl-C, or the cell's stop button.
    """
    if tries < 1 or steps < 1:
        raise ValueError(f"tries and steps must be at least 1, got tries={tries}, steps={steps}")
    judge = judge or mirror_agreement
    name = getattr(getattr(judge, "func", judge), "__name__", "judge").replace("_", " ")  # .func: a functools.partial's
    seeds = range(config.seed, config.seed + 1000 * tries, 1000)
    if folder is not None and (saved := saved_seed(folder)) is not None:
        return Audition(saved if saved in seeds else config.seed, (), Path(folder))  # any other seed ``train`` refuses
    temporary, tried = TemporaryDirectory(), []
    for seed in seeds:
        torch.manual_seed(seed)
        model = build()
        try:
            stopped = train(
                model, objective, dataset, replace(config, seed=seed, save_every=steps), folder=f"{temporary.name}/{seed}",
                augment=augment, callbacks=[_stop_after], callback_every=steps, progress=False,
            )  # fmt: skip
        except _Enough as enough:
            model, stopped = enough.model, None
        if stopped:  # by hand, before the try was over: there is no training to go on with
            raise KeyboardInterrupt
        tried.append((seed, judge(model, images, **condition)))
        if tried[-1][1] > PASSED:
            best = tried[-1]
            break
    else:
        best = max(tried, key=lambda pair: pair[1])
        warnings.warn(
            f"no seed of {tries} passed: the best, {best[0]}, has a {name} of {best[1]:.2f}, and more than {PASSED} is asked; "
            "regions may be a mere cut of the frame",
            stacklevel=2,
        )
    begun = Path(temporary.name) / str(best[0])
    if folder is None:
        return Audition(best[0], tuple(tried), begun, name, temporary)
    shutil.copytree(begun, folder, dirs_exist_ok=True)
    return Audition(best[0], tuple(tried), Path(folder), name)


class _Enough(Exception):
    """Ends a try after its first steps. The schedules of the whole training still apply to them."""

    def __init__(self, model: nn.Module):
        self.model = model


def _stop_after(state: TrainingState) -> None:
    raise _Enough(state.ema)
