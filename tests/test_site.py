"""The web site: no broken link, no missing picture, nothing wider than a phone, a search that finds, players that play.

The project's own site is built without executing its lessons (that takes an hour; `make site` does it), and a small one with
an executed lesson shows that outputs arrive. Both are looked at in a headless Chromium that has no network.
"""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from fdlib.course.notebooks import from_script, to_ipynb
from fdlib.course.site import build, pages

ROOT = Path(__file__).resolve().parents[1]
PHONE, DESK = 390, 1300  # pixels
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]
pytest.importorskip("pdoc", reason="pdoc writes the reference: pip install fdlib[dev]")

LESSON = """\
# %% [markdown]
# # 1 · A lesson
#
# See [the exercises](../exercises/01_a.ipynb), [the errata](../docs/errata.md#below),
# [a module](../fdlib/schedule.py). $a^2 + s^2 = 1$
#
# | a | very | wide | table | with | many | columns | that | no | phone | can | show | at | once |
# |---|---|---|---|---|---|---|---|---|---|---|---|---|---|
# | aaaaaaaa | bbbbbbbb | cccccccc | dddddddd | eeeeeeee | ffffffff | g | h | i | j | k | l | m | n |

# %%
import numpy as np
import torch

from fdlib import viz, widgets

print("a line of output that is much longer than a phone is wide: " + "x" * 300)
viz.show_images(torch.zeros(16, 3, 32, 32), columns=16)

# %%
widgets.slider_gallery([np.full((16, 16, 3), 25 * i, np.uint8) for i in range(10)], description="zebra")
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The checkout and the site of a small course with one lesson, executed."""
    root = tmp_path_factory.mktemp("course")
    for folder in ("notebooks", "exercises", "docs/pictures", "fdlib"):
        (root / folder).mkdir(parents=True)
    text = "It has one lesson, a page of errata, and a picture to look at."
    links = "[lesson](notebooks/01_a.ipynb) ![seen](docs/pictures/a.png)"
    (root / "README.md").write_text(f"# A small course\n\n{text}\n\n{links}\n")
    (root / "docs" / "errata.md").write_text("# Errata\n\n## below\n\nA slip about ptarmigans.\n")
    shutil.copy(next((ROOT / "docs" / "pictures").glob("*.png")), root / "docs" / "pictures" / "a.png")
    (root / "fdlib" / "schedule.py").touch()
    (root / "notebooks" / "01_a.ipynb").write_text(to_ipynb(from_script(LESSON)))
    (root / "exercises" / "01_a.ipynb").write_text(to_ipynb(from_script("# %% [markdown]\n# # Exercises\n")))
    build(root, root / "site", profile="ci", modules=("fdlib.schedule",))
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The site of this checkout, its lessons not executed."""
    out = tmp_path_factory.mktemp("site")
    build(ROOT, out, execute=(), profile="ci")
    return out


@pytest.fixture(scope="module")
def browser(chromium):
    return chromium(60, "--host-resolver-rules=MAP * ~NOTFOUND")  # what needs the network must not be needed


# ------------------------------------------------------------------------------ links


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.ids.add(value)


def broken_links(site):
    """(page, link) of every local link without a target: a file, and the place in it."""
    parsed = {page.resolve(): Links(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    for page, found in parsed.items():
        for link in found.links:
            if ":" in link.split("/")[0] or link.startswith("//"):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / unquote(path)).resolve() if path else page
            if not target.is_file() or (
                anchor and target in parsed and not {anchor, unquote(anchor)} & parsed[target].ids
            ):
                yield page.relative_to(site.resolve()).as_posix(), link


def test_no_link_is_broken(whole, small):
    assert sorted(broken_links(whole)) == []
    assert sorted(broken_links(small / "site")) == []


def test_every_page_is_there_and_in_the_contents(whole):
    everything = pages(ROOT)
    assert {page.source for page in everything} >= {
        "README.md",
        "docs/cheat_sheet.md",
        "docs/errata.md",
        *(
            f"{folder}/{file.name}"
            for folder in ("notebooks", "exercises")
            for file in (ROOT / folder).glob("[0-9]*.ipynb")
        ),
    }
    for page in everything:
        text = (whole / page.target).read_text(encoding="utf-8")
        for other in everything:
            assert Path(other.target).name in text, f"{page.target} does not lead to {other.target}"
    for module in ("nerf", "schedule", "metrics/segmentation", "course/checks"):
        assert (whole / "api" / "fdlib" / f"{module}.html").exists()


def test_links_to_files_without_a_page_lead_to_the_repository(small):
    from fdlib.course import REPOSITORY

    text = (small / "site" / "notebooks" / "01_a.html").read_text()
    assert f'href="{REPOSITORY}/blob/main/fdlib/schedule.py"' in text
    assert 'href="../exercises/01_a.html"' in text and 'href="../docs/errata.html#below"' in text


# ------------------------------------------------------------------------------ what is seen

LOOK = """
const pictures = [...document.images].filter(image => !/^https?:/.test(image.getAttribute('src')));
return {
    width: document.documentElement.scrollWidth, window: window.innerWidth,
    text: document.body.innerText.length,
    missing: pictures.filter(image => !image.complete || !image.naturalWidth).map(image => image.outerHTML.slice(0, 200)),
    pictures: pictures.length,
};
"""


def look(browser, page, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    return browser.execute_script(LOOK)


def complaints(browser, site):
    for page in sorted(site.rglob("*.html")):
        for width in (
            (PHONE,) if "api" in page.parts else (PHONE, DESK)
        ):  # pdoc's pages fit a desk, or many would have said
            seen = look(browser, page, width)
            name = f"{page.relative_to(site).as_posix()} at {width} pixels"
            if seen["window"] != width or seen["width"] > width:
                yield f"{name}: {max(seen['width'], seen['window'])} pixels wide, so it scrolls sideways"
            if seen["missing"]:
                yield f"{name}: missing pictures {seen['missing']}"
            if seen["text"] < 50:
                yield f"{name}: empty"


def test_every_page_fits_a_phone_and_shows_its_pictures(browser, whole):
    assert list(complaints(browser, whole)) == []
    assert look(browser, whole / "index.html", PHONE)["pictures"] >= 3


def test_an_executed_lesson_shows_its_outputs(browser, small):
    assert list(complaints(browser, small / "site")) == []
    seen = look(browser, small / "site" / "notebooks" / "01_a.html", PHONE)
    assert seen["pictures"] == 2
    assert "a line of output" in browser.find_element("tag name", "main").text


def test_sliders_move_without_a_kernel(browser, small):
    look(browser, small / "site" / "notebooks" / "01_a.html", DESK)
    change = """
    const slider = document.querySelector('main input[type=range]'), image = slider.closest('[id^=fdlib]').querySelector('img');
    const before = image.src; slider.value = 2; slider.dispatchEvent(new Event('input'));
    return [before !== image.src, slider.nextElementSibling.textContent];
    """
    assert browser.execute_script(change) == [True, "zebra = 2"]


def find(browser, words):
    box = browser.find_element("id", "search")
    box.clear()
    box.send_keys(words)
    return [(link.text, link.get_attribute("href")) for link in browser.find_elements("css selector", "#found a")]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("sinkhorn", "notebooks/10"),
        ("positional_encoding", "api/fdlib/nerf.html"),
        ("three bugs", "exercises/01"),
        ("octants", "docs/errata"),
        ("velocity cheat", "docs/cheat_sheet"),
    ],
)
def test_the_search_finds_all_kinds_of_pages(browser, whole, words, where):
    for start in ("index.html", "docs/errata.html"):  # from the top, and from a folder
        look(browser, whole / start, DESK)
        found = find(browser, words)
        assert any(where in address for _, address in found[:8]), found
        browser.get(next(address for _, address in found if where in address))
        assert words.split()[0] in browser.find_element("tag name", "body").text.lower()


def test_the_search_says_when_there_is_nothing(browser, whole):
    look(browser, whole / "index.html", PHONE)
    assert find(browser, "xyzzy plugh") == []
    assert "Nothing found" in browser.find_element("id", "found").text


# ------------------------------------------------------------------------------ the test of the test; bad input


def test_the_test_sees_what_is_broken(browser, small, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(small / "site", site)
    page = site / "docs" / "errata.html"
    bad = '<a href="nowhere.html">a</a><a href="#nowhere">b</a><img src="gone.png"><div style="width: 800px">wide</div>'
    page.write_text(page.read_text().replace("<main>", f"<main>{bad}"))
    assert sorted(broken_links(site)) == [
        (f"docs/{page.name}", link) for link in ("#nowhere", "gone.png", "nowhere.html")
    ]
    text = "\n".join(complaints(browser, site))
    assert "at 390 pixels: 8" in text and "missing pictures" in text


def test_an_executed_lesson_is_kept_and_a_changed_one_is_not(small, tmp_path, monkeypatch):
    import nbclient

    def refuse(*arguments, **options):
        raise AssertionError("executed again")

    monkeypatch.setattr(nbclient.NotebookClient, "execute", refuse)
    build(small, tmp_path / "again", profile="ci", modules=("fdlib.schedule",))
    assert (tmp_path / "again" / "notebooks" / "01_a.html").read_text() == (
        small / "site" / "notebooks" / "01_a.html"
    ).read_text()
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    lesson = copy / "notebooks" / "01_a.ipynb"
    notebook = nbformat.read(lesson, as_version=4)
    notebook.cells[-1].source += "\n# changed"
    nbformat.write(notebook, lesson)
    with pytest.raises(AssertionError, match="executed again"):
        build(copy, tmp_path / "third", profile="ci", modules=("fdlib.schedule",))


def test_bad_input_is_named(small, tmp_path, capsys):
    from fdlib.course.site import main

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    assert main(small, tmp_path / "mine", None, "ci") == 1 and "--out" in capsys.readouterr().err
    assert (tmp_path / "mine" / "letter.txt").exists()
    assert main(small, tmp_path / "x", None, "cpu") == 1 and "no profile 'cpu'" in capsys.readouterr().err
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    broken = json.loads((copy / "notebooks" / "01_a.ipynb").read_text())
    broken["cells"][-1]["source"] = "raise RuntimeError('this lesson is broken')"
    (copy / "notebooks" / "01_a.ipynb").write_text(json.dumps(broken))
    assert main(copy, tmp_path / "y", None, "ci") == 1
    error = capsys.readouterr().err
    assert "01_a.ipynb" in error and "this lesson is broken" in error
    shutil.copy(small / "notebooks" / "01_a.ipynb", copy / "notebooks" / "01_a.ipynb")
    build(
        copy, tmp_path / "y", execute=(), profile="ci", modules=("fdlib.schedule",)
    )  # what failed half-way is no obstacle
