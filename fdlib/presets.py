"""Whole experiments by name: the course's own, and (from ``fdlib.thesis``) the thesis's at full scale and at a laptop's.

``scripts/train.py`` runs them from the command line, where every field can be overridden. Shipped checkpoints were made by
the preset of their name. What an experiment consists of is in ``fdlib.experiments``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from fdlib.experiments import Architecture, Data, Experiment, SceneExperiment, Schedule
from fdlib.pose import PoseDenoiser, PoseObjective, parameter_groups
from fdlib.process import PowerT
from fdlib.schedule import NoiseSchedule
from fdlib.thesis import LAPTOP, PICTURES, SCENE_LAPTOP, THESIS_SCENES
from fdlib.training import TrainingConfig


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
            Data("shapes3d", layout="close", whole=0.55),
            Schedule(power=1.5),
            TrainingConfig(steps=3_800, batch_size=16, learning_rate=2e-3, warmup=100, ema_decay=0.99, seed=3),
        ),
    ),
    "regions32-long": (
        "The same at leisure. Not yet run to its end.",
        Experiment(
            _regions(),
            Data("shapes3d", layout="close", whole=0.55),
            Schedule(power=1.5),
            TrainingConfig(
                steps=10_000,
                batch_size=16,
                learning_rate=2e-3,
                warmup=100,
                decay="cosine",
                ema_decay=0.998,
                seed=3,
                save_every=500,
            ),
        ),
    ),
    "hierarchy32": (
        "Masks within masks on rendered 3D Shapes at 32 px (thesis 2.5.1): chapter 4's regions, each cut in two (chapter 7).",
        Experiment(
            _regions((4, 2)),
            Data("shapes3d"),
            Schedule(power=1.5),
            TrainingConfig(steps=600, batch_size=16, learning_rate=1e-3, warmup=100, ema_decay=0.99),
            start="shapes32_regions",
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
    **LAPTOP,
    **PICTURES,
}

SCENES: dict[str, tuple[str, SceneExperiment]] = {**SCENE_LAPTOP, **THESIS_SCENES}
"""Pose denoisers of one scene each: the thesis's chapter 3."""


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
    cameras: Literal["sphere", "free"] = "sphere"
    """On a sphere around the scene, looking at its middle; or free (forward-facing scenes)."""
    rows: int = 1
    """Bands of elevation that the candidates on a sphere form."""
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

    def build(self, views, elevation: tuple[float, float] = (0.0, 1.2)) -> PoseDenoiser:
        """A model for a ``MultiView``. No pose enters; intrinsics do, and on a sphere its radius and range of elevations."""
        torch.manual_seed(self.seed)
        free = self.cameras == "free"  # then any radius will do: it is the unit of length
        return PoseDenoiser(
            views.size,
            views.focal,
            views.near,
            views.far,
            self.candidates,
            self.cameras,
            radius=(views.near + views.far) / 2 if free else float(views.c2w[:, :3, 3].norm(dim=1).mean()),
            rows=self.rows,
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

_FORWARD = PoseExperiment(
    steps=1500,
    batch_size=16,
    candidates=1,
    cameras="free",
    samples=24,
    render_pixels=64,
    field_rate=3e-2,
    encoder_rate=8e-4,
)
FORWARD = {"single": _FORWARD, "nerf--": replace(_FORWARD, per_view=True, encoder_rate=5e-3)}
"""Forward-facing views, one camera each (chapter 9, algorithm 3), and its comparator: ``benchmarks/forward_facing.py``."""

_FINER = PoseExperiment(candidates=12, assignment="minimum", blur=0.0, encoder_rate=5e-4)
LEGO = {
    32: PoseExperiment(steps=3000, candidates=12, blur=4.0),
    64: replace(_FINER, steps=3000, resolution=64),
    128: replace(_FINER, steps=6000, resolution=128, samples=64, render_pixels=256),
}
"""NeRF's synthetic Lego, unknown cameras over the half sphere (thesis 3.4: 12 candidates), stage by stage from coarse to fine:
``benchmarks/lego.py``. Cameras are found in coarse views; the finer stages go on from there."""
