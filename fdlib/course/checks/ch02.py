"""Checks of the exercises of chapter 2: the U-Net's parts, averages of weights, distances, a sampler."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fdlib import samplers
from fdlib.course.checks import CheckFailed, check, close, compare, numbers, seeded
from fdlib.metrics.generation import frechet_distance
from fdlib.oracle import GaussianMixtureOracle
from fdlib.schedule import NoiseSchedule, time_grid
from fdlib.unet import ResBlock, timestep_embedding

LINEAR, COARSE = NoiseSchedule.linear(1000), NoiseSchedule.cosine(50)


@check("How far is one time from another?")
def likeness(answer) -> None:
    """``answer(difference, channels) -> number``; judged by multiplying two embeddings."""
    for difference, channels in ((0, 64), (7, 64), (250, 32)):
        one, other = timestep_embedding(torch.tensor([400, 400 + difference]), channels).double()
        right, half = one @ other, channels // 2
        slips = {
            "this is a mean over frequencies, or a cosine: the scalar product is a sum": right / half,
            "sines in place of cosines: equal times must be the most alike": sum(
                torch.tensor(difference * 10000.0 ** (-i / half)).sin() for i in range(half)
            ),
            "too many frequencies: each takes two channels, a sine and a cosine": sum(
                torch.tensor(difference * 10000.0 ** (-i / channels)).cos() for i in range(channels)
            ),
        }
        compare(answer(difference, channels), right, "the product", slips, where=f"difference {difference}", rtol=1e-3)


@check("A small error, seen through a_t")
def x0_error(answer) -> None:
    """``answer(schedule, t, delta) -> size``; judged by the clean pictures of two predictions."""
    for schedule, t in ((LINEAR, 700), (COARSE, 3)):
        x_t, noise, delta = torch.tensor(0.4).double(), torch.tensor(-1.1).double(), 0.02
        a, s = schedule.a[t], schedule.s[t]
        right = ((x_t - s * (noise + delta)) / a - (x_t - s * noise) / a).abs()
        slips = {
            "you forgot that the noise enters with the factor s": delta / a,
            "upside down: where little signal is left, a small error becomes large": delta * a / s,
            "these are variances: the factor is s / a, without squares": delta * (s / a) ** 2,
        }
        compare(answer(schedule, t, delta), right, "the error", slips, where=f"t = {t}")


@check("Count a residual block")
def block_size(answer) -> None:
    """``answer(c_in, c_out, c_emb) -> int``; judged by building the block and counting."""
    for c_in, c_out, c_emb in ((32, 48, 128), (24, 24, 96)):
        block = ResBlock(c_in, c_out, c_emb)
        right = sum(parameter.numel() for parameter in block.parameters())
        biases = sum(p.numel() for name, p in block.named_parameters() if name.endswith("bias") and "norm" not in name)
        shortcut = sum(parameter.numel() for parameter in block.shortcut.parameters())
        slips = {
            "the biases are missing: one for each output channel of every convolution and linear layer": right - biases,
            "the two normalisations learn as well: a factor and an offset for each channel": right - 2 * (c_in + c_out),
            "the shortcut's 1x1 convolution is missing (where widths differ)": right - shortcut,
            "where the widths are equal the shortcut is nothing but the input": right + (c_in + 1) * c_out,
            "the time embedding's linear layer is missing": right - (c_emb + 1) * c_out,
            "the second convolution goes from c_out to c_out": right + 9 * (c_in - c_out) * c_out,
        }
        slips = {message: float(value) for message, value in slips.items() if value != right}
        compare(answer(c_in, c_out, c_emb), float(right), "the count", slips, where=f"{c_in} to {c_out} channels")


@check("The average that learned nothing")
def update(answer) -> None:
    """``answer(average, network, d)`` changes ``average`` in place; judged on a net with parameters and buffers."""

    def net(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        made[1].running_mean += seed + 1
        return made

    average, network, d = net(0), net(1), 0.9
    before, raw = copy.deepcopy(average), copy.deepcopy(network)
    answer(average, network, d)
    if not all(torch.equal(p, q) for p, q in zip(network.parameters(), raw.parameters(), strict=True)):
        raise CheckFailed("your update changes the network that is being trained: no in-place operation may touch it")
    for p, old, new in zip(average.parameters(), before.parameters(), raw.parameters(), strict=True):
        slips = {
            "the average follows the newcomer: d, close to 1, belongs to the average": (1 - d) * old + d * new,
            "the average did not change: new tensors that nobody keeps? change it in place": old,
            "the average has become a copy of the network": new,
        }
        compare(p, d * old + (1 - d) * new, "a parameter of the average", slips)
    with torch.no_grad():
        next(network.parameters()).add_(1)
    if not close(
        next(average.parameters()).double(), (d * next(before.parameters()) + (1 - d) * next(raw.parameters())).double()
    ):
        raise CheckFailed("average and network share memory: copy values into the average's own tensors")
    for got, want in zip(average.buffers(), raw.buffers(), strict=True):
        if not torch.equal(got, want):
            raise CheckFailed("buffers (running statistics, counters) must be copied from the network")


@check("What is left of the beginning")
def left_over(answer) -> None:
    """``answer(d, updates) -> share``; judged by averaging a weight that was 1 and has become 0."""
    for d, updates in ((0.9, 40), (0.9999, 200), (0.99, 3)):
        share = shifted = 1.0
        for n in range(1, updates + 1):
            share *= min(d, (1 + n) / (10 + n))
            shifted *= min(d, n / (9 + n))
        slips = {
            "you left out the care at the beginning: d_n starts small": d**updates,
            "you count from n = 0: the first update has n = 1": shifted,
            "this is what has been learned; asked is what is left of the beginning": 1 - share,
            "this is the factor of the last update alone: all of them multiply": min(d, (1 + updates) / (10 + updates)),
        }
        compare(answer(d, updates), share, "the share", slips, where=f"d = {d}, {updates} updates", atol=1e-15)


@check("The distance of a generator that always paints the same")
def diagonal_distance(answer) -> None:
    """``answer(mean_a, std_a, mean_b, std_b) -> number``; judged by the library on points with exactly these moments."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)  # independent, mean 0
    corners = corners / corners.std(0)
    for seed in range(3):
        mean_a, mean_b = torch.randn(2, 3, generator=seeded(seed), dtype=torch.float64)
        std_a, std_b = 0.2 + torch.rand(2, 3, generator=seeded(seed), dtype=torch.float64)
        right = frechet_distance(mean_a + std_a * corners, mean_b + std_b * corners)
        means = (mean_a - mean_b).square().sum()
        slips = {
            "only the means are compared: a generator without variety would be perfect": means,
            "you compare variances; the square in the formula is that of a difference of standard deviations": means
            + (std_a**2 - std_b**2).square().sum(),
            "the cross term -2 std_a std_b is missing: equal Gaussians must have distance 0": means
            + (std_a**2 + std_b**2).sum(),
            "this is the root: the formula gives a squared distance": right**0.5,
            "this is a mean over features: the trace is a sum": right / 3,
        }
        compare(answer(mean_a, std_a, mean_b, std_b), right, "the distance", slips)


class _Counting:
    """An exact denoiser of six blobs that counts how often it is asked, and when."""

    def __init__(self, schedule):
        angles = torch.arange(6).double() * torch.pi / 3
        self.oracle = GaussianMixtureOracle(schedule, torch.stack([angles.cos(), angles.sin()], 1), 0.04)
        self.times = []

    def __call__(self, x, t):
        if not isinstance(t, torch.Tensor) or t.shape != (len(x),):
            raise CheckFailed("a denoiser wants one time for each row: torch.full((len(x),), t)")
        self.times.append(int(t[0]))
        return self.oracle(x, t)


@check("A sampler of your own")
def ab2(answer) -> None:
    """``answer(denoiser, schedule, x_T, times) -> x``; judged by its own recursion and by its order."""
    x_T = torch.randn(100, 2, generator=seeded(0), dtype=torch.float64)
    times = time_grid(1000, 12, power=2)
    asked = _Counting(LINEAR)
    got = numbers(answer(asked, LINEAR, x_T, times), "x", (100, 2))
    if asked.times != times[:-1]:
        raise CheckFailed(
            f"evaluate the denoiser once at each time but the last, in order: {len(times) - 1} times; yours was asked "
            f"{len(asked.times)} times"
        )
    u = [float(LINEAR.s[t] / LINEAR.a[t]) if t >= 0 else 0.0 for t in times]
    a = [float(LINEAR.a[t]) if t >= 0 else 1.0 for t in times]

    def walk(weight):
        y, slopes = x_T / a[0], []
        for i in range(len(times) - 1):
            slopes.append(asked.oracle(a[i] * y, times[i]).noise)
            gain = weight(i, u[i + 1] - u[i], u[i] - u[i - 1]) if i else 0.0
            y = y + (u[i + 1] - u[i]) * (slopes[i] + gain * (slopes[i] - slopes[i - 1]))
        return y

    last = len(times) - 2
    slips = {
        "this is DDIM: the slope from before is never used": walk(lambda i, h, before: 0.0),
        "your weights 3/2 and -1/2 are those of equal steps; here each has its own length": walk(
            lambda i, h, before: 0.5
        ),
        "the sign of the correction is turned: you move back towards the slope from before": walk(
            lambda i, h, before: -h / (2 * before)
        ),
        "the two step lengths are exchanged: h over twice the one before": walk(lambda i, h, before: before / (2 * h)),
        "you extrapolate to the end of the step, not to its middle: a factor 1/2 is missing": walk(
            lambda i, h, before: h / before
        ),
        "the last step is Euler's; here it has the correction too": walk(
            lambda i, h, before: h / (2 * before) if i < last else 0.0
        ),
    }
    compare(got, walk(lambda i, h, before: h / (2 * before)), "x", slips)
    fine = samplers.ode(asked.oracle, LINEAR, x_T, steps=200, progress=False)
    error = [(answer(asked, LINEAR, x_T, time_grid(1000, n, power=2)) - fine).norm(dim=1).median() for n in (20, 40)]
    if not error[1] < 0.5 * error[0]:
        raise CheckFailed("twice as many steps should more than halve the error of a second-order method")
