"""The movable parts: set a slider's value as a reader's mouse does, decode the picture that is sent to the page."""

import datetime
import io
import json
import sys
import types

import matplotlib
import nbclient
import nbconvert
import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from fdlib import viz, widgets
from fdlib.images import image_grid, to_uint8
from fdlib.process import add_noise
from fdlib.schedule import NoiseSchedule

FRAMES = torch.linspace(-1, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)


def shown(gallery):
    """The picture that the page gets, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(gallery.picture.value)).convert("RGB"))


# ---------------------------------------------------------------------- pictures that are there already


def test_gallery_shows_the_frame_of_the_slider():
    gallery = widgets.slider_gallery(FRAMES)
    assert np.array_equal(shown(gallery), image_grid(FRAMES[0]))
    for i in (2, 3, 1):
        gallery.slider.value = i
        assert gallery.value == i
        assert np.array_equal(shown(gallery), image_grid(FRAMES[i]))
    assert gallery.play is None


def test_gallery_with_labels_begins_where_it_is_told():
    gallery = widgets.slider_gallery(FRAMES, labels=[999, 500, 500, "clean"], description="time", value=3)
    assert np.array_equal(shown(gallery), image_grid(FRAMES[3]))
    assert [text for text, _ in gallery.slider.options] == ["999", "500", "500", "clean"]
    assert gallery.slider.description == "time"
    gallery.value = 1  # of two equal labels the right one
    assert np.array_equal(shown(gallery), image_grid(FRAMES[1])) and gallery.slider.index == 1
    gallery.slider.index = 2  # what the page sends
    assert np.array_equal(shown(gallery), image_grid(FRAMES[2]))


def test_frames_may_be_grids_arrays_and_figures():
    grids = torch.stack([FRAMES, -FRAMES])
    gallery = widgets.slider_gallery(grids, columns=2)
    gallery.value = 1
    assert np.array_equal(shown(gallery), image_grid(-FRAMES, 2))

    arrays = [np.full((30, 40, 3), v, np.uint8) for v in (7, 9)]
    gallery = widgets.slider_gallery(arrays)
    assert (
        np.array_equal(shown(gallery), arrays[0]) and gallery.picture.width == "40"
    )  # a finished picture keeps its size

    figures = [viz.plot_curves({"a": {"step": [0, 1], "loss": [0, i]}}) for i in (1, 2)]
    gallery = widgets.slider_gallery(figures)
    first = shown(gallery)
    gallery.value = 1
    assert first.shape == (400, 700, 3) and not np.array_equal(first, shown(gallery))
    assert matplotlib.pyplot.get_fignums() == []


def test_small_images_are_enlarged_by_a_whole_number():
    assert widgets.slider_gallery(FRAMES).picture.width == "48"  # 8 pixels and a border of 2 to each side, four times
    assert widgets.slider_gallery(FRAMES, scale=10).picture.width == "120"
    wide = widgets.slider_gallery(torch.zeros(1, 8, 3, 256, 256))
    assert int(wide.picture.width) == widgets.WIDEST


def test_play_button_moves_the_slider_and_the_picture():
    for labels in (None, list("abcd")):
        gallery = widgets.slider_gallery(FRAMES, labels, play=True, interval=70)
        assert (gallery.play.min, gallery.play.max, gallery.play.interval) == (0, 3, 70)
        gallery.play.value = 2
        assert gallery.value == 2 and np.array_equal(shown(gallery), image_grid(FRAMES[2]))
        gallery.value = 1
        assert gallery.play.value == 1  # playing goes on from where the slider was put


@pytest.mark.parametrize(
    ("frames", "options", "match"),
    [
        ([], {}, "frames is empty"),
        (FRAMES, {"labels": ["a"]}, "each of the 4 frames, got 1"),
        (FRAMES, {"value": 4}, r"value must be one of 0 \.\. 3, got 4"),
        ([FRAMES[0], torch.zeros(3, 9, 9)], {}, "one size"),
    ],
)
def test_gallery_refuses(frames, options, match):
    with pytest.raises(ValueError, match=match):
        widgets.slider_gallery(frames, **options)


# ---------------------------------------------------------------------- pictures computed when needed


def test_noise_slider_computes_each_t_once_and_only_when_looked_at():
    schedule, noise, asked = NoiseSchedule.linear(), torch.randn(FRAMES.shape), []

    def noise_fn(t):
        asked.append(t)
        return add_noise(schedule, FRAMES, t, noise)

    slider = widgets.noise_slider(None, noise_fn, T=1000, value=5, caption=lambda t: f"a < {float(schedule.a[t]):.3f}")
    for t in (999, 300, 5, 999):
        slider.slider.value = t
        assert np.array_equal(shown(slider), image_grid(add_noise(schedule, FRAMES, t, noise)))
        assert slider.children[-1].value == f"a &lt; {float(schedule.a[t]):.3f}"  # text, not HTML
    assert asked == [5, 999, 300]
    assert (slider.slider.min, slider.slider.max) == (0, 999)


def test_noise_slider_shows_the_clean_images_above():
    slider = widgets.noise_slider(FRAMES, lambda t: FRAMES * (1 - t / 10), T=10)
    slider.value = 5
    picture, grid = shown(slider), image_grid(FRAMES)
    assert np.array_equal(picture[: len(grid)], grid)
    assert np.array_equal(picture[-len(grid) :], image_grid(FRAMES / 2))
    with pytest.raises(ValueError, match=r"noise_fn\(0\) must give as many images"):
        widgets.noise_slider(FRAMES, lambda t: FRAMES[:2], T=10)


def test_what_the_function_raises_is_written_below_the_slider():
    state = {"frames": FRAMES}
    slider = widgets.noise_slider(None, lambda t: state["frames"], T=10)
    before = shown(slider)
    note = slider.children[-1]
    assert note.layout.display == "none"
    state["frames"] = "<re-bound by a later cell>"
    with pytest.raises(TypeError):
        slider.value = 3
    assert "TypeError" in note.value and "later cell" in note.value and note.layout.display is None
    assert np.array_equal(shown(slider), before)
    state["frames"] = -FRAMES
    slider.value = 4
    assert note.layout.display == "none" and np.array_equal(shown(slider), image_grid(-FRAMES))


# ---------------------------------------------------------------------- live pictures


def test_live_picture_outside_a_notebook_shows_nothing_and_remembers(capsys):
    live = widgets.live_picture()
    live.update(FRAMES, "step 3")
    assert np.array_equal(live.pixels, image_grid(FRAMES)) and live.caption == "step 3"
    assert capsys.readouterr().out == ""


def test_live_picture_as_a_callback():
    state = types.SimpleNamespace(step=500)
    live = widgets.live_picture(lambda state: FRAMES * 0, columns=2)
    live(state)
    assert live.caption == "step 500" and np.array_equal(live.pixels, image_grid(FRAMES * 0, 2))
    live = widgets.live_picture(lambda state: (FRAMES, "samples"))
    live(state)
    assert live.caption == "samples"
    with pytest.raises(TypeError, match=r"live_picture\(draw\)"):
        widgets.live_picture()(state)


# ---------------------------------------------------------------------- in a notebook, and exported

CELLS = [
    "import torch\nfrom fdlib import viz, widgets\nx = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)",
    "gallery = widgets.slider_gallery([x, -x], labels=['one', '<two>'], play=True)\ngallery",
    "gallery.value = 1",
    "live = widgets.live_picture()\nfor i in range(3):\n    live.update(x / (i + 1), f'step {i}')",
    "viz.show_images(x)",
    "viz.show_images(x, caption='not the last value of its cell')\nviz.animate_images([x, -x])",
]


@pytest.fixture(scope="module")
def executed():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook


def source_of(pixels):
    return f'src="data:image/png;base64,{widgets.base64.b64encode(widgets.png_bytes(pixels)).decode()}"'


def test_notebook_runs_and_each_thing_is_shown_once(executed):
    x = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
    outputs = [[sorted(output["data"]) for output in cell.outputs] for cell in executed.cells]
    assert outputs == [
        [],
        [["text/html", "text/plain"], ["application/vnd.jupyter.widget-view+json", "text/plain"]],  # still, slider
        [],
        [["text/html", "text/plain"]],
        [["image/png", "text/plain"]],
        [["text/html", "text/plain"]],
    ]
    live = executed.cells[3].outputs[0]["data"]["text/html"]
    assert "step 2" in live and "step 1" not in live and source_of(image_grid(x / 3)) in live


def test_exported_page_shows_the_pictures_without_a_kernel(executed):
    page, _ = nbconvert.HTMLExporter().from_notebook_node(executed)
    x = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
    assert source_of(image_grid(x)) in page and "t = one" in page  # the slider's still
    assert source_of(image_grid(x / 3)) in page
    # The slider's state is in the page too, for a viewer that can draw widgets: the frame it was moved to.
    state = executed.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    pictures = [model for model in state.values() if model["model_name"] == "ImageModel"]
    assert len(pictures) == 1 and "<b>" not in json.dumps(state)


def test_no_still_in_colab(monkeypatch):
    sent = []
    monkeypatch.setattr(widgets, "display", lambda *objects, **options: sent.append(objects[0]))
    gallery = widgets.slider_gallery(FRAMES, ["<a>", "b", "c", "d"])
    gallery._ipython_display_()
    assert "fdlib-still" in sent[0].data and "t = &lt;a&gt;" in sent[0].data
    sent.clear()
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    gallery._ipython_display_()
    assert not any("fdlib-still" in str(getattr(thing, "data", "")) for thing in sent)


def test_pictures_are_those_of_to_uint8():
    assert np.array_equal(shown(widgets.slider_gallery(FRAMES[:1]))[2:-2, 2:-2], to_uint8(FRAMES[0]))


def png_of(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_uploaded_photo_is_cut_and_drawn():
    seen = []
    upload = widgets.photo_upload(lambda image: seen.append(image) or image, size=8)
    content = png_of(np.full((30, 50, 3), 255, np.uint8))
    upload.button.value = ({"name": "a.png", "type": "image/png", "size": 3, "content": memoryview(content),
                            "last_modified": datetime.datetime.now(datetime.UTC)},)  # fmt: skip
    assert upload.image.shape == (1, 3, 8, 8) and upload.image.min() == 1 and seen[0] is upload.image
    assert bytes(upload.picture.value).startswith(b"\x89PNG") and upload.picture.layout.display is None
    assert "a.png" in upload.note.value
    upload._uploaded({"b.png": {"metadata": {"name": "b.png"}, "content": content}})  # as ipywidgets 7 hands it over
    assert "b.png" in upload.note.value


def test_a_photo_that_is_no_photo_is_named():
    upload = widgets.photo_upload(lambda image: image)
    upload.show(b"not a picture at all", "holiday.png")
    assert "holiday.png cannot be read as a picture" in upload.note.value and "PNG or JPEG" in upload.note.value
    assert upload.image is None and upload.picture.layout.display == "none"
