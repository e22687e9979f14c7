"""Typical wrong answers to the exercises of chapter 7; see 01.py for the form."""

WRONG = {
    "leaf-number": [
        ("last index before the first", "zip(path, regions, strict=True)", "zip(path[::-1], regions[::-1], strict=True)"),
        ("count from 0", "    return node", "    return node + 1"),
        ("sum of the indices", "node * K + k", "node + k"),
        ("its own level's K", "node * K + k", "node + k * K"),
        ("one level early", "zip(path, regions, strict=True)", "zip(path[:-1], regions)"),
    ],
    "leaf-masks": [
        ("another order", ".flatten(1, 2)", ".transpose(1, 2).flatten(1, 2)"),
        ("rows are taken apart", "m1.unflatten(0, m0.shape[:2])", "m1.unflatten(0, m0.shape[1::-1]).transpose(0, 1)"),
        ("a sum is no partition", "m0.unsqueeze(2) * m1", "m0.unsqueeze(2) + m1"),
        ("second level's masks alone", "m0.unsqueeze(2) * m1", "m1"),
        ("parent's whole mask", "m0.unsqueeze(2) * m1", "m0.unsqueeze(2) * torch.ones_like(m1)"),
    ],
    "two-levels": [
        ("half is missing", "(h0 + below) / 2", "(h0 + below)"),
        ("only the second", "(h0 + below) / 2", "(h0 + below / 2)"),
        ("only the first level is halved", "(h0 + below) / 2", "(h0 / 2 + below)"),
        ("masked by its region too", "m0.unsqueeze(2) * (h0 + below) / 2", "(m0.unsqueeze(2) * h0 + below) / 2"),
        ("own masks m1 are missing", "h1 * m1.unsqueeze(2)", "h1"),
        ("second level alone", "(h0 + below) / 2", "below"),
        ("nothing is squared", "h1 * m1.unsqueeze(2)", "h1 * m1.unsqueeze(2) ** 2"),
    ],
    "level-weights": [
        ("do not sum to 1", "    weights[-1] = 0.5 ** (depth - 1)\n", ""),
        ("do not share equally", "    return weights", "    return torch.full((depth,), 1 / depth)"),
        ("counts most", "    return weights", "    return weights.flip(0)"),
        ("does not count whole", "    return weights", "    return 0.5 ** torch.arange(depth).double()"),
    ],
    "passes": [
        ("leaves are not cut", "    return encoders, decoders", "    return encoders + nodes, decoders"),
        ("the picture itself", "    return encoders, decoders", "    return encoders - 1, decoders"),
        ("last level alone", "encoders += nodes", "encoders = nodes"),
        ("once for every node", "encoders += nodes", "encoders += 1"),
        ("leaves' decoders alone", "decoders += nodes", "decoders = nodes"),
        ("deeper levels have many nodes", "decoders += nodes", "decoders += K"),
    ],
    "apart": [
        ("out of the total", "/ len(answers)", "/ len(leaves)"),
        ("parts are together", ".values != leaf", ".values == leaf"),
        ("not a share", " / len(answers)", ""),
        ("with most of each", "    return sum(answers)",
         "    answers = [not set(l[k == a].tolist()) & set(l[k == b].tolist()) for l, k in zip(leaves, labels)\n"
         "               if (k == a).any() and (k == b).any()]\n    return sum(answers)"),
        ("leaves of its own", "    return sum(answers) / len(answers)",
         "    return float(leaves[labels == a].mode().values != leaves[labels == b].mode().values)"),
    ],
    "prune": [
        ("changed the leaves", "leaves.clone()", "leaves"),
        ("node's pixels, not", "share * pixels.sum()", "share * inside.numel()"),
        ("largest.* child", " + pixels.argmax()", ""),
        ("every node is pruned", "if pixels.max() >= share * pixels.sum()", "if True"),
        ("nothing is pruned", "if pixels.max() >= share * pixels.sum()", "if False"),
        ("nodes, not leaves", "    return pruned", "    return pruned // K1"),
        ("equality prunes", "pixels.max() >= share", "pixels.max() > share"),
    ],
}  # fmt: skip
