"""What a training run consists of, as typed settings: architecture, schedule, data and training, for pictures and for scenes.

    Experiment        a denoiser of pictures, plain or with regions           fdlib.presets.PRESETS
    SceneExperiment   a pose denoiser of the views of one scene               fdlib.presets.SCENES

Both are plain data classes: ``scripts/train.py`` makes a command line of them, and ``experiment.json`` in a run's folder holds
one. ``with_`` makes an experiment of another by changing some of its fields.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from fdlib.denoiser import Model
from fdlib.factorized import FactorizedUNet
from fdlib.files import atomic_write
from fdlib.hierarchical import HierarchicalUNet, grow
from fdlib.pose import PoseDenoiser, PoseObjective, parameter_groups
from fdlib.process import DenoisingObjective, PowerT, uniform_t
from fdlib.runs import flatten, refuse_other_settings
from fdlib.schedule import NoiseSchedule
from fdlib.training import Stages, TrainingConfig
from fdlib.unet import UNet

if TYPE_CHECKING:
    from fdlib.data.multiview import MultiView


class Parts:
    """What experiments have in common: a data class of data classes."""

    def with_(self, **changes: object) -> Self:
        """A copy with some fields changed, each named by its path or, where only one part has it, by its name alone.

            PRESETS["regions32"][1].with_(steps=100, **{"data.seed": 1})          # there is a training.seed too

        The copy shares no part with the original.

        Raises:
            ValueError: no part has such a field, or several have; or a value that the part refuses.
        """
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        parts = {name: {} for name, value in own.items() if is_dataclass(value)}
        paths = [f"{part}.{f.name}" for part in parts for f in fields(own[part])] + [n for n in own if n not in parts]
        top = {}
        for name, value in changes.items():
            found = [path for path in paths if name in (path, path.rpartition(".")[2])]
            if not found:
                raise ValueError(f"{name}: there is no such field; there are {', '.join(paths)}")
            if len(found) > 1:
                raise ValueError(f"{name}: say which of {', '.join(found)}")
            part, _, last = found[0].rpartition(".")
            if isinstance(getattr(own.get(part, self), last), bool) and not isinstance(value, bool):
                raise ValueError(f"{found[0]} must be True or False, got {value!r}")  # any word would count as True
            (parts[part] if part else top)[last] = value
        return replace(self, **top, **{part: replace(own[part], **new) for part, new in parts.items()})


def read_changes(texts: Sequence[str]) -> dict[str, object]:
    """The arguments of ``with_`` from "name=value", the values as Python writes them; what is no Python is a word."""
    changes: dict[str, object] = {}
    for name, _, value in (text.partition("=") for text in texts):
        try:
            changes[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[name] = value
    return changes


@dataclass
class Architecture:
    """The arguments of ``fdlib.unet.UNet`` and, where there are regions, of ``FactorizedUNet`` or ``HierarchicalUNet``."""

    image_size: int = 64
    """Height and width in pixels."""
    channels: int = 128
    """C, the width of the first stage."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Width of each stage in units of C."""
    blocks: int = 3
    """Residual blocks in each stage."""
    attention: tuple[int, ...] = (16,)
    """Feature-map sizes with self-attention."""
    heads: int = 1
    """Attention heads."""
    fold: int = 1
    """2 folds 2x2 pixels into channels at the stem (for CPUs)."""
    dropout: float = 0.0
    """Between the convolutions of a block."""
    predicts: Literal["noise", "x0", "velocity"] = "noise"
    """What the network's output means."""
    regions: int | tuple[int, ...] = 0
    """K, the region masks of the bottleneck; 0 is the plain U-Net; several numbers, one a level, make masks within masks."""
    decoding: Literal["parallel", "concat", "mask_mid", "unshared"] = "parallel"
    """How masks enter the decoder: the thesis's way, or one of its ablations."""
    mask_resize: Literal["area", "bilinear", "nearest"] = "area"
    """How masks are brought to the skips' resolutions."""
    mask_upsample: Literal["bilinear", "shuffle"] = "bilinear"
    """How a folded network's mask logits become pixels."""
    mask_centred: int = 0
    """Steps during which no region may win everywhere: the logits' mean over a batch is taken from them."""
    decoder_norm: Literal["group", "position"] = "group"
    """What is normalised together, in the decoder and the mask generator: all of a picture, or each position by itself."""
    classes: int | None = None
    """Classes of a conditional model, which is told each picture's; unconditional without."""

    def build(self) -> UNet | HierarchicalUNet:
        if isinstance(self.regions, tuple):
            return HierarchicalUNet(**asdict(self), depth=len(self.regions))
        if self.regions:
            return FactorizedUNet(**asdict(self))
        masks = ("regions", "decoding", "mask_resize", "mask_upsample", "mask_centred", "decoder_norm")
        return UNet(**{name: value for name, value in asdict(self).items() if name not in masks})


@dataclass
class Schedule:
    """The noise schedule and the times to train on."""

    kind: Literal["linear", "cosine"] = "linear"
    """Ho et al. 2020, or Nichol and Dhariwal 2021."""
    T: int = 1000
    """Number of times."""
    rescale: bool = False
    """Linear only: scale the betas so that any T ends in noise."""
    power: float = 1.0
    """Times are drawn as T u^power: 1 is uniform, more prefers low noise."""

    def build(self) -> NoiseSchedule:
        return (
            NoiseSchedule.linear(self.T, rescale=self.rescale)
            if self.kind == "linear"
            else NoiseSchedule.cosine(self.T)
        )


@dataclass
class Data:
    """Where the pictures come from."""

    source: Literal["shapes3d", "photos", "prepared"] = "photos"
    """Rendered 3D Shapes (or the official file); any folder of pictures or .npz array of them; or what
    ``python -m fdlib.data prepare`` has made."""
    path: Path | None = None
    """The folder, .npz or .npy of photos; for shapes3d the official 3dshapes.h5 (rendered when absent); for prepared the .npy
    (found by name, split and size when absent)."""
    name: str | None = None
    """prepared: which data set of ``python -m fdlib.data list``."""
    split: str | None = None
    """prepared: which split; by default the one to train on."""
    key: str = "images"
    """The array's name inside an .npz file."""
    count: int = 20_000
    """shapes3d: pictures to render."""
    seed: int = 0
    """shapes3d: which of the 480 000 combinations."""
    layout: Literal["plain", "varied", "close"] = "plain"
    """shapes3d: the official camera; or a window of its frame, different in every picture, anywhere or near the object."""
    zoom: tuple[float, float] | None = None
    """shapes3d, varied or close: the windows' smallest and largest width, of the frame's; by default (.55, 1) or (.3, 1)."""
    whole: float = 0.0
    """shapes3d, varied or close: the last share of the training, in which the windows give way to whole pictures."""
    flip: bool = False
    """Mirror half of the pictures at random."""

    def build(self, image_size: int, labels: bool = False) -> Dataset:
        """The pictures; with ``labels`` each with its class, which only prepared data sets know."""
        if labels and self.source != "prepared":
            raise ValueError(
                "model.classes needs --data.source prepared: only prepared data sets say which class a picture has"
            )
        if self.source == "shapes3d":
            from fdlib.data.shapes3d import Shapes3D, close_layout, random_layout, split_indices

            train, _ = split_indices(train=self.count, test=10_000, seed=self.seed)
            layout = "plain"
            if self.layout != "plain":
                draw = {"varied": random_layout, "close": close_layout}[self.layout]
                windows = {"zoom": self.zoom} if self.zoom else {}
                layout = draw(len(train), torch.Generator().manual_seed(self.seed), **windows)
            pictures = Shapes3D(size=image_size, indices=train, layout=layout, source=self.path or "rendered")
            if not self.whole:
                return pictures
            whole = Shapes3D(size=image_size, indices=train, source=self.path or "rendered")
            return Stages({0.0: pictures, 1 - self.whole: whole})
        if self.source == "prepared":
            return self._prepared(image_size, labels)
        if self.path is None:
            raise ValueError(
                "data.path is missing: pass --data.path with a folder of pictures, or an .npz or .npy array of them"
            )
        from fdlib.data.photos import ArrayImages, ImageFolder

        if self.path.suffix in (".npz", ".npy"):
            return ArrayImages.from_file(self.path, key=self.key)
        return ImageFolder(self.path, size=image_size)

    def _prepared(self, image_size: int, labels: bool) -> Dataset:
        from fdlib.data.prepare import open_prepared, prepared_folder, prepared_name

        if self.path is None and self.name is None:
            raise ValueError(
                "data.name is missing: pass --data.name with a data set of `python -m fdlib.data list`, or --data.path"
            )
        path = self.path or prepared_folder() / f"{prepared_name(self.name, self.split, image_size)}.npy"
        if not path.is_file():
            split = f" --split {self.split}" if self.split else ""
            raise FileNotFoundError(
                f"there is no {path}: make it with `python -m fdlib.data prepare {self.name}{split} --size {image_size}`"
            )
        prepared = open_prepared(path)
        if labels and prepared.groups is None:
            raise ValueError(f"{path} has no classes, which model.classes needs")
        return prepared.dataset(labels)


@dataclass
class Experiment(Parts):
    """All that one training run needs."""

    model: Architecture = field(default_factory=Architecture)
    data: Data = field(default_factory=Data)
    schedule: Schedule = field(default_factory=Schedule)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    start: str | None = None
    """A trained model that a tree grows from, by one level (``hierarchical.grow``): a folder, or a checkpoint of the course."""

    def build(self) -> UNet | HierarchicalUNet:
        """The network that training starts with.

        Raises:
            ValueError: ``start`` for what is no tree, or of another architecture.
        """
        model = self.model.build()
        if self.start is None:
            return model
        if not isinstance(model, HierarchicalUNet) or len(model.levels) < 2:
            raise ValueError(
                f"start is for trees: model.regions must have a number for each level, got {self.model.regions}"
            )
        folder = Path(self.start)
        if not folder.is_dir():
            from fdlib.course import asset

            folder = asset(self.start)
        grown = grow(load_model(folder), model.regions_per_level[-1])
        try:
            model.load_state_dict(grown.state_dict())
        except RuntimeError as error:
            raise ValueError(f"start={self.start} does not grow into the architecture asked for: {error}") from error
        return model

    def objective(self) -> DenoisingObjective:
        timesteps = uniform_t if self.schedule.power == 1 else PowerT(self.schedule.power)
        condition = ("label",) if self.model.classes else ()
        return DenoisingObjective(self.schedule.build(), timesteps, condition=condition)


# ---------------------------------------------------------------------- scenes


@dataclass
class Views:
    """Where the views of a scene come from."""

    source: Literal["rendered", "blender", "llff", "srn", "npz"] = "rendered"
    """A procedural scene; or a folder in the format of NeRF's synthetic scenes, of LLFF, or of the ShapeNet cars; or arrays."""
    path: Path | None = None
    """The folder, or the .npz; by default where ``python -m fdlib.data list`` says."""
    scene: str = "car"
    """Which one: rendered "car", "desk", ...; or the name of the folder ("lego", "fern")."""
    size: int = 32
    """Height and width in pixels; views are cut to squares and reduced to it."""
    count: int = 120
    """rendered: training views."""
    images: str = "images_8"
    """llff: the subfolder of pictures; images_8 are the 378x504 of thesis 3.4."""
    holdout: int = 8
    """llff, srn: every so manyth view is kept for tests, as is usual with LLFF."""

    def build(self, split: Literal["train", "test"] = "train") -> MultiView:
        """Views, in a world whose unit is such that the scene fits a cube of side 2 (errors of poses are scale-free)."""
        from fdlib.data.multiview import MultiView

        if self.source == "rendered":
            train = split == "train"
            return MultiView.render(self.scene, self.count if train else 24, self.size, seed=0 if train else 1000)
        path = self.path or self._usual_path()
        if self.source == "llff":
            views = MultiView.from_llff(path, images=self.images)
        elif self.source == "srn":
            views = MultiView.from_srn(path)
        else:
            read = MultiView.from_blender if self.source == "blender" else MultiView.from_npz
            views = read(path, split)
        if self.source in ("llff", "srn"):
            everything = range(len(views))
            views = views.subset([i for i in everything if (i % self.holdout == 0) == (split == "test")])
        return self._fit(views)

    def _usual_path(self) -> Path:
        """Where the scene lies if it was unpacked where ``python -m fdlib.data list`` says."""
        from fdlib.data.registry import data_folder

        folders = {"blender": "nerf_synthetic", "llff": "llff", "srn": "srn_cars"}
        path = data_folder() / folders.get(self.source, "none") / self.scene
        if not path.is_dir():
            raise ValueError(
                f"views.path is missing: pass --views.path with the {self.source} scene (it is not at {path} either)"
            )
        return path

    def _fit(self, views: MultiView) -> MultiView:
        """The views at ``size`` pixels, lengths in units of the scene's half side."""
        from fdlib.data.multiview import MultiView

        images = views.images
        if views.size != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        middle = (views.near + views.far) / 2
        # without a bound: what the cameras see between near and far, from a camera in front of the middle
        unit = views.bound or max(middle - views.near, views.far * views.size / (2 * views.focal))
        c2w = views.c2w.clone()
        c2w[:, :3, 3] /= unit
        focal = views.focal * self.size / views.size
        return MultiView(
            images.clamp(-1, 1),
            c2w,
            focal,
            views.near / unit,
            views.far / unit,
            1.0,
            background=views.background,
            names=views.names,
        )


@dataclass
class SceneModel:
    """The arguments of ``fdlib.pose.PoseDenoiser`` that the views do not decide."""

    candidates: int = 8
    """Cameras to choose from; 1 is the single-pose model (algorithm 3)."""
    cameras: Literal["sphere", "free"] = "sphere"
    """On a sphere, looking at its centre; or anywhere (forward-facing)."""
    elevation: tuple[float, float] = (-1.5, 1.5)
    """sphere: lowest and highest, in radians."""
    rows: int = 1
    """sphere: bands of elevation that the candidates form."""
    resolution: int = 32
    """Voxels along a side of the scene; 0 takes the MLP of Mildenhall et al."""
    samples: int = 32
    """On each ray."""
    channels: int = 16
    """C of the encoder."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Width of each of the encoder's stages in units of C."""
    blocks: int = 1
    """Residual blocks in each stage."""
    fold: int = 2
    """2 folds 2x2 pixels into channels at the stem (for CPUs)."""
    per_view: bool = False
    """NeRF--: trainable cameras for every training view in place of the encoder."""

    def build(self, views: MultiView) -> PoseDenoiser:
        """No pose enters. Intrinsics, near and far do, and on a sphere its radius."""
        free = self.cameras == "free"  # then any radius will do: it is the unit of length
        settings = asdict(self)
        return PoseDenoiser(
            views.size,
            views.focal,
            views.near,
            views.far,
            radius=(views.near + views.far) / 2 if free else float(views.c2w[:, :3, 3].norm(dim=1).mean()),
            bound=views.bound or 1.0,
            views=len(views) if settings.pop("per_view") else 0,
            **settings,
        )


@dataclass
class SceneLoss:
    """The arguments of ``fdlib.pose.PoseObjective``, and the times to train on."""

    T: int = 100
    """Times of the cosine schedule (thesis 3.4.1 has 100; its linear schedule would not end in noise)."""
    power: float = 1.0
    """Times are drawn as T u^power: 1 is uniform (thesis), 2 prefers low noise."""
    assignment: Literal["balanced", "minimum"] = "minimum"
    """The thesis's plain minimum, or views shared out evenly at first, which needs several in a batch for each candidate."""
    balanced_share: float = 0.6
    """balanced: part of the training for which views are shared out."""
    temperature: float = 0.2
    """balanced: of the sharing, in units of the errors' spread."""
    weight: float = 0.1
    """lambda of equation 3.4."""
    score_pixels: int = 48
    """Of each view, on which the candidates are compared."""
    score_samples: int = 16
    """On each ray of these."""
    render_pixels: int = 128
    """Of each view, rendered with gradient."""
    blur: float = 0.0
    """Smoothing of a voxel scene at the start, in voxels, falling to 0 at half of the training."""
    clean: bool = False
    """Show the encoder the clean view: the autoencoder of thesis 3.4.5."""
    field_rate: float = 1e-4
    """Learning rate of the scene."""
    encoder_rate: float = 2e-5
    """Learning rate of the encoder (or, with model.per_view, of the cameras)."""


@dataclass
class SceneExperiment(Parts):
    """All that one training run on a scene needs: NeRF inside diffusion, on the views of ``views.build()`` or on others.

    ``training.learning_rate`` plays no part: scene and encoder have their own, in ``loss``.
    """

    views: Views = field(default_factory=Views)
    model: SceneModel = field(default_factory=SceneModel)
    loss: SceneLoss = field(default_factory=SceneLoss)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def build(self, views: MultiView) -> PoseDenoiser:
        """The model that training on these views starts with, its weights drawn by ``training.seed``."""
        torch.manual_seed(self.training.seed)
        return self.model.build(views)

    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.cosine(self.loss.T)

    def objective(self) -> PoseObjective:
        options = {k: v for k, v in asdict(self.loss).items() if k not in ("T", "power", "field_rate", "encoder_rate")}
        return PoseObjective(self.schedule(), self.training.steps, timesteps=PowerT(self.loss.power), **options)

    def parameters(self, model: PoseDenoiser) -> list[dict]:
        """The two learning rates, for ``train(parameters=...)``."""
        return parameter_groups(model, self.loss.field_rate, self.loss.encoder_rate)


# ---------------------------------------------------------------------- runs and models by folder

CLASSES: dict[str, type[Model]] = {c.__name__: c for c in (UNet, FactorizedUNet, HierarchicalUNet, PoseDenoiser)}


def load_model(folder: str | Path) -> Model:
    """The model in a folder, or in the ``model/`` of a run's folder, whatever its class.

    Raises:
        FileNotFoundError: neither. ValueError: a class that there is not, or what ``from_pretrained`` refuses.
    """
    folder = Path(folder)
    folder = folder / "model" if (folder / "model/config.json").is_file() else folder
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: pass the folder of a run, or one written by save_pretrained")
    name = json.loads((folder / "config.json").read_text()).get("class")
    if name not in CLASSES:
        raise ValueError(f"{folder} holds a {name}; the scripts know {', '.join(CLASSES)}")
    return CLASSES[name].from_pretrained(folder)


def keep_settings(experiment: Experiment | SceneExperiment, folder: str | Path) -> None:
    """Write the full configuration to ``folder``/experiment.json.

    Raises:
        ValueError: the folder holds a run of another experiment; what differs is listed. Fields younger than that run count
            as having had their defaults.
    """
    new, defaults = (json.loads(json.dumps(asdict(e), default=str)) for e in (experiment, type(experiment)()))
    old, parts = load_settings(folder), {f.name for f in fields(Experiment)} | {f.name for f in fields(SceneExperiment)}
    if old and any(Path(folder).glob("checkpoint-*.pt")):
        both = {**flatten(defaults), **flatten(old)}, flatten(new)
        refuse_other_settings(folder, *({k: v for k, v in s.items() if k.split(".")[0] in parts} for s in both))
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes only the first writes
        with atomic_write(Path(folder) / "experiment.json") as path:
            path.write_text(json.dumps(new, indent=2) + "\n")


def load_settings(folder: str | Path) -> dict[str, Any]:
    """The ``experiment.json`` of a run (in the folder, or beside its ``model/``), {} where there is none."""
    for file in (Path(folder) / "experiment.json", Path(folder).parent / "experiment.json"):
        if file.is_file():
            return json.loads(file.read_text())
    return {}


def load_schedule(folder: str | Path) -> NoiseSchedule:
    """The schedule that a run was trained with; linear with 1000 times where its folder does not say."""
    settings = load_settings(folder)
    if "loss" in settings:
        return NoiseSchedule.cosine(settings["loss"]["T"])
    return Schedule(**settings.get("schedule", {})).build()
