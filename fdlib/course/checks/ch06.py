"""Checks of the exercises of chapter 6: mixtures of noise, and what scores of generated masks mean."""

from __future__ import annotations

import math

import torch

from fdlib.course.checks import CheckFailed, check, compare, parts, seeded


@check("Too little noise")
def spread(answer) -> None:
    """``answer(share) -> std``; judged by drawing noise."""
    first, second = torch.randn(2, 400_000, generator=seeded(0), dtype=torch.float64)
    for share in (0.2, 0.5, 0.75):
        measured = float(((1 - share) * first + share * second).std())
        variance = (1 - share) ** 2 + share**2
        slips = {
            "this is the variance: take its square root": variance,
            "standard deviations do not add, variances do: (1 - share) + share would be 1 always": 1.0,
            "a factor counts squared in the variance: this is sqrt(1 - share + share) with one square missing": math.sqrt(
                (1 - share) + share**2
            ),
            "this is the distance of the two noises: n1 and n2 are added, with weights 1 - share and share": math.sqrt(
                2
            )
            * share,
        }
        compare(answer(share), measured, "the standard deviation", slips, where=f"share {share}", rtol=5e-3)


@check("Walk on the sphere")
def slerp(answer) -> None:
    """``answer(a, b, share) -> point``; judged by turning in the plane of the two."""
    a = torch.randn(3, 2, 4, 4, generator=seeded(1), dtype=torch.float64)
    b = torch.randn(3, 2, 4, 4, generator=seeded(2), dtype=torch.float64) + 0.5 * a
    b = (
        b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None, None]
    )  # of one length, as the lesson's nearly are

    def along(x, y, share):  # Gram-Schmidt, then a rotation by a part of the angle
        x, y = x.flatten(), y.flatten()
        unit = x / x.norm()
        rest = y - (y @ unit) * unit
        angle = torch.atan2(rest.norm(), y @ unit)
        return x.norm() * (torch.cos(share * angle) * unit + torch.sin(share * angle) * rest / rest.norm())

    def whole(share):
        x, y = a.flatten(), b.flatten()
        angle = torch.acos(x @ y / (x.norm() * y.norm()))
        return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)

    for share in (0.25, 0.6):
        right = torch.stack([along(x, y, share).reshape(x.shape) for x, y in zip(a, b, strict=True)])
        backwards = torch.stack([along(x, y, 1 - share).reshape(x.shape) for x, y in zip(a, b, strict=True)])
        dot = (a * b).flatten(1).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
        sine = torch.sqrt(1 - dot**2)[:, None, None, None]
        slips = {
            "this is the straight way: its middle is too short": (1 - share) * a + share * b,
            "the weights are exchanged: at share 0 you must be at a": backwards,
            "each picture of the batch has an angle of its own; this is one for the whole batch": whole(share),
            "divide by the sine of the angle": right * sine,
        }
        compare(answer(a, b, share), right, "the point", slips, where=f"share {share}", rtol=1e-5)


@check("Two means")
def two_means(answer) -> None:
    """``answer(found, truth) -> (over pictures, over pixels)``; judged pixel by pixel."""
    draw = torch.rand(5, 6, 7, generator=seeded(3))
    size = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])[:, None, None]
    truth, found = draw < size, (draw < size * 0.8) | (torch.rand(5, 6, 7, generator=seeded(4)) < 0.1)
    counts = []
    for f, t in zip(found.flatten(1).tolist(), truth.flatten(1).tolist(), strict=True):
        pairs = list(zip(f, t, strict=True))
        counts.append((sum(x and y for x, y in pairs), sum(x or y for x, y in pairs), sum(f), sum(t)))
    over_pictures = sum(both / either for both, either, *_ in counts) / len(counts)
    both, either, area, true = (sum(column) for column in zip(*counts, strict=True))
    pictures, pixels = parts(answer(found, truth), "the mean over pictures", "the IoU of all pixels")
    swapped = {"these are both, in the other order": both / either}
    compare(
        pictures,
        over_pictures,
        "the mean over pictures",
        swapped
        | {
            "divide by the union, not by the true area": sum(b / t for b, _, _, t in counts) / len(counts),
            "this is DICE: intersection over union has no factor 2": sum(2 * b / (f + t) for b, _, f, t in counts)
            / len(counts),
        },
    )
    compare(
        pixels,
        both / either,
        "the IoU of all pixels",
        {
            "sum intersections and unions over all pictures before you divide": over_pictures,
            "divide by the union, not by the true area": both / true,
            "divide by the union, not by the area found": both / area,
        },
    )


@check("Settled for good")
def settled_since(answer) -> None:
    """``answer(regions) -> step``; judged by going backwards from the end."""
    S = 7
    regions = torch.randint(2, (S, 2, 4, 5), generator=seeded(5))
    regions[:, 0, 0] = 1  # some that never change
    regions[3:, 1, 1] = regions[3, 1, 1]
    right = torch.zeros(2, 4, 5, dtype=torch.long)
    first_equal, last_change, changes = right.clone(), right.clone(), right.clone()
    for n in range(2):
        for y in range(4):
            for x in range(5):
                path = regions[:, n, y, x].tolist()
                s = S - 1
                while s > 0 and path[s - 1] == path[-1]:
                    s -= 1
                right[n, y, x] = s
                first_equal[n, y, x] = path.index(path[-1])
                last_change[n, y, x] = max(s - 1, 0)
                changes[n, y, x] = sum(p != q for p, q in zip(path, path[1:], strict=False))
    got = answer(regions)
    if isinstance(got, torch.Tensor) and got.shape == regions.shape[1:] and got.is_floating_point():
        raise CheckFailed("steps are whole numbers: return integers")
    slips = {
        "this is the first step with the final region; the pixel may leave it again": first_equal,
        "this is the last step *before* the change; one more": last_change,
        "this is how often a pixel changes; asked for is when it did so last": changes,
        "this counts from the end: S - 1 minus it": S - 1 - right,
    }
    compare(got, right, "the step", slips)


@check("What an agreement is worth")
def agreement(answer) -> None:
    """``answer(p, q, C) -> (smallest, largest)``; judged by trying all ways of being right together on 100 pixels."""
    for p, q, C in ((0.97, 0.93, 3), (0.6, 0.3, 3), (0.9, 0.8, 2), (0.3, 0.4, 2), (0.2, 0.5, 4)):
        P, Q, possible = round(100 * p), round(100 * q), []
        for both in range(101):
            wrong = 100 - P - Q + both
            if both <= min(P, Q) and wrong >= 0:
                possible += [both + alike for alike in (range(wrong + 1) if C > 2 else [wrong])]
        low, high = min(possible) / 100, max(possible) / 100
        smallest, largest = parts(answer(p, q, C), "the smallest", "the largest")
        where = f"p = {p}, q = {q}, C = {C}"
        compare(
            smallest,
            low,
            "the smallest agreement",
            {
                "with two classes, both wrong means both the same: they agree there": max(0.0, p + q - 1),
                "a share is never negative": p + q - 1,
                "the product would hold for independent mistakes; here they may be as dependent as they like": p * q,
                "with three classes or more they may both be wrong, and differently": abs(p + q - 1),
            }
            if C == 2
            else {
                "a share is never negative": p + q - 1,
                "the product would hold for independent mistakes; here they may be as dependent as they like": p * q,
                "with three classes or more they may both be wrong, and differently": abs(p + q - 1),
            },
            where=where,
        )
        compare(
            largest,
            high,
            "the largest agreement",
            {
                "they may also be wrong in the same way: that is agreement too": min(p, q),
                "the product would hold for independent mistakes; here they may be as dependent as they like": p * q,
                "if one is better than the other, they cannot agree everywhere": 1.0,
            },
            where=where,
        )
