"""One training loop for every model: ``train(denoiser, objective, dataset, config)``.

What a model learns is said by its *objective*, a callable ``(denoiser, batch, generator) -> loss, log``; everything else is
here: batches, averaged weights, warm-up, clipping, mixed precision, several processes (through accelerate), logs, pictures,
checkpoints.

Everything random in step n (which images, which t, which noise, dropout) is a function of (seed, n) alone. So a run that was
killed and resumed from a checkpoint computes bit for bit what the undisturbed run would have computed. And each image of a batch
has its own random numbers (``process.by_row``), so the same batch gives the same step, up to rounding, on any number of processes
and in any number of parts (but for dropout, whose masks differ).
What a run leaves on disk, and how it goes on from there, is in ``fdlib.runs``; how several processes share a step in
``fdlib.workers``.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import ConcatDataset, DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from fdlib.course.profiles import sabotaged
from fdlib.denoiser import Model
from fdlib.runs import RunFolder, settings_of
from fdlib.workers import accelerator_for, seed_everything

Objective = Callable[[nn.Module, Any, torch.Generator], tuple[Tensor, dict[str, float]]]
AGREE_EVERY = 10  # steps between two questions of several processes whether somebody pressed Ctrl-C


@dataclass
class TrainingConfig:
    """How to train; what to train on and what for are arguments of ``train``."""

    steps: int = 10_000
    """Optimiser steps in all."""
    batch_size: int = 128
    """Images a step, over all processes and all accumulated parts."""
    learning_rate: float = 1e-4
    """Of Adam, after the warm-up (thesis 2.4)."""
    warmup: int = 0
    """Steps over which the rate grows linearly from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """What the rate does afterwards: stays, or falls to 0 at the last step along half a cosine."""
    ema_decay: float = 0.9999
    """Of the averaged weights (thesis 2.4); lower at the start, (1 + n) / (10 + n) after n steps."""
    clip_norm: float = 1.0
    """Longest gradient that is used unshortened."""
    accumulate: int = 1
    """Parts into which each batch is cut, for batches that do not fit the memory."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """``fdlib.course.precision()`` knows what this machine's GPU can do."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps on GPUs."""
    workers: int = 0
    """Processes that load data."""
    seed: int = 0
    """Of everything random in training. The network's initial weights are drawn before: seed those where you build it."""
    log_every: int = 50
    """Steps between lines of the log."""
    save_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints to keep."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.clip_norm <= 0 or self.warmup < 0:
            raise ValueError(
                "learning_rate and clip_norm must be > 0 and warmup >= 0, got "
                f"{self.learning_rate}, {self.clip_norm}, {self.warmup}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        for name, choices in (("decay", ("constant", "cosine")), ("mixed_precision", ("no", "fp16", "bf16"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of accumulate={self.accumulate}")

    def rate(self, step: int) -> float:
        """The factor on the learning rate in step ``step``, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warm * (0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.decay == "cosine" else 1.0)


@dataclass
class TrainingState:
    """What callbacks see, and what ``train`` returns.

    ``denoiser`` is the network being trained, ``ema`` the one with averaged weights, to sample and evaluate with;
    ``history`` the lines of the log so far; ``interrupted`` whether the run was stopped by hand.
    """

    denoiser: nn.Module
    ema: nn.Module
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; the message says when, what to try and where the last good checkpoint is."""


def train(
    denoiser: Model,
    objective: Objective,
    dataset: Dataset | Tensor,
    config: TrainingConfig | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = True,
    parameters: Sequence[dict] | None = None,
    augment: Callable[[Any, torch.Generator], Any] | None = None,
    callbacks: Sequence[Callable[[TrainingState], None]] = (),
    callback_every: int = 500,
    tensorboard: bool = False,
    progress: bool = True,
) -> TrainingState:
    """Train ``denoiser`` on ``objective``.

    Args:
        denoiser: the network; it is trained in place.
        objective: ``(denoiser, batch, generator) -> loss, log``; ``process.DenoisingObjective`` for image models.
        dataset: a map-style data set, or a tensor whose rows are the examples; ``Stages`` of several take turns.
        config: sizes and rates.
        folder: where checkpoints and logs go; nothing is written without it. A mounted folder survives a disconnect.
        resume: continue from the folder's newest checkpoint, if there is one.
        parameters: optimiser parameter groups, each with its own "lr"; all parameters at ``learning_rate`` by default.
        augment: ``(batch, generator) -> batch``, applied to every batch on the training device.
        callbacks: called, in the main process, with the ``TrainingState`` every ``callback_every`` steps and at the end
            (of a run that was over already, too): pictures, scores.
        tensorboard: also write TensorBoard logs to the folder.
        progress: show a bar with loss and remaining time.

    Returns:
        the final ``TrainingState``. Ctrl-C, or stopping the cell, ends the run after the present step with a checkpoint
        written and a usable model returned (a second Ctrl-C stops at once).

    Raises:
        ValueError: the folder holds a run with other settings, or the data set is smaller than a batch.
        FileExistsError: ``resume=False`` and the folder holds a run already.
        TrainingDiverged: the loss is not finite any more. DiskFull: no room for a checkpoint.
    """
    config = config or TrainingConfig()
    folder = Path(folder) if folder is not None else None
    if tensorboard and folder is None:
        raise ValueError("tensorboard=True needs folder=…, where its logs go")
    if len(dataset) < config.batch_size:
        raise ValueError(
            f"the data set has {len(dataset)} examples, fewer than batch_size={config.batch_size}: "
            "take a smaller batch_size"
        )

    accelerator = accelerator_for(config, folder if tensorboard else None)
    share, remainder = divmod(config.batch_size, config.accumulate * accelerator.num_processes)
    if remainder:
        raise ValueError(
            f"batch_size={config.batch_size} must be a multiple of accumulate x processes = "
            f"{config.accumulate} x {accelerator.num_processes}"
        )
    denoiser.to(accelerator.device)
    weights = list(denoiser.parameters())  # looked up once: in every step it would cost small networks 1 % of it
    groups = [dict(g) for g in parameters] if parameters else [{"params": weights}]
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, fused=True)  # on CPUs too: 4 % of a step
    rates = [group["lr"] for group in optimizer.param_groups]
    averaged = _Averaged(denoiser, multi_avg_fn=_ema(config.ema_decay))
    averaged.eval().requires_grad_(False)
    state = TrainingState(denoiser, averaged.module)
    store = None
    if folder is not None:
        store = RunFolder(
            folder, settings_of(denoiser, objective, config, dataset), config.keep, accelerator, optimizer, averaged
        )
        store.open(state, resume)
    network = torch.compile(denoiser) if config.compile else denoiser
    network, optimizer = accelerator.prepare(network, optimizer)
    if tensorboard:
        accelerator.init_trackers("tensorboard")

    batches = _batches(dataset, config, state.step, share, accelerator)
    started, sums, since, saved_at = time.monotonic() - state.seconds, {}, 0, state.step
    denoiser.train()
    bar = tqdm(
        total=config.steps,
        initial=state.step,
        desc="training",
        unit="step",
        smoothing=0.05,
        disable=not (progress and accelerator.is_main_process),
    )

    def write_log() -> None:
        nonlocal sums, since
        if not since:
            return
        means = {
            key: float(accelerator.reduce(torch.as_tensor(value / since, device=accelerator.device), "mean"))
            for key, value in sums.items()
        }
        row = {"step": state.step, **means, "rate": config.rate(state.step - 1), "seconds": round(state.seconds, 2)}
        # after a finite loss the gradient may still have been infinite; such weights must not become the last good checkpoint
        if not math.isfinite(row["loss"]) or not all(p.isfinite().all() for p in denoiser.parameters()):
            raise _diverged(state.step, store)
        state.history.append(row)
        if store:
            store.append_log(row)
        if tensorboard:
            accelerator.log(means, step=state.step)
        bar.set_postfix(loss=f"{row['loss']:.4f}")
        sums, since = {}, 0

    try:
        with _one_interrupt_waits(state):
            if state.step >= config.steps and callbacks and accelerator.is_main_process:
                _call(callbacks, state, denoiser)  # the folder's run is over already: its end is still to be seen
            while state.step < config.steps and not _all_interrupted(state, accelerator):
                factor = 0.0 if sabotaged() else config.rate(state.step)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                for part in range(config.accumulate):
                    generator = seed_everything(config, state.step, part, share, accelerator)
                    batch = _to(next(batches), accelerator.device)
                    batch = augment(batch, generator) if augment else batch
                    with accelerator.accumulate(network):
                        with accelerator.autocast():
                            loss, log = objective(network, batch, generator)
                        # reading a loss waits for the GPU, so there it is only checked when it is logged
                        if loss.device.type == "cpu" and not torch.isfinite(loss):
                            raise _diverged(state.step + 1, store)
                        accelerator.backward(loss)
                        if accelerator.sync_gradients:
                            accelerator.clip_grad_norm_(weights, config.clip_norm)
                        optimizer.step()
                        optimizer.zero_grad()
                    for key, value in {"loss": loss.detach(), **log}.items():
                        sums[key] = sums.get(key, 0.0) + value / config.accumulate
                averaged.update_parameters(denoiser)
                state.step += 1
                since += 1
                state.seconds = time.monotonic() - started
                bar.update()
                due = state.step % config.save_every == 0 or state.step == config.steps
                if due or state.step % config.log_every == 0:
                    write_log()
                if store and due:
                    store.save(state)
                    saved_at = state.step
                picture_due = state.step % callback_every == 0 or state.step == config.steps
                if callbacks and picture_due and accelerator.is_main_process:
                    _call(callbacks, state, denoiser)
            write_log()
            if store and state.step > saved_at:
                store.save(state)
    finally:
        bar.close()
        denoiser.eval()
        accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # take autocast off the network's forward again
        if tensorboard:
            accelerator.end_training()
    if state.interrupted and accelerator.is_main_process:
        where = f"; run again to continue from {folder}" if folder else ""
        print(f"Stopped by hand after step {state.step} of {config.steps}. The model is usable as it is{where}.")
    return state


# ---------------------------------------------------------------------- the pieces


def _ema(decay: float) -> Callable:
    @torch.no_grad()
    def update(averages: list[Tensor], values: list[Tensor], n: Tensor | int) -> None:
        d = min(decay, (1 + int(n)) / (10 + int(n)))
        torch._foreach_lerp_(averages, values, 1 - d)

    return update


class _Averaged(AveragedModel):
    """torch's averaged model, which here looks up what it averages once: in every step it would cost small networks 2 % of it."""

    pairs: list | None = None

    def update_parameters(self, model: nn.Module) -> None:
        if self.n_averaged == 0:
            return super().update_parameters(model)  # a copy
        if self.pairs is None:
            both = ((m.parameters(), m.buffers()) for m in (self.module, model))
            self.pairs = [[list(part) for part in parts] for parts in zip(*both, strict=True)]
        (averages, values), (old, new) = self.pairs
        self.multi_avg_fn(averages, values, self.n_averaged)
        for buffer, now in zip(old, new, strict=True):
            buffer.copy_(now)
        self.n_averaged += 1


class Stages(ConcatDataset):
    """Data sets that take turns in one training, each from its share of the steps on.

        Stages({0.0: close_windows, 0.7: whole_pictures})      # the last 30 % of the steps see whole pictures

    Raises:
        ValueError: no data set for the first step, or a share outside [0, 1).
    """

    def __init__(self, parts: Mapping[float, Dataset]):
        self.starts = sorted(parts)
        if not self.starts or self.starts[0] != 0 or self.starts[-1] >= 1:
            raise ValueError(f"parts must start at 0.0 and at other shares below 1, got {self.starts}")
        super().__init__([parts[start] for start in self.starts])

    def rows(self, share: float) -> range:
        """Which examples belong to the stage at this share of the steps."""
        stage = max(i for i, start in enumerate(self.starts) if start <= share)
        return range(self.cumulative_sizes[stage] - len(self.datasets[stage]), self.cumulative_sizes[stage])

    def __getitems__(self, indices: list[int]) -> Any:
        stage = next(i for i, end in enumerate(self.cumulative_sizes) if indices[0] < end)  # a batch is of one stage
        first, dataset = self.cumulative_sizes[stage] - len(self.datasets[stage]), self.datasets[stage]
        own = [index - first for index in indices]
        return dataset.__getitems__(own) if hasattr(dataset, "__getitems__") else [dataset[i] for i in own]


class _Rows(Dataset):
    """A tensor as a data set that hands out whole batches at once."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.rows[indices]


def _batches(
    dataset: Dataset | Tensor, config: TrainingConfig, start: int, share: int, accelerator: Accelerator
) -> Iterator:
    """This process's part of every batch from step ``start`` on: epochs in shuffled order, the order a function of the seed."""

    def plan() -> Iterator[list[int]]:
        now, order = None, None
        for position in range(
            start * config.batch_size, config.steps * config.batch_size, share * accelerator.num_processes
        ):
            step, mine = position // config.batch_size, []
            rows = dataset.rows(step / config.steps) if isinstance(dataset, Stages) else range(len(dataset))
            n = len(rows)
            for i in range(
                position + accelerator.process_index * share, position + (accelerator.process_index + 1) * share
            ):
                if now != (rows, i // n):
                    now = (rows, i // n)
                    order = np.random.default_rng([config.seed, i // n]).permutation(n)
                mine.append(rows[order[i % n]])
            yield mine

    dataset = _Rows(dataset) if isinstance(dataset, Tensor) else dataset
    return iter(
        DataLoader(
            dataset,
            batch_sampler=_Sampler(plan),
            num_workers=config.workers,
            collate_fn=_collate,
            pin_memory=accelerator.device.type == "cuda",
        )
    )


@dataclass
class _Sampler:
    plan: Callable[[], Iterator[list[int]]]

    def __iter__(self) -> Iterator[list[int]]:
        return self.plan()


def _collate(rows: Any) -> Any:
    return default_collate(rows) if isinstance(rows, list) else rows  # a data set with __getitems__ may return a batch


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {key: _to(value, device) for key, value in batch.items()}
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor) else batch


def _call(callbacks: Sequence[Callable], state: TrainingState, denoiser: nn.Module) -> None:
    denoiser.eval()
    for callback in callbacks:
        callback(state)
    denoiser.train()


@contextmanager
def _one_interrupt_waits(state: TrainingState) -> Iterator[None]:
    """Let the first Ctrl-C end the run *between* two steps, where weights, averages and optimiser agree."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def handler(number, frame):
        if state.interrupted:
            raise KeyboardInterrupt
        state.interrupted = True

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _all_interrupted(state: TrainingState, accelerator: Accelerator) -> bool:
    """Whether to stop. Of several processes all must leave at the same step, so they ask each other, every few steps."""
    if accelerator.num_processes == 1:
        return state.interrupted
    if state.step % AGREE_EVERY:
        return False
    anyone = accelerator.reduce(torch.tensor(float(state.interrupted), device=accelerator.device), "sum")
    state.interrupted = bool(anyone)
    return state.interrupted


def _diverged(step: int, store: RunFolder | None) -> TrainingDiverged:
    kept = store.newest() if store else None
    return TrainingDiverged(
        f"the loss or the weights are not finite at step {step}. Try a lower learning_rate, a longer warmup or, under fp16, "
        f"mixed_precision='bf16' or 'no'. {f'The last good checkpoint is {kept}.' if kept else 'No checkpoint was written yet.'}"
    )
