"""Typical wrong answers to the exercises of chapter 2; see 01.py for the form."""

WRONG = {
    "likeness": [
        ("is a sum", "difference).sum()", "difference).mean()"),
        ("sines in place", "torch.cos(omega", "torch.sin(omega"),
        ("too many frequencies", "half = channels // 2", "half = channels"),
    ],
    "x0-error": [
        ("factor s", "schedule.s[t] / schedule.a[t] * delta", "delta / schedule.a[t]"),
        ("upside down", "schedule.s[t] / schedule.a[t] * delta", "schedule.a[t] / schedule.s[t] * delta"),
        ("without squares", "schedule.a[t] * delta", "schedule.a[t] * schedule.s[t] / schedule.a[t] * delta"),
    ],
    "block-size": [
        (
            "biases are missing",
            "norms + convolutions + embedding + shortcut",
            "norms + convolutions + embedding + shortcut - 3 * c_out - c_out * (c_in != c_out)",
        ),
        ("normalisations learn", "return norms + ", "return "),
        ("shortcut's 1x1", " + shortcut", ""),
        ("nothing but the input", " if c_in != c_out else 0", ""),
        ("embedding's linear layer", " + embedding", ""),
        ("from c_out to c_out", "(9 * c_out + 1)", "(9 * c_in + 1)"),
    ],
    "update": [
        ("follows the newcomer", "d * mean + (1 - d) * new", "(1 - d) * mean + d * new"),
        ("changes the network", "mean.copy_(d * mean + (1 - d) * new)", "mean.copy_(new.mul_(1 - d).add_(d * mean))"),
        ("did not change", "mean.copy_(d * mean + (1 - d) * new)", "mean = d * mean + (1 - d) * new"),
        ("buffers", "average.buffers(), network.buffers()", "[], []"),
    ],
    "left-over": [
        ("left out the care", "((1 + n) / (10 + n)).clamp(max=d)", "torch.full_like(n, d)"),
        ("count from n = 0", "torch.arange(1, updates + 1", "torch.arange(0, updates"),
        ("has been learned", "return ((1 + n)", "return 1 - ((1 + n)"),
        ("last update alone", ".prod()", "[-1]"),
    ],
    "diagonal-distance": [
        ("only the means", " + (std_a - std_b) ** 2", ""),
        ("compare variances", "(std_a - std_b) ** 2", "(std_a**2 - std_b**2) ** 2"),
        ("cross term", "(std_a - std_b) ** 2", "std_a**2 + std_b**2"),
        ("the root", "** 2).sum()", "** 2).sum().sqrt()"),
        ("trace is a sum", "** 2).sum()", "** 2).mean()"),
    ],
    "ab2": [
        ("this is DDIM", "if noise_before is not None", "if False"),
        ("equal steps", "h / (2 * h_before) *", "0.5 *"),
        ("sign of the correction", "(noise - noise_before)", "(noise_before - noise)"),
        ("exchanged", "h / (2 * h_before)", "h_before / (2 * h)"),
        ("to its middle", "h / (2 * h_before)", "h / h_before"),
        ("last step is Euler", "if noise_before is not None", "if noise_before is not None and t_next >= 0"),
        ("one time for each row", "torch.full((len(x),), t)", "torch.tensor(t)"),
        ("asked 24 times", "noise = denoiser", "denoiser(x, torch.full((len(x),), t)); noise = denoiser"),
    ],
}
