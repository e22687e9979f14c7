"""The thesis's tables, as far as they can be read, and a way to print ours beside them.

A figure that is illegible or absent in the source is ``None`` and prints as "not in source"; a dash is the thesis's own. (Table
2.5's accuracies are torn apart by the typesetting, so none is given; of table 3.2 the text has the caption only.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Cell = float | str | None


@dataclass(frozen=True)
class Table:
    """title; what the columns are; for each row a figure a column (None: not in source). ``digits`` after the point."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    digits: int = 1


VOC_TO_IMAGENET = {
    "aeroplane": 895, "bicycle": 671, "bird": 94, "boat": 814, "bottle": 907, "bus": 779, "car": 817, "cat": 281, "chair": 765,
    "cow": 346, "diningtable": 532, "dog": 153, "horse": 603, "motorbike": 670, "person": 981, "pottedplant": 883, "sheep": 348,
    "sofa": 831, "train": 466, "tvmonitor": 664,
}  # fmt: skip
"""Table 2.7: the class that the ImageNet model is told for each VOC class, by its place among the 1000 sorted WordNet numbers."""

_VOC = (
    (0.82, 0.57), (0.79, 0.47), (0.83, 0.58), (0.81, 0.51), (0.76, 0.47), (0.73, 0.54), (0.74, 0.48), (0.82, 0.66), (0.75, 0.64),
    (0.82, 0.45), (0.69, 0.62), (0.82, 0.67), (0.84, 0.53), (0.76, 0.52), (0.77, 0.46), (0.74, 0.46), (0.84, 0.64), (0.73, 0.51),
    (0.76, 0.56), (0.73, 0.47),
)  # fmt: skip

_SCENES = {  # PSNR, SSIM, LPIPS, each of Supervised, NeRF--, Ours
    "llff-fern": (22.22, 21.67, 17.02, 0.64, 0.61, 0.42, 0.47, 0.50, 0.55),
    "llff-flower": (25.25, 25.34, 22.42, 0.71, 0.71, 0.58, 0.36, 0.37, 0.43),
    "llff-fortress": (27.60, 26.20, 22.02, 0.73, 0.63, 0.50, 0.38, 0.49, 0.51),
    "llff-horns": (24.25, 22.53, 17.48, 0.68, 0.61, 0.43, 0.44, 0.50, 0.55),
    "llff-leaves": (18.81, 18.88, 14.44, 0.52, 0.53, 0.42, 0.47, 0.47, 0.60),
    "llff-orchids": (19.09, 16.73, 14.34, 0.51, 0.39, 0.40, 0.46, 0.55, 0.58),
    "llff-room": (27.77, 25.84, 22.36, 0.87, 0.84, 0.48, 0.40, 0.44, 0.49),
    "llff-trex": (23.19, 22.67, 19.96, 0.74, 0.72, 0.62, 0.41, 0.44, 0.51),
    "car": (28.98, "fails", 26.43, 0.95, "fails", 0.92, 0.08, "fails", 0.08),
    "lego": (25.44, "fails", 21.38, 0.92, "fails", 0.86, 0.09, "fails", 0.12),
    "drums": (22.12, "fails", 18.65, 0.89, "fails", 0.82, 0.08, "fails", 0.16),
}

LAMBDAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

TABLES: dict[str, Table] = {
    "2.1": Table(
        "Segmentation of Flower, in per cent",
        ("Acc.", "IOU", "DICE"),
        {
            "GrabCut": (82.0, 69.2, 79.1),
            "ReDO": (87.9, 76.4, "-"),
            "IEM": (88.3, 76.8, 84.6),
            "IEM+SegNet": (89.6, 78.9, 86.0),
            "Ours": (90.1, 79.7, 87.2),
        },
    ),
    "2.2": Table(
        "Segmentation of CUB, in per cent",
        ("Acc.", "IOU", "DICE"),
        {
            "GrabCut": (72.3, 36.0, 48.7),
            "PerturbGAN": ("-", 38.0, "-"),
            "ReDO": (84.5, 42.6, "-"),
            "IEM": (88.6, 52.2, 66.0),
            "IEM+SegNet": (89.3, 55.1, 68.7),
            "Ours": (89.6, 56.1, 69.4),
        },
    ),
    "2.3": Table(
        "Segmentation of CelebA into skin, hair, background, in per cent",
        ("Acc.", "mIOU"),
        {"Supervised UNet": (95.7, 90.2), "DatasetDDPM-unsup.": (78.5, 69.3), "Ours": (87.9, 80.3)},
    ),
    "2.4": Table(
        "Segmentation of ImageNet (the thesis: Pixel-ImageNet; this run: ImageNet-S), in per cent",
        ("Acc.", "mIOU"),
        {"Supervised UNet": (85.7, 74.1), "DatasetDDPM-unsup.": (74.1, 60.4), "Ours": (80.7, 67.7)},
    ),
    "2.5": Table(
        "Generation: FID, and accuracy of the generated masks",
        ("DDPM FID", "Ours FID", "DDPM Acc.", "Ours Acc."),
        {
            "flower64": (15.81, 13.33, None, None),
            "flower128": (14.62, 11.50, None, None),
            "cub64": (14.45, 10.91, None, None),
            "cub128": (14.01, 10.28, None, None),
            "ffhq64": (13.72, 12.02, None, None),
            "ffhq128": (13.35, 10.79, None, None),
            "imagenet64": (7.02, 6.54, None, None),
        },
        2,
    ),
    "2.6": Table(
        "Ways of decoding, on CUB (IOU in per cent)",
        ("IOU", "FID"),
        {"concat": (20.7, 14.21), "mask_mid": (20.2, 14.33), "unshared": (50.5, 17.21), "parallel (ours)": (56.1, 10.28)},
        2,
    ),
    "2.7": Table(
        "Zero-shot VOC 2012 by the ImageNet model",
        ("Accuracy", "mIOU"),
        {**dict(zip(VOC_TO_IMAGENET, _VOC, strict=True)), "Average": (0.78, 0.54)},
        2,
    ),
    "3.1": Table(
        "Views reconstructed without poses",
        tuple(f"{measure} {who}" for measure in ("PSNR", "SSIM", "LPIPS") for who in ("superv.", "NeRF--", "ours")),
        _SCENES,
        2,
    ),
    "3.2": Table(
        "Effect of lambda, on Car: how often the highest score is the best camera, and PSNR",
        ("Acc.", "PSNR"),
        {f"lambda {value:g}": (None, None) for value in LAMBDAS},
        2,
    ),
}  # fmt: skip


def show(table: Table, measured: Mapping[str, Sequence[Cell]], columns: Sequence[str] | None = None) -> str:
    """The table as text: the thesis's figures, then this run's, and below what is missing for cells that could not be computed.

    Args:
        measured: for some of the rows a cell a column; a text says why there is no figure, None leaves the cell empty.
        columns: of ``measured``, if they are others than the table's.
    """
    columns = tuple(columns or table.columns)
    reasons: list[str] = []

    def text(cell: Cell, ours: bool) -> str:
        if cell is None:
            return "" if ours else "not in source"
        if isinstance(cell, str):
            if not ours:
                return cell
            if cell not in reasons:
                reasons.append(cell)
            return f"[{reasons.index(cell) + 1}]"
        return f"{cell:.{table.digits}f}"

    body = [["", *table.columns, *(f"{name} (this run)" for name in columns)]]
    for name, cells in table.rows.items():
        mine = measured.get(name, (None,) * len(columns))
        body.append([name, *(text(c, False) for c in cells), *(text(c, True) for c in mine)])
    widths = [max(len(row[i]) for row in body) for i in range(len(body[0]))]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in body
    ]
    return "\n".join([table.title, *lines, *(f"[{i}] {reason}" for i, reason in enumerate(reasons, start=1))])
