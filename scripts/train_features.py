"""Train the small network whose features our offline Fréchet distance compares: ``python scripts/train_features.py``.

It reads the factors of rendered scenes, so it is no part of any denoiser; see ``fdlib.metrics.generation``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from fdlib.data.shapes3d import FACTORS, Shapes3D, split_indices
from fdlib.metrics.generation import FactorClassifier, FactorObjective
from fdlib.training import TrainingConfig, train


@dataclass
class Settings:
    """Train and test the feature network."""

    folder: Path = Path("runs/shapes_features")
    """Where the run goes; its model/ is what the course ships."""
    count: int = 20_000
    """Pictures to train on."""
    layout: str = "plain"
    """"varied" zooms, shifts and mirrors the scenes."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=4000, batch_size=64, learning_rate=1e-3, warmup=100, decay="cosine", ema_decay=0.999
        )
    )


def main(settings: Settings) -> None:
    torch.manual_seed(settings.training.seed)
    train_indices, test_indices = split_indices(train=settings.count, test=2000, seed=0)
    network = FactorClassifier(tuple(FACTORS.values()))
    dataset = Shapes3D(size=FactorClassifier.SIZE, indices=train_indices, layout=settings.layout)
    state = train(network, FactorObjective(), dataset, settings.training, folder=settings.folder)
    test = Shapes3D(size=FactorClassifier.SIZE, indices=test_indices)
    with torch.no_grad():
        logits = state.ema(test.images())
    scores = {
        name: round(float((part.argmax(1) == test.factors[:, i]).float().mean()), 4)
        for i, (name, part) in enumerate(zip(FACTORS, logits, strict=True))
    }
    print("accuracy on 2000 held-out scenes:", json.dumps(scores))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
