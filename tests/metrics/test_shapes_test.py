"""The fixed test of chapter 4, with masks whose score is known."""

import pytest
import torch
import torch.nn.functional as F

from fdlib.data.shapes3d import split_indices
from fdlib.factorized import FactorizedUNet
from fdlib.metrics.shapes_test import ShapesTest


@pytest.fixture(scope="module")
def shapes():
    return ShapesTest.render(16, count=20, fit=30)


def test_it_is_fixed_and_disjoint_from_training(shapes):
    again = ShapesTest.render(16, count=10, fit=5)
    assert again.indices.equal(shapes.indices[:10]) and again.images.equal(shapes.images[:10])
    train, _ = split_indices(train=20_000, test=10_000, seed=0)
    assert not set(shapes.indices.tolist()) & set(train.tolist())
    assert shapes.labels.unique().tolist() == [0, 1, 2]
    assert shapes.images.shape == (20, 3, 16, 16) and shapes.fit_labels.shape == (30, 16, 16)


def test_true_masks_score_one_in_any_order(shapes):
    order = torch.tensor([3, 0, 2])  # region numbers of floor, walls, object, of K = 4
    fit, masks = (
        F.one_hot(order[labels.long()], 4).movedim(-1, 1).float() for labels in (shapes.fit_labels, shapes.labels)
    )
    scores = shapes.score_masks(fit, masks, 4)
    assert scores["miou"] == 1 and [scores["map"][k] for k in order] == [0, 1, 2]
    assert shapes.classes(masks, scores).equal(shapes.labels.long())


def test_a_model_is_scored_by_its_masks(shapes):
    torch.manual_seed(0)
    denoiser = FactorizedUNet(16, channels=4, multipliers=(1, 1), blocks=1, attention=(), regions=2)
    fit, masks = shapes.segment(denoiser)
    assert masks.shape == (20, 2, 16, 16)
    assert shapes.score(denoiser) == shapes.score_masks(fit, masks, 2)


def test_baselines_are_ordered_as_they_must_be(shapes):
    found = {name: scores["miou"] for name, scores in shapes.baselines(4).items()}
    assert 0 < found["chance"] < found["k-means on colours"] < 1
    assert found["chance"] < found["most frequent class at each place (saw labels)"] < 1


def test_windows_make_closed_eyes_a_worse_strategy(shapes):
    close = ShapesTest.render(16, count=20, fit=30, layout="close")
    assert close.indices.equal(shapes.indices) and not close.images.equal(shapes.images)
    blind = "most frequent class at each place (saw labels)"
    assert close.baselines(3)[blind]["miou"] < shapes.baselines(3)[blind]["miou"] - 0.1


def test_bad_counts_are_named():
    with pytest.raises(ValueError, match="count must lie in 1"):
        ShapesTest.render(16, count=10_001)
    with pytest.raises(ValueError, match="fit must be at least 1"):
        ShapesTest.render(16, count=1, fit=0)
