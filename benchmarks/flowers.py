"""Flower against background on real photos, without labels: the factorized model beside everything it must be compared with.

    python benchmarks/flowers.py --data flowers17_64.npz --json FILE                                  # baselines, a minute
    python benchmarks/flowers.py --data flowers17_64.npz --train plain supervised --folder runs/flowers --json FILE
    python benchmarks/flowers.py --data flowers17_64.npz --train factorized --seeds 0 1 --folder runs/flowers --json FILE

Data: an .npz with ``images`` (N, 64, 64, 3) uint8, ``labels`` (M, 64, 64) uint8 (1 flower, 0 boundary, left out, all
else background) and ``labelled_index`` (M,); by ``--data`` or the environment variable FDLIB_FLOWERS17. The file
``flowers17_split.json`` beside this one says which labelled pictures are the test set. These never enter training. The
other half joins the unlabelled pictures in training, without labels, and is what the map from regions to flower or
background is fitted on (and what the supervised ceiling learns from).

Scores are means over test pictures, in per cent, as the thesis's table 2.1 has them: accuracy, IoU and DICE of the
flower. The map is the subset of the regions with the best IoU on the other half. "Oracle" has a map of its own for each test
picture, fitted on that picture. ``--folder`` keeps checkpoints; a run that was stopped goes on. Predictions are saved there.

The denoisers see pictures reduced to ``--size``, and masks are enlarged again before they are scored. A factorized model trains
twice: ``--settle`` steps at all noises, with random regions in place of its masks; then ``--steps`` with its masks, on little
noise (``--below``), at first centred (``--centred``). Seeds for the masks are tried until, after ``--try-steps``, they are
neither grey nor mere specks. Its decoder normalises each position by itself (``--decoder-norm``). Why: ``flowers.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from emergence import commit
from torch import Tensor
from torch.utils.data import Dataset

from fdlib import course
from fdlib.data.photos import ArrayImages
from fdlib.emergence import audition, mask_balance, mask_health, random_regions
from fdlib.experiments import Architecture
from fdlib.factorized import FactorizedUNet, resize_masks
from fdlib.files import atomic_write
from fdlib.images import from_uint8
from fdlib.metrics.baselines import disc, grabcut, kmeans_colours, kmeans_features
from fdlib.metrics.segmentation import IGNORE, apply_map, confusion, hard
from fdlib.metrics.supervised import LabelledImages, LabelObjective, classify
from fdlib.metrics.tables import TABLES
from fdlib.process import DenoisingObjective, PowerT
from fdlib.schedule import NoiseSchedule
from fdlib.training import Stages, TrainingConfig, train

SPLIT = Path(__file__).parent / "flowers17_split.json"
FLOWER, BACKGROUND = 1, 0
COLOURS = 6  # of k-means; the best subset of them is the flower


class Flowers:
    """Pictures and labels by role: ``train`` to learn from, ``fit`` with labels for the map, ``test`` with labels to score."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as file:
            images, labels, index = file["images"], torch.from_numpy(file["labels"]).long(), file["labelled_index"]
        split = json.loads(SPLIT.read_text())
        found = fingerprint(images, index)
        if found != split["sha256"]:
            raise SystemExit(
                f"error: {path} holds other pictures than {SPLIT.name} was made for: {found} there, {split['sha256']} expected"
            )
        labels = torch.where(labels == 0, IGNORE, (labels == 1).long())
        fit, test = split["fit"], split["test"]
        unseen = np.zeros(len(images), bool)
        unseen[index[test]] = True
        self.train = images[~unseen]
        self.fit, self.fit_labels = from_uint8(images[index[fit]]), labels[fit]
        self.test, self.test_labels = from_uint8(images[index[test]]), labels[test]


def fingerprint(images: np.ndarray, index: np.ndarray) -> str:
    """SHA-256 of the pictures and of which of them have labels."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes() + index.astype("<i8").tobytes()).hexdigest()


# ---------------------------------------------------------------------- scores


def scores(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, IoU and DICE of the flower in per cent, means over pictures; and IoU over all pixels together."""
    tables = torch.stack([confusion(p[None], t[None], 2, 2) for p, t in zip(predicted, labels, strict=True)]).double()
    both, found, true = tables[:, 1, 1], tables[:, 1].sum(1), tables[:, :, 1].sum(1)
    right = tables.diagonal(dim1=1, dim2=2).sum(1)
    return {
        "accuracy": 100 * float((right / tables.sum((1, 2))).mean()),
        "iou": 100 * float((both / (found + true - both)).nanmean()),
        "dice": 100 * float((2 * both / (found + true)).nanmean()),
        "iou_all_pixels": 100 * float(both.sum() / (found + true - both).sum()),
    }


def judge(data: Flowers, fit: Tensor, found: Tensor, regions: int) -> dict:
    """Both protocols: one map, fitted on the training half; and the oracle, a map for each test picture."""
    mapping = flower_maps(hard(fit), data.fit_labels, regions).nanmean(0).argmax()
    maps = torch.tensor(list(product((BACKGROUND, FLOWER), repeat=regions)))
    own = maps[flower_maps(hard(found), data.test_labels, regions).argmax(1)]
    return {
        **scores(apply_map(found, maps[mapping]), data.test_labels),
        "oracle": scores(apply_map(found, own), data.test_labels),
        "map": maps[mapping].tolist(),
    }


def flower_maps(found: Tensor, labels: Tensor, regions: int) -> Tensor:
    """IoU of the flower in each picture under each of the 2**K maps, (N, 2**K): which subset of the regions is the flower?"""
    maps = torch.tensor(list(product((BACKGROUND, FLOWER), repeat=regions))).double()
    tables = torch.stack([confusion(r[None], t[None], regions, 2) for r, t in zip(found, labels, strict=True)]).double()
    both, size, true = tables[:, :, 1] @ maps.T, tables.sum(2) @ maps.T, tables[:, :, 1].sum(1, keepdim=True)
    return both / (size + true - both)


def baselines(data: Flowers) -> dict[str, dict]:
    """What can be had without training."""
    colours = [kmeans_colours(data.fit, images, COLOURS) for images in (data.fit, data.test)]
    return {
        "all foreground": scores(torch.ones_like(data.test_labels).clamp(max=1), data.test_labels),
        f"k-means on colours (K = {COLOURS})": judge(data, *colours, COLOURS),
        "disc of radius 24": scores(disc(data.test, 24), data.test_labels),
        "GrabCut, border of 3": scores(grabcut(data.test), data.test_labels),
    }


# ---------------------------------------------------------------------- what is trained


def windows(images: np.ndarray, rounds: int, zoom: tuple[float, float], seed: int) -> np.ndarray:
    """``rounds`` random windows of each picture, of the given widths, at the pictures' size: uint8 (rounds N, S, S, 3)."""
    generator, size = torch.Generator().manual_seed(seed), images.shape[1]
    x, parts = torch.from_numpy(images).movedim(3, 1).float(), []
    for _ in range(rounds):
        scale = zoom[0] + (zoom[1] - zoom[0]) * torch.rand(len(x), generator=generator)
        shift = (2 * torch.rand(len(x), 2, generator=generator) - 1) * (1 - scale)[:, None]
        theta = torch.zeros(len(x), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        theta[:, :, 2] = shift
        grid = F.affine_grid(theta, [len(x), 3, size, size], align_corners=False)
        parts.append(F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False))
    return torch.cat(parts).round().clamp(0, 255).byte().movedim(1, 3).numpy()


def turned(batch: dict, generator: torch.Generator) -> dict:
    """Each picture (with its labels) mirrored and turned by a multiple of 90 degrees, at random."""
    image, labels = batch["image"].clone(), batch.get("labels")
    draws = torch.randint(8, (len(image),), generator=generator, device=image.device).tolist()
    labels = labels.clone() if labels is not None else None
    for i, k in enumerate(draws):
        for values in (image, labels):
            if values is not None:
                one = torch.rot90(values[i], k % 4, (-2, -1))
                values[i] = one.flip(-1) if k >= 4 else one
    return {**batch, "image": image} | ({} if labels is None else {"labels": labels})


def architecture(name: str, o: argparse.Namespace) -> Architecture:
    """The ceiling works at the pictures' 64 pixels and is as wide as it was when it was measured; the others see ``--size``."""
    if name == "supervised":
        return Architecture(64, 24, (1, 2, 3), blocks=1, attention=(), fold=4, regions=2)
    masks = dict(regions=o.regions, mask_centred=o.centred, decoder_norm=o.decoder_norm)
    own = masks if name == "factorized" else {}
    return Architecture(o.size, o.channels, (1, 2, 2), blocks=1, attention=(), fold=o.fold, **own)


def smaller(images: Tensor, size: int) -> Tensor:
    """Pictures (N, C, S, S) at ``size``: each pixel is the mean of those that it covers."""
    return resize_masks(images, (size, size)).clamp(-1, 1)


def segment(network: FactorizedUNet, images: Tensor, t: int, schedule: NoiseSchedule) -> Tensor:
    """Soft masks (N, K, S, S) of pictures (N, C, S, S), found at the network's resolution."""
    small = smaller(images, network.image_size).to(next(network.parameters()).device)
    masks = network.segment(small, t, schedule=schedule).cpu()
    return resize_masks(masks, images.shape[-2:], "bilinear")


def settle(network: FactorizedUNet, dataset: Dataset, config: TrainingConfig, o: argparse.Namespace, folder) -> float:
    """Teach encoder and decoder to denoise whatever the regions are, and the mask generator nothing; returns the seconds."""

    def turned_with_regions(batch: dict, generator: torch.Generator) -> dict:
        batch = turned(batch, generator)
        n, device = len(batch["image"]), batch["image"].device
        return {**batch, "masks": random_regions(n, o.regions, o.size, generator, device)}

    objective = DenoisingObjective(NoiseSchedule.linear(1000), PowerT(o.power), condition=("masks",))
    state = train(
        network, objective, dataset, replace(config, steps=o.settle), folder=folder and folder / "settled",
        augment=turned_with_regions, progress=not o.quiet,
    )  # fmt: skip
    network.load_state_dict(state.ema.state_dict())
    return state.seconds


def with_new_masks(settled: FactorizedUNet, architecture: Architecture) -> FactorizedUNet:
    """What has settled, with a mask generator that knows nothing."""
    network = architecture.build()
    masks = {key: value for key, value in network.state_dict().items() if key.startswith("mask_generator.")}
    network.load_state_dict(settled.state_dict() | masks)
    return network


def run(name: str, seed: int, data: Flowers, o: argparse.Namespace) -> dict:
    """Train one network with one seed, and score its regions."""
    torch.manual_seed(seed)
    network, schedule = architecture(name, o).build(), NoiseSchedule.linear(1000)
    started = time.perf_counter()
    config = TrainingConfig(
        steps=o.steps, batch_size=o.batch, learning_rate=o.rate, warmup=100, ema_decay=0.995, seed=seed,
        save_every=o.save_every, mixed_precision=course.precision() if torch.cuda.is_available() else "no",
    )  # fmt: skip
    if name == "supervised":
        dataset, objective = LabelledImages(data.fit, data.fit_labels), LabelObjective()
    else:
        photos = smaller(from_uint8(data.train), o.size)
        whole = ArrayImages(photos)
        times = PowerT(1.0, o.below) if name == "factorized" else PowerT(o.power)
        dataset, objective = whole, DenoisingObjective(schedule, times)
        if o.whole < 1:
            close = ArrayImages(smaller(from_uint8(windows(data.train, 5, tuple(o.zoom), seed)), o.size))
            dataset = Stages({0.0: close, 1 - o.whole: whole}) if o.whole else close
    folder = o.folder / f"{name}-{seed}" if o.folder else None
    watch: list[dict] = []

    def look(state) -> None:
        """Without labels: are regions emerging?"""
        if name == "factorized":
            health = mask_health(segment(state.ema, data.fit[:100], o.time, schedule))
            watch.append({"step": state.step, "says": str(health)})
            print(f"step {state.step}: {health}", flush=True)

    before, first = time.perf_counter() - started, o.settle if name == "factorized" else 0
    if first:
        before += settle(network, dataset, config, o, folder)
    if name == "factorized":
        build, began = partial(with_new_masks, network, architecture(name, o)), time.perf_counter()
        start = audition(
            build, objective, dataset, config, smaller(data.fit, o.size), folder=folder, steps=min(o.try_steps, o.steps),
            tries=o.tries, judge=partial(mask_balance, t=o.time), augment=turned,
        )  # fmt: skip
        print(start, flush=True)
        if start.tried:  # the last of the tries is part of the training
            before += (time.perf_counter() - began) * (1 - 1 / len(start.tried))
        config.seed, folder = start.seed, start.folder
        torch.manual_seed(config.seed)
        network = build()
    state = train(
        network, objective, dataset, config, folder=folder, augment=turned, callbacks=[look],
        callback_every=o.save_every, progress=not o.quiet,
    )  # fmt: skip
    ema, seconds = state.ema.eval(), before + state.seconds
    result = {"model": name, "seed": seed, "steps": first + state.step, "seconds": seconds, "batch": o.batch}
    if name == "supervised":
        regions = classify(ema, data.test)
        result |= scores(regions, data.test_labels)
    elif name == "plain":
        small = [smaller(x, o.size) for x in (data.fit, data.test)]
        found = kmeans_features(ema, *small, o.clusters, schedule=schedule)
        times = data.test.shape[-1] // o.size
        fit, regions = (r.repeat_interleave(times, 1).repeat_interleave(times, 2) for r in found)
        result |= judge(data, fit, regions, o.clusters) | {"regions": o.clusters}
    else:
        fit, masks = (segment(ema, x, o.time, schedule) for x in (data.fit, data.test))
        health, regions = mask_health(masks), hard(masks)
        result |= judge(data, fit, masks, o.regions) | {"regions": o.regions, "health": str(health)}
        result |= {"tried": start.tried, "watch": watch}
    result |= {"parameters": ema.parameter_count, "settings": settings(name, o)} | PROVENANCE
    if o.folder:
        with atomic_write(o.folder / f"{name}-{seed}.npz") as path, open(path, "wb") as file:
            np.savez_compressed(file, regions=regions.numpy().astype(np.uint8))
    return result


def settings(name: str, o: argparse.Namespace) -> dict:
    """What the row was trained and scored with."""
    common = ("steps", "batch", "rate", "channels", "fold")
    if name == "supervised":
        return {key: getattr(o, key) for key in common} | {"size": 64, "channels": 24, "fold": 4}
    own = {
        "plain": ("clusters",),
        "factorized": ("regions", "settle", "below", "centred", "decoder_norm", "try_steps", "tries", "time"),
    }[name]
    return {key: getattr(o, key) for key in (*common, "size", "power", "zoom", "whole", *own)}


PROVENANCE: dict[str, str] = {}  # of the code that runs, so taken at the start


def provenance() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"commit": commit(), "machine": f"{platform.machine()}, {device}, torch {torch.__version__}"}


def line(name: str, row: dict) -> str:
    oracle = f"   oracle {row['oracle']['iou']:5.1f}" if "oracle" in row else ""
    return f"{name:34} {row['accuracy']:5.1f} {row['iou']:5.1f} {row['dice']:5.1f}{oracle}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("FDLIB_FLOWERS17"), help="the .npz of photos")
    parser.add_argument(
        "--train", nargs="+", default=[], choices=("factorized", "plain", "supervised"), help="networks"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each")
    parser.add_argument(
        "--steps", type=int, default=2400, help="of each training; of the factorized model's second one"
    )
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="of Adam")
    parser.add_argument("--power", type=float, default=1.5, help="times are drawn as T u^power")
    parser.add_argument("--channels", type=int, default=16, help="C, the width of the first stage")
    parser.add_argument("--fold", type=int, default=2, help="pixels, along a side, that one position covers")
    parser.add_argument("--size", type=int, default=32, help="pixels, along a side, that the denoisers see")
    parser.add_argument("--settle", type=int, default=3000, help="steps with random regions, before masks learn")
    parser.add_argument("--try-steps", type=int, default=300, help="steps after which masks are judged, without labels")
    parser.add_argument("--tries", type=int, default=8, help="seeds for the masks until one is taken")
    parser.add_argument("--below", type=float, default=0.12, help="masks learn at t below this share of T")
    parser.add_argument(
        "--decoder-norm", choices=("group", "position"), default="position", help="of the factorized model"
    )
    parser.add_argument("--centred", type=int, default=600, help="steps during which no region may win everywhere")
    parser.add_argument("--time", type=int, default=100, help="t, the noise at which pictures are segmented")
    parser.add_argument("--regions", type=int, default=2, help="K of the factorized model")
    parser.add_argument("--clusters", type=int, default=6, help="of k-means on the plain model's features")
    parser.add_argument("--zoom", type=float, nargs=2, default=[0.4, 1.0], help="widths of the windows")
    parser.add_argument("--whole", type=float, default=0.0, help="last share of the training, on whole pictures")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints and judgements")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--folder", type=Path, help="for checkpoints and predictions")
    parser.add_argument("--json", type=Path, help="where to write the results; those of other runs in it are kept")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    o = parser.parse_args()
    if o.data is None:
        parser.error("--data is missing: the .npz of photos (or set FDLIB_FLOWERS17)")
    if not Path(o.data).is_file():
        parser.error(f"--data: there is no file {o.data}")
    if o.threads:
        torch.set_num_threads(o.threads)
    PROVENANCE.update(provenance())
    data = Flowers(Path(o.data))
    report = json.loads(o.json.read_text()) if o.json and o.json.is_file() else {"runs": []}
    report |= {"command": "python benchmarks/flowers.py --data flowers17_64.npz", "pictures": {
        "training": len(data.train), "fit": len(data.fit), "test": len(data.test)}}  # fmt: skip

    def write() -> None:
        if o.json:
            with atomic_write(o.json) as path:
                path.write_text(json.dumps(report, indent=1) + "\n")

    if "baselines" not in report:
        started = time.perf_counter()
        report["baselines"] = baselines(data)
        report |= {"baselines_seconds": time.perf_counter() - started, "baselines_commit": PROVENANCE["commit"]}
        write()
    for seed in o.seeds:
        for name in o.train:
            result = run(name, seed, data, o)
            others = [
                r for r in report["runs"] if (r["model"], r["seed"], r["settings"]) != (name, seed, result["settings"])
            ]
            report["runs"] = [*others, result]
            write()
    print(f"{'':34}  Acc.   IoU  DICE   (per cent, means over {len(data.test)} test pictures)")
    for name, row in report["baselines"].items():
        print(line(name, row))
    for row in report["runs"]:
        print(line(f"{row['model']}, seed {row['seed']}, {row['steps']} steps", row))
    print("Table 2.1, Flowers-102, 8 GPUs:")
    for name, (acc, overlap, dice) in TABLES["2.1"].rows.items():
        print(f"  {name:32} {acc:5.1f} {overlap:5.1f} {dice if isinstance(dice, str) else f'{dice:.1f}':>5}")


if __name__ == "__main__":
    main()
