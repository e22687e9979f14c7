"""Badges: the README's are up to date, and one command moves everything to a fork."""

import re
import shutil
from pathlib import Path

import pytest

from fdlib.course import REPOSITORY, badges
from fdlib.course.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_is_stamped():
    assert main(["badges", "--check"]) == 0, "run `python -m fdlib.course badges`"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        assert text.count(badges.colab(f"notebooks/{notebook.name}", REPOSITORY)) == 1
    for notebook in sorted((ROOT / "exercises").glob("[0-9]*.ipynb")):
        assert f"(exercises/{notebook.name})" in text


@pytest.fixture
def copy(tmp_path):
    for name in badges.NAMES_THE_REPOSITORY:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "exercises").mkdir()
    (tmp_path / "exercises" / "01_ddpm_basics.ipynb").touch()
    return tmp_path


@pytest.mark.parametrize("fork", ["ada/fdlib-course", "https://github.com/ada/fdlib-course.git"])
def test_a_fork_gets_its_own_address_everywhere(copy, fork):
    before = {name: (copy / name).read_text() for name in badges.NAMES_THE_REPOSITORY}
    assert len(badges.stamp(copy, fork, check=True)) == 3
    assert before == {name: (copy / name).read_text() for name in before}, "check changes nothing"
    assert len(badges.stamp(copy, fork, branch="spring")) == 3
    for name in badges.NAMES_THE_REPOSITORY:
        text = (copy / name).read_text()
        assert REPOSITORY not in text and "https://github.com/ada/fdlib-course" in text, name
    text = (copy / "README.md").read_text()
    assert "colab.research.google.com/github/ada/fdlib-course/blob/spring/notebooks/01_ddpm_basics.ipynb" in text


def test_a_new_chapter_s_row_is_completed(copy):
    row = "| [01 DDPM basics](notebooks/01_ddpm_basics.ipynb) | the forward process | 25 s | 45 s | |"
    bare = badges.stamped(f"{row}\n", copy)
    assert re.fullmatch(
        r"\| \[01 .*\) \| the forward process \| 25 s \| 45 s \|  \| \[exercises\]\(.*\) \| \[!\[Open.*\)\]\(.*\) \|\n",
        bare,
    )
    assert badges.stamped(bare, copy) == bare
    assert "[exercises]" not in badges.stamped(row.replace("01_ddpm", "77_ddpm"), copy)


@pytest.mark.parametrize("wrong", ["fdlib", "https://example.org/a/b", "a/b/c", ""])
def test_a_wrong_address_is_named(wrong, capsys):
    with pytest.raises(ValueError, match="owner/name"):
        badges.address(wrong)
    assert main(["badges", "--check", "--repository", wrong or " "]) == 1
    assert "owner/name" in capsys.readouterr().err
