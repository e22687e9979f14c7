"""Whole experiments by name: architecture, schedule, data and training in one typed object.

``scripts/train.py`` runs them from the command line, where every field can be overridden. Shipped checkpoints were made by
the preset of their name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch.utils.data import Dataset

from fdlib.factorized import FactorizedUNet
from fdlib.hierarchical import HierarchicalUNet
from fdlib.pose import PoseDenoiser, PoseObjective, parameter_groups
from fdlib.process import DenoisingObjective, PowerT, uniform_t
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig
from fdlib.unet import UNet


@dataclass
class Architecture:
    """The arguments of ``fdlib.unet.UNet`` and, where there are regions, of ``FactorizedUNet`` or ``HierarchicalUNet``."""

    image_size: int = 64
    """Height and width in pixels."""
    channels: int = 128
    """C, the width of the first stage."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Width of each stage in units of C."""
    blocks: int = 3
    """Residual blocks in each stage."""
    attention: tuple[int, ...] = (16,)
    """Feature-map sizes with self-attention."""
    heads: int = 1
    """Attention heads."""
    fold: int = 1
    """2 folds 2x2 pixels into channels at the stem (for CPUs)."""
    dropout: float = 0.0
    """Between the convolutions of a block."""
    predicts: Literal["noise", "x0", "velocity"] = "noise"
    """What the network's output means."""
    regions: int | tuple[int, ...] = 0
    """K, the region masks of the bottleneck; 0 is the plain U-Net; several numbers, one a level, make masks within masks."""
    decoding: Literal["parallel", "concat", "mask_mid", "unshared"] = "parallel"
    """How masks enter the decoder: the thesis's way, or one of its ablations."""
    mask_resize: Literal["area", "bilinear", "nearest"] = "area"
    """How masks are brought to the skips' resolutions."""
    mask_upsample: Literal["bilinear", "shuffle"] = "bilinear"
    """How a folded network's mask logits become pixels."""

    def build(self) -> UNet | HierarchicalUNet:
        if isinstance(self.regions, tuple):
            return HierarchicalUNet(**asdict(self), depth=len(self.regions))
        if self.regions:
            return FactorizedUNet(**asdict(self))
        masks = ("regions", "decoding", "mask_resize", "mask_upsample")
        return UNet(**{name: value for name, value in asdict(self).items() if name not in masks})


@dataclass
class Schedule:
    """The noise schedule and the times to train on."""

    kind: Literal["linear", "cosine"] = "linear"
    """Ho et al. 2020, or Nichol and Dhariwal 2021."""
    T: int = 1000
    """Number of times."""
    rescale: bool = False
    """Linear only: scale the betas so that any T ends in noise."""
    power: float = 1.0
    """Times are drawn as T u^power: 1 is uniform, more prefers low noise."""

    def build(self) -> NoiseSchedule:
        return (
            NoiseSchedule.linear(self.T, rescale=self.rescale)
            if self.kind == "linear"
            else NoiseSchedule.cosine(self.T)
        )


@dataclass
class Data:
    """Where the pictures come from."""

    source: Literal["shapes3d", "photos"] = "photos"
    """Rendered 3D Shapes (or the official file), or any folder of pictures or .npz array of them."""
    path: Path | None = None
    """The folder, .npz or .npy of photos; for shapes3d the official 3dshapes.h5 (rendered when absent)."""
    key: str = "images"
    """The array's name inside an .npz file."""
    count: int = 20_000
    """shapes3d: pictures to render."""
    seed: int = 0
    """shapes3d: which of the 480 000 combinations."""
    layout: Literal["plain", "varied", "close"] = "plain"
    """shapes3d: the official camera; or a window of its frame, different in every picture, anywhere or near the object."""
    zoom: tuple[float, float] | None = None
    """shapes3d, varied or close: the windows' smallest and largest width, of the frame's; by default (.55, 1) or (.3, 1)."""
    flip: bool = False
    """Mirror half of the pictures at random."""

    def build(self, image_size: int) -> Dataset:
        if self.source == "shapes3d":
            from fdlib.data.shapes3d import Shapes3D, close_layout, random_layout, split_indices

            train, _ = split_indices(train=self.count, test=10_000, seed=self.seed)
            layout = "plain"
            if self.layout != "plain":
                draw = {"varied": random_layout, "close": close_layout}[self.layout]
                windows = {"zoom": self.zoom} if self.zoom else {}
                layout = draw(len(train), torch.Generator().manual_seed(self.seed), **windows)
            return Shapes3D(size=image_size, indices=train, layout=layout, source=self.path or "rendered")
        if self.path is None:
            raise ValueError(
                "data.path is missing: pass --data.path with a folder of pictures, or an .npz or .npy array of them"
            )
        from fdlib.data.photos import ArrayImages, ImageFolder

        if self.path.suffix in (".npz", ".npy"):
            return ArrayImages.from_file(self.path, key=self.key)
        return ImageFolder(self.path, size=image_size)


@dataclass
class Experiment:
    """All that one training run needs."""

    model: Architecture = field(default_factory=Architecture)
    data: Data = field(default_factory=Data)
    schedule: Schedule = field(default_factory=Schedule)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def objective(self) -> DenoisingObjective:
        timesteps = uniform_t if self.schedule.power == 1 else PowerT(self.schedule.power)
        return DenoisingObjective(self.schedule.build(), timesteps)


def _small(image_size: int, multipliers: Sequence[int], attention: Sequence[int]) -> Architecture:
    return Architecture(
        image_size, channels=32, multipliers=tuple(multipliers), blocks=1, attention=tuple(attention), fold=2
    )


def _regions(regions: int | tuple[int, ...] = 4) -> Architecture:
    return Architecture(32, channels=16, multipliers=(1, 2, 2), blocks=1, attention=(), fold=2, regions=regions)


PRESETS: dict[str, tuple[str, Experiment]] = {
    "shapes32": (
        "Rendered 3D Shapes at 32 px, for 2 CPU cores: the plain denoiser of chapter 2.",
        Experiment(
            _small(32, (1, 2, 2), (8,)),
            Data("shapes3d"),
            Schedule(),
            TrainingConfig(steps=8_000, batch_size=64, learning_rate=1e-3, warmup=200, decay="cosine", ema_decay=0.999),
        ),
    ),
    "regions32": (
        "Region masks on rendered 3D Shapes at 32 px, for minutes on 2 CPU cores (chapter 4, `make demo`).",
        Experiment(
            _regions(),
            Data("shapes3d", layout="close"),
            Schedule(power=1.5),
            TrainingConfig(
                steps=4_000, batch_size=16, learning_rate=2e-3, warmup=100, ema_decay=0.99, seed=3
            ),  # it went well
        ),
    ),
    "hierarchy32": (
        "Masks within masks on rendered 3D Shapes at 32 px: three regions, each cut in three (thesis 2.5.1, not tuned).",
        Experiment(
            _regions((3, 3)),
            Data("shapes3d", layout="close"),
            Schedule(power=1.5),
            TrainingConfig(steps=2_500, batch_size=16, learning_rate=2e-3, warmup=100, ema_decay=0.99),
        ),
    ),
    "photos64-small": (
        "Your own pictures at 64 px, for 2 CPU cores.",
        Experiment(
            _small(64, (1, 2, 3), (8,)),
            Data("photos", flip=True),
            Schedule(),
            TrainingConfig(
                steps=10_000, batch_size=32, learning_rate=5e-4, warmup=200, ema_decay=0.999, save_every=500
            ),
        ),
    ),
    "flower64": (
        "Thesis 2.4 at 64 px (Flower): 8 GPUs, 50 000 steps. The plain U-Net, its baseline.",
        Experiment(
            Architecture(64),
            Data("photos"),
            Schedule(),
            TrainingConfig(steps=50_000, batch_size=128, learning_rate=1e-4, ema_decay=0.9999, save_every=5000),
        ),
    ),
}


# ---------------------------------------------------------------------- poses


@dataclass
class PoseExperiment:
    """NeRF inside diffusion on the views of one scene: what chapters 9 and 10 and ``benchmarks/poses.py`` train."""

    steps: int = 2600
    """Optimiser steps."""
    batch_size: int = 32
    """Views a step: balancing needs several for each candidate."""
    candidates: int = 8
    """Cameras to choose from; 1 is the single-pose model (algorithm 3)."""
    assignment: Literal["balanced", "minimum"] = "balanced"
    """Share views out evenly at first, or the thesis's plain minimum."""
    balanced_share: float = 0.6
    """Part of the training for which views are shared out."""
    temperature: float = 0.2
    """Of the sharing, in units of the errors' spread."""
    weight: float = 0.1
    """lambda of equation 3.4."""
    blur: float = 1.5
    """Smoothing of the scene at the start, in voxels, falling to 0 at half of the training."""
    resolution: int = 32
    """Voxels along a side of the scene."""
    samples: int = 32
    """On each ray."""
    score_pixels: int = 48
    """Of each view, on which the candidates are compared."""
    score_samples: int = 16
    """On each ray of these."""
    render_pixels: int = 128
    """Of each view, rendered with gradient."""
    field_rate: float = 1e-2
    """Learning rate of the scene."""
    encoder_rate: float = 1e-3
    """Learning rate of the encoder (or, for NeRF--, of the cameras)."""
    clean: bool = False
    """Show the encoder the clean view: the autoencoder of thesis 3.4.5."""
    per_view: bool = False
    """NeRF--: trainable cameras for every view in place of the encoder."""
    power: float = 2.0
    """Times are drawn as T u^power: 1 is uniform; more prefers low noise, at which a view's camera can be told."""
    T: int = 100
    """Times of the cosine schedule (thesis 3.4.1 has 100; its linear schedule would not end in noise)."""
    seed: int = 0
    """Of weights, batches and noise."""

    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.cosine(self.T)

    def build(self, views, elevation: tuple[float, float]) -> PoseDenoiser:
        """A model for a ``MultiView``. Radius, intrinsics and the range of elevations are assumed known, poses are not."""
        torch.manual_seed(self.seed)
        return PoseDenoiser(
            views.size,
            views.focal,
            views.near,
            views.far,
            self.candidates,
            radius=float(views.c2w[:, :3, 3].norm(dim=1).mean()),
            elevation=elevation,
            resolution=self.resolution,
            bound=views.bound or 1.0,
            samples=self.samples,
            views=len(views) if self.per_view else 0,
        )

    def objective(self) -> PoseObjective:
        return PoseObjective(
            self.schedule(),
            self.steps,
            assignment=self.assignment,
            balanced_share=self.balanced_share,
            temperature=self.temperature,
            weight=self.weight,
            score_pixels=self.score_pixels,
            score_samples=self.score_samples,
            render_pixels=self.render_pixels,
            blur=self.blur,
            timesteps=PowerT(self.power),
            clean=self.clean,
        )

    def training(self, model: PoseDenoiser) -> dict:
        """The arguments of ``train`` beside model, objective and views."""
        config = TrainingConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.field_rate,
            decay="cosine",
            ema_decay=0.99,
            seed=self.seed,
        )
        return {"config": config, "parameters": parameter_groups(model, self.field_rate, self.encoder_rate)}


POSES = {
    "balanced": PoseExperiment(),
    "minimum": PoseExperiment(assignment="minimum"),
    "autoencoder": PoseExperiment(clean=True),
    "nerf--": PoseExperiment(candidates=1, per_view=True, encoder_rate=1e-2),
}
"""The method of chapter 10 and what it is compared with, at the same length and scene."""
