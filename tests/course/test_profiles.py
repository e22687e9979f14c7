"""Profiles: one variable, three names, a value for each."""

import pytest
import torch

from fdlib.course import PROFILES, Profile, profile, sabotaged


@pytest.mark.parametrize("name", PROFILES)
def test_the_variable_chooses(monkeypatch, name):
    monkeypatch.setenv("FDLIB_PROFILE", name)
    assert profile().name == str(profile()) == name
    assert profile().pick(ci="ci", laptop="laptop", gpu="gpu") == name
    assert f"<b>{name}</b>" in profile()._repr_html_()


@pytest.mark.parametrize("value", ["fast", "CI", "gpu2"])
def test_an_unknown_name_is_explained(monkeypatch, value):
    monkeypatch.setenv("FDLIB_PROFILE", value)
    with pytest.raises(ValueError, match=f"FDLIB_PROFILE.*{value}.*ci, laptop, gpu"):
        profile()


@pytest.mark.parametrize(("cuda", "expected"), [(True, "gpu"), (False, "laptop")])
@pytest.mark.parametrize("unset", [None, "", " "])
def test_unset_follows_the_machine(monkeypatch, cuda, expected, unset):
    if unset is None:
        monkeypatch.delenv("FDLIB_PROFILE", raising=False)
    else:
        monkeypatch.setenv("FDLIB_PROFILE", unset)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert profile() == Profile(expected)


def test_no_profile_may_be_forgotten():
    with pytest.raises(TypeError, match="gpu"):
        Profile("ci").pick(ci=1, laptop=2)


def test_sabotage_is_off_unless_asked_for(monkeypatch):
    monkeypatch.delenv("FDLIB_SABOTAGE", raising=False)
    assert not sabotaged()
    monkeypatch.setenv("FDLIB_SABOTAGE", "0")
    assert not sabotaged()
    monkeypatch.setenv("FDLIB_SABOTAGE", "untrained")
    assert sabotaged()
