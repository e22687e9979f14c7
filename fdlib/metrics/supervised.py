"""A segmenter that is told the answers: the ceiling beside which regions that nobody named are put.

It has the parts of the factorized model's mask generator, encoder and a decoder that ends in a softmax, and learns from labels by
cross-entropy. It judges; nothing of it enters a denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from fdlib.factorized import FactorizedUNet
from fdlib.metrics.segmentation import IGNORE
from fdlib.process import by_row


@dataclass
class LabelObjective:
    """Cross-entropy of the masks of clean pictures, at t = 0. The batch has "image" (B, 3, H, W) and "labels" (B, H, W).

    Args:
        noise: standard deviation of noise added to pictures, against learning a few pictures by heart.
    """

    noise: float = 0.1

    def __call__(
        self, network: FactorizedUNet, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        images, labels = batch["image"], batch["labels"].long()
        size = images.shape[1:]
        noise = by_row(lambda n, g: torch.randn(n, *size, generator=g, device=images.device), len(images), generator)
        t = torch.zeros(len(images), dtype=torch.long, device=images.device)
        masks = network.masks(images + self.noise * noise, t)
        return F.nll_loss(masks.clamp(min=1e-8).log(), labels, ignore_index=IGNORE), {}


class LabelledImages(Dataset):
    """Pictures (N, 3, H, W) in [-1, 1] with labels (N, H, W), for ``LabelObjective``."""

    def __init__(self, images: Tensor, labels: Tensor):
        if len(images) != len(labels) or images.shape[2:] != labels.shape[1:]:
            raise ValueError(f"images {tuple(images.shape)} and labels {tuple(labels.shape)} do not belong together")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "labels": self.labels[index]}


@torch.no_grad()
def classify(network: FactorizedUNet, images: Tensor, batch_size: int = 250) -> Tensor:
    """The class of each pixel, int64 (N, H, W), by a network that was trained with ``LabelObjective``."""
    device = next(network.parameters()).device
    found = []
    for part in images.split(batch_size):
        t = torch.zeros(len(part), dtype=torch.long, device=device)
        found.append(network.masks(part.to(device), t).argmax(1).cpu())
    return torch.cat(found)
