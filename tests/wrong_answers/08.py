"""Typical wrong answers to the exercises of chapter 8; see 01.py for the form."""

WRONG = {
    "density": [
        ("density is positive", "-math.log(1 - alpha)", "math.log(1 - alpha)"),
        ("per unit of length", "-math.log(1 - alpha) / delta", "-math.log(1 - alpha)"),
        ("thin fog only", "-math.log(1 - alpha)", "alpha"),
        ("natural logarithm", "math.log(1 - alpha)", "math.log10(1 - alpha)"),
        ("do not add up", "1 - (1 - alpha) ** n", "n * alpha"),
        ("passes all of them", "1 - (1 - alpha) ** n", "(1 - alpha) ** n"),
        ("what passes multiplies", "1 - (1 - alpha) ** n", "alpha**n"),
    ],
    "new-camera": [
        ("only shrinking C to N", "f * N / C", "f * N / S"),
        ("shrinking is forgotten: the focal", "f * N / C", "f"),
        ("upside down", "f * N / C", "f * C / N"),
        ("half of it", "2 * math.atan(N / 2 / focal)", "math.atan(N / 2 / focal)"),
        ("uncut picture", "2 * math.atan(N / 2 / focal)", "2 * math.atan(S / 2 / f)"),
        ("not degrees", "2 * math.atan(N / 2 / focal)", "math.degrees(2 * math.atan(N / 2 / focal))"),
    ],
    "over": [
        (
            "exchanged",
            "    passes = 1 - alpha_f",
            "    c_f, alpha_f, c_b, alpha_b = c_b, alpha_b, c_f, alpha_f\n    passes = 1 - alpha_f",
        ),
        ("not dimmed", "passes[..., None] * c_b", "c_b"),
        ("front's colour is weighted already", "return c_f +", "return alpha_f[..., None] * c_f +"),
        ("back's colour is weighted already", "passes[..., None] * c_b", "(passes * alpha_b)[..., None] * c_b"),
        ("do not add up", "alpha_f + passes * alpha_b", "alpha_f + alpha_b"),
        ("passes both", "alpha_f + passes * alpha_b", "passes * (1 - alpha_b)"),
    ],
    "median-depth": [
        ("half of all light", "stopped / 2)", "0.5)"),
        ("way to the slab", "t_in - math.log", "-math.log"),
        ("middle of the slab", "return t_in - math.log(1 - stopped / 2) / sigma", "return t_in + length / 2"),
        (
            "mean depth",
            "return t_in - math.log(1 - stopped / 2) / sigma",
            "return t_in + 1 / sigma - length * math.exp(-sigma * length) / stopped",
        ),
        ("before the slab", "t_in - math.log", "t_in + math.log"),
    ],
    "stands": [
        ("own axes", "-T @ R.T", "-T"),
        ("as in listing 3.1", "-T @ R.T", "-T @ R"),
        ("sign is turned", "-T @ R.T", "T @ R.T"),
        ("row of R", "R[:, 2]", "R[2]"),
        ("points away", "R[:, 2]", "-R[:, 2]"),
    ],
    "one-ray": [
        ("middle is at", "column + 0.5 - size / 2", "column - size / 2"),
        ("^(?!.*transposed).*upside down", "size / 2 - row - 0.5", "row + 0.5 - size / 2"),
        (
            "transposed",
            "c2w[:3, :3] @ torch.tensor([x, y, -1.0], dtype=c2w.dtype)",
            "torch.tensor([x, y, -1.0], dtype=c2w.dtype) @ c2w[:3, :3]",
        ),
        ("has length", "direction / direction.norm()", "direction"),
        ("along -z", "[x, y, -1.0]", "[x, y, 1.0]"),
    ],
    "resample": [
        ("these are edges", " + share * (edges[piece + 1] - edges[piece])", ""),
        ("middles of pieces", "+ share *", "+ 0.5 *"),
        ("length of the piece", "share * (edges[piece + 1] - edges[piece])", "share"),
        ("probability of the piece", "(u - cdf[piece]) / p[piece]", "u - cdf[piece]"),
        ("not ignored", "p = weights / weights.sum()", "p = edges.diff() / (edges[-1] - edges[0])"),
    ],
}
