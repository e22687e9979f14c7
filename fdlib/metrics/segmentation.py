"""How well regions that nobody named agree with labels that a person gave.

A model's K regions have no names, so first each is assigned a class (``match_regions``), by one of two protocols, which must
not be confused:

- one map for a whole data set, fitted on *training* images (``match_regions``): the headline number;
- a map for each image, fitted on that very image (``match_each``): an oracle, and to be called so.

Scores take predicted and true classes, integer tensors of one shape. All of them come from one table, ``confusion``.
``adjusted_rand_index`` needs no map at all.

    class   truth   region map    score
    (N, H, W) int   (K,) int      accuracy, iou, dice: over all pixels of all images
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

IGNORE = 255  # labels with this value are left out everywhere


def hard(masks: Tensor) -> Tensor:
    """The region of each pixel, int64 (N, H, W): the largest of soft masks (N, K, H, W); integer regions (N, H, W) stay."""
    if not isinstance(masks, Tensor):
        raise TypeError(f"masks must be a tensor, got {type(masks).__name__}")
    if not masks.is_floating_point():
        return masks.long()
    if masks.ndim != 4:
        raise ValueError(f"soft masks must have the shape (N, K, H, W), got {tuple(masks.shape)}")
    return masks.argmax(dim=1)


def confusion(regions: Tensor, labels: Tensor, rows: int, columns: int, ignore: int = IGNORE) -> Tensor:
    """Pixels counted by region and class: int64 (rows, columns), rows the predicted, columns the true ones.

    Args:
        regions: soft masks (N, K, H, W) or integers (N, H, W) in 0 .. rows - 1.
        labels: integers of the same (N, H, W) in 0 .. columns - 1; pixels labelled ``ignore`` are left out.

    Raises:
        ValueError: different sizes, or numbers out of range. TypeError: labels that are no integers.
    """
    regions = hard(regions)
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an integer tensor, got {kind}")
    if regions.shape != labels.shape:
        raise ValueError(
            f"regions and labels must be of one size, got {tuple(regions.shape)} and {tuple(labels.shape)}: "
            "resize the labels by nearest neighbour, or segment at their resolution"
        )
    labels = labels.long()
    keep = labels != ignore
    regions, labels = regions[keep], labels[keep]
    for name, values, count in (("regions", regions, rows), ("labels", labels, columns)):
        if len(values) and not (values.min() >= 0 and values.max() < count):
            raise ValueError(f"{name} must lie in 0 .. {count - 1}, got {int(values.min())} .. {int(values.max())}")
    return torch.bincount(regions * columns + labels, minlength=rows * columns).reshape(rows, columns)


# ---------------------------------------------------------------------- which region is which class

How = Literal["best", "one-to-one", "majority"]


def match_regions(
    regions: Tensor, labels: Tensor, classes: int, *, count: int | None = None, how: How = "best", ignore: int = IGNORE
) -> Tensor:
    """One map from region to class for all these images: int64 (K,), ``map[k]`` the class of region k.

    Args:
        regions: soft masks (N, K, H, W), or integers (N, H, W) with ``count=K``.
        labels: integers (N, H, W) in 0 .. classes - 1, or ``ignore``. Fit on training images, score on others.
        classes: number of classes.
        how: "best": of all classes**K maps that with the highest mean IoU (several regions may share a class);
            "one-to-one": the assignment with the highest mean IoU (scipy), for K >= classes; surplus regions go to the class that
            most of their pixels have; "majority": each region to that class.

    Raises:
        ValueError: an unknown ``how``, K < classes for "one-to-one", too many maps for "best", or a class without a pixel.
    """
    if how not in ("best", "one-to-one", "majority"):
        raise ValueError(f"how must be best, one-to-one or majority, got {how!r}")
    K = _count(regions, count)
    table = confusion(regions, labels, K, classes, ignore).double()
    _no_empty_class(table.sum(0))
    majority = table.argmax(dim=1)
    if how == "majority":
        return majority
    if how == "one-to-one":
        if K < classes:
            raise ValueError(f"one-to-one needs at least as many regions as classes, got {K} and {classes}")
        overlap = table / (table.sum(1, keepdim=True) + table.sum(0) - table)
        region, name = linear_sum_assignment(overlap.numpy(), maximize=True)
        majority[torch.as_tensor(region)] = torch.as_tensor(name)
        return majority
    if classes**K > 300_000:
        raise ValueError(f"{classes}**{K} maps are too many to try: use how='one-to-one' or 'majority'")
    maps = torch.tensor(list(product(range(classes), repeat=K)))
    return maps[_iou(_merge(table, maps, classes)).mean(dim=-1).argmax()]


def match_each(
    regions: Tensor, labels: Tensor, classes: int, *, count: int | None = None, ignore: int = IGNORE
) -> Tensor:
    """A map for each image, fitted on that image: int64 (N, K). An oracle: it has seen the answer.

    For each image the best of all classes**K maps by mean IoU over the classes that the image has.
    """
    K, found = _count(regions, count), hard(regions)
    maps = torch.tensor(list(product(range(classes), repeat=K)))
    best = []
    for region, label in zip(found, labels, strict=True):
        table = confusion(region[None], label[None], K, classes, ignore).double()
        merged = _merge(table, maps, classes)
        present = table.sum(0) > 0
        best.append(maps[_iou(merged)[:, present].mean(dim=-1).argmax()])
    return torch.stack(best)


def apply_map(regions: Tensor, mapping: Tensor) -> Tensor:
    """Classes (N, H, W) of soft masks (N, K, H, W) or integer regions (N, H, W), by a map (K,) or one an image (N, K)."""
    found = hard(regions)
    if mapping.ndim == 1:
        return mapping[found]
    return torch.gather(mapping, 1, found.flatten(1)).reshape(found.shape)


# ---------------------------------------------------------------------- scores


def accuracy(predicted: Tensor, labels: Tensor, ignore: int = IGNORE) -> float:
    """The share of pixels with the right class (thesis 2.4, "Acc.")."""
    classes = _classes(predicted, labels, ignore)
    table = confusion(predicted, labels, classes, classes, ignore)
    return float(table.diagonal().sum() / table.sum())


def iou(predicted: Tensor, labels: Tensor, classes: int | None = None, ignore: int = IGNORE) -> Tensor:
    """Intersection over union of each class, float64 (classes,), over all pixels of all images.

    ``iou(foreground_predicted, foreground, classes=2)[1]`` is the thesis's IOU; ``.mean()`` is mIoU.

    Raises:
        ValueError: a class that neither the prediction nor the labels contain: its IoU is 0 / 0.
    """
    classes = classes or _classes(predicted, labels, ignore)
    table = confusion(predicted, labels, classes, classes, ignore).double()
    _no_empty_class(table.sum(0) + table.sum(1))
    return _iou(table)


def dice(predicted: Tensor, labels: Tensor, classes: int | None = None, ignore: int = IGNORE) -> Tensor:
    """2 |A and B| / (|A| + |B|) of each class, float64 (classes,) (Dice 1945).

    The thesis prints 2 |A and B| / |A|; a term is missing there.
    """
    overlap = iou(predicted, labels, classes, ignore)
    return 2 * overlap / (1 + overlap)


def per_image_iou(predicted: Tensor, labels: Tensor, classes: int, ignore: int = IGNORE) -> Tensor:
    """IoU of each class in each image, float64 (N, classes); NaN where neither has the class (so take ``nanmean``)."""
    tables = [
        confusion(p[None], t[None], classes, classes, ignore) for p, t in zip(hard(predicted), labels, strict=True)
    ]
    return _iou(torch.stack(tables).double()) if tables else torch.zeros(0, classes, dtype=torch.float64)


def adjusted_rand_index(regions: Tensor, labels: Tensor, ignore: int = IGNORE) -> float:
    """Agreement of two partitions whose parts have no names: 1 for equal ones, about 0 by chance (Hubert and Arabie 1985).

    Of all pairs of pixels, how many do both put together or both put apart, corrected for chance. Give one image (H, W), or a
    batch to count pairs over all images at once (then regions must mean the same in every image).
    """
    found = hard(regions)
    table = confusion(found, labels, int(found.max()) + 1, _classes(labels, labels, ignore), ignore).double()
    pairs = lambda counts: (counts * (counts - 1) / 2).sum()  # noqa: E731
    both, rows, columns, everything = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(table.sum())
    chance, most = rows * columns / everything, (rows + columns) / 2
    return float((both - chance) / (most - chance)) if most != chance else 1.0


def foreground_ari(regions: Tensor, labels: Tensor, background: Sequence[int], ignore: int = IGNORE) -> float:
    """``adjusted_rand_index`` over the pixels whose true class is not one of ``background``.

    Raises:
        ValueError: nothing but background.
    """
    front = ~torch.isin(labels.long(), torch.as_tensor(list(background), dtype=torch.long)) & (labels != ignore)
    if not front.any():
        raise ValueError(f"labels hold nothing but background {tuple(background)} and ignored pixels")
    return adjusted_rand_index(hard(regions)[front][None], labels[front][None], ignore)


def best_overlap(regions: Tensor, labels: Tensor, classes: int, count: int | None = None, ignore: int = IGNORE) -> dict:
    """How well *some* region fits each true part of each image, without any map (as in the covering of Arbelaez et al. 2011).

    Args:
        regions: soft masks (N, K, H, W), or integers (N, H, W) with ``count=K``.
        labels: integers (N, H, W) in 0 .. classes - 1.

    Returns:
        {"iou": (N, classes), "share": (N, classes), "region": (N, classes)}: of the region that fits best, its IoU; the largest
        share of the part's pixels that a single region holds; and which region that is. NaN, NaN and -1 where an image lacks
        the class. ``["iou"].nanmean()`` is the mean best overlap.
    """
    K, found = _count(regions, count), hard(regions)
    table = torch.stack([confusion(r[None], t[None], K, classes, ignore) for r, t in zip(found, labels, strict=True)])
    table = table.double()  # (N, K, classes)
    size = table.sum(1)  # of each part
    overlap = (table / (table.sum(2, keepdim=True) + size.unsqueeze(1) - table)).nan_to_num(0).amax(1)
    share, region = (table / size.unsqueeze(1)).max(1)
    absent = size == 0
    return {
        "iou": overlap.masked_fill(absent, float("nan")),
        "share": share.masked_fill(absent, float("nan")),
        "region": region.masked_fill(absent, -1),
    }


def score_regions(
    fit: Tensor, fit_labels: Tensor, regions: Tensor, labels: Tensor, classes: int, count: int, oracle: bool = True
) -> dict:
    """Every score of this module for one model: the map is fitted on ``fit``, the scores are of ``regions``.

    Args:
        fit, fit_labels: regions and classes of training pictures; soft masks (M, K, H, W) or integers (M, H, W).
        regions, labels: of test pictures.
        classes: number of classes. count: K.
        oracle: also score a map for each test image, fitted on that image; its time grows with classes**K.

    Returns:
        {"map", "miou", "per_class_iou", "per_class_dice", "accuracy", "per_image_miou", "oracle_miou", "ari"}, plain
        numbers and lists. "oracle_miou" has a map for each test image, fitted on that image.
    """
    regions = hard(regions)
    mapping = match_regions(hard(fit), fit_labels, classes, count=count)
    predicted = apply_map(regions, mapping)
    each = per_image_iou(predicted, labels, classes)
    overlap = iou(predicted, labels, classes)
    scores = {
        "map": mapping.tolist(),
        "miou": float(overlap.mean()),
        "per_class_iou": overlap.tolist(),
        "per_class_dice": dice(predicted, labels, classes).tolist(),
        "accuracy": accuracy(predicted, labels),
        "per_image_miou": float(each.nanmean(dim=1).mean()),
        "ari": float(torch.tensor([adjusted_rand_index(r, t) for r, t in zip(regions, labels, strict=True)]).mean()),
    }
    if oracle:
        own = apply_map(regions, match_each(regions, labels, classes, count=count))
        scores["oracle_miou"] = float(iou(own, labels, classes).mean())
    return scores


# ---------------------------------------------------------------------- pieces


def _iou(table: Tensor) -> Tensor:
    """IoU of each class from tables (..., C, C)."""
    overlap = table.diagonal(dim1=-2, dim2=-1)
    return overlap / (table.sum(-1) + table.sum(-2) - overlap)


def _merge(table: Tensor, maps: Tensor, classes: int) -> Tensor:
    """The class-by-class tables (M, C, C) that a region-by-class table (K, C) becomes under each of M maps (M, K)."""
    return torch.einsum("mkp,kc->mpc", F.one_hot(maps, classes).to(table), table)


def _count(regions: Tensor, count: int | None) -> int:
    if regions.is_floating_point() and regions.ndim == 4:
        return regions.shape[1]
    if count is None:
        raise ValueError("count is missing: integer regions do not say how many there are, pass count=K")
    return count


def _classes(predicted: Tensor, labels: Tensor, ignore: int) -> int:
    if not labels.numel():
        raise ValueError("labels are empty: there is nothing to score")
    kept = labels[labels != ignore]
    if not kept.numel():
        raise ValueError(f"every pixel is labelled {ignore} (ignored): there is nothing to score")
    return int(max(kept.max(), predicted.max())) + 1


def _no_empty_class(pixels: Tensor) -> None:
    empty = (pixels == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"class {', '.join(map(str, empty))} has no pixel, so its IoU is undefined: add images that show it, or number "
            "the classes without it"
        )
