"""Data sets that take turns in one training."""

import signal

import pytest
import torch
from torch import nn

from fdlib.denoiser import Model
from fdlib.training import Stages, TrainingConfig, train


class Dot(Model):
    def __init__(self, width: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Witness:
    """An objective that remembers which rows each step saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, denoiser, batch, generator):
        self.seen.append(batch.flatten().tolist())
        return sum(p.square().sum() for p in denoiser.parameters()), {}


def stages():
    return Stages({0.0: torch.arange(6.0)[:, None], 0.5: 100 + torch.arange(3.0)[:, None]})


def test_stages_take_turns():
    saw = Witness()
    train(Dot(), saw, stages(), TrainingConfig(steps=10, batch_size=3), progress=False)
    first, second = saw.seen[:5], saw.seen[5:]
    assert all(max(rows) < 6 for rows in first) and all(min(rows) >= 100 for rows in second)
    assert sorted(first[0] + first[1]) == list(range(6)) and sorted(second[1]) == [100, 101, 102]


def test_stages_resume_where_they_were(tmp_path):
    config = TrainingConfig(steps=10, batch_size=3, save_every=3)
    whole, parts = Witness(), Witness()
    train(Dot(), whole, stages(), config, progress=False)

    def stop(state):
        if state.step == 7 and len(parts.seen) == 7:
            signal.raise_signal(signal.SIGINT)

    train(Dot(), parts, stages(), config, folder=tmp_path, callbacks=[stop], callback_every=1, progress=False)
    train(Dot(), parts, stages(), config, folder=tmp_path, progress=False)
    assert parts.seen[-3:] == whole.seen[-3:]


@pytest.mark.parametrize("starts", [(), (0.5,), (0.0, 1.0)])
def test_stages_start_at_the_beginning(starts):
    with pytest.raises(ValueError, match="must start at"):
        Stages({start: torch.zeros(3, 1) for start in starts})
