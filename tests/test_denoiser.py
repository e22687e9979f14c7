"""What every denoiser shares: predictions, checks of its input, and the way to disk and back."""

import copy
import errno
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors import SafetensorError

from fdlib import denoiser
from fdlib.denoiser import Denoiser, Prediction, batch_images, check_images, check_size
from fdlib.unet import UNet

SMALL = dict(image_size=8, channels=8, multipliers=(1, 2), blocks=1, attention=(4,))


def small(seed=0, **options):
    """A small U-Net with random weights everywhere, the head included."""
    torch.manual_seed(seed)
    net = UNet(**{**SMALL, **options})
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return net.eval()


class Other(Denoiser):
    """Another kind of model, with a buffer, for ``from_pretrained`` to tell apart."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)
        self.register_buffer("mean", torch.zeros(width))


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


# ---------------------------------------------------------------------- predictions


def test_a_prediction_knows_its_kind():
    for kind in ("noise", "x0", "velocity"):
        value = torch.ones(2, 3)
        prediction = Prediction(**{kind: value}, masks=torch.zeros(2, 4))
        assert prediction.kind == kind and prediction.value is value


@pytest.mark.parametrize("given, message", [
    ({}, "exactly one of noise, x0, velocity; got none"),
    ({"noise": torch.ones(1), "x0": torch.ones(1)}, "got noise, x0"),
    ({"masks": torch.ones(1)}, "got none"),
])  # fmt: skip
def test_a_prediction_is_one_thing(given, message):
    with pytest.raises(ValueError, match=message):
        Prediction(**given)


def test_a_model_without_forward_says_so():
    with pytest.raises(TypeError, match=r"Other must define forward\(x_t, t, \*\*condition\)"):
        Other()(torch.zeros(1, 3), torch.zeros(1))


# ---------------------------------------------------------------------- input


def test_good_images_pass():
    check_images(torch.rand(2, 3, 8, 8) * 2 - 1, channels=3, size=8)
    check_images(torch.full((1, 1, 4, 4), 1.0005))  # rounding of an image file
    check_size(torch.randn(2, 3, 8, 8) * 9)  # noised images leave the range


@pytest.mark.parametrize("images, options, error, message", [
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}, TypeError, r"images must be a float tensor in \[-1, 1\], got torch\.uint8"),
    ([[0.0]], {}, TypeError, "images must be a float tensor.*got list"),
    (torch.zeros(3, 8, 8), {}, ValueError, r"images must have the shape \(B, C, H, W\), got \(3, 8, 8\)"),
    (torch.zeros(2, 1, 8, 8), dict(channels=3), ValueError, "images must have 3 channels, got 1"),
    (torch.zeros(2, 3, 8, 9), dict(size=8), ValueError, "images must be 8x8 pixels for this model, got 8x9: resize"),
    (torch.full((2, 3, 8, 8), 255.0), {}, ValueError, r"images must lie in \[-1, 1\], got 255 \.\. 255: for images in \[0, 1\]"),
    (torch.full((2, 3, 8, 8), -1.01), dict(name="photos"), ValueError, r"photos must lie in \[-1, 1\]"),
    (torch.full((2, 3, 8, 8), float("nan")), {}, ValueError, r"must lie in \[-1, 1\], got nan"),
])  # fmt: skip
def test_bad_images(images, options, error, message):
    with pytest.raises(error, match=message):
        check_images(images, **options)


def test_a_batch_is_a_tensor_or_a_mapping():
    images = torch.zeros(2, 3, 4, 4)
    assert batch_images(images) is images and batch_images({"image": images, "index": 3}) is images


# ---------------------------------------------------------------------- to disk and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_identical(tmp_path, dtype):
    net = small(predicts="velocity", fold=2, attention=(2,), classes=5).to(dtype)
    net.save_pretrained(tmp_path / "model")
    again = UNet.from_pretrained(tmp_path / "model")
    assert not again.training and (again.fold, again.classes, again.predicts) == (2, 5, "velocity")
    assert again.state_dict().keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.float()), (
            name
        )  # built in float32, which holds every bfloat16
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_bytes() == (tmp_path / "model/config.json").read_bytes()


def test_round_trip_of_the_outputs(tmp_path):
    net, x, t = small(), torch.randn(2, 3, 8, 8), torch.tensor([3, 900])
    net.save_pretrained(tmp_path / "model")
    again = UNet.from_pretrained(str(tmp_path / "model"))
    assert torch.equal(again(x, t).noise, net(x, t).noise) and again(x, t).noise.abs().max() > 0


def test_what_is_written(tmp_path):
    small().save_pretrained(tmp_path / "runs" / "model")  # parents are made
    folder = tmp_path / "runs" / "model"
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]  # no pickle
    assert os.listdir(tmp_path / "runs") == ["model"]  # nothing temporary is left
    config = json.loads((folder / "config.json").read_text())
    assert config["class"] == "UNet" and config["multipliers"] == [1, 2] and config["image_size"] == 8
    assert all(file.stat().st_mode & 0o044 for file in folder.iterdir())  # others may read it


def test_a_channels_last_model_can_be_saved(tmp_path):
    net = small().to(memory_format=torch.channels_last)
    net.save_pretrained(tmp_path / "model")
    for name, tensor in UNet.from_pretrained(tmp_path / "model").state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])


def test_saving_replaces_the_model_and_keeps_the_card(tmp_path):
    small(0).save_pretrained(tmp_path / "model")
    (tmp_path / "model/README.md").write_text("my own words")
    (tmp_path / "model/samples.png").write_bytes(b"a picture")
    small(1).save_pretrained(tmp_path / "model")
    assert (tmp_path / "model/README.md").read_text() == "my own words"
    assert (tmp_path / "model/samples.png").read_bytes() == b"a picture"
    assert torch.equal(UNet.from_pretrained(tmp_path / "model").encoder.stem.weight, small(1).encoder.stem.weight)


def test_buffers_travel_too(tmp_path):
    model = Other(width=4)
    model.mean.fill_(2.5)
    model.save_pretrained(tmp_path / "model")
    assert Other.from_pretrained(tmp_path / "model").mean.tolist() == [2.5] * 4


@pytest.mark.parametrize("spoil, error, message", [
    (lambda f: (f / "config.json").unlink(), FileNotFoundError, r"has no config\.json: it is no folder written by"),
    (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, r"has no model\.safetensors"),
    (lambda f: (f / "config.json").write_text('{"class": "UN'), ValueError, r"config\.json is damaged"),
    (lambda f: os.truncate(f / "model.safetensors", 5000), ValueError, "the weights in .*model are damaged or cut short"),
    (lambda f: os.truncate(f / "model.safetensors", 0), ValueError, "damaged or cut short"),
    (lambda f: (f / "model.safetensors").write_bytes(b"<html>not found</html>" * 9), ValueError, "damaged or cut short"),
], ids=["no config", "no weights", "half a config", "half the weights", "empty weights", "a web page"])  # fmt: skip
def test_damaged_folders(tmp_path, spoil, error, message):
    folder = tmp_path / "model"
    small().save_pretrained(folder)
    spoil(folder)
    with pytest.raises(error, match=message) as caught:
        UNet.from_pretrained(folder)
    assert str(folder) in str(caught.value)


def test_weights_of_another_configuration(tmp_path):
    small().save_pretrained(tmp_path / "a")
    small(channels=16).save_pretrained(tmp_path / "b")
    os.replace(tmp_path / "b/model.safetensors", tmp_path / "a/model.safetensors")
    with pytest.raises(ValueError, match=r"the weights in .* do not fit a UNet of its config\.json"):
        UNet.from_pretrained(tmp_path / "a")
    small(classes=3).save_pretrained(tmp_path / "c")  # a superset of the weights is another configuration, too
    os.replace(tmp_path / "c/model.safetensors", tmp_path / "a/model.safetensors")
    with pytest.raises(ValueError, match="do not fit"):
        UNet.from_pretrained(tmp_path / "a")


def test_a_model_of_another_class(tmp_path):
    Other().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"holds a Other, not a UNet: load it with Other\.from_pretrained"):
        UNet.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/nowhere/at/all"])
def test_no_such_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no folder {name}, and it is no Hub id of the form owner/name"):
        UNet.from_pretrained(name)


# ---------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("failure", [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
], ids=["the system's error", "safetensors' error"])  # fmt: skip
def test_a_full_disk_leaves_the_old_model(tmp_path, monkeypatch, failure):
    small(0).save_pretrained(tmp_path / "model")
    before = bytes_of(tmp_path / "model")

    def fail(self, folder):
        (folder / "model.safetensors").write_bytes(b"half of the weights")
        raise failure

    monkeypatch.setattr(UNet, "_save_pretrained", fail)
    with pytest.raises(OSError, match=r"could not save the model to .*model .*nothing there was changed") as caught:
        small(1).save_pretrained(tmp_path / "model")
    assert caught.value.errno == errno.ENOSPC
    assert bytes_of(tmp_path / "model") == before and os.listdir(tmp_path) == ["model"]
    monkeypatch.undo()
    UNet.from_pretrained(tmp_path / "model")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource limits")
def test_a_real_write_error_leaves_the_old_model(tmp_path):
    """A process that may write 20 kB a file: the system refuses in the middle of the weights."""
    small(0).save_pretrained(tmp_path / "model")
    before = bytes_of(tmp_path / "model")
    code = f"""
        import resource
        from fdlib.unet import UNet
        net = UNet(**{SMALL!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            net.save_pretrained({str(tmp_path / "model")!r})
        except OSError as error:
            print("refused:", error)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert "refused:" in result.stdout and "could not save the model" in result.stdout, result.stderr
    assert bytes_of(tmp_path / "model") == before and os.listdir(tmp_path) == ["model"]


def test_no_pickle_is_read(tmp_path, monkeypatch):
    small().save_pretrained(tmp_path / "model")

    def forbidden(*arguments, **options):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(denoiser.torch, "load", forbidden)
    UNet.from_pretrained(tmp_path / "model")


# ---------------------------------------------------------------------- the card, and the way to the Hub


def test_the_card_says_what_the_model_is(tmp_path):
    from fdlib.unet import UNet

    UNet(8, 8, (1, 2), 1, (), dropout=0.25).save_pretrained(tmp_path / "m")
    card = (tmp_path / "m/README.md").read_text()
    assert "from fdlib.unet import UNet" in card and "| dropout | 0.25 |" in card and "| image_size | 8 |" in card
    assert f"{UNet(8, 8, (1, 2), 1, ()).parameter_count:,} parameters" in card and "How it was trained" not in card
    net = UNet(8, 8, (1, 2), 1, ())
    assert (
        copy.deepcopy(net).requires_grad_(False).parameter_count == net.parameter_count > 0
    )  # as averaged weights are
    UNet(8, 8, (1, 2), 1, ()).save_pretrained(tmp_path / "n", model_card_kwargs={"training": {"steps": 7}})
    assert (
        "## How it was trained" in (tmp_path / "n/README.md").read_text()
        and "| steps | 7 |" in (tmp_path / "n/README.md").read_text()
    )


def test_a_run_writes_how_it_was_trained(tmp_path):
    from fdlib.process import DenoisingObjective
    from fdlib.schedule import NoiseSchedule
    from fdlib.training import TrainingConfig, train
    from fdlib.unet import UNet

    config = TrainingConfig(steps=1, batch_size=2, learning_rate=3e-4)
    train(UNet(8, 8, (1, 2), 1, ()), DenoisingObjective(NoiseSchedule.linear()), torch.zeros(4, 3, 8, 8), config, folder=tmp_path,
          progress=False)  # fmt: skip
    card = (tmp_path / "model/README.md").read_text()
    assert (
        "| training.learning_rate | 0.0003 |" in card
        and "| dataset.examples | 4 |" in card
        and "linear(T=1000)" in card
    )


def test_what_goes_to_the_hub(monkeypatch, tmp_path):
    """The upload itself is the Hub's; what is handed to it must be a whole model with its card."""
    import shutil
    from types import SimpleNamespace

    from huggingface_hub import HfApi

    from fdlib.unet import UNet

    model = UNet(8, 8, (1, 2), 1, ())
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(
        HfApi, "upload_folder", lambda self, folder_path, **options: shutil.copytree(folder_path, tmp_path / "hub")
    )
    model.push_to_hub("somebody/tiny")
    again = UNet.from_pretrained(tmp_path / "hub")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    assert "library_name: fdlib" in (tmp_path / "hub/README.md").read_text()
