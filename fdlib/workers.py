"""Several processes in one training step: how they meet, and which random numbers each of them draws.

``accelerate launch`` or torchrun start the processes (docs/from_laptop_to_cluster.md); each takes its rows of every batch. Random
numbers belong to the rows, not to the process, so the step is the same, up to rounding, however it is shared out.
"""

from __future__ import annotations

import atexit
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

if TYPE_CHECKING:
    from fdlib.training import TrainingConfig


def accelerator_for(config: TrainingConfig, logs: Path | None) -> Accelerator:
    """accelerate's view of the processes, devices and precision; ``logs`` is where TensorBoard's go, if anywhere."""
    # accelerate keeps its settings for the life of the process and refuses others; a notebook may train twice
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.mixed_precision:
        AcceleratorState._reset_state()
    _join_after_a_restart()
    accelerator = Accelerator(
        # several processes on CPUs: unasked, accelerate would let each of them train alone, all in one folder
        cpu=int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        log_with="tensorboard" if logs else None,
        project_dir=logs,
    )
    if accelerator.num_processes > 1:
        _leave_the_group_at_exit()
    return accelerator


def _join_after_a_restart() -> None:
    """Meet the other workers under fresh names where torchrun has started them all again.

    Without --rdzv-backend it hands out the store of the first start once more, and the names in it make new workers wait for dead
    ones for ever.
    """
    restart, world = (int(os.environ.get(name, "0")) for name in ("TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE"))
    dist = torch.distributed
    if not restart or world < 2 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=False)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    fresh = dist.PrefixStore(f"restart-{restart}", store)
    dist.init_process_group(backend, store=fresh, rank=int(os.environ["RANK"]), world_size=world)


@functools.cache
def _leave_the_group_at_exit() -> None:
    """Close the process group before Python ends: else its threads may still run then, and abort a run that succeeded."""

    def leave() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(leave)


class PartGenerator(torch.Generator):
    """A generator of its own for one part of a batch, that also knows which rows of the whole batch these are.

    ``whole`` is a generator seeded alike in every process and part; ``process.by_row`` draws from it for all ``total`` rows and
    takes rows ``first`` to ``first + rows``.
    """

    def __new__(cls, device: torch.device, whole: torch.Generator, first: int, rows: int, total: int) -> PartGenerator:
        generator = super().__new__(cls, device)
        generator.whole, generator.first, generator.rows, generator.total = whole, first, rows, total
        return generator


def seed_everything(
    config: TrainingConfig, step: int, part: int, share: int, accelerator: Accelerator
) -> torch.Generator:
    """A generator for this step, part and process; torch's own (dropout) is seeded alike."""

    def seed(*place: int) -> int:
        return int(np.random.SeedSequence([config.seed, step, *place]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    own = seed(part, accelerator.process_index)
    torch.manual_seed(own)
    if share == config.batch_size:
        return torch.Generator(accelerator.device).manual_seed(own)
    whole = torch.Generator(accelerator.device).manual_seed(seed(0, 0))
    first = (part * accelerator.num_processes + accelerator.process_index) * share
    return PartGenerator(accelerator.device, whole, first, share, config.batch_size).manual_seed(own)
