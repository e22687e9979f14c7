"""Checks of the exercises of chapter 4: what scores of regions see, and what they do not."""

from __future__ import annotations

from itertools import combinations

import torch

from fdlib.course.checks import CheckFailed, check, compare, parts, seeded
from fdlib.metrics.segmentation import apply_map, iou, match_regions


def _integers(high: int, *shape: int, seed: int = 0):
    return torch.randint(high, shape, generator=seeded(seed))


@check("The score of somebody who sees one thing")
def one_region(answer) -> None:
    """``answer(shares) -> mIoU``; judged by scoring such a model with each class in turn."""
    for counts in ((6, 3, 1), (2, 2, 1, 5), (1, 9)):
        C, labels = len(counts), torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        right = max(float(iou(torch.full_like(labels, c), labels, C).mean()) for c in range(C))
        shares = torch.tensor(counts).double() / sum(counts)
        slips = {
            "this is the IoU of the chosen class alone; the others have 0, and the mean is over all of them": shares.max(),
            "the mean of the shares is 1 / C whatever they are; only the chosen class has an IoU above 0": 1 / C,
            "choose the most frequent class, not the rarest": shares.min() / C,
        }
        compare(answer(shares), right, "mIoU", slips, where=f"shares {shares.tolist()}")


@check("Catch the misprint")
def misprint(answer) -> None:
    """``answer() -> A, B``: a counterexample."""
    A, B = parts(answer(), "A", "B")
    for name, mask in (("A", A), ("B", B)):
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.ndim != 2:
            raise CheckFailed(f"{name} must be a bool tensor (H, W)")
        if not mask.any():
            raise CheckFailed(f"{name} is empty: then there is nothing to divide by, or nothing to find")
    if A.shape != B.shape:
        raise CheckFailed("A and B must be of one size")
    both, a, b = (int(mask.sum()) for mask in (A & B, A, B))
    printed, real = 2 * both / a, 2 * both / (a + b)
    if printed <= 1:
        raise CheckFailed(
            f"the printed formula gives {printed:.2f} here, no more than 1: make A smaller, or let it hit B more"
        )
    if real > 0.5:
        raise CheckFailed(
            f"the real formula gives {real:.2f}, more than one half: a careful reader would not be surprised"
        )


@check("A score that can be bribed")
def purity(answer) -> None:
    """``answer(table) -> share``; judged pixel by pixel."""
    for seed, (K, C) in enumerate(((4, 3), (2, 5))):
        regions, labels = (
            _integers(K, 400, seed=seed),
            (_integers(C, 400, seed=9) * _integers(2, 400, seed=7)).clamp(max=C - 1),
        )
        table = torch.bincount(regions * C + labels, minlength=K * C).reshape(K, C).double()
        majority = torch.stack([labels[regions == k].bincount(minlength=C).argmax() for k in range(K)])
        right = (majority[regions] == labels).double().mean()
        slips = {
            "you take the maximum over the regions; each region chooses its class, so it is over the classes": table.max(
                0
            ).values.sum()
            / table.sum(),
            "this is a mean over regions: large regions count as much as small ones": (
                table.max(1).values / table.sum(1)
            ).mean(),
            "this is a number of pixels: divide by all of them": table.max(1).values.sum(),
            "this is the diagonal: regions have no names, so region 0 need not be class 0": table.diagonal().sum()
            / table.sum(),
        }
        compare(answer(table), right, "purity", slips, where=f"{K} regions, {C} classes")


class _Fickle:
    """A segmenter whose masks depend on the noise, and which remembers what it was asked."""

    def __init__(self):
        self.first_numbers, self.calls = [], 0

    def segment(self, images, t=30, *, generator=None, **others):
        generator = generator or seeded(0)
        self.calls += 1
        self.times = t
        logits = images.mean(1, keepdim=True) + torch.randn(len(images), 3, *images.shape[2:], generator=generator).to(
            images
        )
        self.first_numbers.append(float(logits.flatten()[0]))
        return (4 * logits).softmax(1)


@check("Eight looks at one picture")
def look_often(answer) -> None:
    """``answer(model, images, t, n) -> masks``; judged with a model that reports what it was asked."""
    images = torch.randn(2, 3, 5, 5, generator=seeded(1)).clamp(-1, 1)
    model = _Fickle()
    got = answer(model, images, 120, 8)
    if model.calls < 8:
        raise CheckFailed(f"look n = 8 times; segment was called {model.calls} times")
    if len(set(model.first_numbers)) < 8:
        raise CheckFailed("every look saw the same noise, seed 0: give each a generator with a seed of its own")
    if model.times != 120:
        raise CheckFailed("t is not handed on to segment, which then takes 30")
    if not isinstance(got, torch.Tensor) or got.shape != (2, 3, 5, 5):
        raise CheckFailed("return soft masks (N, K, H, W)")
    sums = got.sum(1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise CheckFailed(f"masks must sum to 1 over the regions, yours to {float(sums.mean()):.2f}: a mean, not a sum")
    if torch.allclose(got * 8, (got * 8).round(), atol=1e-4):
        raise CheckFailed("these are votes of hard masks: average the soft ones, which know how sure they are")
    if not torch.equal(got, answer(_Fickle(), images, 120, 8)):
        raise CheckFailed("called again, it must return the same: fix the seeds")


@check("How many colours does the map need?")
def colours(answer) -> None:
    """``answer(touch, ignore) -> K``; judged on maps whose number is known."""

    def ring(n):
        return torch.roll(torch.eye(n), 1, 0) + torch.roll(torch.eye(n), -1, 0)

    wheel = torch.ones(6, 6).fill_diagonal_(0)
    wheel[:5, :5] = ring(5)
    faint = ring(4).clone()
    faint[0, 2] = faint[2, 0] = 0.5
    known = (
        ("a ring of four", ring(4), 0.0, 2),
        ("a ring of five", ring(5), 0.0, 3),
        ("a wheel of five spokes", wheel, 0.0, 4),
        ("four parts, each touching each", torch.ones(4, 4).fill_diagonal_(0), 0.0, 4),
        ("parts that do not touch", torch.zeros(3, 3), 0.0, 1),
        ("a ring of four with one faint border across, counted", faint, 0.0, 3),
        ("a ring of four with one faint border across, ignored", faint, 0.6, 2),
    )
    for name, touch, ignore, right in known:
        degree = int((touch > ignore).sum(1).max()) + 1
        clique = next(
            size
            for size in range(len(touch), 0, -1)
            if any(
                all(touch[i, j] > ignore for i, j in combinations(group, 2))
                for group in combinations(range(len(touch)), size)
            )
        )
        slips = {
            "short borders must not count: compare with ignore": 3 if ignore else None,
            "you allow one region more than the largest number of neighbours; mostly fewer will do": degree,
            "this is the largest group in which all touch each other; a ring of odd length needs one more": clique,
            "every part has a region of its own: those that do not touch may share": len(touch),
        }
        slips = {message: float(value) for message, value in slips.items() if value not in (None, right)}
        compare(answer(touch, ignore), float(right), "the number of regions", slips, where=name)


@check("A leak in the score")
def fair_score(answer) -> None:
    """``answer(fit, fit_labels, test, test_labels, K, C) -> mIoU``; judged by the library's protocol."""
    K, C = 3, 2
    for seed in range(2):
        fit_labels, labels = _integers(C, 6, 5, 5, seed=seed), _integers(C, 7, 5, 5, seed=seed + 10)
        labels[:3] = (labels[:3] + _integers(2, 3, 5, 5, seed=3)).clamp(max=1)
        blur, fit_blur = (_integers(4, *x.shape, seed=seed + 20) == 0 for x in (labels, fit_labels))
        fit = torch.where(fit_blur, torch.ones_like(fit_labels), 2 * fit_labels)
        fit[0] = torch.where(fit_labels[0] == 0, 1, fit[0])  # so region 1 means class 0 here
        regions = torch.where(
            blur, _integers(K, 7, 5, 5, seed=seed + 40), 2 - labels
        )  # and class 1 on the test pictures

        def score(mapping, regions=regions, labels=labels):
            return float(iou(apply_map(regions, mapping), labels, C).mean())

        def picture_by_picture(maps, regions=regions, labels=labels):
            each = [float(iou(maps[i][regions[i]], labels[i], C).mean()) for i in range(len(labels))]
            return sum(each) / len(each)

        one = match_regions(fit, fit_labels, C, count=K)
        own = [match_regions(r[None], l[None], C, count=K) for r, l in zip(regions, labels, strict=True)]
        majority = match_regions(fit, fit_labels, C, count=K, how="majority")
        slips = {
            "the map has seen the test labels: fit it on the fit pictures only": score(
                match_regions(regions, labels, C, count=K)
            ),
            "a map for each picture is an oracle: one map for all": picture_by_picture(own),
            "score all pixels of all pictures together; this is the mean of scores picture by picture": picture_by_picture(
                [one] * len(labels)
            ),
            "this is the score on the fit pictures": float(iou(apply_map(fit, one), fit_labels, C).mean()),
            "the regions are taken for classes: no map at all": score(torch.arange(K).clamp(max=C - 1)),
            "each region got the class that most of its pixels have; asked for is the map with the best mIoU": score(
                majority
            ),
        }
        right = score(one)
        slips = {name: value for name, value in slips.items() if abs(value - right) > 1e-6}
        compare(answer(fit, fit_labels, regions, labels, K, C), right, "mIoU", slips)


@check("Thick or thin")
def thickness(answer) -> None:
    """``answer(region) -> number``; judged by counting pixel sides one by one."""
    block = torch.zeros(1, 8, 9, dtype=torch.bool)
    block[0, 2:5, 3:7] = True
    line = torch.zeros(1, 8, 9, dtype=torch.bool)
    line[0, :, 4] = True
    corner = torch.zeros(2, 8, 9, dtype=torch.bool)
    corner[0, :3, :4], corner[1, 5:, 2:6], corner[1, 6, 3] = True, True, False
    for name, region in (("a block", block), ("a line across", line), ("regions at the frame", corner)):
        N, H, W = region.shape
        sides, frame, rows, each, touched = 0, 0, 0, [], torch.zeros_like(region)
        for n in range(N):
            here = 0
            for y in range(H):
                for x in range(W):
                    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                        v, u = y + dy, x + dx
                        inside = 0 <= v < H and 0 <= u < W
                        if region[n, y, x] and (not inside or not region[n, v, u]):
                            frame += 1
                            here += inside
                            rows += inside and dy != 0
                            touched[n, y, x] |= inside
            each.append(float(region[n].sum()) / here)
            sides += here
        area = float(region.sum())
        slips = {
            "each side is counted twice, from either side of it": area / (2 * sides),
            "the picture's frame is no border: nothing of the picture lies beyond": area / frame,
            "you count border pixels; a pixel at a corner has two sides": area / int(touched.sum()),
            "only sides above and below count here: also compare with the neighbour to the right": area / rows
            if rows
            else -1,
            "only sides to the left and right count here: also compare with the neighbour below": area
            / max(sides - rows, 1),
            "upside down: area over border": sides / area,
            "sum areas and borders over all pictures before you divide": sum(each) / len(each),
            "the border is missing: a large region is not a thick one": area,
        }
        slips = {message: value for message, value in slips.items() if abs(value - area / sides) > 1e-9}
        compare(answer(region), area / sides, "the thickness", slips, where=name)
