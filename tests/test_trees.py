import pytest
import torch

pytest.importorskip("ipywidgets")
from fdlib.trees import tree_view

IMAGE = torch.zeros(1, 3, 8, 8)


def leaves(*regions):
    torch.manual_seed(0)
    return torch.randn(1, int(torch.tensor(regions).prod()), 8, 8).softmax(1)


def test_a_click_opens_a_branch_and_another_closes_it():
    view = tree_view(IMAGE, leaves(3, 2, 2), (3, 2, 2))
    assert view.path == () and [len(row) for row in view.buttons] == [3]
    view.buttons[0][2].click()
    assert view.path == (2,) and [len(row) for row in view.buttons] == [3, 2] and len(view.children) == 2
    view.buttons[1][0].click()
    assert view.path == (2, 0) and [len(row) for row in view.buttons] == [3, 2, 2]
    assert all(button.disabled for button in view.buttons[2]), "leaves are not cut"
    view.buttons[0][1].click()
    assert view.path == (1,)
    view.buttons[0][1].click()
    assert view.path == ()


def test_the_buttons_say_how_much_a_region_holds():
    masks = torch.zeros(4, 8, 8)
    masks[0, :2], masks[1, 2:4], masks[2, 4:], masks[3, :] = 1, 1, 0.75, 0
    masks[3, 4:] = 0.25
    view = tree_view(IMAGE, masks, (2, 2))
    assert [button.description.split(" ")[1] for button in view.buttons[0]] == ["50%", "50%"]
    view.unfold((1,))
    assert [button.description for button in view.buttons[1]] == ["0: 38%", "1: 12%"]


def test_a_region_is_shown_where_it_is():
    import io

    import numpy as np
    from PIL import Image

    masks = torch.zeros(2, 8, 8)
    masks[0, :, :4], masks[1, :, 4:] = 1, 1
    view = tree_view(torch.ones(1, 3, 8, 8), masks, (2,))
    picture = np.asarray(
        Image.open(io.BytesIO(view.children[0].children[1].children[0].children[0].value)).convert("RGB")
    )
    height, width = picture.shape[:2]
    assert picture[height // 2, width // 4].min() == 255 and abs(int(picture[height // 2, 3 * width // 4, 0]) - 128) < 2


def test_a_page_without_a_kernel_gets_the_whole_tree(monkeypatch):
    import sys
    import types

    from fdlib import trees, widgets

    shown = []
    for module in (trees, widgets):
        monkeypatch.setattr(module, "display", lambda *objects, **options: shown.append(objects[0]))
    view = tree_view(IMAGE, leaves(3, 2), (3, 2))
    view.unfold((1,))
    view._ipython_display_()
    page = shown[0].data
    assert len(shown) == 2 and "fdlib-still" in page
    assert page.count("<img") == 3 + 6 and page.count("<details") == 3, "three regions that open, six leaves in them"
    assert page.index("<details open>") > page.index("<details>"), "the open branch is the second"
    for inside in ("0: ", "2: ", "1.0: ", "2.1: "):
        assert f"<br>{inside}" in page
    shown.clear()
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    view._ipython_display_()
    assert len(shown) == 1 and not hasattr(shown[0], "data"), "Colab shows the widget, and nothing twice"
    monkeypatch.setenv("FDLIB_EXPORT", "1")
    shown.clear()
    view._ipython_display_()
    assert len(shown) == 1 and "<details" in shown[0].data


@pytest.mark.parametrize("path", [(3,), (0, 0), (-1,)])
def test_a_path_to_no_node(path):
    with pytest.raises(ValueError, match="path must name a node"):
        tree_view(IMAGE, leaves(3, 2), (3, 2)).unfold(path)


def test_one_image_at_a_time():
    with pytest.raises(ValueError, match="one image"):
        tree_view(IMAGE.expand(2, -1, -1, -1), leaves(3, 2), (3, 2))
    with pytest.raises(ValueError, match="leaves of regions"):
        tree_view(IMAGE, leaves(3, 2), (3, 3))
