"""Typical wrong answers to the exercises of chapter 4; see 01.py for the form."""

WRONG = {
    "one-region": [
        ("chosen class alone", " / len(shares)", ""),
        ("whatever they are", "shares.max() / len(shares)", "shares.mean()"),
        ("not the rarest", "shares.max()", "shares.min()"),
    ],
    "misprint": [
        ("no more than 1", "prediction[3, 3] = True", "prediction[:, :] = True"),
        ("more than one half", "prediction[3, 3] = True", "prediction[2:6, 2:5] = True"),
        ("A is empty", "    prediction[3, 3] = True\n", ""),
        ("bool tensor", "return prediction, truth", "return prediction.float(), truth"),
        ("return 2 things", "return prediction, truth", "return prediction"),
    ],
    "purity": [
        ("maximum over the regions", "dim=1", "dim=0"),
        (
            "large regions count",
            "table.max(dim=1).values.sum() / table.sum()",
            "(table.max(dim=1).values / table.sum(1)).mean()",
        ),
        ("divide by all", " / table.sum()", ""),
        ("have no names", "table.max(dim=1).values", "table.diagonal()"),
    ],
    "look-often": [
        ("same noise", "manual_seed(seed)", "manual_seed(0)"),
        ("called 1 times", "for seed in range(n)", "for seed in range(1)"),
        ("not handed on", "segment(images, t,", "segment(images,"),
        ("a mean, not a sum", ".mean(dim=0)", ".sum(dim=0)"),
        (
            "votes of hard masks",
            "torch.stack(looks).mean(dim=0)",
            "sum((look == look.amax(1, keepdim=True)).float() for look in looks) / n",
        ),
        ("fix the seeds", "torch.Generator().manual_seed(seed)", "torch.default_generator"),
    ],
    "colours": [
        ("short borders", "> ignore", "> 0"),
        (
            "largest number of neighbours",
            "    for K in range(1",
            "    return int((touch > ignore).sum(1).max()) + 1\n    for K in range(1",
        ),
        ("largest group", "            return K", "            return K - 1 if K == 3 and len(touch) == 5 else K"),
        ("region of its own", "            return K", "            return len(touch)"),
    ],
    "fair-score": [
        ("seen the test labels", "torch.tensor(m)[fit], fit_labels, C)", "torch.tensor(m)[test], test_labels, C)"),
        (
            "is an oracle",
            "    return miou",
            "    maps = list(product(range(C), repeat=K))\n"
            "    each = [max(miou(torch.tensor(m)[r], l, C) for m in maps) for r, l in zip(test, test_labels)]\n"
            "    return sum(each) / len(each)\n    return miou",
        ),
        (
            "picture by picture",
            "return miou(torch.tensor(best)[test], test_labels, C)",
            "return sum(miou(torch.tensor(best)[r], l, C) for r, l in zip(test, test_labels)) / len(test)",
        ),
        (
            "score on the fit pictures",
            "(torch.tensor(best)[test], test_labels, C)",
            "(torch.tensor(best)[fit], fit_labels, C)",
        ),
        ("no map at all", "torch.tensor(best)[test]", "test.clamp(max=C - 1)"),
    ],
    "thickness": [
        ("counted twice", "(across + along)", "(2 * (across + along))"),
        ("neighbour to the right", " + along)", ")"),
        ("neighbour below", "(across + along)", "along"),
        ("upside down", "region.sum() / (across + along)", "(across + along) / region.sum()"),
        ("border is missing", " / (across + along)", ""),
        (
            "frame is no border",
            "    return region.sum()",
            "    region = torch.nn.functional.pad(region, (1, 1, 1, 1))\n"
            "    across, along = (region[:, 1:] != region[:, :-1]).sum(), (region[:, :, 1:] != region[:, :, :-1]).sum()\n"
            "    return region.sum()",
        ),
    ],
}
