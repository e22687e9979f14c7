"""Diagnostics of masks: what they say about masks whose state is known."""

import pytest
import torch

from fdlib.emergence import MaskWatch, mask_health
from fdlib.factorized import FactorizedUNet
from fdlib.process import DenoisingObjective
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, train


def one_hot(regions, K=3):
    return torch.nn.functional.one_hot(regions, K).permute(0, 3, 1, 2).float()


def test_grey_masks():
    health = mask_health(torch.full((5, 4, 8, 8), 0.25))
    assert health.entropy == pytest.approx(1) and health.variation == 0
    assert health.occupancy == pytest.approx((0.25,) * 4)
    assert health.collapsed and "grey" in str(health)


def test_one_region_takes_everything():
    health = mask_health(one_hot(torch.zeros(5, 8, 8, dtype=torch.long)))
    assert health.occupancy == (1, 0, 0) and health.entropy == 0
    assert health.collapsed and health.problems == ["collapsed: region 0 holds 100% of all pixels"]


def test_every_picture_cut_in_the_same_way():
    regions = torch.arange(8).div(3, rounding_mode="floor").expand(5, 8, 8)
    health = mask_health(one_hot(regions))
    assert health.variation == pytest.approx(0, abs=1e-6) and health.collapsed and "fixed" in str(health)


def test_masks_that_follow_the_pictures_are_healthy():
    regions = torch.randint(0, 3, (50, 8, 8), generator=torch.Generator().manual_seed(0))
    health = mask_health(one_hot(regions))
    assert health.variation > 0.9 and not health.problems and not health.collapsed
    assert "healthy" in str(health)


def test_an_unused_region_is_told_but_is_no_collapse():
    regions = torch.randint(0, 2, (50, 8, 8), generator=torch.Generator().manual_seed(0))
    health = mask_health(one_hot(regions))
    assert health.problems == ["unused: region 2 holds less than 1%"] and not health.collapsed


def test_a_single_region_has_nothing_to_be_ill_of():
    assert mask_health(torch.ones(3, 1, 4, 4)).problems == []


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 8, 8)])
def test_what_it_cannot_judge_is_named(shape):
    with pytest.raises(ValueError, match=r"\(N, K, H, W\) with N >= 2"):
        mask_health(torch.zeros(shape))


def test_a_watch_sees_every_stage_of_a_training():
    torch.manual_seed(0)
    net = FactorizedUNet(16, 8, (1, 2), 1, (), regions=3)
    images = torch.rand(16, 3, 16, 16) * 2 - 1
    watch = MaskWatch(images[:6], show=2)
    train(net, DenoisingObjective(NoiseSchedule.linear()), images, TrainingConfig(steps=4, batch_size=4), callbacks=[watch],
          callback_every=2, progress=False)  # fmt: skip
    assert [step for step, _ in watch.history] == [2, 4] and len(watch.frames) == 2
    assert watch.frames[0].dtype.name == "uint8" and watch.frames[0].shape == watch.frames[1].shape
    assert sum(watch.history[-1][1].occupancy) == pytest.approx(1, abs=1e-5)
