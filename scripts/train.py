"""Train a denoiser from the command line: ``python scripts/train.py PRESET [--field value ...]``.

    python scripts/train.py shapes32 --folder runs/shapes32
    python scripts/train.py photos64-small --folder runs/mine --data.path ~/Pictures

Run the same command again after a crash, a kill or Ctrl-C and it continues where its last checkpoint was.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from fdlib import samplers, viz
from fdlib.presets import PRESETS, Experiment
from fdlib.process import by_row
from fdlib.schedule import time_grid
from fdlib.training import TrainingDiverged, TrainingState, train


@dataclass
class Run(Experiment):
    """One run of one experiment."""

    folder: Path = Path("runs")
    """Where checkpoints, logs, the model and pictures go."""
    resume: bool = True
    """Continue the run that the folder holds; without it, a folder that holds one is refused."""
    tensorboard: bool = False
    """Write TensorBoard logs to the folder too."""
    sample_every: int = 2000
    """Steps between pictures of samples (samples.png in the folder)."""
    samples: int = 32
    """Pictures in samples.png."""
    sample_steps: int = 25
    """Solver steps for each."""


def flip(batch: dict, generator: torch.Generator) -> dict:
    """Mirror each picture with probability 1/2."""
    images = batch["image"]
    mirrored = (
        by_row(lambda n, g: torch.rand(n, 1, 1, 1, generator=g, device=images.device), len(images), generator) < 0.5
    )
    return {**batch, "image": torch.where(mirrored, images.flip(3), images)}


def main(run: Run) -> TrainingState:
    torch.manual_seed(run.training.seed)
    denoiser, objective = run.model.build(), run.objective()
    dataset = run.data.build(run.model.image_size)
    print(f"{denoiser.parameter_count:,} parameters, {len(dataset):,} pictures, run in {run.folder}")
    noise = torch.randn(
        run.samples, 3, denoiser.image_size, denoiser.image_size, generator=torch.Generator().manual_seed(0)
    )

    grid = time_grid(objective.schedule.T, min(run.sample_steps, objective.schedule.T), power=2)

    def picture(state: TrainingState) -> None:
        device = next(state.ema.parameters()).device
        images = samplers.dpm_solver_pp(
            state.ema, objective.schedule, noise.to(device), timesteps=grid, clip_x0=True, progress=False
        )
        viz.save(viz.show_images(images.cpu().clamp(-1, 1), columns=8), run.folder / "samples.png")

    return train(
        denoiser,
        objective,
        dataset,
        run.training,
        folder=run.folder,
        resume=run.resume,
        augment=flip if run.data.flip else None,
        tensorboard=run.tensorboard,
        callbacks=[picture],
        callback_every=run.sample_every,
    )


def command_line(arguments: list[str] | None = None) -> Run:
    presets = {
        name: (text, Run(**vars(experiment), folder=Path("runs") / name))
        for name, (text, experiment) in PRESETS.items()
    }
    return tyro.extras.overridable_config_cli(presets, args=arguments)


if __name__ == "__main__":
    try:
        main(command_line())
    except (
        ValueError,
        OSError,
        TrainingDiverged,
    ) as error:  # what the user can mend is said in a line, not in a stack trace
        sys.exit(f"error: {error}")
    except KeyError as error:  # an array that the file of --data.path lacks; str(error) would be quoted
        sys.exit(f"error: {error.args[0]}")
