"""Checks of the exercises of chapter 7: trees of masks, judged by walking down them node by node."""

from __future__ import annotations

from itertools import product
from math import prod

import torch
from torch import Tensor

from fdlib.course.checks import CheckFailed, check, close, compare, numbers, parts, seeded, touched


def _levels(B: int = 2, K0: int = 3, K1: int = 2, size: int = 4, seed: int = 0) -> tuple[Tensor, ...]:
    """m0, h0, m1, h1 of random two-level predictions."""
    g = seeded(seed)
    m0 = torch.randn(B, K0, size, size, generator=g).softmax(1)
    m1 = torch.randn(B * K0, K1, size, size, generator=g).softmax(1)
    h0, h1 = (torch.randn(n, k, 3, size, size, generator=g) for n, k in ((B, K0), (B * K0, K1)))
    return m0, h0, m1, h1


@check("The number of a leaf")
def leaf_number(answer) -> None:
    """``answer(path, regions) -> number``; judged by counting leaves in order."""
    for regions in ((3, 2), (2, 3, 4), (5,), (4, 3)):
        paths = list(product(*(range(K) for K in regions)))
        backwards = sorted(paths, key=lambda path: path[::-1])
        right = list(range(len(paths)))
        slips = {
            "the children of the first region come first: you number by the last index before the first": [
                backwards.index(path) for path in paths
            ],
            "count from 0: the first leaf, all indices 0, is number 0": [number + 1 for number in right],
            "this is the sum of the indices; one step in an upper level skips all leaves below": [
                sum(path) for path in paths
            ],
            "you multiply each index by its own level's K; below it lie those of the deeper levels": [
                sum(k * K for k, K in zip(path, regions, strict=True)) for path in paths
            ],
            "you stop one level early: this is the number of the leaf's parent": [n // regions[-1] for n in right],
        }
        slips = {message: torch.tensor(value) for message, value in slips.items() if value != right}
        got = torch.stack([numbers(answer(path, regions), "the number", ()) for path in paths])
        compare(got, torch.tensor(right), "the number", slips, where=f"regions {regions}, all paths in order")


@check("The masks of the leaves")
def leaf_masks(answer) -> None:
    """``answer(m0, m1) -> (B, K0 K1, H, W)``; judged leaf by leaf."""
    m0, _, m1, _ = _levels()
    (B, K0), K1 = m0.shape[:2], m1.shape[1]

    def walk(value, order=lambda i, j: (i, j), row=lambda b, i: b * K0 + i):
        leaves = torch.zeros(B, K0 * K1, *m0.shape[2:])
        for b, i, j in product(range(B), range(K0), range(K1)):
            first, second = order(i, j)
            place = first * K1 + second if order(1, 0) == (1, 0) else first * K0 + second
            leaves[b, place] = value(m0[b, i], m1[row(b, i), j])
        return leaves

    slips = {
        "leaves are in another order: the children of the first region come first": walk(
            lambda p, q: p * q, order=lambda i, j: (j, i)
        ),
        "rows are taken apart wrongly: row b K0 + i is region i of picture b": walk(
            lambda p, q: p * q, row=lambda b, i: i * B + b
        ),
        "a sum is no partition: a pixel is in a leaf if it is in the region and in the part": walk(lambda p, q: p + q),
        "these are the second level's masks alone; a leaf lies within its region": walk(lambda p, q: q),
        "every child has its parent's whole mask": walk(lambda p, q: p),
        "the mean of the two masks is no leaf: multiply": walk(lambda p, q: (p + q) / 2),
    }
    compare(answer(m0, m1), walk(lambda p, q: p * q), "the leaves' masks", slips)


@check("The thesis's formula")
def two_levels(answer) -> None:
    """``answer(m0, h0, m1, h1) -> (B, C, H, W)``; judged by loops over pictures, regions and parts."""
    m0, h0, m1, h1 = _levels(seed=1)
    (B, K0), K1 = m0.shape[:2], m1.shape[1]

    def walk(term, inner=lambda h, m: h * m):
        total = torch.zeros_like(h0[:, 0])
        for b, i in product(range(B), range(K0)):
            below = sum(inner(h1[b * K0 + i, j], m1[b * K0 + i, j]) for j in range(K1))
            total[b] += term(m0[b, i], h0[b, i], below)
        return total

    slips = {
        "the half is missing: two predictions of the same noise must not make twice the noise": walk(
            lambda m, h, s: m * (h + s)
        ),
        "only the second level is halved: the fraction's line goes under both": walk(lambda m, h, s: m * (h + s / 2)),
        "only the first level is halved: the fraction's line goes under both": walk(lambda m, h, s: m * (h / 2 + s)),
        "the second level must be masked by its region too": walk(lambda m, h, s: (m * h + s) / 2),
        "the parts' own masks m1 are missing": walk(lambda m, h, s: m * (h + s) / 2, inner=lambda h, m: h),
        "this is the second level alone": walk(lambda m, h, s: m * s),
        "this is the first level alone": walk(lambda m, h, s: m * h),
        "the superscripts count levels; nothing is squared": walk(
            lambda m, h, s: m * (h + s) / 2, inner=lambda h, m: h * m**2
        ),
    }
    compare(answer(m0, h0, m1, h1), walk(lambda m, h, s: m * (h + s) / 2), "the prediction", slips)


@check("Whose word counts how much")
def level_weights(answer) -> None:
    """``answer(depth) -> (depth,)``; judged by unfolding the recursion with one level switched on at a time."""
    for depth in (1, 2, 3, 5):

        def unfold(level, switched_on, depth=depth):
            own = float(level == switched_on)
            return own if level == depth else (own + unfold(level + 1, switched_on)) / 2

        right = [unfold(level, on) for on in range(1, depth + 1) for level in [1]]
        halves = [2.0**-level for level in range(1, depth + 1)]
        slips = {
            "they do not sum to 1: the last level hands nothing on, so it keeps what it gets": halves,
            "the levels do not share equally: the first keeps one half whatever is below": [1 / depth] * depth,
            "the first level is level 1 and counts most": right[::-1],
            "the first level keeps one half, it does not count whole": [1.0, *halves[: depth - 1]],
        }
        slips = {message: torch.tensor(value) for message, value in slips.items() if value != right}
        compare(answer(depth), torch.tensor(right), "the weights", slips, where=f"depth {depth}")


@check("What a tree costs")
def passes(answer) -> None:
    """``answer(regions) -> encoders, decoders``; judged by visiting every node."""
    for regions in ((2, 3, 4), (3, 3), (4, 2), (4,)):

        def visit(below):
            if not below:
                return 0, 0
            deeper = [visit(below[1:]) for _ in range(below[0])]
            return 1 + sum(e for e, _ in deeper), below[0] + sum(d for _, d in deeper)

        encoders, decoders = visit(regions)
        got = [
            float(numbers(value, "a number of passes", ())) for value in parts(answer(regions), "encoders", "decoders")
        ]
        where, last = f"regions {regions}", prod(regions[:-1])
        compare(
            got[0],
            float(encoders),
            "the number of encoder passes",
            {
                "leaves are not cut, so they need no encoder": float(1 + decoders),
                "the picture itself is cut too: the first level has one node": float(encoders - 1),
                "these are the nodes of the last level alone; each level above has its encoders too": float(last),
                "each level has an encoder, but it runs once for every node that is cut": float(len(regions)),
                "a node's encoder runs once, whatever it is cut into": float(decoders),
            },
            where=where,
        )
        compare(
            got[1],
            float(decoders),
            "the number of decoder passes",
            {
                "these are the leaves' decoders alone: every level predicts": float(prod(regions)),
                "a decoder runs once for each region of each node, and deeper levels have many nodes": float(
                    sum(regions)
                ),
                "one decoder pass for each node is one a region too few: a node has K": float(encoders),
            },
            where=where,
        )


@check("Apart or together?")
def apart(answer) -> None:
    """``answer(leaves, labels, a, b) -> share``; judged by counting pixels leaf by leaf."""
    for seed in range(3):
        leaves, labels = (torch.randint(n, (12, 5, 5), generator=seeded(seed + s)) for n, s in ((4, 0), (5, 10)))
        a, b = 3, 1
        leaves[:4] = torch.where(labels[:4] == a, 0, leaves[:4])
        leaves[2:4] = torch.where(labels[2:4] == b, 2, leaves[2:4])
        leaves[:2] = torch.where(labels[:2] == b, 0, leaves[:2])
        labels[10:] = torch.where(labels[10:] == b, 0, labels[10:])  # the last two lack b
        most = lambda n, part: max(range(4), key=lambda k: (int((leaves[n][labels[n] == part] == k).sum()), -k))  # noqa: E731, B023
        seen = [n for n in range(12) if (labels[n] == a).any() and (labels[n] == b).any()]
        differ = [most(n, a) != most(n, b) for n in seen]
        never = [not set(leaves[n][labels[n] == a].tolist()) & set(leaves[n][labels[n] == b].tolist()) for n in seen]
        whole = [max(range(4), key=lambda k, p=part: (int((leaves[labels == p] == k).sum()), -k)) for part in (a, b)]
        right = sum(differ) / len(seen)
        slips = {
            "pictures that lack one of the parts say nothing: leave them out of the total": sum(differ) / 12,
            "pictures that lack one of the parts say nothing: you count them as apart": (sum(differ) + 12 - len(seen))
            / 12,
            "this is the share of pictures where the parts are together": 1 - right,
            "this is a number of pictures, not a share": float(sum(differ)),
            "you ask that the two share no pixel's leaf; only the leaf with most of each counts": sum(never)
            / len(seen),
            "each picture has leaves of its own: compare them picture by picture": float(whole[0] != whole[1]),
        }
        slips = {message: value for message, value in slips.items() if abs(value - right) > 1e-9}
        compare(answer(leaves, labels, a, b), right, "the share", slips)


@check("Prune the tree")
def prune(answer) -> None:
    """``answer(leaves, regions, share) -> leaves``; judged pixel by pixel."""
    K0, K1, share = 3, 4, 0.72
    leaves = torch.randint(K0 * K1, (6, 6, 6), generator=seeded(0))
    leaves[0] = torch.where(
        leaves[0] // K1 == 0, torch.where(torch.rand(6, 6, generator=seeded(1)) < 0.8, 2, 0), leaves[0]
    )
    leaves[1] = torch.where(leaves[1] < K1, K1, leaves[1])  # a picture whose first node is empty
    leaves[2] = torch.where(torch.rand(6, 6, generator=seeded(2)) < 0.85, 2 * K1 + 1, leaves[2])
    leaves[3, :2], leaves[3, 2:4], leaves[3, 4:] = 0, K1, 2 * K1
    leaves[3, 0, :3] = 1  # 9 of 12 pixels
    leaves[4] = 3
    leaves[4].flatten()[:11] = 0  # 25 of 36: just not enough
    before = leaves.clone()

    def walk(least, of_picture=False, to_first=False, everything=False):
        made = leaves.clone()
        for n, node in product(range(len(leaves)), range(K0)):
            sizes = [int((leaves[n] == node * K1 + j).sum()) for j in range(K1)]
            total = leaves[n].numel() if of_picture else sum(sizes)
            if sum(sizes) and max(sizes) >= least * total:
                target = node * K1 + (0 if to_first else sizes.index(max(sizes)))
                chosen = torch.ones_like(leaves[n], dtype=torch.bool) if everything else leaves[n] // K1 == node
                made[n][chosen] = target
        return made

    right = walk(share)
    got = answer(leaves, (K0, K1), share)
    if touched(leaves, before):
        raise CheckFailed("you changed the leaves that you were given: work on a copy")
    slips = {
        "the share is of the node's pixels, not of the picture's": walk(share, of_picture=True),
        "a pruned node becomes its *largest* child, not its first": walk(share, to_first=True),
        "every node is pruned: compare with share": walk(0.0),
        "nothing is pruned": leaves,
        "a pruned node takes pixels of others: change those within it only": walk(share, everything=True),
        "these are nodes, not leaves: the largest child keeps its number": right // K1,
    }
    slips = {message: value for message, value in slips.items() if not close(value.double(), right.double())}
    compare(got, right, "the leaf", slips)
    exact = torch.tensor([[[0, 0, 0, 1]]])
    compare(
        answer(exact, (1, 2), 0.75), torch.zeros_like(exact), "the leaf", {"*at least* share: equality prunes": exact}
    )
