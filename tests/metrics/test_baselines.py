"""Regions found without learning."""

import pytest
import torch

from fdlib.metrics.baselines import chance, kmeans_colours, kmeans_each
from fdlib.metrics.segmentation import apply_map, iou, match_regions


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
