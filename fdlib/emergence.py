"""Are regions emerging? Three numbers that need no label, a verdict in words, and a picture to watch while training.

    occupancy   the share of the pictures that each region holds: (K,), sums to 1
    entropy     how undecided pixels are: 0 when each is sure of its region, 1 when none has any preference
    variation   how much of the masks depends on the picture rather than on the place in the frame: 0 when every picture
                is cut in the same way, 1 when the place says nothing

Masks can fail in ways that the denoising loss hides: one region takes everything, or all stay grey, or every picture is cut
along the same lines. All three can be seen without a label, so that they may be seen, and acted on, during training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fdlib.training import TrainingState

TAKES_ALL, UNUSED, GREY, FIXED = 0.95, 0.01, 0.9, 0.05
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
