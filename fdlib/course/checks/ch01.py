"""Checks of the exercises of chapter 1: the forward process, one step back, exact denoisers."""

from __future__ import annotations

import math

import torch

from fdlib import process
from fdlib.course.checks import CheckFailed, check, close, compare, numbers, parts, seeded
from fdlib.denoiser import Prediction
from fdlib.oracle import GaussianMixtureOracle
from fdlib.schedule import NoiseSchedule

LINEAR, COARSE = NoiseSchedule.linear(1000), NoiseSchedule.cosine(50)


def _normal(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


@check("From t to u in one jump")
def jump(answer) -> None:
    """``answer(schedule, t, u) -> r, v``; judged by walking the single steps from t to u."""
    for schedule, t, u in ((LINEAR, 30, 400), (COARSE, 5, 6), (LINEAR, 0, 999)):
        r, v = parts(answer(schedule, t, u), "r", "v")
        shrunk, variance = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for beta in schedule.betas[t + 1 : u + 1]:
            shrunk, variance = (1 - beta).sqrt() * shrunk, (1 - beta) * variance + beta
        before, after = schedule.s[t] ** 2, schedule.s[u] ** 2
        where = f"t = {t}, u = {u}"
        slips = {
            "your r is the factor of the clean picture: from x_t on, only what happens after t counts": schedule.a[u],
            "your r is a ratio of alpha_bars: take their roots, a": shrunk**2,
            "your r is upside down: a jump on towards noise shrinks": 1 / shrunk,
        }
        compare(r, shrunk, "r", slips, where=where)
        slips = {
            "your v is a standard deviation: a variance is asked for": variance.sqrt(),
            "your v forgets that the noise already in x_t is shrunk by r as well": after - before,
            "your v is all the noise of x_u; some of it was in x_t already": after,
        }
        compare(v, variance, "v", slips, where=where)


@check("When noise takes over")
def first_noisy(answer) -> None:
    """``answer(beta) -> int``; judged by building the schedule and looking."""
    for beta in (0.01, 0.003, 0.2, 0.45):
        schedule = NoiseSchedule.from_betas(torch.full((2000,), beta))

        def first(threshold, schedule=schedule):
            return int((schedule.alpha_bars < threshold).nonzero()[0])

        right = first(0.5)
        slips = {
            "one too late: you count from 1, but the first step ends at index 0": right + 1.0,
            "one too early: at this index the signal is still stronger": right - 1.0,
            "you compare a with 1/2; the variances are equal where a squared is 1/2": float(first(0.25)),
        }
        compare(answer(beta), float(right), "t", slips, where=f"beta = {beta}")


@check("Three bugs")
def step(answer) -> None:
    """``answer(schedule, x_t, t, noise_hat, z) -> x_{t-1}``; judged part by part against Bayes' rule."""
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for schedule, t in ((LINEAR, 400), (COARSE, 20), (LINEAR, 0)):
        s, beta = schedule.s[t], schedule.betas[t]
        x0_from_x, x0_from_noise = 1 / schedule.a[t], -s / schedule.a[t]  # x0 = (x_t - s noise) / a
        with_x, _ = process.posterior(schedule, x0_from_x * one, one, t, t - 1)
        with_noise, _ = process.posterior(schedule, x0_from_noise * one, zero, t, t - 1)
        slips = {"you divide by the root of alpha_bar_t; one step back undoes one step: alpha_t": x0_from_x * one}
        compare(answer(schedule, one, t, zero, zero), with_x, "what x_t contributes", slips, where=f"t = {t}")
        slips = {
            "the noise is still divided by a variance, 1 - alpha_bar; its root belongs there": with_noise / s,
            "the noise has the wrong sign: it is to be taken away": -with_noise,
            "the noise is divided by nothing; it needs beta / s": with_noise * s,
        }
        compare(answer(schedule, zero, t, one, zero), with_noise, "what the noise contributes", slips, where=f"t = {t}")
        z_part = beta.sqrt() * one if t else zero
        slips = {
            "noise is still added in the last step, at t = 0 (equation 2.10)": (beta.sqrt() if not t else math.inf)
            * one,
            "your sigma is beta, the variance: z needs its root": beta * one,
            "there is no z at all: without noise, all samples collapse": zero,
        }
        compare(answer(schedule, zero, t, zero, one), z_part, "what z contributes", slips, where=f"t = {t}")


@check("The score, from a clean guess")
def score_from_x0(answer) -> None:
    """``answer(schedule, x_t, x0_hat, t) -> score``; judged by the gradient of a mixture's log-density."""
    oracle = GaussianMixtureOracle(LINEAR, _normal(3, 2), 0.2)
    for t in (30, 300):
        x = _normal(50, 2, seed=1).requires_grad_()
        (right,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
        x = x.detach()
        x0_hat, s = process.to_x0(LINEAR, oracle(x, t), x, t), LINEAR.s[t]
        slips = {
            "you divide by s; the score needs its square": right * s,
            "your sign is turned: the score points towards the data, from x_t to a x0": -right,
            "you compare x_t with x0 itself, but the data have shrunk: a x0": (x0_hat - x) / s**2,
            "this is the expected noise, not the score: divide by -s once more": -right * s,
        }
        compare(answer(LINEAR, x, x0_hat, t), right, "the score", slips, where=f"t = {t}")


@check("A prediction: how small does it get?")
def noise_free_spread(answer) -> None:
    """``answer(schedule, sigma) -> std``; judged by walking one point down with the exact denoiser."""
    for schedule, sigma in ((COARSE, 0.5), (LINEAR, 1.0), (LINEAR, 2.0)):
        x, without_shrink = torch.ones(1, 1, dtype=torch.float64), 1.0
        oracle = GaussianMixtureOracle(schedule, torch.zeros(1, 1, dtype=torch.float64), sigma**2)
        for t in reversed(range(schedule.T)):
            x = (x - schedule.betas[t] / schedule.s[t] * oracle(x, t).noise) / schedule.alphas[t].sqrt()
        right = x.squeeze()
        without_shrink = right * schedule.a[-1]
        only_noise = ((1 - schedule.betas / schedule.s**2) / schedule.alphas.sqrt()).prod()
        slips = {
            "this is a variance: the standard deviation is its root": right**2,
            "you forgot to divide by the root of alpha_t in each step": without_shrink,
            "your denoiser ignores the data's variance a^2 sigma^2: it believes that x_t is all noise": only_noise,
        }
        compare(answer(schedule, sigma), right, "the spread", slips, where=f"sigma = {sigma}", atol=1e-9)


@check("The denoiser that has seen everything")
def memory(answer) -> None:
    """``answer(schedule, data, x_t, t) -> noise``; judged by a mixture of Gaussians too narrow to see."""
    data, x_t = _normal(20, 2), _normal(8, 2, seed=1)
    oracle = GaussianMixtureOracle(LINEAR, data, 1e-12)
    for t in (200, 600, 999):
        right, (a, s) = oracle(x_t, t).noise, LINEAR.at(t, x_t)
        gap = x_t[:, None] - a * data

        def blend(exponents, values=gap / s):
            return (torch.softmax(exponents, 1)[..., None] * values).sum(1)

        exponents = -0.5 * gap.square().sum(-1)
        slips = {
            "you return the mean of the data: turn it into noise, (x_t - a x0) / s": (x_t - s * right) / a,
            "your weights divide by s, not by s squared: how wide is the bell around a x0?": blend(exponents / s),
            "your weights forget the width of the bell: divide the squared distance by 2 s^2": blend(exponents),
            "your weights lack the 1/2 in the exponent": blend(2 * exponents / s**2),
            "you compare x_t with the data themselves, but they have shrunk: a x0": blend(
                -0.5 * (x_t[:, None] - data).square().sum(-1) / s**2
            ),
            "your weights do not sum to 1 over the data": blend(exponents / s**2) * len(data),
        }
        compare(answer(LINEAR, data, x_t, t), right, "the noise", slips, where=f"t = {t}")
    near = process.add_noise(LINEAR, data[:8], 0, x_t)
    numbers(answer(LINEAR, data, near + 5, 0), "at t = 0, far from all data, the noise", (8, 2))


@check("DDIM is a rotation")
def rotate(answer) -> None:
    """``answer(schedule, x_t, velocity, t, t_next) -> x``; judged by DDIM as it is usually written."""
    x_t, velocity = _normal(4, 3), _normal(4, 3, seed=1)
    for schedule, t, t_next in ((LINEAR, 700, 400), (COARSE, 30, 29)):
        said = Prediction(velocity=velocity)
        x0, noise = (process.convert(schedule, said, x_t, t, to) for to in ("x0", "noise"))
        right = schedule.a[t_next] * x0 + schedule.s[t_next] * noise
        c = schedule.a[t] * schedule.a[t_next] + schedule.s[t] * schedule.s[t_next]
        s = schedule.a[t] * schedule.s[t_next] - schedule.s[t] * schedule.a[t_next]
        by_variance = torch.acos(schedule.alpha_bars)
        turn = by_variance[t_next] - by_variance[t]
        slips = {
            "you turn the wrong way, towards more noise": c * x_t - s * velocity,
            "sine and cosine are exchanged: a small turn must leave x_t nearly as it is": s * x_t + c * velocity,
            "your angle comes from alpha_bar: its cosine is a, the root": turn.cos() * x_t + turn.sin() * velocity,
            "this is the predicted clean picture: turn only to t_next": x0,
        }
        compare(answer(schedule, x_t, velocity, t, t_next), right, "x at t_next", slips, where=f"t = {t} to {t_next}")


@check("Fifty steps: a valid schedule (the rest is graded by hand)")
def my_betas(answer) -> None:
    """``answer() -> (50,)`` betas of a schedule that ends in noise."""
    betas = numbers(answer(), "your betas", (50,))
    if not ((betas > 0) & (betas < 1)).all():
        raise CheckFailed("each beta is a variance that a step adds: strictly between 0 and 1")
    left = float((1 - betas).prod())
    if left > 0.01:
        raise CheckFailed(
            f"{left:.0%} of the signal's variance is left at the end, more than 1 %: sampling starts from pure noise"
        )
    if close(betas, NoiseSchedule.linear(50, rescale=True).betas):
        raise CheckFailed("this is the linear schedule, which you are to beat")
