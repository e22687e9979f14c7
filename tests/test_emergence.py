"""Diagnostics of masks: what they say about masks whose state is known."""

import functools
import signal
import warnings
from dataclasses import replace

import pytest
import torch

from fdlib.emergence import MaskWatch, audition, mask_balance, mask_health, mirror_agreement, random_regions
from fdlib.factorized import FactorizedUNet
from fdlib.process import DenoisingObjective
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, train
from fdlib.workers import PartGenerator


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


class Cutter(torch.nn.Module):
    """Regions from a rule: a stand-in for a trained model."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.weight = rule, torch.nn.Parameter(torch.zeros(()))

    def segment(self, images, t=30):
        return one_hot(self.rule(images), 2)


def test_regions_found_by_looking_are_found_in_the_mirror_and_stripes_are_not():
    pictures = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    looks = Cutter(lambda images: (images[:, 0] > 0).long())
    stripes = Cutter(lambda images: (torch.arange(8) < 4).long().expand(len(images), 8, 8))
    half = Cutter(lambda images: (images[:, 0] * (torch.arange(8) < 4) > 0).long())
    assert mirror_agreement(looks, pictures) == 1 and mirror_agreement(stripes, pictures) == 0
    assert mirror_agreement(half, pictures) == pytest.approx(0.5, abs=0.1)


def test_balance_of_the_regions():
    pictures = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for edge, share in ((0.0, 0.5), (0.5, 0.25), (0.9, 0.05)):
        cut = Cutter(lambda images, edge=edge: (images[:, 0] > edge).long())
        assert mask_balance(cut, pictures, 100) == pytest.approx(2 * share, abs=0.04)
    fixed = Cutter(lambda images: (torch.arange(8) < 4).long().expand(len(images), 8, 8))
    everything = Cutter(lambda images: torch.zeros(len(images), 8, 8, dtype=torch.long))
    assert mask_balance(fixed, pictures) == mask_balance(everything, pictures) == 0


@pytest.mark.parametrize("regions", [1, 2, 5])
def test_random_regions(regions):
    masks = random_regions(200, regions, 24, torch.Generator().manual_seed(0))
    assert masks.shape == (200, regions, 24, 24) and masks.dtype == torch.float32
    torch.testing.assert_close(masks.sum(1), torch.ones(200, 24, 24))
    assert torch.equal(masks, random_regions(200, regions, 24, torch.Generator().manual_seed(0)))
    if regions > 1:
        assert mask_health(masks).variation > 0.9, "not a cut of the frame"
        shares, sure = masks.mean(dim=(2, 3)), masks.amax(1).mean(dim=(1, 2))
        assert float(shares.min()) < 0.02 and float(shares.max()) > 0.9, "of all sizes"
        assert float(sure.max()) > 0.98 and float(sure.min()) < 0.8, "from soft to nearly hard"


def test_random_regions_belong_to_the_rows_of_a_batch():
    whole = torch.Generator().manual_seed(5)
    part = PartGenerator(torch.device("cpu"), torch.Generator().manual_seed(5), first=3, rows=2, total=6)
    assert torch.equal(random_regions(2, 3, 8, part), random_regions(6, 3, 8, whole)[3:5])


def small():
    return FactorizedUNet(16, channels=8, multipliers=(1,), blocks=1, attention=(), fold=2, regions=2)


def test_an_audition_goes_on_until_a_seed_passes(monkeypatch):
    answers = iter([0.1, 0.2, 0.9])
    monkeypatch.setattr("fdlib.emergence.mirror_agreement", lambda model, images, **_: next(answers))
    pictures = torch.rand(16, 3, 16, 16) * 2 - 1
    config = TrainingConfig(steps=50, batch_size=4, seed=7)
    found = audition(small, DenoisingObjective(NoiseSchedule.linear(100)), pictures, config, pictures, steps=2)
    assert found.seed == 2007 and found.tried == ((7, 0.1), (1007, 0.2), (2007, 0.9))
    assert config.seed == 7 and "seed 2007" in str(found)


def test_an_audition_that_nobody_passes_takes_the_best_and_says_so(monkeypatch):
    answers = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr("fdlib.emergence.mirror_agreement", lambda model, images, **_: next(answers))
    pictures = torch.rand(16, 3, 16, 16) * 2 - 1
    config, objective = TrainingConfig(steps=50, batch_size=4), DenoisingObjective(NoiseSchedule.linear(100))
    with pytest.warns(UserWarning, match="no seed of 3 passed"):
        found = audition(small, objective, pictures, config, pictures, steps=1, tries=3)
    assert found.seed == 1000


def test_an_audition_by_another_judge_with_an_augmentation():
    pictures, seen = torch.rand(16, 3, 16, 16) * 2 - 1, []

    def steadiness(model, images, t):
        return {7: 0.4, 1007: 0.6}[config.seed + 1000 * (len(seen) // 2 - 1)] + 0 * t

    def darker(batch, generator):
        seen.append(len(batch))
        return batch * 0.5

    config, objective = TrainingConfig(steps=50, batch_size=4, seed=7), DenoisingObjective(NoiseSchedule.linear(100))
    judge = functools.partial(steadiness, t=100)
    found = audition(small, objective, pictures, config, pictures, steps=2, judge=judge, augment=darker)
    assert found.tried == ((7, 0.4), (1007, 0.6)) and seen == [4] * 4
    assert str(found) == "steadiness: seed 7: 0.40, seed 1007: 0.60; training with seed 1007"


def test_the_run_after_an_audition_starts_as_the_audition_did(monkeypatch):
    """The model that was judged is the one that training passes through."""
    judged, seen = {}, []
    pictures = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config, objective = TrainingConfig(steps=6, batch_size=4, seed=1), DenoisingObjective(NoiseSchedule.linear(100))

    def remember(state):
        judged[state.step] = [p.clone() for p in state.ema.parameters()]

    def judge(model, images, **_):
        seen.append([p.clone() for p in model.parameters()])
        return 1.0

    monkeypatch.setattr("fdlib.emergence.mirror_agreement", judge)
    found = audition(small, objective, pictures, config, pictures, steps=3)
    torch.manual_seed(1)
    whole = train(small(), objective, pictures, config, callbacks=[remember], callback_every=3, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], judged[3], strict=True))
    state = train(small(), objective, pictures, config, folder=found.folder, progress=False)  # goes on at step 4
    assert state.step == whole.step
    assert all(torch.equal(a, b) for a, b in zip(state.ema.parameters(), whole.ema.parameters(), strict=True))


def test_a_start_is_left_where_the_run_shall_be_and_a_run_that_is_there_is_not_auditioned_again(monkeypatch, tmp_path):
    answers = iter([0.1, 0.9])
    monkeypatch.setattr("fdlib.emergence.mirror_agreement", lambda model, images, **_: next(answers))
    pictures = torch.rand(16, 3, 16, 16) * 2 - 1
    config, objective = TrainingConfig(steps=6, batch_size=4, seed=1), DenoisingObjective(NoiseSchedule.linear(100))
    found = audition(small, objective, pictures, config, pictures, folder=tmp_path / "run", steps=3)
    assert found.folder == tmp_path / "run" and [p.name for p in found.folder.glob("*.pt")] == [
        "checkpoint-00000003.pt"
    ]
    again = audition(small, objective, pictures, config, pictures, folder=tmp_path / "run", steps=3)  # no third answer
    assert again.seed == found.seed == 1001 and not again.tried and "goes on" in str(again)
    other = audition(small, objective, pictures, replace(config, seed=5), pictures, folder=tmp_path / "run", steps=3)
    with pytest.raises(ValueError, match=r"training\.seed: 1001 there, 5 here"):
        train(small(), objective, pictures, replace(config, seed=other.seed), folder=other.folder, progress=False)


def test_a_conditional_model_is_told_the_classes_of_the_pictures_that_it_is_judged_by():
    def build():
        return FactorizedUNet(16, channels=8, multipliers=(1,), blocks=1, attention=(), fold=2, regions=2, classes=3)

    labels = torch.arange(16) % 3
    pictures = [{"image": x, "label": k} for x, k in zip(torch.rand(16, 3, 16, 16) * 2 - 1, labels, strict=True)]
    objective = DenoisingObjective(NoiseSchedule.linear(100), condition=("label",))
    images = torch.stack([p["image"] for p in pictures])
    config = TrainingConfig(steps=6, batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two steps need not pass
        found = audition(build, objective, pictures, config, images, steps=2, tries=1, label=labels)
    assert 0 <= found.tried[0][1] <= 1


def test_the_stop_button_ends_an_audition_not_only_a_try(monkeypatch):
    judged = []
    monkeypatch.setattr("fdlib.emergence.mirror_agreement", lambda model, images, **_: judged.append(model) or 0.0)
    pictures = torch.rand(16, 3, 16, 16) * 2 - 1
    noise = DenoisingObjective(NoiseSchedule.linear(100))

    def stopped_at_once(network, batch, generator):
        signal.raise_signal(signal.SIGINT)
        return noise(network, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        audition(small, stopped_at_once, pictures, TrainingConfig(steps=50, batch_size=4), pictures, steps=5)
    assert not judged


def test_an_audition_of_nothing_is_refused():
    with pytest.raises(ValueError, match="tries and steps"):
        audition(small, None, torch.zeros(4, 3, 16, 16), TrainingConfig(), torch.zeros(4, 3, 16, 16), tries=0)
