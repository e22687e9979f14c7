"""Typical wrong answers to the exercises of chapter 5; see 01.py for the form."""

WRONG = {
    "forward-cost": [
        ("mask generator has to run first", "K + 1)", "K)"),
        ("concat decodes once", '"concat": 2', '"other": 2'),
        ("encoder runs once", "return E + decoders * D", "return (K if decoders > 2 else 1) * E + decoders * D"),
        ("no mask generator", '"plain": 1', '"plain": 2'),
        ("once for each region", "K + 1)", "2)"),
    ],
    "decode": [
        ("before you sum", "total + m * decoder", "total + decoder"),
        ("already sum to 1", "return total", "return total / masks.shape[1]"),
        (
            "h_mid is not masked, only",
            "decoder(h_mid, seen)",
            "decoder(h_mid * F.adaptive_avg_pool2d(m, h_mid.shape[-2:]), seen)",
        ),
        ("every branch sees everything", "decoder(h_mid, seen)", "decoder(h_mid, h_enc)"),
        ("only the first skip", "decoder(h_mid, seen)", "decoder(h_mid, [seen[0], *h_enc[1:]])"),
    ],
    "grey": [
        ("skips times its mask", "[h / K for h in h_enc]", "h_enc"),
        (
            "K terms, each",
            "return decoder(h_mid, [h / K for h in h_enc])",
            "return decoder(h_mid, [h / K for h in h_enc]) / K",
        ),
        ("before the sum", "return decoder(", "return K * decoder("),
        ("h_mid is not masked", "return decoder(h_mid,", "return decoder(h_mid / K,"),
        (
            "called 3 times",
            "return decoder(h_mid, [h / K for h in h_enc])",
            "return sum(decoder(h_mid, [h / K for h in h_enc]) / K for _ in range(K))",
        ),
    ],
    "reliance": [
        ("upside down", "return other / own", "return own / other"),
        ("exchange the pictures", "dims=0", "dims=1"),
        ("asked for is the next", "roll(-1", "roll(1"),
        ("divide", "other / own", "other - own"),
        ("leave the square", "other / own", "(other / own).sqrt()"),
        ("exchanged at all", "masks.roll(-1, dims=0)", "masks"),
    ],
    "permutation": [
        (
            "one direction",
            "gaps.append(abs(first / n - (sum(scores) - first) / len(b)))",
            "gaps.append((first / n - (sum(scores) - first) / len(b)) * (1 if sum(a) / n > sum(b) / len(b) else -1))",
        ),
        ("count it", "gap >= gaps[0] - 1e-12", "gap > gaps[0] + 1e-12"),
        ("less", "return sum(gap >=", "return 1 - sum(gap >="),
        ("divide by how many", " / len(gaps)", ""),
    ],
}
