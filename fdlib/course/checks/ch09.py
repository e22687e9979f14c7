"""Checks of the exercises of chapter 9: six numbers for a camera, and what can be known of them."""

from __future__ import annotations

import math

import torch

from fdlib.cameras import camera_to_world, field_of_view, project, rodrigues, rotation_angle
from fdlib.course.checks import CheckFailed, check, close, compare, numbers, parts, seeded
from fdlib.process import PowerT


def _normal(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


@check("Turned, or stepped aside?")
def moved_pixels(by_turning, by_stepping) -> None:
    """Two functions; judged by projecting a point before and after."""
    for angle, distance, depth, focal in ((0.3, 0.2, 2.5, 40.0), (0.02, 0.5, 1.2, 90.0)):
        point = torch.tensor([[0.0, 0.0, -depth]]).double()

        def moved(v, place, point=point, focal=focal):
            camera = camera_to_world(rodrigues(torch.tensor(v).double()), torch.tensor(place).double())
            return float((project(point, camera, focal, 64)[0][0, 0] - 32).abs())

        turned, stepped = moved([0.0, angle, 0.0], [0.0, 0.0, 0.0]), moved([0.0, 0.0, 0.0], [distance, 0.0, 0.0])
        slips = {
            "right for small angles only: the picture is flat, so it is the tangent": focal * angle,
            "the sine is the way across; on the picture it is divided by the cosine, the new depth": focal
            * math.sin(angle),
            "degrees and radians: the angle comes in radians": focal * math.tan(math.radians(angle)),
            "this is in units of the picture at depth 1: times the focal length, in pixels": math.tan(angle),
            "a turn moves near and far points alike: no field of view in it": focal * angle / field_of_view(focal, 64),
        }
        compare(by_turning(angle, focal), turned, "the pixels by turning", slips, where=f"angle {angle}")
        slips = {
            "far points move less: divide by the depth": focal * distance,
            "upside down: far points move less": focal * depth / distance,
            "the focal length is missing: pixels are wanted": distance / depth,
            "no tangent here: on a flat picture the way aside is divided by the depth": focal
            * math.atan(distance / depth),
        }
        compare(by_stepping(distance, depth, focal), stepped, "the pixels by stepping", slips, where=f"depth {depth}")


@check("Which noise does it see?")
def share_below(answer) -> None:
    """``answer(t0, T, power) -> probability``; judged by drawing four million times."""
    for t0, T, power in ((200, 1000, 2.0), (300, 1000, 0.7), (5, 100, 3.0)):
        drawn = PowerT(power)(4_000_000, T, seeded(0))
        right = float((drawn < t0).double().mean())
        slips = {
            "upside down: solve T u^p < t0 for u, which takes the p-th root": (t0 / T) ** power,
            "this is the share for uniform t": t0 / T,
            "this is the probability of t above t0": 1 - (t0 / T) ** (1 / power),
            "the root of t0 / T, not the root of t0 over T": t0 ** (1 / power) / T,
        }
        slips = {name: value for name, value in slips.items() if abs(value - right) > 5e-3}
        compare(answer(t0, T, power), right, "the probability", slips, where=f"t0 = {t0}, p = {power}", rtol=5e-3)


@check("One camera as seen by another")
def relative(answer) -> None:
    """``answer(a, b) -> (4, 4)``; judged by sending points both ways."""
    for seed in range(3):
        a, b = (camera_to_world(rodrigues(_normal(3, seed=seed + k)), _normal(3, seed=seed + k + 50)) for k in (0, 10))
        got = numbers(answer(a.clone(), b.clone()), "the matrix", (4, 4))
        right = torch.linalg.solve(a, b)
        Ra, Rb, ta, tb = a[:3, :3], b[:3, :3], a[:3, 3], b[:3, 3]
        slips = {
            "this is a as seen by b": torch.linalg.solve(b, a),
            "a is not inverted: from the world to a, not from a to the world": a @ b,
            "the order is turned: first from b to the world (it acts first, so it stands on the right)": b
            @ torch.linalg.inv(a),
        }
        for message, wrong in slips.items():
            if close(got, wrong):
                raise CheckFailed(message)
        slips = {
            "the order of the two rotations is turned": Rb @ Ra.T,
            "the transpose belongs to a's rotation": Ra @ Rb.T,
        }
        compare(got[:3, :3], right[:3, :3], "the rotation", slips)
        slips = {
            "the difference of the places is still in the world's axes: turn it into a's": tb - ta,
            "the place is turned with R_a; from the world into a's axes it is the transpose": Ra @ (tb - ta),
            "the sign is turned: from a to b": Ra.T @ (ta - tb),
            "subtract a's place before you turn": Ra.T @ tb - ta,
        }
        compare(got[:3, 3], right[:3, 3], "the place", slips)
        compare(got[3], [0.0, 0.0, 0.0, 1.0], "the last row")


@check("The scale nobody knows")
def scale_and_shift(answer) -> None:
    """``answer(e, c) -> s, m``; judged by a general least-squares solver."""
    for seed in range(3):
        e = _normal(12, 3, seed=seed) + 2
        c = 1.7 * e + _normal(3, seed=seed + 20) + 0.8 * _normal(12, 3, seed=seed + 40)
        unknowns = torch.cat([e.reshape(-1, 1), torch.eye(3).double().repeat(12, 1)], dim=1)
        s_right, *m_right = torch.linalg.lstsq(unknowns, c.reshape(-1, 1)).solution.flatten().tolist()
        s, m = parts(answer(e, c), "s", "m")
        e0, c0 = e - e.mean(0), c - c.mean(0)
        slips = {
            "this is the other regression, from true to estimated, turned round: it comes out too large": float(
                c0.square().sum() / (e0 * c0).sum()
            ),
            "this is the scale from true to estimated": float((e0 * c0).sum() / c0.square().sum()),
            "this is the quotient of the spreads, which is no least-squares fit when there are errors": float(
                (c0.square().sum() / e0.square().sum()).sqrt()
            ),
            "centre both clouds first: without that, the shift is taken for scale": float(
                (e * c).sum() / e.square().sum()
            ),
        }
        compare(s, s_right, "s", slips)
        slips = {
            "the shift lacks the scale: s times the mean of e": c.mean(0) - e.mean(0),
            "the sign of the shift is turned": s_right * e.mean(0) - c.mean(0),
            "the shift must make the means agree; yours is the mean of c": c.mean(0),
        }
        compare(m, torch.tensor(m_right).double(), "m", slips)


@check("The short way round")
def short_way(answer) -> None:
    """``answer(v) -> v``; judged by the rotations and the length."""
    axis = torch.nn.functional.normalize(_normal(3), dim=0)
    for degrees in (350.0, 10.0, 190.0, 725.0, 179.0, 0.0):
        v = math.radians(degrees) * axis
        got = numbers(answer(v.clone()), f"for {degrees:g} degrees, v", (3,))
        if got.norm() > math.pi + 1e-6:
            raise CheckFailed(
                f"for {degrees:g} degrees yours still turns by {math.degrees(float(got.norm())):.0f}, more than 180"
            )
        off = math.degrees(float(rotation_angle(rodrigues(got), rodrigues(v))))
        if off > 1e-3:
            if float(rotation_angle(rodrigues(-got), rodrigues(v))) < 1e-5:
                raise CheckFailed(
                    f"for {degrees:g} degrees yours turns the wrong way: the other way round is about the opposite axis"
                )
            if abs(float(got.norm()) - math.pi) < 1e-6:
                raise CheckFailed(f"for {degrees:g} degrees yours is cut off at 180, which is another rotation")
            if float(got.norm()) < 1e-9:
                raise CheckFailed(f"for {degrees:g} degrees yours is no rotation at all")
            raise CheckFailed(f"for {degrees:g} degrees yours is another rotation, {off:.0f} degrees away")
