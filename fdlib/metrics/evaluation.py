"""The cells of the thesis's tables, computed from runs and prepared data: what ``scripts/evaluate.py`` prints.

Each function of ``COMPUTE`` returns ``{row: cells}``. A cell that cannot be computed holds the reason: which file is missing and
how to make it. The map from regions to classes is fitted on training pictures with their labels, and scored on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdlib.data.multiview import MultiView
from fdlib.data.prepare import Prepared, open_prepared, prepared_folder, prepared_name
from fdlib.denoiser import Model
from fdlib.experiments import Views, load_model, load_schedule, load_settings
from fdlib.factorized import Segments
from fdlib.images import from_uint8
from fdlib.metrics.generation import Inception, draw, frechet_distance
from fdlib.metrics.geometry import lpips, psnr, ssim
from fdlib.metrics.segmentation import IGNORE, accuracy, apply_map, dice, iou, match_regions
from fdlib.metrics.tables import LAMBDAS, TABLES, VOC_TO_IMAGENET, Cell
from fdlib.nerf import render_path


class Missing(Exception):
    """A file that a cell needs is not there; the message says which, and how to make it."""


@dataclass
class Evaluation:
    """Where runs and data are, and how much of them is used."""

    runs: Path = Path("runs")
    """The folder of runs, each named by its preset."""
    preset: str | None = None
    """Tables 2.1 to 2.4: another preset's run in the place of the table's (flower128, say)."""
    suffix: str = ""
    """Appended to the presets' names: "-laptop" evaluates the laptop presets."""
    checkpoint: Path | None = None
    """One model in the place of every run: a run's folder, or one written by save_pretrained (for the tables of one model)."""
    data: Path | None = None
    """The folder of data sets (FDLIB_DATA); what ``python -m fdlib.data prepare`` wrote is in it or in its prepared/."""
    fit: int = 500
    """Training pictures on which the map from regions to classes is fitted."""
    limit: int = 10_000
    """At most so many pictures are scored."""
    t: int = 30
    """Noise at which pictures are segmented (thesis 2.4.1)."""
    samples: int = 10_000
    """FID: pictures to generate, and real ones to compare with. The thesis does not say how many it took."""
    steps: int = 250
    """FID: solver steps."""
    inception: Path | None = None
    """FID: the file of Inception weights."""

    def model(self, preset: str, variant: str = "", change: str = "") -> tuple[Model, Path]:
        """The model of a preset's run, or of a variant of it that a change of its command makes; and the run's folder."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.checkpoint is not None:
            return load_model(self.checkpoint).to(device), self.checkpoint
        name = f"{preset}{self.suffix}"
        folder = self.runs / (f"{name}-{variant}" if variant else name)
        if not (folder / "model/config.json").is_file():
            raise Missing(
                f"missing: {folder} (python scripts/train.py {name} {change}{' ' if change else ''}--folder {folder})"
            )
        return load_model(folder).to(device), folder

    def split(self, name: str, split: str, size: int) -> Prepared:
        """A prepared split of a data set."""
        file = f"{prepared_name(name, split, size)}.npy"
        path = (self.data / "prepared" if self.data else prepared_folder()) / file
        if self.data and (self.data / file).is_file():
            path = self.data / file
        if not path.is_file():
            raise Missing(f"missing: {path} (python -m fdlib.data prepare {name} --split {split} --size {size})")
        return open_prepared(path)


def segment(
    model: Model, folder: Path, data: Prepared, rows: np.ndarray, t: int, labels: Tensor | None = None
) -> Tensor:
    """The region of each pixel, uint8 (N, H, W), of some of the pictures."""
    found = []
    for part in torch.arange(len(rows)).split(250):
        images = from_uint8(np.array(data.images[rows[part.numpy()]]))
        condition = {} if labels is None else {"label": labels[part]}
        found.append(model.segment(images, t, schedule=load_schedule(folder), **condition).argmax(1).to(torch.uint8))
    return torch.cat(found)


def some(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of so many rows, always the same ones."""
    rows = np.arange(count) if count <= limit else np.random.default_rng(0).choice(count, limit, replace=False)
    return np.sort(rows)


def _truth(data: Prepared, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(data.masks[rows])).long()


def _scores(e: Evaluation, run: Sequence[str], data: str, fit: str, test: str, classes: int) -> dict:
    """Accuracy, IoU and DICE of each class, in per cent."""
    model, folder = e.model(*run)
    if not isinstance(model, Segments):
        raise ValueError(f"{folder} holds a {type(model).__name__}, which has no regions")
    size, parts = model.image_size, []
    for split, limit in ((fit, e.fit), (test, e.limit)):
        prepared = e.split(data, split, size)
        rows = some(len(prepared.images), limit)
        labels = _imagenet_classes(e, prepared, rows, size) if getattr(model, "classes", None) else None
        parts.append((segment(model, folder, prepared, rows, e.t, labels), _truth(prepared, rows)))
    (fit_regions, fit_truth), (regions, truth) = parts
    predicted = apply_map(regions, match_regions(fit_regions, fit_truth, classes, count=model.regions))
    return {
        "accuracy": 100 * accuracy(predicted, truth),
        "iou": 100 * iou(predicted, truth, classes),
        "dice": 100 * dice(predicted, truth, classes),
    }


def _imagenet_classes(e: Evaluation, data: Prepared, rows: np.ndarray, size: int) -> Tensor:
    """The conditional model's class number of each picture, by the names of the classes that it was trained on."""
    numbers = {wnid: k for k, wnid in enumerate(e.split("imagenet", "train", size).about["groups"])}
    return torch.tensor([numbers[data.about["groups"][g]] for g in data.groups[rows]])


def _foreground(name: str, data: str, fit: str, test: str) -> Callable[[Evaluation], dict]:
    def compute(e: Evaluation) -> dict[str, tuple[Cell, ...]]:
        s = _scores(e, [e.preset or name], data, fit, test, 2)
        return {"Ours": (s["accuracy"], float(s["iou"][1]), float(s["dice"][1]))}

    return compute


def _mean(name: str, data: str, fit: str, test: str, classes: int) -> Callable[[Evaluation], dict]:
    def compute(e: Evaluation) -> dict[str, tuple[Cell, ...]]:
        s = _scores(e, [e.preset or name], data, fit, test, classes)
        return {"Ours": (s["accuracy"], float(s["iou"].mean()))}

    return compute


def fid(e: Evaluation, run: Sequence[str], data: str) -> float:
    """Fréchet distance of Inception features between generated and training pictures."""
    model, folder = e.model(*run)
    split = {"ffhq": "all"}.get(data, "train")
    real = e.split(data, split, model.image_size)
    try:
        inception = Inception(e.inception, device=str(next(model.parameters()).device))
    except FileNotFoundError as error:
        raise Missing(str(error)) from error
    features = []
    rows = some(len(real.images), e.samples)
    for part in np.array_split(rows, -(-len(rows) // 250)):
        features.append(inception.extract(from_uint8(np.array(real.images[part]))))
    made = [
        inception.extract(
            draw(model, load_schedule(folder), min(250, e.samples - start), e.steps, "ddim", seed=start)[0]
        )
        for start in range(0, e.samples, 250)
    ]
    return frechet_distance(torch.cat(features), torch.cat(made))


def _try(compute: Callable[[], Cell]) -> Cell:
    try:
        return compute()
    except Missing as reason:
        return str(reason)


def generation(e: Evaluation) -> dict[str, tuple[Cell, ...]]:
    """Table 2.5. The accuracies need a segmenter trained on the data set's labels; chapter 6 does that for 3D Shapes."""
    none = "not computed: it needs a U-Net trained on the data set's labels (fdlib.metrics.supervised trains one)"
    sources = {"flower": "flowers102", "cub": "cub200", "ffhq": "ffhq", "imagenet": "imagenet"}
    rows: dict[str, tuple[Cell, ...]] = {}
    for row in TABLES["2.5"].rows:
        data = sources[row.rstrip("0123456789")]
        rows[row] = (
            _try(lambda row=row, data=data: fid(e, (row, "plain", "--model.regions 0"), data)),
            _try(lambda row=row, data=data: fid(e, (row,), data)),
            none,
            none,
        )
    return rows


def ablations(e: Evaluation) -> dict[str, tuple[Cell, ...]]:
    """Table 2.6, of runs named cub128 (ours), cub128-concat and so on."""
    rows: dict[str, tuple[Cell, ...]] = {}
    for row in TABLES["2.6"].rows:
        run = ("cub128",) if row.startswith("parallel") else ("cub128", row, f"--model.decoding {row}")
        overlap = _try(lambda run=run: float(_scores(e, run, "cub200", "train", "test", 2)["iou"][1]))
        rows[row] = (overlap, _try(lambda run=run: fid(e, run, "cub200")))
    return rows


def voc(e: Evaluation) -> dict[str, tuple[Cell, ...]]:
    """Table 2.7: for each VOC class the pictures that show it, segmented as pictures of the table's ImageNet class; the object
    against everything else, borders left out. The map is fitted on VOC's training pictures of the class."""
    model, folder = e.model("imagenet64")
    splits = [e.split("voc2012", split, model.image_size) for split in ("train", "val")]
    from fdlib.data.benchmarks import VOC_CLASSES

    rows: dict[str, tuple[Cell, ...]] = {}
    for name, imagenet_class in VOC_TO_IMAGENET.items():
        number, parts = VOC_CLASSES.index(name), []
        for data, limit in zip(splits, (e.fit, e.limit)):
            shows = np.flatnonzero((np.asarray(data.masks) == number).any((1, 2)))
            chosen = shows[some(len(shows), limit)]
            if not len(chosen):
                break
            truth = _truth(data, chosen)
            truth = torch.where(truth == IGNORE, IGNORE, (truth == number).long())
            label = torch.full((len(chosen),), imagenet_class) if getattr(model, "classes", None) else None
            parts.append((segment(model, folder, data, chosen, e.t, label), truth))
        if len(parts) < 2:
            rows[name] = ("no picture of the class in the prepared splits",) * 2
            continue
        (fit, fit_truth), (regions, truth) = parts
        predicted = apply_map(regions, match_regions(fit, fit_truth, 2, count=model.regions))
        rows[name] = (accuracy(predicted, truth), float(iou(predicted, truth, 2).mean()))
    figures = [cells for cells in rows.values() if not isinstance(cells[0], str)]
    if figures:
        rows["Average"] = tuple(float(np.mean(column)) for column in zip(*figures))
    return rows


def _test_views(folder: Path) -> MultiView:
    """The held-out views of a run's scene."""
    settings = dict(load_settings(folder)["views"])
    settings["path"] = Path(settings["path"]) if settings["path"] else None
    try:
        return Views(**settings).build("test")
    except OSError as error:
        raise Missing(f"missing: {error}") from error


def _rendered(model: Model, folder: Path, test: MultiView) -> Tensor:
    """What the model renders from where it places each view."""
    return _seen(model, model.localise(test.images.to(next(model.parameters()).device), load_schedule(folder)))


def _seen(model: Model, poses: Tensor) -> Tensor:
    """Whole pictures (N, 3, S, S) from cameras (N, 4, 4), a few thousand rays at a time: they may be large."""
    size = model.image_size
    made = render_path(model.field, poses, model.focal, size, model.near, model.far, model.samples, progress=False)
    return made.images.clamp(-1, 1)


def views(e: Evaluation) -> dict[str, tuple[Cell, ...]]:
    """Table 3.1: held-out views placed by the encoder and rendered; "car" is the mean of the runs car1 ... car5 there are."""

    def measure(*run: str) -> tuple[Cell, Cell, Cell]:
        model, folder = e.model(*run)
        test = _test_views(folder)
        seen = _rendered(model, folder, test)
        try:
            distance: Cell = lpips(seen, test.images, 2.0) if test.size >= 64 else "LPIPS needs views of 64 px or more"
        except (RuntimeError, ImportError) as error:
            distance = str(error)
        return float(psnr(seen, test.images, 2.0).mean()), float(ssim(seen, test.images, 2.0).mean()), distance

    rows: dict[str, tuple[Cell, ...]] = {}
    for row in TABLES["3.1"].rows:
        runs = [(f"car{k}",) for k in range(1, 6)] if row == "car" and not e.suffix else [(row,)]
        if e.suffix and row.startswith("llff-"):  # one laptop preset for all eight
            runs = [("llff", row.removeprefix("llff-"), "--views.path PATH")]
        done, reason = [], ""
        for run in runs:
            try:
                done.append(measure(*run))
            except Missing as missing:
                reason = reason or str(missing)
        columns = list(zip(*done)) or [(reason,)] * 3
        rows[row] = tuple(
            next((c for c in column if isinstance(c, str)), None) or float(np.mean(column)) for column in columns
        )
    return rows


def lambdas(e: Evaluation) -> dict[str, tuple[Cell, ...]]:
    """Table 3.2, of runs named car1-lambda0.1 and so on."""

    def measure(value: float) -> tuple[Cell, Cell]:
        model, folder = e.model("car" if e.suffix else "car1", f"lambda{value:g}", f"--loss.weight {value:g}")
        test = _test_views(folder)
        seen, images = _rendered(model, folder, test), test.images.to(next(model.parameters()).device)
        with torch.no_grad():
            poses, logits = model.predict(images, torch.zeros(len(images), dtype=torch.long, device=images.device))
        errors = torch.stack([(_seen(model, c) - y).square().mean((1, 2, 3)) for c, y in zip(poses, test.images)])
        right = float((logits.argmax(1).cpu() == errors.argmin(1)).float().mean())
        return right, float(psnr(seen, test.images, 2.0).mean())

    rows: dict[str, tuple[Cell, ...]] = {}
    for value in LAMBDAS:
        try:
            rows[f"lambda {value:g}"] = measure(value)
        except Missing as reason:
            rows[f"lambda {value:g}"] = (str(reason),) * 2
    return rows


COMPUTE: dict[str, Callable[[Evaluation], dict[str, tuple[Cell, ...]]]] = {
    "2.1": _foreground("flower64", "flowers102", "train", "test"),
    "2.2": _foreground("cub64", "cub200", "train", "test"),
    "2.3": _mean("ffhq64", "celebamask", "train", "test", 3),
    "2.4": _mean("imagenet64", "imagenets", "train-semi", "validation", 2),
    "2.5": generation,
    "2.6": ablations,
    "2.7": voc,
    "3.1": views,
    "3.2": lambdas,
}


def compute(table: str, e: Evaluation) -> dict[str, tuple[Cell, ...]]:
    """``{row: cells}`` of a table; where nothing can be computed, every cell of our rows says why."""
    try:
        return COMPUTE[table](e)
    except Missing as reason:
        columns = len(TABLES[table].columns)
        ours = ["Ours"] if "Ours" in TABLES[table].rows else list(TABLES[table].rows)
        return {row: (str(reason),) * columns for row in ours}


def davis(e: Evaluation, videos: Sequence[str], label: int | None) -> tuple[dict, np.ndarray, Tensor]:
    """DAVIS 2017 frames segmented by the ImageNet model, as in figures 2.14 and 2.31.

    The map from regions to object is fitted on each video's first frame, whose annotation DAVIS gives to everybody, and scored on
    the others.

    Returns:
        {video: (accuracy, IoU of the object)}, some frames uint8 (N, H, W, 3), their regions uint8 (N, H, W).

    Raises:
        Missing: no run or no prepared frames. ValueError: a video that there is not, or a conditional model without ``label``.
    """
    model, folder = e.model(e.preset or "imagenet64")
    if getattr(model, "classes", None) and label is None:
        raise ValueError(
            "label is missing: the model was trained with classes; pass --label with one of ImageNet's (bear: 294)"
        )
    data = e.split("davis2017", "val", model.image_size)
    names = data.about["groups"]
    unknown = [video for video in videos if video not in names]
    if unknown:
        raise ValueError(f"videos: there is no {', '.join(unknown)}; there are {', '.join(names)}")
    scores, shown, regions = {}, [], []
    for video in videos or names[:2]:
        rows = np.flatnonzero(np.asarray(data.groups) == names.index(video))[: e.limit]
        labels = None if label is None else torch.full((len(rows),), label)
        found, truth = segment(model, folder, data, rows, e.t, labels), _truth(data, rows)
        predicted = apply_map(found, match_regions(found[:1], truth[:1], 2, count=model.regions))
        scores[video] = (accuracy(predicted[1:], truth[1:]), float(iou(predicted[1:], truth[1:], 2)[1]))
        some_frames = np.linspace(0, len(rows) - 1, min(4, len(rows))).astype(int)
        shown.append(np.array(data.images[rows[some_frames]]))
        regions.append(found[some_frames])
    return scores, np.concatenate(shown), torch.cat(regions)
