"""The fixed test of chapter 4: do regions that nobody labelled match floor, walls and object?

    test = ShapesTest.render()                    # 1 000 pictures that no preset trains on, and 500 to fit the map on
    test.score(denoiser)["miou"]                  # one map from region to class, fitted on the 500 training pictures
    test.baselines(regions=5)["chance"]["miou"]

Pictures are uniform over the 480 000 combinations of 3D Shapes. Three classes: the floor with the shadow on it, the walls with
the sky, the object. Labels are used here, to score, and nowhere in training. By the official camera floor and object are always
at the same place, so a partition that never looks at a picture scores .83 (with ``layout="close"`` .53): read scores beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fdlib.data.shapes3d import Shapes3D, coarse, split_indices
from fdlib.factorized import FactorizedUNet
from fdlib.metrics.baselines import chance, kmeans_colours
from fdlib.metrics.segmentation import apply_map, score_regions
from fdlib.schedule import NoiseSchedule

CLASSES = ("floor", "walls", "object")
TIME = 30  # the noise at which pictures are segmented, thesis 2.4.1


@dataclass(frozen=True)
class ShapesTest:
    """Pictures (N, 3, size, size) in [-1, 1] with classes (N, size, size) uint8: ``fit`` for the map, ``images`` to score on."""

    indices: Tensor
    images: Tensor
    labels: Tensor
    fit: Tensor
    fit_labels: Tensor
    fine: Tensor | None = None
    """(N, size, size) the six labels of the renderer (``shapes3d.LABELS``) of ``images``."""

    @classmethod
    def render(cls, size: int = 32, count: int = 1000, fit: int = 500, layout: str = "plain") -> ShapesTest:
        """The first ``count`` of the 10 000 reserved test pictures, and ``fit`` pictures of the training split.

        ``layout="close"`` (or "varied") shows them through windows, where the place in the frame no longer tells the class.

        Raises:
            ValueError: more than 10 000 test pictures, or numbers below 1.
        """
        if not 1 <= count <= 10_000:
            raise ValueError(f"count must lie in 1 .. 10000, the pictures reserved for tests, got {count}")
        if fit < 1:
            raise ValueError(f"fit must be at least 1 picture, got {fit}")
        train, test = split_indices(train=fit, test=10_000, seed=0)
        parts = [
            Shapes3D(size=size, indices=indices, layout=layout, seed=seed)
            for seed, indices in enumerate((test[:count], train), start=1000)  # windows that no training set has
        ]
        (images, labels), (fit_images, fit_labels) = ((p.images(), coarse(p.labels(), "three")) for p in parts)
        return cls(test[:count], images, labels, fit_images, fit_labels, parts[0].labels())

    def score(self, denoiser: FactorizedUNet, schedule: NoiseSchedule | None = None, t: int = TIME) -> dict:
        """Every number of ``metrics.segmentation.score_regions``, for the masks of ``denoiser.segment`` at noise t."""
        return self.score_masks(*self.segment(denoiser, schedule, t), denoiser.regions)

    def segment(
        self, denoiser: FactorizedUNet, schedule: NoiseSchedule | None = None, t: int = TIME
    ) -> tuple[Tensor, Tensor]:
        """Soft masks of the pictures to fit on and of those to score on, on the CPU."""
        device = next(denoiser.parameters()).device
        found = (denoiser.segment(images.to(device), t, schedule=schedule) for images in (self.fit, self.images))
        return tuple(masks.cpu() for masks in found)

    def score_masks(self, fit: Tensor, masks: Tensor, regions: int, oracle: bool = True) -> dict:
        """The same numbers for regions found in any way: soft masks (N, K, H, W) or integers (N, H, W).

        ``oracle=False`` leaves "oracle_miou" out, whose time grows with 3^K.
        """
        return score_regions(fit, self.fit_labels, masks, self.labels, len(CLASSES), regions, oracle)

    def baselines(self, regions: int) -> dict[str, dict]:
        """K-means on colours, random regions, and the partition of the frame that fits the training pictures best."""
        found = {
            "k-means on colours": [kmeans_colours(self.fit, images, regions) for images in (self.fit, self.images)],
            "chance": [chance(images, regions) for images in (self.fit, self.images)],
        }
        scores = {name: self.score_masks(fit, masks, regions) for name, (fit, masks) in found.items()}
        # the most frequent class of each place: it has seen labels, and all that can be had without looking at a picture
        place = self.fit_labels.long().mode(dim=0).values
        fixed = [place.expand(len(images), -1, -1) for images in (self.fit, self.images)]
        scores["most frequent class at each place (saw labels)"] = self.score_masks(*fixed, len(CLASSES))
        return scores

    def classes(self, masks: Tensor, scores: dict) -> Tensor:
        """Classes (N, H, W) of masks, by the map in ``scores``."""
        return apply_map(masks, torch.as_tensor(scores["map"]))
