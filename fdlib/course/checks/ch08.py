"""Checks of the exercises of chapter 8: cameras, rays, and what a ray sees."""

from __future__ import annotations

import math
from itertools import product

import torch

from fdlib.cameras import field_of_view, look_at, project, rays, spherical, to_pytorch3d
from fdlib.course.checks import CheckFailed, check, compare, numbers, parts, seeded
from fdlib.nerf import volume_render


def _uniform(*shape: int, seed: int = 0):
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


@check("How dense is half opaque?")
def density(answer, in_a_row) -> None:
    """``answer(alpha, delta) -> sigma``, ``in_a_row(alpha, n) -> opacity``; judged by rendering such voxels."""
    for alpha, delta, n in ((0.6, 0.1, 2), (0.9, 2.0, 3), (0.02, 0.3, 5)):
        sigma = numbers(answer(alpha, delta), "sigma", ())
        seen = volume_render(
            sigma[None], torch.zeros(1, 3).double(), torch.ones(1).double(), torch.tensor([delta]).double()
        )
        got, right = float(seen.opacity), -math.log1p(-alpha) / delta
        slips = {
            "the sign is turned: a density is positive": -right,
            "the length is missing: a density is per unit of length": right * delta,
            "this is true for thin fog only: light is lost from what is left, so it falls exponentially": alpha / delta,
            "1 - alpha is what passes, and its logarithm counts; yours takes that of alpha": -math.log(alpha) / delta,
            "the natural logarithm, since the formula has e": right / math.log(10),
            "divide by the length: twice as long needs half the density": right * delta * delta,
        }
        compare(
            sigma,
            right,
            f"sigma (rendered, its voxel has opacity {got:.3f})",
            slips,
            where=f"alpha = {alpha}, delta = {delta}",
        )
        passes = 1.0
        for _ in range(n):
            passes *= 1 - alpha
        slips = {
            "opacities do not add up: the second voxel stops only what passes the first": n * alpha,
            "this is the light that passes all of them": passes,
            "what passes multiplies, not what is stopped": alpha**n,
        }
        compare(in_a_row(alpha, n), 1 - passes, "the opacity in a row", slips, where=f"{n} voxels of opacity {alpha}")


@check("Crop, then shrink")
def new_camera(answer) -> None:
    """``answer(f, S, C, N) -> focal, field of view``; judged by where a point appears."""
    for f, S, C, N in ((200.0, 160, 128, 32), (50.0, 64, 32, 64)):
        camera = torch.eye(4).double()  # at the origin, looks along -z
        point = torch.tensor([[0.1, 0.0, -1.0]]).double()
        pixels, _ = project(point, camera, f, S)
        moved = (pixels[0, 0] - S / 2) * N / C  # to the middle of the new picture
        right = float(moved / 0.1)
        focal, angle = parts(answer(f, S, C, N), "focal length", "field of view")
        where = f"f = {f:g}, {S} cut to {C}, shrunk to {N}"
        slips = {
            "cutting does not change the focal length; only shrinking C to N does": f * N / S,
            "shrinking is forgotten: the focal length is measured in pixels": f,
            "upside down: fewer pixels for the same picture make the focal length smaller": f * C / N,
            "the shrinking is forgotten, and cutting does nothing": f * C / S,
        }
        compare(focal, right, "the focal length", slips, where=where)
        wide = field_of_view(f, C)
        slips = {
            "this is half of it, from the axis to the edge": wide / 2,
            "this is the angle of the uncut picture: cutting narrows the view": field_of_view(f, S),
            "radians, not degrees": math.degrees(wide),
            "half the picture lies on each side of the axis: N / 2 over the focal length": 2 * math.atan(C / f),
        }
        compare(angle, wide, "the field of view", slips, where=where)


@check("One medium over another")
def over(answer) -> None:
    """``answer(c_f, alpha_f, c_b, alpha_b) -> colour, opacity``; judged by rendering the whole ray."""
    sigma, c = 2 * _uniform(4, 10), _uniform(4, 10, 3, seed=1)
    depths, widths = torch.linspace(1, 2, 10).double().expand(4, 10), torch.full((4, 10), 0.1).double()

    def seen(part):
        made = volume_render(sigma[:, part], c[:, part], depths[:, part], widths[:, part], background=0.0)
        return made.colour, made.opacity

    front, back, whole = seen(slice(0, 6)), seen(slice(6, 10)), seen(slice(0, 10))
    colour, opacity = parts(answer(*front, *back), "colour", "opacity")
    passes = (1 - front[1])[:, None]
    slips = {
        "front and back are exchanged: the front dims the back": back[0] + (1 - back[1])[:, None] * front[0],
        "the back is not dimmed by the front": front[0] + back[0],
        "the front's colour is weighted already; do not multiply it by its opacity again": front[1][:, None] * front[0]
        + passes * back[0],
        "the back's colour is weighted already; do not multiply it by its opacity again": front[0]
        + passes * back[1][:, None] * back[0],
    }
    compare(colour, whole[0], "the colour", slips)
    slips = {
        "opacities do not add up: the back stops only what passes the front": front[1] + back[1],
        "this is the share that passes both": (1 - front[1]) * (1 - back[1]),
        "what is stopped does not multiply; what passes does": front[1] * back[1],
    }
    compare(opacity, whole[1], "the opacity", slips)


@check("The median depth")
def median_depth(answer) -> None:
    """``answer(t_in, length, sigma) -> depth``; judged by adding up ten thousand pieces."""
    for t_in, length, sigma in ((2.0, 1.5, 2.0), (1.0, 0.5, 0.3), (3.0, 2.0, 30.0)):
        n = 20_000
        edges = t_in + length * torch.arange(n + 1).double() / n
        stopped = 1 - torch.exp(-sigma * (edges - t_in))
        right = float(edges[int((stopped < stopped[-1] / 2).sum())])
        whole = float(stopped[-1])
        mean = t_in + 1 / sigma - length * (1 - whole) / whole
        slips = {
            "this is where half of all light is stopped; a thin slab never gets there": t_in + math.log(2) / sigma,
            "this is the mean depth": mean,
            "the way to the slab is missing: add t_in": right - t_in,
            "this is the middle of the slab, right only for thin fog": t_in + length / 2,
            "the sign is turned: the place lies before the slab": 2 * t_in - right,
        }
        slips = {message: value for message, value in slips.items() if abs(value - right) > 3e-3}
        where = f"t_in = {t_in}, length {length}, sigma {sigma}"
        compare(answer(t_in, length, sigma), right, "the depth", slips, where=where, rtol=1e-3)


@check("Where does this camera stand?")
def stands(answer) -> None:
    """``answer(R, T) -> centre, direction``; judged on cameras whose place is known."""
    for azimuth, elevation, target in ((0.7, 0.4, (0.0, 0.0, 0.0)), (2.9, -0.3, (0.3, -0.2, 0.5))):
        eye = spherical(torch.tensor(azimuth).double(), elevation, 3.0)
        target = torch.tensor(target).double()
        camera = to_pytorch3d(look_at(eye, target)[None], 1.0, 2)
        R, T = camera["R"][0].double(), camera["T"][0].double()
        centre, ahead = parts(answer(R, T), "centre", "direction")
        slips = {
            "T is minus the centre in the camera's own axes: rotate it back into the world": -T,
            "a transpose is missing, as in listing 3.1: solve X R + T = 0 for X": -T @ R,
            "the sign is turned: X R = -T": -eye,
            "T itself is where the world's origin appears in the camera's space": T,
        }
        compare(centre, eye, "the centre", slips)
        right = (target - eye) / (target - eye).norm()
        slips = {
            "this points away from what the camera sees": -right,
            "this is a row of R: with row vectors, the camera's axes in the world are its columns": R[2],
            "this is the vector from the world's origin, not the direction of view": eye / eye.norm(),
            "this is the camera's own name for ahead; say it in the world's axes": torch.tensor(
                [0.0, 0.0, 1.0]
            ).double(),
        }
        compare(ahead, right, "the direction", slips)


@check("Four bugs in a ray")
def one_ray(answer) -> None:
    """``answer(c2w, row, column, size, focal) -> origin, direction``; judged by the library's rays."""
    camera = look_at(spherical(torch.tensor(0.6).double(), 0.4, 3.0), torch.tensor([0.2, 0.1, -0.1]).double())
    size, focal = 16, 20.0
    origins, directions = rays(camera, size, size, focal)
    for row, column in ((3, 12), (9, 1)):
        origin, direction = parts(answer(camera, row, column, size, focal), "origin", "direction")
        compare(origin, origins[row, column], "the origin", {"this is T, not the centre": -camera[:3, 3]})
        got, right = numbers(direction, "the direction", (3,)), directions[row, column]
        if abs(float(got.norm()) - 1) > 1e-4:
            raise CheckFailed(
                f"the direction has length {float(got.norm()):.3f}: depths along it would be too short; make it 1"
            )
        rotation, slips = camera[:3, :3], {}
        choices = product((0.5, 0.0), (0.5, 0.0), (1, -1), (True, False), (-1.0, 1.0))
        for half_x, half_y, up, forward, ahead in choices:
            local = torch.tensor([(column + half_x - 8) / focal, -up * (row + half_y - 8) / focal, ahead]).double()
            d = (rotation if forward else rotation.T) @ local
            names = [
                *([] if half_x else ["a pixel's middle is at column + 1/2"]),
                *([] if half_y else ["a pixel's middle is at row + 1/2"]),
                *([] if up > 0 else ["y is upside down: rows count downwards"]),
                *([] if forward else ["the rotation is transposed: c2w acts on column vectors, from the left"]),
                *([] if ahead < 0 else ["our cameras look along -z"]),
            ]
            if names:
                slips["; ".join(names)] = d / d.norm()
        compare(got, right, "the direction", slips, where=f"row {row}, column {column}")


@check("Look where there is something")
def resample(answer) -> None:
    """``answer(edges, weights, u) -> depths``; judged by going back from depths to u, and on weights with gaps."""
    edges = torch.tensor([2.0, 2.1, 2.5, 3.2, 3.4, 4.0]).double()
    for weights in (
        torch.tensor([0.1, 0.3, 0.05, 0.2, 0.15]).double(),
        torch.tensor([0.0, 0.2, 0.0, 0.5, 0.0]).double(),
    ):
        u = torch.cat([_uniform(200), torch.zeros(1).double()]).sort().values[weights[0] == 0 :]
        p, lengths = weights / weights.sum(), edges.diff()
        got = numbers(answer(edges, weights, u), "the depths", tuple(u.shape))

        def back(depths, p=p, lengths=lengths):  # the cumulative distribution at these depths
            inside = ((depths[:, None] - edges[:-1]) / lengths).clamp(0, 1)
            return (inside * p).sum(1)

        right = torch.tensor([_bisect(back, float(v)) for v in u]).double()
        low = torch.stack([edges[:-1][(edges[:-1] <= x + 1e-9)].max() for x in right])
        width = torch.stack([lengths[(edges[:-1] <= x + 1e-9)][-1] for x in right])
        start = back(low)
        mass = torch.stack([p[(edges[:-1] <= x + 1e-9)][-1] for x in right]).clamp(min=1e-12)
        slips = {
            "these are edges: within a piece all places are equally likely, so go a share of the way": low,
            "these are middles of pieces: within a piece all places are equally likely": low + width / 2,
            "the weights are not ignored: pieces with more weight get more samples": edges[0]
            + u * (edges[-1] - edges[0]),
            "the share of the way is (u - cdf) / p: divide by the probability of the piece": low + (u - start) * width,
            "the share of the way must be multiplied by the length of the piece": low + (u - start) / mass,
        }
        compare(got, right, "the depths", slips, rtol=1e-5, atol=1e-5)


def _bisect(function, value: float, low: float = 2.0, high: float = 4.0) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        below = float(function(torch.tensor([middle]).double())) <= value
        low, high = (middle, high) if below else (low, middle)
    return low
