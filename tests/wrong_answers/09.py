"""Typical wrong answers to the exercises of chapter 9; see 01.py for the form."""

WRONG = {
    "moved-pixels": [
        ("small angles only", "math.tan(angle)", "angle"),
        ("divided by the cosine", "math.tan(angle)", "math.sin(angle)"),
        ("times the focal length", "focal * math.tan(angle)", "math.tan(angle)"),
        ("divide by the depth", "focal * distance / depth", "focal * distance"),
        ("upside down", "focal * distance / depth", "focal * depth / distance"),
        ("pixels are wanted", "focal * distance / depth", "distance / depth"),
    ],
    "share-below": [
        ("p-th root", "** (1 / power)", "** power"),
        ("uniform t", "(t0 / T) ** (1 / power)", "t0 / T"),
        ("above t0", "return (t0", "return 1 - (t0"),
        ("root of t0 / T", "(t0 / T) ** (1 / power)", "t0 ** (1 / power) / T"),
    ],
    "relative": [
        ("as seen by b", "    Ra, ta = a[:3, :3], a[:3, 3]", "    a, b = b, a\n    Ra, ta = a[:3, :3], a[:3, 3]"),
        ("not inverted", "return result", "return a @ b"),
        ("two rotations is turned", "Ra.T @ b[:3, :3]", "b[:3, :3] @ Ra.T"),
        ("transpose belongs", "Ra.T @ b[:3, :3]", "Ra @ b[:3, :3].T"),
        ("world's axes", "Ra.T @ (b[:3, 3] - ta)", "b[:3, 3] - ta"),
        ("it is the transpose", "Ra.T @ (b[:3, 3] - ta)", "Ra @ (b[:3, 3] - ta)"),
        ("sign is turned", "(b[:3, 3] - ta)", "(ta - b[:3, 3])"),
        ("subtract a's place", "Ra.T @ (b[:3, 3] - ta)", "Ra.T @ b[:3, 3] - ta"),
    ],
    "scale-and-shift": [
        (
            "other regression",
            "(from_mean * true_from_mean).sum() / from_mean.square().sum()",
            "true_from_mean.square().sum() / (from_mean * true_from_mean).sum()",
        ),
        ("from true to estimated$", "/ from_mean.square().sum()", "/ true_from_mean.square().sum()"),
        (
            "quotient of the spreads",
            "(from_mean * true_from_mean).sum() / from_mean.square().sum()",
            "true_from_mean.norm() / from_mean.norm()",
        ),
        ("centre both", "e - e.mean(dim=0), c - c.mean(dim=0)", "e, c"),
        ("lacks the scale", "- s * e.mean", "- e.mean"),
    ],
    "short-way": [
        ("more than 180", "wrapped = (length + math.pi) % (2 * math.pi) - math.pi", "wrapped = length % (2 * math.pi)"),
        ("wrong way", "v * (wrapped / length)", "v * (abs(wrapped) / length)"),
        (
            "cut off at 180",
            "wrapped = (length + math.pi) % (2 * math.pi) - math.pi",
            "wrapped = length.clamp(max=math.pi)",
        ),
        ("nan", "    if length == 0:\n        return v\n", ""),
    ],
}
