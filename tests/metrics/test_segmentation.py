"""Segmentation scores against scikit-learn and against cases counted by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from fdlib.metrics.segmentation import (
    accuracy,
    adjusted_rand_index,
    apply_map,
    best_overlap,
    confusion,
    dice,
    foreground_ari,
    hard,
    iou,
    match_each,
    match_regions,
    per_image_iou,
)

TRUTH = torch.tensor([[[0, 0, 0, 1], [0, 0, 1, 1], [2, 2, 2, 2]]])
FOUND = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 0, 2]]])


def test_hand_counted():
    assert confusion(FOUND, TRUTH, 3, 3).tolist() == [[4, 0, 1], [1, 3, 0], [0, 0, 3]]
    assert accuracy(FOUND, TRUTH) == pytest.approx(10 / 12)
    assert iou(FOUND, TRUTH).tolist() == pytest.approx([4 / 6, 3 / 4, 3 / 4])
    assert dice(FOUND, TRUTH).tolist() == pytest.approx([8 / 10, 6 / 7, 6 / 7])


def test_dice_has_the_term_that_the_thesis_lost():
    truth, found = torch.tensor([[[1, 1, 1, 1]]]), torch.tensor([[[1, 0, 0, 0]]])
    assert dice(found, truth)[1] == pytest.approx(2 * 1 / (1 + 4))  # the thesis's formula would say 2


maps = st.integers(0, 2**31 - 1)


@settings(max_examples=30, deadline=None)
@given(seed=maps, classes=st.integers(2, 5))
def test_scores_are_scikit_learns(seed, classes):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (3, 6, 7))
    truth[0, 0, :classes] = np.arange(classes)
    found = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, classes, truth.shape))
    a, b = torch.from_numpy(found), torch.from_numpy(truth)
    flat = truth.ravel(), found.ravel()
    assert accuracy(a, b) == pytest.approx(reference.accuracy_score(*flat))
    np.testing.assert_allclose(iou(a, b, classes), reference.jaccard_score(*flat, average=None))
    np.testing.assert_allclose(dice(a, b, classes), reference.f1_score(*flat, average=None))
    assert adjusted_rand_index(a, b) == pytest.approx(reference.adjusted_rand_score(*flat))
    np.testing.assert_array_equal(confusion(b, a, classes, classes), reference.confusion_matrix(*flat))


@settings(max_examples=30, deadline=None)
@given(seed=maps)
def test_permuting_the_channels_changes_no_score(seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(4, 3, 8, 8, generator=generator).softmax(1)
    truth = torch.randint(0, 3, (4, 8, 8), generator=generator)
    truth[0, 0, :3] = torch.arange(3)
    order = torch.randperm(3, generator=generator)
    for how in ("best", "one-to-one"):
        scores = []
        for m in (masks, masks[:, order]):
            predicted = apply_map(m, match_regions(m, truth, 3, how=how))
            scores.append((accuracy(predicted, truth), iou(predicted, truth, 3).mean().item()))
        assert scores[0] == pytest.approx(scores[1])
    assert adjusted_rand_index(masks, truth) == pytest.approx(adjusted_rand_index(masks[:, order], truth))


def test_soft_masks_become_the_largest_region():
    masks = torch.tensor([0.2, 0.5, 0.3]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert hard(masks).tolist() == [[[1, 1], [1, 1]]]
    assert hard(FOUND) is not None and torch.equal(hard(FOUND), FOUND)


# ---------------------------------------------------------------------- maps


def test_the_best_map_finds_a_permutation():
    shuffled = torch.tensor([2, 0, 1])[TRUTH]
    for how in ("best", "one-to-one", "majority"):
        mapping = match_regions(shuffled, TRUTH, 3, count=3, how=how)
        assert torch.equal(apply_map(shuffled, mapping), TRUTH)


def test_several_regions_may_be_one_class():
    regions = torch.tensor([[[0, 1, 2, 3]]])
    truth = torch.tensor([[[0, 1, 1, 0]]])
    assert match_regions(regions, truth, 2, count=4).tolist() == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="at least as many regions as classes, got 2 and 3"):
        match_regions(FOUND.clamp(max=1), TRUTH, 3, count=2, how="one-to-one")


def test_the_best_map_prefers_a_small_class_to_a_few_pixels():
    # region 1 holds the whole small object and as much background: majority gives it away, mean IoU does not
    regions = torch.tensor([[[0] * 20 + [1] * 5]])
    truth = torch.tensor([[[0] * 23 + [1] * 2]])
    assert match_regions(regions, truth, 2, count=2, how="majority").tolist() == [0, 0]
    assert match_regions(regions, truth, 2, count=2).tolist() == [0, 1]


def test_one_map_for_all_or_one_for_each():
    truth = torch.stack([TRUTH[0], TRUTH[0]])
    regions = torch.stack([TRUTH[0], torch.tensor([1, 2, 0])[TRUTH[0]]])  # the second image names its regions otherwise
    each = apply_map(regions, match_each(regions, truth, 3, count=3))
    assert torch.equal(each, truth)
    together = apply_map(regions, match_regions(regions, truth, 3, count=3))
    assert accuracy(together, truth) < 1
    assert match_each(regions, truth, 3, count=3).tolist() == [[0, 1, 2], [2, 0, 1]]


def test_scores_of_single_images_skip_classes_that_are_not_there():
    truth = torch.stack([TRUTH[0], torch.zeros_like(TRUTH[0])])
    scores = per_image_iou(truth, truth, 3)
    assert scores[0].tolist() == [1, 1, 1] and scores[1, 0] == 1 and scores[1, 1:].isnan().all()


def test_ignored_pixels_count_nowhere():
    truth = TRUTH.clone()
    truth[0, 2, 2] = 255
    truth[0, 0, 2] = 255
    assert accuracy(FOUND, truth) == 1 and iou(FOUND, truth).tolist() == [1, 1, 1]
    assert adjusted_rand_index(FOUND, truth) == pytest.approx(1)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: iou(FOUND, TRUTH[:, :2]), ValueError, r"one size, got \(1, 3, 4\) and \(1, 2, 4\)"),
        (lambda: iou(FOUND, TRUTH.float()), TypeError, "labels must be an integer tensor"),
        (lambda: iou(FOUND, TRUTH, classes=2), ValueError, "must lie in 0 .. 1"),
        (lambda: iou(FOUND, TRUTH, classes=4), ValueError, "class 3 has no pixel"),
        (lambda: match_regions(FOUND, TRUTH.clamp(max=1), 3, count=3), ValueError, "class 2 has no pixel"),
        (lambda: match_regions(FOUND, TRUTH, 3), ValueError, "count is missing"),
        (lambda: match_regions(FOUND, TRUTH, 3, count=3, how="first"), ValueError, "how must be"),
        (lambda: match_regions(FOUND, TRUTH, 3, count=20), ValueError, "too many to try"),
        (lambda: hard(torch.zeros(3, 4, 5)), ValueError, r"\(N, K, H, W\)"),
        (lambda: accuracy(FOUND[:0], TRUTH[:0]), ValueError, "nothing to score"),
        (lambda: accuracy(FOUND, torch.full_like(TRUTH, 255)), ValueError, "nothing to score"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_foreground_ari_leaves_the_background_out():
    labels = torch.tensor([[[0, 0, 1, 1, 2, 2]]])
    regions = torch.tensor([[[5, 3, 1, 1, 0, 0]]])  # wrong on the background alone
    assert foreground_ari(regions, labels, background=[0]) == 1 > adjusted_rand_index(regions, labels)
    merged = torch.tensor([[[0, 0, 1, 1, 1, 1]]])
    assert foreground_ari(merged, labels, background=[0]) == pytest.approx(0)
    with pytest.raises(ValueError, match="nothing but background"):
        foreground_ari(regions, labels, background=[0, 1, 2])


def test_best_overlap_by_hand():
    labels = torch.tensor([[[0, 0, 0, 1]], [[0, 0, 0, 0]]])
    regions = torch.tensor([[[0, 0, 1, 1]], [[2, 2, 2, 1]]])
    best = best_overlap(regions, labels, classes=2, count=3)
    # image 0: part 0 has 3 pixels, region 0 holds 2 of them and nothing else: IoU 2/3; part 1: region 1 holds it and one more
    assert best["iou"][0].tolist() == pytest.approx([2 / 3, 1 / 2]) and best["share"][0].tolist() == pytest.approx(
        [2 / 3, 1]
    )
    assert best["region"][0].tolist() == [0, 1]
    assert best["iou"][1, 0] == 0.75 and best["region"][1].tolist() == [2, -1]
    assert best["iou"][1, 1].isnan() and best["share"][1, 1].isnan()
    one_hot = torch.nn.functional.one_hot(regions, 3).permute(0, 3, 1, 2).float()
    permuted = best_overlap(one_hot[:, [2, 0, 1]], labels, classes=2)
    assert permuted["iou"].nan_to_num(-1).tolist() == best["iou"].nan_to_num(-1).tolist()
