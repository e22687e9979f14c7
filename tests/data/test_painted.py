"""Painted flowers: what is asked for, and the truth that belongs to it."""

import pytest
import torch

from fdlib.data.painted import GREEN, painted_flowers


@pytest.mark.parametrize("size", [8, 32, 45])
def test_shapes_and_range(size):
    pictures, flower = painted_flowers(5, size)
    assert pictures.shape == (5, 3, size, size) and pictures.dtype == torch.float32
    assert float(pictures.min()) >= -1 and float(pictures.max()) <= 1
    assert flower.shape == (5, size, size) and flower.dtype == torch.bool


def test_the_seed_decides():
    (one, where), (again, there), (other, _) = painted_flowers(3), painted_flowers(3), painted_flowers(3, seed=1)
    assert torch.equal(one, again) and torch.equal(where, there) and not torch.equal(one, other)
    assert torch.equal(painted_flowers(5)[0][:3], one), "more pictures change none"


def test_the_truth_is_where_it_is_not_green():
    pictures, flower = painted_flowers(50, 64)
    share = flower.float().mean(dim=(1, 2))
    assert 0.05 < float(share.min()) and float(share.max()) < 0.4
    green = (pictures - torch.tensor(GREEN)[:, None, None]).abs().mean(1)  # distance from the meadow's colour
    inside, outside = green[flower], green[~flower]
    assert float((inside > 0.35).float().mean()) > 0.95 and float((outside < 0.35).float().mean()) > 0.95


@pytest.mark.parametrize("arguments", [(0,), (2, 0)])
def test_nothing_to_paint(arguments):
    with pytest.raises(ValueError, match="n and size must be at least 1"):
        painted_flowers(*arguments)
