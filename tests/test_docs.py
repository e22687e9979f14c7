"""docs/: the Python in it is run, and its links lead somewhere."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
each = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


@each
def test_examples_give_what_they_say(page):
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert not result.failed


def test_errata_prove_what_they_say():
    """A page of claims about other people's slips has examples, and they are found by the test above."""
    text = (ROOT / "docs" / "errata.md").read_text(encoding="utf-8")
    assert len(doctest.DocTestParser().get_examples(text)) >= 5
    assert "Find more" in text


@each
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.split("#")[0]).exists(), target


@each
def test_names_of_the_library_exist(page):
    """`module.function` in a table is what the library calls it."""
    import importlib

    for module, name in re.findall(
        r"`(process|samplers|cameras|nerf|training)\.([A-Za-z_]+)`", page.read_text(encoding="utf-8")
    ):
        owner = importlib.import_module(f"fdlib.{module}")
        assert hasattr(owner, name), f"fdlib.{module} has no {name}"
    for path, name in re.findall(
        r"`metrics\.(segmentation|geometry|generation)\.([a-z_]+)`", page.read_text(encoding="utf-8")
    ):
        assert hasattr(importlib.import_module(f"fdlib.metrics.{path}"), name), name
