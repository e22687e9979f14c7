"""Train an experiment from the command line: ``python scripts/train.py PRESET [--field value ...]``.

    python scripts/train.py shapes32 --folder runs/shapes32
    python scripts/train.py photos64-small --folder runs/mine --data.path ~/Pictures
    torchrun --nproc-per-node 8 scripts/train.py flower64 --training.mixed-precision bf16 --training.compile

Run the same command again after a crash, a kill or Ctrl-C and it continues where its last checkpoint was. The run's folder holds
the full configuration (experiment.json), the log, checkpoints, the model, and pictures.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from fdlib import samplers, viz
from fdlib.experiments import Experiment, SceneExperiment, keep_settings
from fdlib.factorized import generate
from fdlib.nerf import render_path
from fdlib.presets import PRESETS, SCENES
from fdlib.process import by_row
from fdlib.schedule import time_grid
from fdlib.training import TrainingDiverged, TrainingState, train


@dataclass
class Output:
    """What every run has beside its experiment."""

    folder: Path = Path("runs")
    """Where configuration, checkpoints, logs, the model and pictures go."""
    resume: bool = True
    """Continue the run that the folder holds; without it, a folder that holds one is refused."""
    tensorboard: bool = False
    """Write TensorBoard logs to the folder too."""
    sample_every: int = 2000
    """Steps between pictures (samples.png or views.png in the folder)."""
    samples: int = 32
    """Pictures in them."""
    sample_steps: int = 25
    """Solver steps for each sample."""


@dataclass
class Run(Output, Experiment):
    """One run of one experiment on pictures."""


@dataclass
class SceneRun(Output, SceneExperiment):
    """One run of one experiment on the views of a scene."""


def flip(batch: dict, generator: torch.Generator) -> dict:
    """Mirror each picture with probability 1/2."""
    images = batch["image"]
    n, device = len(images), images.device
    mirrored = by_row(lambda rows, g: torch.rand(rows, 1, 1, 1, generator=g, device=device), n, generator) < 0.5
    return {**batch, "image": torch.where(mirrored, images.flip(3), images)}


def main(run: Run | SceneRun) -> TrainingState:
    torch.manual_seed(run.training.seed)
    scene = isinstance(run, SceneRun)
    if scene:
        dataset = run.views.build("train")
        denoiser, objective, picture = run.build(dataset), run.objective(), views_picture(run)
    else:
        denoiser, objective = run.build(), run.objective()
        dataset = run.data.build(run.model.image_size, labels=bool(run.model.classes))
        picture = samples_picture(run, denoiser, objective)
    keep_settings(run, run.folder)
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{denoiser.parameter_count:,} parameters, {len(dataset):,} pictures, run in {run.folder}")
    return train(
        denoiser,
        objective,
        dataset,
        run.training,
        folder=run.folder,
        resume=run.resume,
        parameters=run.parameters(denoiser) if scene else None,
        augment=flip if not scene and run.data.flip else None,
        tensorboard=run.tensorboard,
        callbacks=[] if scene and run.model.per_view else [picture],  # NeRF-- cannot localise held-out views
        callback_every=run.sample_every,
    )


def samples_picture(run: Run, denoiser, objective) -> Callable[[TrainingState], None]:
    """Pictures from always the same noise, with their regions where the model has some."""
    schedule, size = objective.schedule, run.model.image_size
    first = torch.Generator().manual_seed(0)
    noise = torch.randn(run.samples, 3, size, size, generator=first)
    grid = time_grid(schedule.T, min(run.sample_steps, schedule.T), power=2)
    labels = torch.randint(run.model.classes, (run.samples,), generator=first) if run.model.classes else None

    def draw(state: TrainingState) -> None:
        device = next(state.ema.parameters()).device
        condition = {} if labels is None else {"label": labels.to(device)}
        options = dict(timesteps=grid, clip_x0=True, progress=False, condition=condition)
        if run.model.regions:
            made = generate(state.ema, schedule, noise.to(device), sampler=samplers.dpm_solver_pp, **options)
            shown = min(8, run.samples)
            if isinstance(run.model.regions, tuple):
                figure = viz.show_tree(made.images[:1], made.masks[:1], run.model.regions)
            else:
                figure = viz.show_masks(made.images[:shown], made.masks[:shown])
        else:
            images = samplers.dpm_solver_pp(state.ema, schedule, noise.to(device), **options)
            figure = viz.show_images(images.cpu().clamp(-1, 1), columns=8)
        viz.save(figure, run.folder / "samples.png")

    return draw


def views_picture(run: SceneRun) -> Callable[[TrainingState], None]:
    """Held-out views and what the model renders from where it places them."""
    test = run.views.build("test")
    images = test.images[: min(8, run.samples)]

    def draw(state: TrainingState) -> None:
        model, device = state.ema, next(state.ema.parameters()).device
        with torch.no_grad():
            poses = model.localise(images.to(device), run.schedule(), 0 if run.loss.clean else None)
        size, samples = model.image_size, model.samples
        made = render_path(model.field, poses, model.focal, size, model.near, model.far, samples, progress=False)
        seen = made.images.clamp(-1, 1)
        viz.save(viz.show_rows({"held-out views": images, "rendered": seen}), run.folder / "views.png")

    return draw


def command_line(arguments: list[str] | None = None) -> Run | SceneRun:
    arguments = sys.argv[1:] if arguments is None else arguments
    presets = {
        name: (text, kind(**vars(experiment), folder=Path("runs") / name))
        for kind, group in ((Run, PRESETS), (SceneRun, SCENES))
        for name, (text, experiment) in group.items()
    }
    if arguments and not arguments[0].startswith("-") and arguments[0] not in presets:
        near = difflib.get_close_matches(arguments[0], presets, n=3, cutoff=0.4)
        print(
            f"error: there is no preset {arguments[0]!r}: {'did you mean ' if near else ''}{', '.join(near or presets)}",
            file=sys.stderr,
        )
        sys.exit(2)
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
