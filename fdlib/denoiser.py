"""What every denoiser is: x_t and t in, a ``Prediction`` out; saved and loaded the same way.

The ideas of this course differ in what happens *inside* a denoiser. From outside they are all alike, so one forward
process, one set of samplers and one training loop serve them all.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from torch import Tensor, nn

Quantity = Literal["noise", "x0", "velocity"]
QUANTITIES: tuple[Quantity, ...] = ("noise", "x0", "velocity")


@dataclass
class Prediction:
    """What a denoiser says about x_t: exactly one of ``noise``, ``x0``, ``velocity``, and the bottleneck beside it.

    Args:
        noise: the noise in x_t, of the shape of x_t.
        x0: the clean image.
        velocity: a_t noise - s_t x0 (Salimans and Ho 2022).
        masks: (B, K, H, W) soft region masks that sum to 1 over K (factorized models).
        poses: (B, N, 4, 4) candidate camera-to-world matrices; pose_logits: (B, N) their scores (pose models).
    """

    noise: Tensor | None = None
    x0: Tensor | None = None
    velocity: Tensor | None = None
    masks: Tensor | None = None
    poses: Tensor | None = None
    pose_logits: Tensor | None = None

    def __post_init__(self) -> None:
        given = [q for q in QUANTITIES if getattr(self, q) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a Prediction holds exactly one of {', '.join(QUANTITIES)}; got {', '.join(given) or 'none'}"
            )

    @property
    def kind(self) -> Quantity:
        """Which quantity was predicted: "noise", "x0" or "velocity"."""
        return next(q for q in QUANTITIES if getattr(self, q) is not None)

    @property
    def value(self) -> Tensor:
        """The predicted tensor itself."""
        return getattr(self, self.kind)


MODEL_CARD = """---
{{ card_data }}
---

A `{{ name }}` of fdlib with {{ parameters }} parameters. Load it by its folder or repository:

```python
from {{ module }} import {{ name }}

model = {{ name }}.from_pretrained("this folder or repository")
```

| argument | value |
|---|---|
{% for key, value in config.items() %}| {{ key }} | {{ value }} |
{% endfor %}
{% if training %}## How it was trained

| setting | value |
|---|---|
{% for key, value in training.items() %}| {{ key }} | {{ value }} |
{% endfor %}
{% endif %}This card was written by the program that saved the model: what the model is good for, and how well it does, is for its
author to add.
"""


class Model(
    nn.Module, PyTorchModelHubMixin, library_name="fdlib", license="apache-2.0", model_card_template=MODEL_CARD
):
    """Base of everything trainable: how weights get to disk and back.

    ``save_pretrained(folder)`` writes ``model.safetensors`` and ``config.json`` (the arguments of ``__init__``);
    ``from_pretrained(folder_or_hub_id)`` makes the same model again, in eval mode. No pickle is involved.
    """

    @property
    def parameter_count(self) -> int:
        """Number of learned numbers, frozen or not (averaged weights are frozen)."""
        return sum(p.numel() for p in self.parameters())

    def generate_model_card(self, *args, training: Mapping | None = None, **options):
        """The card that ``save_pretrained`` and ``push_to_hub`` write where there is none: class, arguments, training.

        ``training`` are settings by name, as in ``save_pretrained(folder, model_card_kwargs={"training": {...}})``.
        """
        kind, config = type(self), dict(getattr(self, "_hub_mixin_config", None) or {})
        about = dict(name=kind.__name__, module=kind.__module__, parameters=f"{self.parameter_count:,}", config=config)
        return super().generate_model_card(*args, **about, training=dict(training or {}), **options)

    def save_pretrained(self, save_directory: str | os.PathLike, **options) -> str | None:
        """Write the model to a folder, whole or not at all (extra files that are already there, a model card say, stay)."""
        folder = Path(save_directory)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            result = super().save_pretrained(staging, **options)
            config = {"class": type(self).__name__, **json.loads((staging / "config.json").read_text())}
            (staging / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            folder.mkdir(exist_ok=True)
            for file in sorted(staging.iterdir()):
                if file.name != "README.md" or not (folder / "README.md").exists():
                    file.chmod(0o644)  # safetensors writes for the owner alone
                    os.replace(file, folder / file.name)
        except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors in its own
            number = errno.ENOSPC if "No space left" in str(error) else getattr(error, "errno", None) or errno.EIO
            raise OSError(
                number, f"could not save the model to {folder} ({error}); nothing there was changed"
            ) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return result

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options):
        """The model saved in a folder (or on the Hugging Face Hub), in eval mode.

        Raises:
            FileNotFoundError: the folder lacks config.json or model.safetensors.
            ValueError: the folder holds another kind of model, damaged files, or weights that do not fit its configuration.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            for name in ("config.json", "model.safetensors"):
                if not (folder / name).is_file():
                    raise FileNotFoundError(f"{folder} has no {name}: it is no folder written by save_pretrained")
            try:
                saved = json.loads((folder / "config.json").read_text()).get("class", cls.__name__)
            except ValueError as error:
                raise ValueError(
                    f"{folder / 'config.json'} is damaged ({error}): save or download the model again"
                ) from error
            if saved != cls.__name__:
                raise ValueError(
                    f"{folder} holds a {saved}, not a {cls.__name__}: load it with {saved}.from_pretrained"
                )
        elif folder.is_absolute() or len(folder.parts) != 2 or folder.parent.is_dir():  # hub ids look like "owner/name"
            raise FileNotFoundError(f"no folder {folder}, and it is no Hub id of the form owner/name")
        try:
            options.setdefault("strict", True)
            with contextlib.redirect_stdout(io.StringIO()):  # the mixin prints where it loads from
                return super().from_pretrained(str(pretrained_model_name_or_path), **options)
        except SafetensorError as error:
            raise ValueError(
                f"the weights in {pretrained_model_name_or_path} are damaged or cut short ({error}): save or "
                "download the model again"
            ) from error
        except RuntimeError as error:
            raise ValueError(
                f"the weights in {pretrained_model_name_or_path} do not fit a {cls.__name__} of its config.json: "
                f"{error}"
            ) from error


class Denoiser(Model):
    """Base of every denoiser: ``forward(x_t, t, **condition) -> Prediction``.

    ``x_t`` is (B, C, H, W), ``t`` (B,) integer indices of the schedule; ``condition`` is what a conditional model wants.
    """

    def forward(self, x_t: Tensor, t: Tensor, **condition) -> Prediction:
        raise TypeError(f"{type(self).__name__} must define forward(x_t, t, **condition) -> Prediction")


def check_images(
    images: Tensor, name: str = "images", channels: int | None = None, size: int | None = None, tolerance: float = 1e-3
) -> None:
    """Refuse what is no batch of clean images: float (B, C, H, W) in [-1, 1].

    Raises:
        TypeError: not a float tensor. ValueError: wrong number of axes, channels, size or range.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"{name} must be a float tensor in [-1, 1], got {kind}: for 0..255 pixels use images.float() / 127.5 - 1"
        )
    check_size(images, name, channels, size)
    if not images.numel():
        raise ValueError(f"{name} is empty, of shape {tuple(images.shape)}: pass at least one image")
    low, high = torch.aminmax(images.detach())
    if not (low >= -1 - tolerance and high <= 1 + tolerance):
        raise ValueError(
            f"{name} must lie in [-1, 1], got {low:.3g} .. {high:.3g}: for images in [0, 1] use images * 2 - 1"
        )


def check_size(images: Tensor, name: str = "x_t", channels: int | None = None, size: int | None = None) -> None:
    """Refuse a batch that is not (B, channels, size, size)."""
    if images.ndim != 4:
        raise ValueError(f"{name} must have the shape (B, C, H, W), got {tuple(images.shape)}")
    if channels is not None and images.shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channels, got {images.shape[1]} in {tuple(images.shape)}")
    if size is not None and images.shape[2:] != (size, size):
        raise ValueError(
            f"{name} must be {size}x{size} pixels for this model, got {images.shape[2]}x{images.shape[3]}: "
            f"resize them, or build the model with image_size={images.shape[2]}"
        )


def batch_images(batch: Tensor | Mapping) -> Tensor:
    """The images of a batch, which is a tensor (B, C, H, W) or a mapping with the key "image"."""
    return batch["image"] if isinstance(batch, Mapping) else batch
