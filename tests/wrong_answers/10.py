"""Typical wrong answers to the exercises of chapter 10; see 01.py for the form."""

WRONG = {
    "mean-azimuth": [
        (
            "arithmetic mean",
            "torch.rad2deg(torch.atan2(radians.sin().mean(), radians.cos().mean())) % 360",
            "degrees.mean()",
        ),
        (
            "in radians",
            "torch.rad2deg(torch.atan2(radians.sin().mean(), radians.cos().mean())) % 360",
            "torch.atan2(radians.sin().mean(), radians.cos().mean()) % (2 * torch.pi)",
        ),
        ("exchanged", "radians.sin().mean(), radians.cos().mean()", "radians.cos().mean(), radians.sin().mean()"),
        ("want radians", "torch.deg2rad(degrees)", "degrees"),
        (r"in \[0, 360\)", " % 360", ""),
        (
            "plain arctangent",
            "torch.atan2(radians.sin().mean(), radians.cos().mean())",
            "torch.atan(radians.sin().mean() / radians.cos().mean())",
        ),
    ],
    "smallest-steps": [
        ("compare a, the root", ".prod() >= share", ".prod().sqrt() >= share"),
        ("last index", "return T", "return T - 1"),
        ("one too many", "return T", "return T + 1"),
        (
            "product of 1 - beta is smaller",
            "(1 - torch.linspace(beta_min, beta_max, T, dtype=torch.float64)).prod()",
            "torch.exp(-torch.linspace(beta_min, beta_max, T, dtype=torch.float64).sum())",
        ),
        (
            "shrinks by a factor",
            "(1 - torch.linspace(beta_min, beta_max, T, dtype=torch.float64)).prod()",
            "1 - torch.linspace(beta_min, beta_max, T, dtype=torch.float64).sum()",
        ),
    ],
    "best-of": [
        ("spread evenly", "180 / (N + 1)", "90 / N"),
        ("whatever N is", "180 / (N + 1)", "90"),
        ("even sector", "180 / (N + 1)", "180 / N"),
        ("not 360", "180 / (N + 1)", "360 / (N + 1)"),
    ],
    "enlarge": [
        ("no unit of length", "larger[:3, 3] *= k", "larger[:3] *= k"),
        ("move with the world", "larger[:3, 3] *= k", "pass"),
        ("near is a distance", "k * near", "near"),
        ("unchanged", "density / k", "density"),
        ("densities grow", "density / k", "density * k"),
        ("not per volume", "density / k", "density / k**3"),
        ("last row", "larger[:3, 3] *= k", "larger[:, 3] *= k"),
    ],
    "effective": [
        (
            "this is the entropy",
            "torch.exp(-torch.special.xlogy(shares, shares).sum())",
            "-torch.special.xlogy(shares, shares).sum()",
        ),
        ("used at all", "torch.exp(-torch.special.xlogy(shares, shares).sum())", "(shares > 0).sum()"),
        ("largest share", "torch.exp(-torch.special.xlogy(shares, shares).sum())", "1 / shares.max()"),
        (
            "base 2",
            "torch.exp(-torch.special.xlogy(shares, shares).sum())",
            "torch.exp(-(shares[shares > 0] * shares[shares > 0].log2()).sum())",
        ),
        ("sign is turned", "-torch.special", "torch.special"),
        ("nan", "torch.special.xlogy(shares, shares)", "(shares * shares.log())"),
        ("by their sum", " / len(chosen)", ""),
    ],
    "share-out": [
        ("use the shares", "(len(P) * shares)", "len(P) / P.shape[1]"),
        (
            "normalise the rows last",
            "P = P / P.sum(dim=0) * (len(P) * shares)\n        P = P / P.sum(dim=1, keepdim=True)",
            "P = P / P.sum(dim=1, keepdim=True)\n        P = P / P.sum(dim=0) * (len(P) * shares)",
        ),
        (
            "sign is turned",
            "torch.exp(-(errors - errors.min(dim=1, keepdim=True).values) / tau)",
            "torch.exp((errors - errors.max(dim=1, keepdim=True).values) / tau)",
        ),
        ("how does tau enter", ".values) / tau)", ".values) * tau)"),
        ("nan", " - errors.min(dim=1, keepdim=True).values", ""),
    ],
    "mean-rotation": [
        ("arithmetic mean", "return U @ torch.diag(flip) @ Vt", "return rotations.mean(dim=0)"),
        ("mirror image", "flip[2] = torch.linalg.det(U @ Vt)", "pass"),
        ("the transpose", "return U @ torch.diag(flip) @ Vt", "return (U @ torch.diag(flip) @ Vt).T"),
        (
            "once too often",
            "return U @ torch.diag(flip) @ Vt",
            "return U @ Vt.T if torch.linalg.det(U @ Vt.T) > 0 else U @ torch.diag(flip) @ Vt",
        ),
        ("wrong column", "flip[2]", "flip[0]"),
        (
            "right angles",
            "return U @ torch.diag(flip) @ Vt",
            "return torch.nn.functional.normalize(rotations.mean(dim=0), dim=0)",
        ),
    ],
}
