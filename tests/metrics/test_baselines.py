"""Regions found without learning."""

import pytest
import torch

from fdlib.factorized import FactorizedUNet
from fdlib.metrics.baselines import (
    chance,
    decoder_features,
    disc,
    grabcut,
    kmeans_colours,
    kmeans_each,
    kmeans_features,
)
from fdlib.metrics.segmentation import apply_map, iou, match_regions
from fdlib.metrics.supervised import LabelledImages, LabelObjective, classify
from fdlib.training import TrainingConfig, train
from fdlib.unet import UNet


def stripes(n=6):
    """Pictures of two flat colours, left and right, with a little noise, and which side is which."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(16) >= 8).long().expand(n, 16, 16)
    images = torch.where(labels[:, None] == 1, 0.7, -0.7) + 0.02 * torch.randn(n, 3, 16, 16, generator=generator)
    return images, labels


def test_colours_are_found_on_some_pictures_and_used_on_others():
    images, labels = stripes()
    found = kmeans_colours(images[:2], images[2:], 2)
    mapping = match_regions(found, labels[2:], 2, count=2)
    assert iou(apply_map(found, mapping), labels[2:]).tolist() == [1, 1]


def test_each_picture_by_itself():
    images, labels = stripes()
    found = kmeans_each(images, 2)
    for region, label in zip(found, labels, strict=True):
        assert torch.equal(region, label) or torch.equal(1 - region, label)
    assert kmeans_each(images[:1], 3, place=5.0).max() == 2


def test_chance_knows_nothing():
    images, labels = stripes()
    found = chance(images, 2)
    scores = iou(apply_map(found, match_regions(found, labels, 2, count=2)), labels)
    assert scores.mean() < 0.55 and torch.equal(found, chance(images, 2))


def test_it_wants_pictures():
    with pytest.raises(TypeError, match="fit must be a float tensor"):
        kmeans_colours(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 8, 8), 2)


def test_a_disc_has_the_area_of_a_disc():
    found = disc(torch.zeros(2, 3, 64, 64), 24)
    assert found.shape == (2, 64, 64) and abs(int(found[0].sum()) - 3.14159 * 24**2) < 40
    assert torch.equal(found, found.flip(1)) and torch.equal(found, found.flip(2)) and found[0, 0, 0] == 0


def test_grabcut_finds_what_differs_from_the_border():
    pytest.importorskip("cv2")
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(2, 64, 64, dtype=torch.long)
    truth[0, 20:44, 16:40], truth[1, 8:30, 30:56] = 1, 1
    images = torch.where(truth[:, None] == 1, torch.tensor([0.8, -0.6, -0.6]).view(1, 3, 1, 1), -0.2)
    images = (images + 0.05 * torch.randn(2, 3, 64, 64, generator=generator)).clamp(-1, 1)
    found = grabcut(images)
    assert float(iou(found, truth, 2)[1]) > 0.95 and torch.equal(found, grabcut(images))


def test_decoder_features_are_of_each_stage_at_each_time():
    torch.manual_seed(0)
    model = UNet(16, channels=8, multipliers=(1, 2), blocks=1, attention=(), fold=2)
    images = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    found = decoder_features(model, images, times=(10, 200))
    assert found.shape == (2, 2 * (8 + 16), 16, 16)
    assert torch.equal(found, decoder_features(model, images, times=(10, 200))), "its noise has a seed"
    assert not model.decoder.layers[-1]._forward_hooks, "nothing is left behind"


def test_clusters_of_features_follow_what_the_features_show():
    """Of a network that passes colours on, features separate two colours whatever its weights are."""
    torch.manual_seed(0)
    model = UNet(16, channels=8, multipliers=(1, 2), blocks=1, attention=())
    images, labels = stripes(8)
    fit, found = kmeans_features(model, images[:4], images[4:], 2, times=(0,))
    scores = iou(apply_map(found, match_regions(fit, labels[:4], 2, count=2)), labels[4:])
    assert fit.shape == found.shape == (4, 16, 16) and scores.mean() > 0.8


def test_labels_teach_a_supervised_segmenter():
    images, labels = stripes(16)
    images = torch.cat([images, images.flip(3)])  # the side must be seen, it is not always the same
    labels = torch.cat([labels, labels.flip(2)])
    labels[:, 0] = 255
    torch.manual_seed(0)
    model = FactorizedUNet(16, channels=8, multipliers=(1, 2), blocks=1, attention=(), regions=2)
    config = TrainingConfig(steps=40, batch_size=8, learning_rate=3e-3, ema_decay=0.8)
    ema = train(model, LabelObjective(), LabelledImages(images, labels), config, progress=False).ema
    assert float(iou(classify(ema, images), labels, 2).mean()) > 0.95
    with pytest.raises(ValueError, match="do not belong together"):
        LabelledImages(images, labels[:3])
