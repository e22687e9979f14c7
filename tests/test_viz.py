"""Pictures: what is drawn is read back from the figure, or from its pixels."""

import base64
import io
import json
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from fdlib import plots, viz
from fdlib.files import DiskFull
from fdlib.images import to_uint8
from fdlib.schedule import NoiseSchedule

plt = matplotlib.pyplot
IMAGES = torch.linspace(-1, 1, 5 * 3 * 8 * 8).reshape(5, 3, 8, 8)


@pytest.fixture(autouse=True)
def no_figure_stays_behind():
    yield
    assert plt.get_fignums() == []  # otherwise a notebook would show it a second time


def rendered(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=figure.dpi)
    return np.asarray(Image.open(buffer).convert("RGB"))


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]


def contains(picture, patch):
    """Whether the patch (h, w, 3) occurs in the picture, exactly."""
    h, w, _ = patch.shape
    first = np.argwhere((picture == patch[0, 0]).all(-1))
    return any(np.array_equal(picture[y : y + h, x : x + w], patch) for y, x in first)


def enlarged(image, scale):
    return to_uint8(image).repeat(scale, 0).repeat(scale, 1)


# ---------------------------------------------------------------------- images


def test_each_pixel_is_a_crisp_square_on_the_screen():
    picture = rendered(viz.show_images(IMAGES, scale=7))
    for image in IMAGES:
        assert contains(picture, enlarged(image, 7))


def test_images_titles_and_caption_do_not_cover_the_images():
    figure = viz.show_images(
        IMAGES, [f"number {i}" for i in range(5)], columns=2, scale=9, caption="A long line. " * 12
    )
    assert texts(figure)[1:] == [f"number {i}" for i in range(5)] and texts(figure)[0].startswith("A long line.")
    picture = rendered(figure)
    for image in IMAGES:
        assert contains(picture, enlarged(image, 9))
    # the caption is wrapped within the figure
    box = figure.axes[0].texts[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    with pytest.raises(ValueError, match="each of the 5 images"):
        viz.show_images(IMAGES, ["one"])


def test_default_scale_fits_the_page():
    for count, size in ((1, 8), (8, 32), (8, 64), (8, 128), (4, 256), (16, 256)):
        figure = viz.show_images(torch.zeros(count, 3, size, size), columns=16)
        assert 60 <= figure.get_size_inches()[0] * figure.dpi <= 1.2 * viz.WIDEST + 1


def test_rows_have_their_labels_and_may_differ_in_length():
    rows = {"DDIM": IMAGES[:2], "a long name that needs two lines": IMAGES[:3]}
    figure = viz.show_rows(rows, titles=["a", "b", "c"], scale=6, caption="below")
    assert texts(figure) == ["below", "DDIM", "a long name that\nneeds two lines", "a", "b", "c"]
    picture = rendered(figure)
    assert all(contains(picture, enlarged(image, 6)) for image in IMAGES[:3])
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(box.x0 >= -1 and box.x1 <= figure.bbox.width for box in boxes)
    for wrong in ({}, {"a": IMAGES, "b": torch.zeros(1, 3, 4, 4)}):
        with pytest.raises(ValueError, match="rows"):
            viz.show_rows(wrong)
    with pytest.raises(ValueError, match="each of the 3 columns"):
        viz.show_rows(rows, titles=["a"])


def test_strip_of_one_image_and_of_several():
    one = viz.show_strip(IMAGES, [f"t = {t}" for t in range(5)], scale=5)
    assert texts(one) == [f"t = {t}" for t in range(5)]
    several = viz.show_strip(torch.stack([IMAGES[:3], IMAGES[2:]]), scale=5)  # 2 stages of 3 images: 3 rows, 2 columns
    picture = rendered(several)
    side = enlarged(IMAGES[0], 5), enlarged(IMAGES[2], 5)
    gap = np.full((40, 4, 3), 255, np.uint8)
    assert contains(picture, np.concatenate([side[0], gap, side[1]], axis=1))
    with pytest.raises(ValueError, match="each of the 5"):
        viz.show_strip(IMAGES, ["one"])


def test_masks_have_rows_and_a_legend():
    masks = torch.softmax(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), 1)
    figure = viz.show_masks(IMAGES[:2], masks, names=["sky", "wall", "floor"], each=True)
    assert texts(figure) == ["image", "masks", "overlay", "sky", "wall", "floor"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky", "wall", "floor"]
    scale = 14
    assert contains(rendered(figure), enlarged(IMAGES[0], scale))  # still one to one after the legend was added
    with pytest.raises(ValueError, match="names"):
        viz.show_masks(IMAGES[:2], masks, names=["one"])


def test_save_is_whole_or_nothing(tmp_path, monkeypatch):
    viz.save(viz.show_images(IMAGES), tmp_path / "new" / "figure.png")
    viz.save(viz.image_grid(IMAGES), tmp_path / "grid.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), viz.image_grid(IMAGES))
    assert Image.open(tmp_path / "new" / "figure.png").size[0] > 100
    before = (tmp_path / "grid.png").read_bytes()

    def full(self, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DiskFull):
        viz.save(viz.image_grid(IMAGES), tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["grid.png", "new"]
    with pytest.raises(ValueError, match="one picture, got 5"):
        viz.save(IMAGES, tmp_path / "x.png")


# ---------------------------------------------------------------------- curves

RECORDS = [{"step": 0, "loss": 3.0}, {"step": 10, "accuracy": 0.5}, {"step": 20, "loss": 1.0}]


def line(figure, i=0, axes=0):
    return tuple(np.asarray(v, float).tolist() for v in figure.axes[axes].lines[i].get_data())


def test_curves_of_records_and_of_columns():
    figure = viz.plot_curves({"a": RECORDS, "b": {"step": [0, 5], "loss": [2, 4]}}, log=True, title="Loss")
    assert line(figure, 0) == ([0, 20], [3, 1]) and line(figure, 1) == ([0, 5], [2, 4])
    axes = figure.axes[0]
    assert axes.get_yscale() == "log" and (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert figure.axes[0].lines[0].get_color() != figure.axes[0].lines[1].get_color()


def test_curves_of_seeds_are_median_and_range():
    seeds = [
        {"step": [0, 10], "loss": [1, 2]},
        {"step": [0, 10], "loss": [3, 6]},
        {"step": [0, 5, 10], "loss": [5, 5, 4]},
    ]
    figure = viz.plot_curves({"a": seeds})
    assert line(figure) == ([0, 5, 10], [3, 4.5, 4])  # at 5: median of 1.5, 4.5, 5
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 1 and band[:, 1].max() == 6
    assert "median of 3" in figure.axes[0].get_legend().get_texts()[0].get_text()


def test_smoothing_is_symmetric_and_keeps_constants():
    assert np.allclose(plots._smooth(np.full(9, 2.5), 0.9), 2.5)
    # weights 1/4 1/2 1 1/2 1/4 over their sums 31/16, 19/8, 5/2
    assert np.allclose(plots._smooth(np.array([0.0, 0, 1, 0, 0]), 0.5), [4 / 31, 4 / 19, 2 / 5, 4 / 19, 4 / 31])
    values = np.arange(101.0)
    assert np.allclose(plots._smooth(values, 0.8)[50], 50)  # no lag in the middle of a slope
    figure = viz.plot_curves({"a": RECORDS}, smoothing=0.5)
    assert len(figure.axes[0].lines) == 2  # the values, faint, and the smooth line


@pytest.mark.parametrize(
    ("histories", "options", "match"),
    [
        ({"a": RECORDS}, {"y": "missing"}, r"'a' has no 'step' with 'missing'; it has accuracy, loss, step"),
        ({"a": []}, {}, "nothing"),
        ({"a": RECORDS}, {"smoothing": 1.0}, "smoothing"),
        ({"a": [{"step": [0, 1], "loss": [1, 1]}, {"step": [2, 3], "loss": [1, 1]}]}, {}, "no common range"),
    ],
)
def test_curves_refuse(histories, options, match):
    with pytest.raises(ValueError, match=match):
        viz.plot_curves(histories, **options)
    plt.close("all")


def test_convergence_draws_medians_and_slopes():
    table = {"DDIM": {10: [0.1, 0.3, 0.2], 20: [0.1], 40: 0.05}, "DPM": {40: 0.01, 10: 0.16, 20: 0.04}}
    figure = viz.plot_convergence(table)
    assert line(figure, 0) == ([10, 20, 40], [0.2, 0.1, 0.05]) and line(figure, 1) == ([10, 20, 40], [0.16, 0.04, 0.01])
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    for i, order in ((2, 1), (3, 2)):
        (x0, x1), (y0, y1) = line(figure, i)
        assert np.isclose(np.log(y0 / y1) / np.log(x1 / x0), order)
    assert texts(figure) == ["order 1", "order 2"]
    assert [int(tick) for tick in axes.get_xticks()] == [10, 20, 40]
    with pytest.raises(ValueError, match="'DDIM' must be positive"):
        viz.plot_convergence({"DDIM": {10: 0.0}})
    plt.close("all")


def test_schedules():
    schedules = {"linear": NoiseSchedule.linear(), "cosine": NoiseSchedule.cosine(100)}
    figure = viz.plot_schedule(schedules)
    assert len(figure.axes) == 3
    times, log_snr = line(figure, 1, axes=2)
    assert len(times) == 100 and times[50] == 0.5
    assert np.isclose(log_snr[50], float(torch.log(schedules["cosine"].snr[50])))
    assert len(viz.plot_schedule(schedules["linear"]).axes[0].lines) == 1


# ---------------------------------------------------------------------- the plane, animations


def gaussian(points):
    return torch.exp(-(points**2).sum(-1) / 2)


def test_scatter_on_a_density():
    points = np.random.default_rng(0).normal(size=(50, 2))
    figure = viz.scatter_2d(points, gaussian, limits=3)
    axes = figure.axes[0]
    assert np.allclose(axes.collections[0].get_offsets(), points)
    shown = axes.images[0].get_array()
    assert shown.shape == (160, 160) and np.unravel_index(shown.argmax(), shown.shape)[0] in (79, 80)
    both = viz.scatter_2d({"true": torch.from_numpy(points), "DDIM": torch.from_numpy(points)})
    assert [text.get_text() for text in both.axes[0].get_legend().get_texts()] == ["true", "DDIM"]
    off_centre = viz.scatter_2d(points, lambda p: gaussian(p - torch.tensor([2.0, -1.0])), limits=3).axes[0].images[0]
    y, x = np.unravel_index(off_centre.get_array().argmax(), (160, 160))
    assert x > 120 and y < 70 and off_centre.origin == "lower"  # x to the right, y upward


@pytest.mark.parametrize(
    ("points", "match"),
    [(np.zeros((3, 3)), r"\(N, 2\)"), (np.zeros((0, 2)), r"\(N, 2\)"), (np.full((2, 2), np.nan), "diverged")],
)
def test_scatter_refuses(points, match):
    with pytest.raises(ValueError, match=match):
        viz.scatter_2d(points)


def player_frames(player):
    """The pictures and the labels in a player's script."""
    script = player.data
    frames = json.loads(re.search(r"frames = (\[.*?\]), labels", script).group(1))
    labels = json.loads(re.search(r"labels = (\[.*?\]);", script).group(1))
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(f.split(",")[1])))) for f in frames]
    return pictures, labels


def test_image_animation_holds_the_exact_grids():
    frames = torch.stack([IMAGES, -IMAGES, IMAGES / 2])
    pictures, labels = player_frames(viz.animate_images(frames, ["t = 2", "</script>", "t = 0"], columns=3))
    for picture, frame in zip(pictures, frames, strict=True):
        assert np.array_equal(picture, viz.image_grid(frame, 3, padding=1))
    assert labels == ["t = 2", "</script>", "t = 0"]


def test_animations_need_no_network_and_no_label_ends_the_script():
    for player in (
        viz.animate_images([IMAGES, IMAGES], ["</script><b>", "2"]),
        viz.animate_trajectories(np.zeros((3, 4, 2)), limits=1),
    ):
        assert "http" not in player.data and player.data.count("</script>") == 1
        assert 'alt="Animation' in player.data


def test_animations_keep_to_their_size():
    noise = torch.rand(30, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1  # hardest to compress
    player = viz.animate_images(noise, [str(i) for i in range(30)], max_bytes=600_000)
    assert len(player.data) <= 600_000
    _, labels = player_frames(player)
    assert 2 <= len(labels) < 30 and (labels[0], labels[-1]) == ("0", "29")
    with pytest.raises(ValueError, match="max_bytes"):
        viz.animate_images(noise, max_bytes=10_000)


def test_trajectory_animation_moves_and_is_thinned():
    path = np.linspace([[-1.0, 0], [0, -1]], [[1.0, 0], [0, 1]], 50)
    player = viz.animate_trajectories(path, gaussian, labels=range(50), frames=10)
    pictures, labels = player_frames(player)
    assert len(pictures) == 10 and (labels[0], labels[-1]) == ("0", "49")
    assert not np.array_equal(pictures[0], pictures[-1])
    assert len(player.data) <= 2_000_000
    with pytest.raises(ValueError, match=r"\(S, N, 2\)"):
        viz.animate_trajectories(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="each of the 50 times"):
        viz.animate_trajectories(path, labels=["a"])


# ---------------------------------------------------------------------- style


def test_style_is_used_and_does_not_leak(monkeypatch):
    with matplotlib.rc_context({"font.size": 3, "axes.grid": False}):
        viz.plot_curves({"a": RECORDS})
        assert matplotlib.rcParams["font.size"] == 3 and not matplotlib.rcParams["axes.grid"]
        viz.use_style()
        assert matplotlib.rcParams["font.size"] == 11 and matplotlib.rcParams["image.cmap"] == "cividis"


@pytest.mark.parametrize(("module", "missing"), [("viz", "matplotlib"), ("widgets", "ipywidgets")])
def test_a_missing_extra_says_how_to_install_it(module, missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import fdlib.{module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and "pip install 'fdlib[course]'" in result.stderr.splitlines()[-1]


def test_a_tree_has_a_row_for_each_node_that_is_cut():
    masks = torch.rand(1, 6, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(1)
    figure = viz.show_tree(IMAGES[:1, :, :8, :8], masks, (3, 2))
    texts = [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]
    assert [text for text in texts if text.startswith("level")] == [
        "level 1", "level 2, in 0", "level 2, in 1", "level 2, in 2",
    ]  # fmt: skip
    deep = viz.show_tree(IMAGES[:1, :, :8, :8], torch.rand(8, 8, 8), (2, 2, 2))
    assert any("level 3, in 1.0" in text.get_text().replace("\n", " ") for text in deep.axes[0].texts)
    with pytest.raises(ValueError, match="one image"):
        viz.show_tree(IMAGES[:2, :, :8, :8], masks, (3, 2))
    with pytest.raises(ValueError, match=r"\(B, 4, H, W\)"):
        viz.show_tree(IMAGES[:1, :, :8, :8], masks, (2, 2))
