"""Pixels and model values, grids and coloured masks, against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdlib import images as im


def test_every_pixel_value_survives_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    values = im.from_uint8(pixels)
    assert values.shape == (1, 1, 16, 16) and values.dtype == torch.float32
    assert values.min() == -1 and values.max() == 1
    assert np.array_equal(im.to_uint8(values), pixels)
    assert np.array_equal(im.to_uint8(values[0]), pixels[0])  # one image without the batch axis
    assert torch.equal(im.from_uint8(torch.from_numpy(pixels)), values)


def test_channels_move_and_values_are_rounded_and_clipped():
    image = torch.zeros(1, 3, 2, 4, dtype=torch.float64)
    image[0, 0], image[0, 1], image[0, 2] = 1.7, 0.0, -0.999
    pixels = im.to_uint8(image.requires_grad_())
    assert pixels.shape == (1, 2, 4, 3) and pixels[0, 1, 3].tolist() == [255, 128, 0]  # 127.5 rounds to even: 128


def test_from_uint8_does_not_share_memory():
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels.flags.writeable = False  # as a mapped cache is
    values = im.from_uint8(pixels)
    values += 1
    assert pixels.max() == 0


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), TypeError, "int64"),
        (np.zeros((1, 3, 4, 4)), TypeError, "ndarray"),
        (torch.zeros(4, 4), ValueError, r"\(4, 4\)"),
        (torch.full((1, 3, 4, 4), torch.nan), ValueError, "diverged"),
        (torch.full((1, 3, 4, 4), torch.inf), ValueError, "diverged"),
        (torch.full((1, 3, 4, 4), 255.0), ValueError, r"127\.5"),
    ],
)
def test_to_uint8_refuses(images, error, match):
    with pytest.raises(error, match=match):
        im.to_uint8(images)


def test_from_uint8_refuses():
    with pytest.raises(TypeError, match="int64"):
        im.from_uint8(np.zeros((1, 2, 2, 3), np.int64))
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        im.from_uint8(np.zeros((2, 2), np.uint8))


def test_as_pixels_takes_what_it_says():
    floats = torch.rand(2, 3, 4, 5) * 2 - 1
    pixels = im.to_uint8(floats)
    for same in (floats, pixels, torch.from_numpy(pixels), floats.numpy(), list(floats), [floats[0], pixels[1]]):
        assert np.array_equal(im.as_pixels(same), pixels)
    grey = im.as_pixels(torch.zeros(1, 4, 5))
    assert grey.shape == (1, 4, 5, 3) and (grey == 128).all()


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        ([], ValueError, "empty"),
        (torch.zeros(0, 3, 4, 4), ValueError, "empty"),
        (torch.zeros(1, 4, 4, 3), ValueError, "1 or 3 channels"),
        (np.zeros((1, 3, 4, 4), np.uint8), ValueError, r"\(B, H, W, C\)"),
        (np.zeros((1, 4, 4, 3), np.int32), TypeError, "int32"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)], ValueError, "4x4, 5x5"),
        ("text", TypeError, "str"),
    ],
)
def test_as_pixels_refuses(images, error, match):
    with pytest.raises(error, match=match):
        im.as_pixels(images)


# ---------------------------------------------------------------------- grids


def test_grid_by_hand():
    pixels = np.stack([np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = im.image_grid(pixels, columns=2, padding=1, background=0)
    a, b, c = [10] * 3, [20] * 3, [30] * 3
    empty = [0] * 3
    expected = [
        [0] * 9,
        [0, *a, 0, *b, 0],
        [0, *a, 0, *b, 0],
        [0] * 9,
        [0, *c, 0, *empty, 0],
        [0, *c, 0, *empty, 0],
        [0] * 9,
    ]
    assert np.array_equal(grid, np.array(expected, np.uint8)[..., None].repeat(3, -1))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_grid_shape_and_content(count, columns, height, width, scale, padding):
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    grid = im.image_grid(pixels, columns, scale=scale, padding=padding)
    used = min(columns, count)
    rows = -(-count // used)
    assert grid.shape == (rows * (scale * height + padding) + padding, used * (scale * width + padding) + padding, 3)
    last = count - 1
    y = padding + last // used * (scale * height + padding)
    x = padding + last % used * (scale * width + padding)
    assert np.array_equal(grid[y : y + scale * height : scale, x : x + scale * width : scale], pixels[last])


def test_titles_are_written_above_their_images():
    pixels = np.zeros((2, 40, 60, 3), np.uint8)
    plain = im.image_grid(pixels, 1)
    titled = im.image_grid(pixels, 1, titles=["first", "second"])
    head = (titled.shape[0] - plain.shape[0]) // 2
    assert 10 <= head <= 25 and titled.shape[1] == plain.shape[1]
    assert (titled[2 + head : 42 + head, 2:62] == 0).all()  # the image itself is whole
    assert (titled[: 2 + head] < 100).any() and (titled[44 + head : 44 + 2 * head] < 100).any()  # ink above both
    with pytest.raises(ValueError, match="each of the 2 images, got 1"):
        im.image_grid(pixels, titles=["one"])


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"scale": 0}, {"scale": 1.5}])
def test_grid_names_wrong_options(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        im.image_grid(torch.zeros(1, 3, 4, 4), **wrong)


# ---------------------------------------------------------------------- masks


def test_label_colours():
    labels = torch.tensor([[[0, 1], [-1, 9]]])
    blue, orange = (0, 0x72, 0xB2), (0xE6, 0x9F, 0)  # Okabe and Ito's
    assert im.label_map_colours(labels).tolist() == [[[list(blue), list(orange)], [[190] * 3, list(orange)]]]
    with pytest.raises(ValueError, match="integers"):
        im.label_map_colours(torch.zeros(2, 2))


def test_region_colours_stay_apart_without_hue():
    lightness = im.REGION_COLOURS @ np.array([0.2126, 0.7152, 0.0722])
    assert len({tuple(colour) for colour in im.REGION_COLOURS}) == 8
    assert (np.abs(np.diff(lightness[:5])) > 20).all()  # neighbours of the first five, on a scale to 255


def test_overlay_by_hand():
    image = torch.full((1, 3, 1, 3), -1.0)  # black
    masks = torch.tensor([[[[1.0, 0.5, 0.0]], [[0.0, 0.5, 1.0]]]])
    mixed = im.overlay_masks(image, masks, alpha=0.5, boundaries=False)
    blue, orange = np.array([0, 114, 178]), np.array([230, 159, 0])
    for x, colour in enumerate((blue, (blue + orange) / 2, orange)):
        assert np.abs(mixed[0, 0, x] - colour / 2).max() <= 0.5
    assert np.array_equal(im.overlay_masks(image, masks, 0, False), im.as_pixels(image))


def test_boundary_lies_where_the_strongest_mask_changes():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, :, 2:] = 1
    mixed = im.overlay_masks(torch.full((1, 3, 4, 4), -1.0), labels, alpha=0, scale=2)
    white = (mixed == 255).all(-1)[0]
    assert white[:, 4].all() and white.sum() == 8  # one column of the enlarged picture, at the first pixel of region 1


@pytest.mark.parametrize(
    ("masks", "match"),
    [
        (torch.zeros(1, 2, 3, 3), "fit"),
        (torch.zeros(2, 2, 4, 4), "fit"),
        (torch.full((1, 2, 4, 4), 3.0), "softmax"),
        (torch.full((1, 2, 4, 4), torch.nan), r"\[0, 1\]"),
        (torch.zeros(1, 9, 4, 4), "at most 8"),
        (torch.zeros(4, 4), "masks must be"),
        (-torch.ones(1, 4, 4, dtype=torch.long), ">= 0"),
    ],
)
def test_masks_that_do_not_fit(masks, match):
    with pytest.raises(ValueError, match=match):
        im.overlay_masks(torch.zeros(1, 3, 4, 4), masks)


def test_overlay_names_a_wrong_alpha():
    with pytest.raises(ValueError, match="alpha"):
        im.overlay_masks(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), alpha=2)
