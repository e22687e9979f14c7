"""Checks of the exercises of chapter 10: unknown cameras, candidates, and what can be known of them."""

from __future__ import annotations

import math

import torch

from fdlib.cameras import look_at, rodrigues, spherical
from fdlib.course.checks import CheckFailed, check, close, compare, numbers, parts, seeded
from fdlib.nerf import render_image
from fdlib.schedule import NoiseSchedule


def _normal(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


@check("The mean of 350 and 10 degrees")
def mean_azimuth(answer) -> None:
    """``answer(degrees) -> degrees``; judged by turning all angles, which must turn their mean."""
    base = torch.tensor([-20.0, -5.0, 3.0, 40.0]).double()
    start = float(torch.angle(torch.polar(torch.ones(4).double(), base * math.pi / 180).sum())) * 180 / math.pi
    for turn in (100.0, 0.0, 200.0, 355.0):
        angles, right = (base + turn) % 360, (start + turn) % 360
        radians = angles * math.pi / 180
        slips = {
            "this is the arithmetic mean, which takes 350 and 10 for far apart": float(angles.mean()),
            "this is in radians": right * math.pi / 180,
            "sine and cosine are exchanged: atan2 wants the sine first": (90 - right) % 360,
            "sine and cosine want radians, these angles are in degrees": float(
                torch.rad2deg(torch.atan2(angles.sin().mean(), angles.cos().mean())) % 360
            ),
            "it must lie in [0, 360)": right - 360,
            "a plain arctangent cannot tell opposite directions apart: use atan2": float(
                torch.rad2deg(torch.atan(radians.sin().mean() / radians.cos().mean())) % 360
            ),
        }
        slips = {message: value for message, value in slips.items() if abs(value - right) > 1e-3}
        compare(answer(angles), right, "the mean", slips, where=f"angles {angles.tolist()}")


@check("How many steps do these betas need?")
def smallest_steps(answer) -> None:
    """``answer(share) -> T``; judged by building schedules."""
    for share in (0.1, 0.01, 0.001):

        def first(left, share=share):
            return next(T for T in range(2, 2000) if left(NoiseSchedule.linear(T)) < share)

        right = first(lambda schedule: float(schedule.alpha_bars[-1]))
        slips = {
            "you compare a, the root; the share of the variance is alpha_bar": first(
                lambda schedule: float(schedule.a[-1])
            ),
            "betas are not subtracted one by one: what is left shrinks by a factor in each step": first(
                lambda schedule: float(1 - schedule.betas.sum())
            ),
            "exp(-sum of betas) is near, but the product of 1 - beta is smaller": first(
                lambda schedule: float(torch.exp(-schedule.betas.sum()))
            ),
            "this is the last index; T steps have the indices 0 .. T - 1": right - 1,
            "one too many: with one step less it is below already": right + 1,
        }
        slips = {message: float(value) for message, value in slips.items() if value != right}
        compare(answer(share), float(right), "T", slips, where=f"a share of {share}")


@check("Eight blind guesses")
def best_of(answer) -> None:
    """``answer(N) -> degrees``; judged by throwing dice a hundred thousand times."""
    for N in (8, 2, 1):
        guesses = 360 * torch.rand(200_000, N, generator=seeded(N), dtype=torch.float64)
        simulated = float(torch.minimum(guesses, 360 - guesses).amin(1).mean())
        slips = {
            "these would be the errors of guesses that are spread evenly; independent ones leave gaps": 90.0 / N,
            "the mean of N errors is 90 whatever N is; the *best* is asked for": 90.0,
            "radians; degrees are wanted": math.pi / (N + 1),
            "this is half the width of an even sector; see what it gives for N = 1": 180.0 / N,
            "an error is at most 180 degrees, not 360": 360.0 / (N + 1),
            "this is the typical *worst*: 180 N / (N + 1)": 180.0 * N / (N + 1),
        }
        slips = {message: value for message, value in slips.items() if abs(value - simulated) > 0.02 * simulated}
        compare(answer(N), simulated, "the error", slips, where=f"N = {N}", rtol=0.01)


@check("The same pictures of a larger world")
def enlarge(answer) -> None:
    """``answer(c2w, near, far, density, k)``; judged by the pictures before and after."""
    c2w = look_at(spherical(torch.tensor(0.7), 0.5, 3.0))
    k, dense = 2.5, torch.tensor([3.0, 0.7])

    def ball(values, size):
        def field(points, directions):
            inside = (points - torch.tensor([0.1, 0.0, 0.2]) * size).norm(dim=-1) < 0.6 * size
            return values[0] * inside + values[1] * (points[..., 2] < -0.3 * size), (points / size).sigmoid()

        return field

    def picture(field, camera, near, far):
        return render_image(field, camera[None], 12.0, 8, near, far, samples=32).images

    larger, near, far, density = parts(answer(c2w.clone(), 2.0, 4.0, dense.clone(), k), "c2w", "near", "far", "density")
    larger = numbers(larger, "c2w", (4, 4))
    turn = c2w[:3, :3].double()
    if not close(larger[:3, :3], turn):
        if close(larger[:3, :3], k * turn):
            raise CheckFailed("a rotation has no unit of length: only the last column of c2w, the place, grows")
        raise CheckFailed("the cameras look in the same directions as before: the rotation must stay")
    compare(larger[3], c2w[3], "the last row of c2w", {"the last row, (0, 0, 0, 1), stays as it is": k * c2w[3]})
    place = c2w[:3, 3]
    slips = {
        "the cameras stay where they are; they must move with the world": place,
        "they move the wrong way: k times as far": place / k,
    }
    compare(larger[:3, 3], k * place, "the place", slips)
    for name, got, was in (("near", near, 2.0), ("far", far, 4.0)):
        slips = {f"{name} is a distance: it grows with the world": was, f"{name} shrinks in yours": was / k}
        compare(got, k * was, name, slips)
    slips = {
        "the densities are unchanged: the way through matter is k times as long, so k times as much light is stopped": dense,
        "the densities grow in yours; a density is per unit of length": k * dense,
        "a density here is per length, not per volume": dense / k**3,
    }
    compare(density, dense / k, "the density", slips)
    before = picture(ball(dense, 1.0), c2w, 2.0, 4.0)
    after = picture(ball(torch.as_tensor(density).float(), k), larger.float(), float(near), float(far))
    if not torch.allclose(before, after, atol=1e-3):
        raise CheckFailed(f"the pictures differ by up to {float((before - after).abs().max()):.3f}")


@check("How many candidates are alive?")
def effective(answer) -> None:
    """``answer(chosen, N) -> number``; judged on shares whose entropy is known."""
    cases = (
        ("all alike", torch.arange(24) % 8, 8, 8.0),
        ("four of eight alike", torch.arange(24) % 4, 8, 4.0),
        ("one takes everything", torch.full((10,), 3), 5, 1.0),
        ("one half, two quarters", torch.tensor([0, 0, 1, 2]), 4, 2**1.5),
    )
    for name, chosen, N, right in cases[::-1]:
        counts = chosen.bincount(minlength=N)
        nats = math.log(right)
        slips = {
            "this is the entropy; its exponential is the number": nats,
            "this counts every candidate that is used at all": float((counts > 0).sum()),
            "this is the inverse of the largest share": len(chosen) / float(counts.max()),
            "base 2 in the logarithm and e in the exponential do not fit": math.exp(nats / math.log(2)),
            "the sign is turned": math.exp(-nats),
            "divide the counts by their sum first": math.exp(-float(torch.special.xlogy(counts, counts).sum())),
        }
        slips = {message: value for message, value in slips.items() if abs(value - right) > 1e-6}
        compare(answer(chosen, N), right, "the number", slips, where=name)


@check("Sharing out unevenly")
def share_out(answer) -> None:
    """``answer(errors, shares, tau) -> plan``; judged by the conditions that define the plan."""
    errors, shares, tau = 3 + _normal(24, 4), torch.tensor([0.5, 0.3, 0.1, 0.1]).double(), 0.7
    plan = numbers(answer(errors.clone(), shares, tau), "the plan", (24, 4))
    if (plan < 0).any():
        raise CheckFailed("a plan has no negative entries")
    columns = plan.sum(0)
    compare(
        columns.sum(),
        24.0,
        "the sum of the plan",
        {"columns must sum to B q, not to q: multiply by the number of views": 1.0},
    )
    after_one = numbers(answer(errors.clone(), shares, tau, 1), "the plan after one round", (24, 4))
    if not close(after_one.sum(1), torch.ones(24).double(), atol=1e-9):
        raise CheckFailed(
            "each row is a view, which must be placed entirely: its sum must be 1; normalise the rows last"
        )
    slips = {
        "all candidates get the same: use the shares": torch.full((4,), 6.0),
        "the shares are exchanged: a large q means many views": 24 * (1 / shares) / (1 / shares).sum(),
    }
    compare(columns, 24 * shares, "the sums of the columns", slips, rtol=1e-3)
    # log P + E / tau must be a number of the row plus a number of the column
    rest = plan.clamp(min=1e-300).log() + errors / tau
    rest = rest - rest.mean(0) - rest.mean(1, keepdim=True) + rest.mean()
    if rest.abs().max() > 1e-3:
        turned = plan.clamp(min=1e-300).log() - errors / tau
        turned = turned - turned.mean(0) - turned.mean(1, keepdim=True) + turned.mean()
        if turned.abs().max() < 1e-3:
            raise CheckFailed("the sign is turned: a large error must make a place unlikely")
        raise CheckFailed("the plan is not of the form u exp(-E / tau) v: how does tau enter?")
    far = numbers(answer(1000 * errors, shares, 0.7 * 1000, 50), "the plan for errors in other units", (24, 4))
    if not close(far, numbers(answer(errors, shares, 0.7, 50), "the plan"), rtol=1e-4):
        raise CheckFailed("errors and tau in other units must give the same plan")
    numbers(answer(errors + 5000, shares, tau), "the plan for large errors", (24, 4))


@check("The mean of rotations")
def mean_rotation(answer) -> None:
    """``answer(rotations) -> rotation``; judged by being nearest to the arithmetic mean, and a rotation."""
    for seed, spread in (
        (0, 0.3),
        (1, 0.3),
        (3, 3.0),
        (15, 3.0),
        (16, 3.0),
        (31, 3.0),
    ):  # the last four: det(U V^T) = -1
        rotations = rodrigues(spread * _normal(5, 3, seed=seed)) @ rodrigues(_normal(3, seed=seed + 50))
        mean = rotations.mean(0)
        got = numbers(answer(rotations), "the mean rotation", (3, 3))
        if close(got, mean):
            raise CheckFailed("this is the arithmetic mean, which is not a rotation: its columns are shorter than 1")
        if not close(got @ got.T, torch.eye(3).double(), atol=1e-5):
            raise CheckFailed("the columns are not at right angles, of length 1: the singular values must all become 1")
        if torch.linalg.det(got) < 0:
            raise CheckFailed("this is a mirror image (determinant -1): flip the sign of the last column of U")
        left, _, right = torch.linalg.svd(mean)
        best = _nearest(mean)
        slips = {
            "this turns the other way: it is the transpose, the inverse rotation": best.T,
            "this is one of the rotations, not their mean": rotations[0],
            "V is transposed once too often: torch returns V transposed already": left @ right.T,
            "the wrong column is flipped: the one with the smallest singular value, the last": left
            @ torch.diag(torch.tensor([float(torch.linalg.det(left @ right)), 1.0, 1.0]).double())
            @ right,
        }
        slips = {message: value for message, value in slips.items() if not close(value, best)}
        compare(got, best, "the mean rotation", slips, atol=1e-4)


def _nearest(matrix):
    """The rotation with the largest trace of R^T M, found by quaternions (Horn 1987), without a singular value decomposition."""
    m = matrix
    trace = m.trace()
    z = torch.stack([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    big = torch.zeros(4, 4, dtype=m.dtype)
    big[0, 0], big[0, 1:], big[1:, 0] = trace, z, z
    big[1:, 1:] = m + m.T - trace * torch.eye(3, dtype=m.dtype)
    w, x, y, k = torch.linalg.eigh(big).eigenvectors[:, -1]
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + k * k), 2 * (x * y - k * w), 2 * (x * k + y * w)]),
            torch.stack([2 * (x * y + k * w), 1 - 2 * (x * x + k * k), 2 * (y * k - x * w)]),
            torch.stack([2 * (x * k - y * w), 2 * (y * k + x * w), 1 - 2 * (x * x + y * y)]),
        ]
    )
