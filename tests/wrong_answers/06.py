"""Typical wrong answers to the exercises of chapter 6; see 01.py for the form."""

WRONG = {
    "spread": [
        ("this is the variance", "math.sqrt((1 - share) ** 2 + share**2)", "(1 - share) ** 2 + share**2"),
        ("variances do", "math.sqrt((1 - share) ** 2 + share**2)", "(1 - share) + share"),
        ("one square missing", "(1 - share) ** 2", "(1 - share)"),
    ],
    "slerp": [
        (
            "straight way",
            "return first[:, None, None, None] * a + second[:, None, None, None] * b",
            "return (1 - share) * a + share * b",
        ),
        ("exchanged", "(1 - share, share)", "(share, 1 - share)"),
        ("one for the whole batch", "a.flatten(1), b.flatten(1)", "a.flatten()[None], b.flatten()[None]"),
        ("divide by the sine", " / torch.sin(angle)", ""),
    ],
    "two-means": [
        (
            "in the other order",
            "return (both / either).mean(), both.sum() / either.sum()",
            "return both.sum() / either.sum(), (both / either).mean()",
        ),
        ("before you divide", "both.sum() / either.sum()", "(both / either).mean()"),
        ("not by the true area", "(found | truth)", "truth"),
        ("not by the area found", "both.sum() / either.sum()", "both.sum() / found.sum()"),
    ],
    "settled-since": [
        (
            "may leave it again",
            "torch.where(regions[1:] != regions[:-1], step, 0).amax(dim=0)",
            "(regions == regions[-1]).int().argmax(dim=0)",
        ),
        ("one more", "torch.arange(1, len(regions))", "torch.arange(0, len(regions) - 1)"),
        (
            "how often",
            "torch.where(regions[1:] != regions[:-1], step, 0).amax(dim=0)",
            "(regions[1:] != regions[:-1]).sum(dim=0)",
        ),
        ("whole numbers", ".amax(dim=0)", ".amax(dim=0).float()"),
    ],
    "agreement": [
        ("they agree there", "low if C > 2 else low + (1 - p - q + low)", "low"),
        ("never negative", "max(0.0, p + q - 1)", "p + q - 1"),
        ("that is agreement too", "high + (1 - p - q + high)", "high"),
        ("may both be wrong, and differently", "low if C > 2 else low", "low"),
        ("independent mistakes", "smallest, high", "p * q, high"),
        ("cannot agree everywhere", "high + (1 - p - q + high)", "1.0"),
    ],
}
