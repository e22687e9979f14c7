"""Whole experiments by name: the course's own, and (from ``fdlib.thesis``) the thesis's at full scale and at a laptop's.

``scripts/train.py`` runs them from the command line, where every field can be overridden. Shipped checkpoints were made by
the preset of their name. What an experiment consists of is in ``fdlib.experiments``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fdlib.experiments import Architecture, Data, Experiment, SceneExperiment, Schedule
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
            Data("shapes3d", layout="close", whole=0.65),
            Schedule(power=1.5),
            TrainingConfig(steps=4_200, batch_size=16, learning_rate=3e-3, warmup=100, ema_decay=0.99, seed=3),
        ),
    ),
    "regions32-long": (
        "The same at leisure, 47 minutes on one CPU thread: the shipped checkpoint shapes32_regions.",
        Experiment(
            _regions(),
            Data("shapes3d", layout="close", whole=0.8),
            Schedule(power=1.5),
            TrainingConfig(
                steps=20_000, batch_size=16, learning_rate=2e-3, warmup=100, ema_decay=0.998, seed=6, save_every=1000
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


# ---------------------------------------------------------------------- studies of poses, on views that each draws itself

_CAR = SCENES["car-laptop"][1].with_(steps=2600, batch_size=32)
POSES: dict[str, SceneExperiment] = {
    "balanced": _CAR,
    "minimum": _CAR.with_(assignment="minimum"),
    "autoencoder": _CAR.with_(clean=True),
    "nerf--": _CAR.with_(candidates=1, per_view=True, encoder_rate=1e-2),
}
"""The method of chapter 10 and what it is compared with, at the same length and scene: ``benchmarks/poses.py``."""

_DESK = SCENES["llff-laptop"][1].with_(
    source="rendered",
    scene="desk",
    size=32,
    count=60,
    samples=24,
    render_pixels=64,
    steps=1500,
    learning_rate=3e-2,
    field_rate=3e-2,
    encoder_rate=8e-4,
)
FORWARD: dict[str, SceneExperiment] = {"single": _DESK, "nerf--": _DESK.with_(per_view=True, encoder_rate=5e-3)}
"""Forward-facing views, one camera each (chapter 9, algorithm 3), and its comparator: ``benchmarks/forward_facing.py``."""

_LEGO = SCENES["lego-laptop"][1].with_(elevation=(0.0, math.pi / 2), steps=3000, batch_size=32, save_every=250)
_FINER = _LEGO.with_(assignment="minimum", blur=0.0, encoder_rate=5e-4)
LEGO: dict[int, SceneExperiment] = {
    32: _LEGO,
    64: _FINER.with_(size=64, resolution=64),
    128: _FINER.with_(size=128, resolution=128, samples=64, render_pixels=256),
}
"""NeRF's synthetic Lego, unknown cameras over the half sphere (thesis 3.4: 12 candidates), stage by stage from coarse to fine:
``benchmarks/lego.py``. Cameras are found in coarse views; the finer stages go on from there. The three bands of elevation
matter: without them, though azimuths are shared out evenly, all cameras climb to the top and look down."""
