"""Checks of the exercises of chapter 3: masks, their gradient, parallel decoding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fdlib.course.checks import CheckFailed, check, close, compare, numbers, seeded
from fdlib.factorized import FactorizedUNet

SMALL = dict(image_size=16, channels=8, multipliers=(1, 2), blocks=1, attention=(), fold=2)


def _normal(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def _net(regions: int, decoding: str = "parallel") -> FactorizedUNet:
    """A small network in float64 whose mask logits are all zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FactorizedUNet(**SMALL, regions=regions, decoding=decoding).double()
    net.mask_generator.decoder.head.weight.data.zero_()
    return net


def _mask_gradient(net: FactorizedUNet) -> float:
    """The largest gradient that the denoising loss sends to the last layer of the mask generator."""
    x, noise, t = _normal(4, 3, 16, 16), _normal(4, 3, 16, 16, seed=1), torch.full((4,), 30)
    (net(x, t).noise - noise).square().mean().backward()
    head = net.mask_generator.decoder.head
    return float(max(head.weight.grad.abs().max(), head.bias.grad.abs().max()))


@check("What do K regions cost?")
def cost(answer) -> None:
    """``answer(e, d, K) -> ratio``; judged by adding up what runs."""
    for e, d, K in ((10.0, 15.0, 3), (4.0, 7.0, 8), (3.0, 5.0, 1)):
        runs = {"encoder": e, "mask generator": d} | {f"branch {k}": d for k in range(K)}
        right, plain = sum(runs.values()) / (e + d), e + d
        slips = {
            "the mask generator is missing: it is a decoder too": right - d / plain,
            "the encoder runs once, before there are masks, not K times": (K * (e + d) + d) / plain,
            "everything K times would be K separate networks: encoder and mask generator run once": float(K),
            "in units of the plain U-Net: divide by e + d": right * plain,
        }
        slips = {message: value for message, value in slips.items() if abs(value - right) > 1e-9}
        compare(answer(e, d, K), right, "the ratio", slips, where=f"e = {e}, d = {d}, K = {K}")


@check("Who is stuck?")
def stuck(answer) -> None:
    """A dictionary of four predictions; judged by measuring the gradients."""
    nets = {
        "equal, shared": _net(3),
        "constant, shared": _net(3),
        "equal, unshared": _net(3, "unshared"),
        "equal, shared, one region": _net(1),
    }
    nets["constant, shared"].mask_generator.decoder.head.bias.data.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    reasons = {
        "equal, shared": "the branches see the same and share a decoder, so they say the same",
        "constant, shared": "each branch sees the skips at another scale, .5, .3 or .2 of them, so their answers differ",
        "equal, unshared": "decoders with weights of their own say different things about the same input",
        "equal, shared, one region": "a softmax over one region is 1 whatever its logit",
    }
    if not isinstance(answer, dict) or set(answer) != set(nets):
        raise CheckFailed(f"a dictionary with the keys {', '.join(map(repr, nets))} is wanted")
    for name, net in nets.items():
        size = _mask_gradient(net)
        if answer[name] not in (True, False):
            raise CheckFailed(f"{name}: say True or False")
        if answer[name] != (size < 1e-13):
            raise CheckFailed(
                f"{name}: you say {bool(answer[name])}, but the largest gradient is {size:.1e}; {reasons[name]}"
            )


@check("A softmax with a temperature")
def logit_gradient(answer) -> None:
    """``answer(m, g, tau) -> dL/dl``; judged by autograd."""
    for tau in (0.5, 3.0):
        logits, g = _normal(2, 3, 4, 5).requires_grad_(), _normal(2, 3, 4, 5, seed=1)
        m = (logits / tau).softmax(dim=1)
        (right,) = torch.autograd.grad((m * g).sum(), logits)
        m = m.detach()
        slips = {
            "the temperature is missing: the logits enter divided by tau": right * tau,
            "the temperature divides the logits, so by the chain rule it divides the gradient": right * tau**2,
            "the mean of the g_j must be weighted with m": m * (g - g.mean(1, keepdim=True)) / tau,
            "the factor m_k is missing": right / m,
            "the bracket is missing: raising one mask lowers the others": m * g / tau,
            "the sign is turned": -right,
        }
        compare(answer(m, g, tau), right, "the gradient", slips, where=f"tau = {tau}")


@check("Three bugs in parallel decoding")
def decoding(answer) -> None:
    """``answer(decoder, h_mid, skip, logits) -> prediction``; judged with a decoder that is not linear."""
    h_mid, skip, logits = _normal(2, 3, 1, 1), _normal(2, 3, 4, 5, seed=1), _normal(2, 4, 4, 5, seed=2)

    def decoder(h, s):
        return torch.tanh(h + 2 * s) + h**2

    def meant(dim=1, mask_mid=None, weigh=True, share=1.0, mask_skip=True):
        masks = logits.softmax(dim)
        parts = []
        for k in range(logits.shape[1]):
            m = masks[:, [k]]
            h = {None: h_mid, "mean": h_mid * m.mean(), "each": h_mid * m}[mask_mid]
            parts.append((m if weigh else 1.0) * decoder(h, skip * m if mask_skip else skip))
        return share * sum(parts)

    right, mistakes = meant(), {}
    for dim in (1, -1):
        for mid in (None, "mean", "each"):
            for weigh in (True, False):
                names = []
                if dim != 1:
                    names.append("masks must sum to 1 over the regions, dimension 1, at each pixel")
                if mid:
                    names.append("equation 2.6 masks the skips and leaves h_mid alone")
                if not weigh:
                    names.append("equation 2.7 weighs each branch's answer with its mask")
                if names:
                    mistakes["; ".join(names)] = meant(dim, mid, weigh)
    mistakes["no division by K: the masks sum to 1 already"] = meant(share=1 / 4)
    mistakes["each branch must see the skips through its own mask (equation 2.6)"] = meant(mask_skip=False)
    compare(answer(decoder, h_mid, skip, logits), right, "the prediction", mistakes)


@check("One number for alive masks")
def alive(answer) -> None:
    """``answer(masks) -> number``; judged on the two deaths, on perfect masks, and on masks in between."""
    with_zeros = F.one_hot(torch.arange(32).reshape(2, 4, 4) % 4, 4).movedim(-1, 1).double()
    uneven = (3 * _normal(5, 4, 6, 6) + torch.tensor([1.0, 0, 0, -2]).reshape(1, 4, 1, 1)).softmax(1)
    uneven[0] = uneven[0].roll(1, dims=0)
    masks = uneven
    nats = math.log(masks.shape[1])

    def entropy(p, dim):
        return -(p * p.clamp(min=1e-300).log()).sum(dim)

    of_mean, mean_of = entropy(masks.mean((0, 2, 3)), 0), entropy(masks, 1).mean()
    each = entropy(masks.mean((2, 3)), 1).mean()
    right = (of_mean - mean_of) / nats
    slips = {
        "divide by log K, so that the best is 1": of_mean - mean_of,
        "the order is turned: the entropy of the mean is the larger one": -right,
        "this is the entropy of the mean mask alone: grey masks would pass": of_mean / nats,
        "this is the mean entropy alone: collapsed masks would pass": mean_of / nats,
        "take the mean mask over all pictures, not picture by picture": (each - mean_of) / nats,
    }
    compare(answer(masks), right, "the number", slips)
    collapsed = torch.zeros(2, 4, 4, 4, dtype=torch.float64)
    collapsed[:, 1] = 1
    for name, case, want in (
        ("decided masks of equal areas", with_zeros, 1.0),
        ("grey masks", torch.full((2, 4, 4, 4), 0.25, dtype=torch.float64), 0.0),
        ("collapsed masks", collapsed, 0.0),
    ):
        compare(answer(case), want, f"for {name} (mind 0 log 0), the number", atol=1e-5)


@check("Why does Adam not escape?")
def first_step(answer) -> None:
    """``answer(g, learning_rate, eps) -> change``; judged by torch's Adam."""
    for g, rate, eps in ((0.02, 1e-3, 1e-8), (-3e-9, 0.1, 1e-8), (1e-12, 1.0, 1e-8)):
        parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        parameter.grad = torch.full_like(parameter, g)
        torch.optim.Adam([parameter], lr=rate, eps=eps).step()
        right, size = parameter.item(), abs(g)
        slips = {
            "the gradient's sign is lost": -rate * size / (size + eps),
            "the sign is turned: one steps against the gradient": -right,
            "eps stands outside of the root": -rate * g / math.sqrt(g * g + eps),
            "without eps every gradient, however small, becomes a full step": -rate * math.copysign(1, g),
            "the corrections for the first step are missing: mu / (1 - b1), nu / (1 - b2)": -rate
            * 0.1
            * g
            / (math.sqrt(0.001) * size + eps),
            "this is plain gradient descent": -rate * g,
        }
        slips = {name: value for name, value in slips.items() if not math.isclose(value, right, rel_tol=1e-3)}
        compare(answer(g, rate, eps), right, "the step", slips, where=f"g = {g:g}", atol=1e-9 * abs(right))


@check("Another way off the saddle: a gradient (the rest is graded by hand)")
def escape(answer) -> None:
    """``answer(net)`` changes a network on the saddle in place; judged by the gradient that then reaches its mask head."""
    net = _net(3)
    before = _mask_gradient(net)
    net.zero_grad()
    answer(net)
    head = net.mask_generator.decoder.head
    if numbers(head.weight, "the head").abs().max() > 0 or not close(head.bias.detach(), torch.zeros(3).double()):
        raise CheckFailed("leave the last layer of the mask generator at zero: break the symmetry somewhere else")
    if net(_normal(1, 3, 16, 16), torch.tensor([30])).noise.shape != (1, 3, 16, 16):
        raise CheckFailed("the network must still predict noise of the picture's shape")
    first = _mask_gradient(net)
    if first < 1e3 * max(before, 1e-15):
        raise CheckFailed(f"still on the saddle: the largest gradient of the mask head is {first:.1e}")
    net.zero_grad()
    if abs(_mask_gradient(net) - first) > 1e-9 * first:
        raise CheckFailed("the loss must not be random: the same input gives another gradient")
