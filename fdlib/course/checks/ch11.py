"""Checks of the exercises of chapter 11: local edits, directions, exact inversions."""

from __future__ import annotations

import torch

from fdlib.course.checks import CheckFailed, check, close, compare, numbers, parts, seeded


def _normal(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


@check("How local is an edit?")
def locality(answer) -> None:
    """``answer(before, after, mask) -> ratio``; judged by collecting pixels one by one."""
    before, mask = _normal(3, 3, 6, 7), torch.zeros(3, 1, 6, 7, dtype=torch.float64)
    mask[0, 0, 1:3, 2:5], mask[1, 0, :4], mask[2, 0, 5, 6] = 1, 1, 1
    after = before + (0.3 + mask) * _normal(3, 3, 6, 7, seed=1)
    groups = {0: [], 1: []}
    for n in range(3):
        for y in range(6):
            for x in range(7):
                groups[int(mask[n, 0, y, x])].extend(((after - before)[n, :, y, x] ** 2).tolist())
    sums = {side: sum(values) for side, values in groups.items()}
    means = {side: sums[side] / len(values) for side, values in groups.items()}
    change = (after - before).square()
    each = torch.stack(
        [(c * m).sum() / m.sum() * (1 - m).sum() / (c * (1 - m)).sum() for c, m in zip(change, mask, strict=True)]
    )
    total = change.mean()
    slips = {
        "these are sums: a small object would always look quiet; divide each by its number of pixels": sums[1]
        / sums[0],
        "upside down: inside over outside": means[0] / means[1],
        "this is the ratio of root mean squares; asked for is that of the mean squares": (means[1] / means[0]) ** 0.5,
        "all pictures together, not the mean of their ratios": each.mean(),
        "this compares the inside with the whole picture, not with the rest": means[1] / total,
        "this compares absolute changes: squares are asked for": ((after - before).abs() * mask).sum()
        / mask.sum()
        * (1 - mask).sum()
        / ((after - before).abs() * (1 - mask)).sum(),
        "mask and pictures have different channels: 3 numbers a pixel in one of the means, 1 in the other": 3
        * means[1]
        / means[0],
    }
    compare(answer(before, after, mask), means[1] / means[0], "the ratio", slips)


@check("Take out what moves the rest")
def take_out(answer) -> None:
    """``answer(v, V) -> unit vector``; judged by being orthogonal to V and nearest to v."""
    for seed in range(3):
        V, _ = torch.linalg.qr(_normal(9, 3, seed=seed))
        v = _normal(9, seed=seed + 10)
        got = numbers(answer(v.clone(), V), "the vector", (9,))
        complement = torch.linalg.svd(V, full_matrices=True).U[:, 3:]
        right = complement @ torch.linalg.lstsq(complement, v).solution
        length = float(right.norm())
        right = right / length
        slips = {
            "its length is not 1: normalise after the removal": right * length,
            "you kept the part in the span of V and threw away the rest": (V @ (V.T @ v)) / (V @ (V.T @ v)).norm(),
            "nothing was taken out": v / v.norm(),
            "normalise after the removal, not before it": right * length / v.norm(),
            "only the first column of V was taken out": (v - V[:, 0] * (V[:, 0] @ v))
            / (v - V[:, 0] * (V[:, 0] @ v)).norm(),
            "added in place of taken out": (v + V @ (V.T @ v)) / (v + V @ (V.T @ v)).norm(),
        }
        compare(got, right, "the vector", slips)


@check("The worst that can still happen")
def worst(answer) -> None:
    """``answer(J, r) -> number``; judged by restricting J to what is still allowed."""
    for seed, (M, D, r) in enumerate(((8, 12, 3), (15, 6, 1), (7, 7, 5))):
        J = _normal(M, D, seed=seed)
        values, vectors = torch.linalg.eigh(J.T @ J)  # ascending
        allowed = J @ vectors[:, : D - r]
        right = torch.linalg.matrix_norm(allowed, 2)
        sigma = values.flip(0).clamp(min=0).sqrt()
        slips = {
            "this one is among the r that are taken out: counted from 1, the next is number r + 1": sigma[r - 1],
            "this is the largest of all, as if nothing had been taken out": sigma[0],
            "this is its square: sigma, not sigma squared": sigma[r] ** 2,
            "this is the length of all that is left together; one unit vector cannot have all of it": sigma[r:].norm(),
            "one too far: the next singular value is still allowed": sigma[r + 1] if r + 1 < min(M, D) else -1,
            "this is the smallest that can happen": sigma[min(M, D) - 1],
        }
        slips = {name: value for name, value in slips.items() if abs(float(value) - float(right)) > 1e-6}
        compare(answer(J, r), right, "the change", slips, where=f"r = {r}")


@check("There and back, exactly")
def back(answer) -> None:
    """``answer(x, x_next, h, f) -> x_before, x``; judged by walking forty steps up and back."""
    asked = []

    def wild(x):
        asked.append(x.clone())
        return torch.sin(5 * x) + x.roll(1) ** 2 / 4

    h, path = 0.05, [_normal(6), _normal(6, seed=1)]
    for _ in range(40):
        path.append(path[-2] + 2 * h * wild(path[-1]))
    before, here = path[-3], path[-2]
    asked.clear()
    got = parts(answer(path[-2].clone(), path[-1].clone(), h, wild), "x_{n-1}", "x_n")
    if len(asked) != 1:
        raise CheckFailed(f"one evaluation of f is enough, and keeps it exact; yours makes {len(asked)}")
    slips = {
        "f is evaluated at x_{n+1}; the step up evaluated it at x_n, which you have": path[-1] - 2 * h * wild(path[-1]),
        "the sign is turned: take away what the step up added": path[-1] + 2 * h * wild(here),
        "the step over two is 2 h long": path[-1] - h * wild(here),
        "this is Euler's step from x_n; the midpoint rule starts at x_{n+1}": here - 2 * h * wild(here),
    }
    compare(got[0], before, "x_{n-1}", slips)
    compare(got[1], here, "x_n", {"the pair must move on: x_{n-1} and x_n": path[-1]})
    pair = (path[-2], path[-1])
    for _ in range(40):
        pair = answer(*pair, h, wild)
    if not close(pair[0], path[0], atol=1e-6):
        raise CheckFailed(f"after 40 steps back it is off by {float((pair[0] - path[0]).abs().max()):.1e}")


@check("The leading direction, without a matrix")
def leading(answer) -> None:
    """``answer(forward, backward, start, rounds) -> v, sigma``; judged by the singular value decomposition."""
    for seed in range(3):
        U, _ = torch.linalg.qr(_normal(9, 6, seed=seed))
        V, _ = torch.linalg.qr(_normal(7, 6, seed=seed + 9))
        sigma = torch.tensor([4.0, 2.5, 2.0, 1.0, 0.5, 0.1]).double()
        J, start = U @ torch.diag(sigma) @ V.T, _normal(7, seed=seed + 20)

        def forward(v, J=J):
            if v.shape != (7,):
                raise CheckFailed("forward takes a direction (D,); you give it what comes out of J")
            return J @ v

        def backward(u, J=J):
            if u.shape != (9,):
                raise CheckFailed("backward takes a change of the output (M,), that is J v; you give it a direction")
            return J.T @ u

        v, value = parts(answer(forward, backward, start.clone(), 200), "v", "sigma")
        if close(numbers(v, "v"), U[:, 0]) or close(numbers(v, "v"), -U[:, 0]):
            raise CheckFailed(
                "this is the left singular vector, a change of the output; the direction is the right one"
            )
        v = numbers(v, "v", (7,))
        if abs(float(v.norm()) - 1) > 1e-6:
            raise CheckFailed(f"v has length {float(v.norm()):.3g}: give it length 1 in every round")
        slips = {
            "this is the start: nothing was iterated": start / start.norm(),
            "after one round only: repeat it": (J.T @ (J @ start)) / (J.T @ (J @ start)).norm(),
        }
        compare(v * torch.sign(v @ V[:, 0]), V[:, 0], "v (up to its sign)", slips)
        slips = {
            "this is sigma squared: J^T J has the squares": sigma[0] ** 2,
            "this is the length of v; sigma is the length of J v": 1.0,
            "this is J v itself; sigma is its length": sigma[0] * U[:, 0].sum(),
        }
        compare(value, sigma[0], "sigma", slips)
