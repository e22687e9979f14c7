"""The examples in the docstrings are right."""

import doctest
import importlib
import pkgutil

import pytest

import fdlib

MODULES = [m.name for m in pkgutil.walk_packages(fdlib.__path__, "fdlib.") if not m.name.endswith("__main__")]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert result.failed == 0, "see the captured output"


def test_there_are_examples_where_numbers_can_be_checked_by_hand():
    finder = doctest.DocTestFinder()
    for name in ("schedule", "process", "unet"):
        module = importlib.import_module(f"fdlib.{name}")
        assert any(test.examples for test in finder.find(module)), name
