"""Typical wrong answers to the exercises of chapter 11; see 01.py for the form."""

WRONG = {
    "locality": [
        (
            "these are sums",
            "    inside = (change * mask).sum() / mask.sum()\n    outside = (change * (1 - mask)).sum() / (1 - mask).sum()",
            "    inside = (change * mask).sum()\n    outside = (change * (1 - mask)).sum()",
        ),
        ("upside down", "inside / outside", "outside / inside"),
        ("root mean squares", "inside / outside", "(inside / outside).sqrt()"),
        (
            "whole picture",
            "    outside = (change * (1 - mask)).sum() / (1 - mask).sum()",
            "    outside = change.mean()",
        ),
        ("absolute changes", "(after - before).square()", "(after - before).abs()"),
        ("different channels", "    inside = (change * mask)", "    inside = 3 * (change * mask)"),
    ],
    "take-out": [
        ("length is not 1", "return left / left.norm()", "return left"),
        ("kept the part", "v - V @ (V.T @ v)", "V @ (V.T @ v)"),
        ("nothing was taken out", "v - V @ (V.T @ v)", "v"),
        ("not before it", "return left / left.norm()", "return left / v.norm()"),
        ("first column", "V @ (V.T @ v)", "V[:, 0] * (V[:, 0] @ v)"),
    ],
    "worst": [
        ("among the r", "[r]", "[r - 1]"),
        ("largest of all", "[r]", "[0]"),
        ("not sigma squared", "[r]", "[r] ** 2"),
        ("all that is left", "[r]", "[r:].norm()"),
        ("smallest", "[r]", "[-1]"),
    ],
    "back": [
        ("evaluated at x_", "f(x), x", "f(x_next), x"),
        ("sign is turned", "x_next - 2", "x_next + 2"),
        ("2 h long", "2 * h * f", "h * f"),
        ("Euler's step", "x_next - 2", "x - 2"),
        ("must move on", "f(x), x", "f(x), x_next"),
        ("one evaluation", "2 * h * f(x)", "h * (f(x) + f(x))"),
    ],
    "leading": [
        ("you give it what comes out", "v = backward(forward(v))", "v = forward(forward(v))"),
        ("length", "        v = v / v.norm()\n", ""),
        ("sigma squared", "forward(v).norm()", "backward(forward(v)).norm()"),
        ("length of v", "forward(v).norm()", "v.norm()"),
        ("only: repeat", "range(rounds)", "range(1)"),
        ("the start", "range(rounds)", "range(0)"),
        (
            "left singular vector",
            "return v, forward(v).norm()",
            "return forward(v) / forward(v).norm(), forward(v).norm()",
        ),
    ],
}
