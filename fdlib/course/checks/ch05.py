"""Checks of the exercises of chapter 5: what decodings compute, and what an ablation can prove."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F

from fdlib.course.checks import CheckFailed, check, compare, numbers, seeded


@check("What a step costs")
def forward_cost(answer) -> None:
    """``answer(E, D, K, model) -> cost``; judged by adding up the parts that each model runs."""
    for E, D, K in ((3.0, 5.0, 4), (7.0, 2.0, 3)):
        runs = {"plain": [E, D], "concat": [E, D, D]}
        runs |= {name: [E, D, *[D] * K] for name in ("parallel", "mask_mid", "unshared")}
        for name, parts in runs.items():
            slips = {"a mask generator has to run first, it costs D too": sum(parts) - D} if name != "plain" else {}
            if name == "concat":
                slips["concat decodes once, whatever K is: that is its attraction"] = E + (K + 1) * D
            elif name == "plain":
                slips["the plain model has no masks, and so no mask generator"] = E + 2 * D
            else:
                slips["the encoder runs once; its features are masked, not computed anew, in each branch"] = (
                    K * E + (K + 1) * D
                )
                if name == "unshared":
                    slips["not sharing weights costs memory; K decoders run in any case"] = E + D * (2 * K)
                slips["its decoder runs once for each region"] = E + 2 * D
            compare(answer(E, D, K, name), sum(parts), "the cost", slips, where=f"{name}, K = {K}")


def _toy(seed: int = 0):
    """A decoder that is not linear, features of two sizes, and soft masks: B = 2, K = 3."""
    generator = seeded(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    h_mid, h_enc = draw(2, 4, 2, 2), [draw(2, 3, 8, 8), draw(2, 5, 4, 4)]
    masks = (2 * draw(2, 3, 8, 8)).softmax(1)
    w_mid, w_first, w_second = draw(3, 4), draw(3, 3), draw(3, 5)

    def decoder(mid, enc):
        parts = [(w_mid, mid), (w_first, enc[0]), (w_second, enc[1])]
        total = sum(F.interpolate(torch.einsum("oc,bchw->bohw", w, h), (8, 8), mode="nearest") for w, h in parts)
        return torch.tanh(total) + 0.3

    return decoder, h_mid, h_enc, masks


def _at(masks: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Masks at the size of h, by averaging blocks."""
    block = masks.shape[-1] // h.shape[-1]
    return masks.unflatten(2, (-1, block)).unflatten(4, (-1, block)).mean((3, 5))


@check("Decode in parallel")
def decode(answer) -> None:
    """``answer(decoder, h_mid, h_enc, masks) -> prediction``; judged with a toy decoder, all branches written out."""
    decoder, h_mid, h_enc, masks = _toy()
    count = masks.shape[1]

    def branches(mask_skips=True, mask_mid=False, only_first=False):
        parts = []
        for k in range(count):
            sees = [h * _at(masks, h)[:, k, None] if mask_skips and not (only_first and i) else h
                    for i, h in enumerate(h_enc)]  # fmt: skip
            parts.append(decoder(h_mid * _at(masks, h_mid)[:, k, None] if mask_mid else h_mid, sees))
        return torch.stack(parts, 1)

    def weighted(parts):
        return (parts * masks[:, :, None]).sum(1)

    slips = {
        "each branch counts only where its mask is: multiply by m_k before you sum (equation 2.7)": branches().sum(1),
        "this is the mean over the branches; the masks already sum to 1": weighted(branches()) / count,
        "h_mid is not masked, only the skips are (equation 2.6)": weighted(branches(mask_mid=True)),
        "the skips are not masked: every branch sees everything": weighted(branches(mask_skips=False)),
        "this is `mask_mid`: the skips are to be masked, and h_mid is not": weighted(branches(False, True)),
        "only the first skip is masked; all of them must be": weighted(branches(only_first=True)),
    }
    compare(answer(decoder, h_mid, h_enc, masks), weighted(branches()), "the prediction", slips)


@check("Grey masks")
def grey(answer) -> None:
    """``answer(decoder, h_mid, h_enc, K) -> prediction``; judged by running all K branches."""
    decoder, h_mid, h_enc, _ = _toy(1)
    for K in (3, 4):
        calls = []

        def counted(mid, enc, calls=calls):
            calls.append(1)
            return decoder(mid, enc)

        got = answer(counted, h_mid, h_enc, K)
        right = sum(decoder(h_mid, [h / K for h in h_enc]) / K for _ in range(K))
        slips = {
            "each branch sees the skips times its mask, 1/K": decoder(h_mid, h_enc),
            "the sum has K terms, each times 1/K": decoder(h_mid, [h / K for h in h_enc]) / K,
            "each term is weighted by its mask, 1/K, before the sum": K * decoder(h_mid, [h / K for h in h_enc]),
            "h_mid is not masked": decoder(h_mid / K, [h / K for h in h_enc]),
        }
        compare(got, right, "the prediction", slips, where=f"K = {K}")
        if len(calls) != 1:
            raise CheckFailed(f"right, but the decoder was called {len(calls)} times: one call is enough")


class _Model:
    """A factorized model in miniature, which notes whether its masks were handed to the right pictures."""

    def __init__(self):
        self.weight = torch.randn(3, 3, generator=seeded(3))

    def encode(self, x_t, t):
        return x_t.mean((2, 3)), [x_t], t.float()

    def mask_generator(self, h_mid, h_enc, emb):
        return (3 * torch.einsum("kc,bchw->bkhw", self.weight, h_enc[0])).softmax(1)

    def decode(self, h_mid, h_enc, emb, masks):
        return torch.einsum("bkhw,kc->bchw", masks, self.weight) + 0.1 * h_enc[0] + h_mid[:, :, None, None]


@check("Are the masks used?")
def reliance(answer) -> None:
    """``answer(model, x_t, t, noise) -> ratio``; judged by denoising picture by picture."""
    model, generator = _Model(), seeded(4)
    x_t, noise = (torch.randn(5, 3, 6, 6, generator=generator) for _ in range(2))
    t = torch.full((5,), 30)
    parts = model.encode(x_t, t)
    masks = model.mask_generator(*parts)

    def error(given, power=2):
        each = [(model.decode(*parts, given)[i] - noise[i]).abs().pow(power).mean() for i in range(5)]
        return torch.stack(each).mean()

    order = torch.tensor([1, 2, 3, 4, 0])
    own, other = error(masks), error(masks[order])
    slips = {
        "upside down: error with other masks over error with own": own / other,
        "the masks of the regions are exchanged within each picture (dims=1); exchange the pictures": error(
            masks.roll(-1, 1)
        )
        / own,
        "these are the masks of the picture before; asked for is the next": error(masks[[4, 0, 1, 2, 3]]) / own,
        "this is a difference: divide": other - own,
        "this is a ratio of mean absolute errors; the denoising error is squared": error(masks[order], 1)
        / error(masks, 1),
        "this is a ratio of root mean squares; leave the square": (other / own).sqrt(),
        "the two errors are the same: are the masks exchanged at all?": 1.0,
    }
    compare(answer(model, x_t, t, noise), other / own, "the ratio", slips)


@check("What three seeds can prove")
def permutation(answer) -> None:
    """``answer(a, b) -> p``; judged by dealing all labels out, one subset of bits after the other."""
    cases = (([0.7, 0.8, 0.9], [0.1, 0.2, 0.3]), ([0.7, 0.3, 0.6], [0.5, 0.2, 0.4, 0.1]), ([0.1, 0.4], [0.3, 0.5, 0.9]))
    for a, b in cases:
        scores, n, gaps = [*a, *b], len(a), []
        for bits in range(2 ** len(scores)):
            first = [s for i, s in enumerate(scores) if bits >> i & 1]
            if len(first) == n:
                gaps.append(sum(first) / n - (sum(scores) - sum(first)) / len(b))
        observed = sum(a) / n - sum(b) / len(b)
        tie = 1e-9

        size, sign = abs(observed), 1 if observed > 0 else -1
        extreme = [abs(g) >= size - tie for g in gaps]
        right = sum(extreme) / len(gaps)
        slips = {
            "only one direction is counted: a difference the other way round would have surprised you as much": sum(
                g * sign >= size - tie for g in gaps
            )
            / len(gaps),
            "the split that you saw is one of those that could have been: count it (at least as much, >=)": sum(
                abs(g) > size + tie for g in gaps
            )
            / len(gaps),
            "this is the share of splits that are *less* extreme": 1 - right,
            "this is a number of splits: divide by how many there are": sum(extreme),
        }
        got = numbers(answer(a, b), "p", ())
        slips = {message: value for message, value in slips.items() if abs(value - right) > 1e-9}
        compare(got, right, "p", slips, where=f"{len(a)} and {len(b)} scores")
    shuffled = random.Random(0).sample(cases[1][0], 3)
    compare(answer(shuffled, cases[1][1]), answer(*cases[1]), "p", where="the same scores in another order")
