"""Typical wrong answers to the exercises of chapter 1.

grade id of the cell -> (what the message must say, text of the solution, what is written in its place). A pattern of the
message is a regular expression.
"""

WRONG = {
    "jump": [
        ("standard deviation", "return r, v", "return r, v.sqrt()"),
        ("shrunk by r as well", "- r**2 * schedule.s[t] ** 2", "- schedule.s[t] ** 2"),
        ("all the noise of x_u", " - r**2 * schedule.s[t] ** 2", ""),
        ("clean picture", "schedule.a[u] / schedule.a[t]", "schedule.a[u]"),
        ("take their roots", "schedule.a[u] / schedule.a[t]", "schedule.alpha_bars[u] / schedule.alpha_bars[t]"),
        ("return 2 things", "return r, v", "return v"),
    ],
    "first-noisy": [
        ("count from 1", "+ 1 - 1", "+ 1"),
        ("one too early", "+ 1 - 1", "- 1"),
        ("compare a with 1/2", "math.log(0.5)", "math.log(0.25)"),
    ],
    "step": [
        ("still divided by a variance", "beta / s * noise_hat", "beta / s**2 * noise_hat"),
        ("sigma is beta", "beta.sqrt() * z", "beta * z"),
        ("last step", " if t > 0 else mean", ""),
        ("wrong sign", "(x_t - beta", "(x_t + beta"),
        ("no z at all", "mean + beta.sqrt() * z if t > 0 else mean", "mean"),
        ("one step back undoes one step", "/ (1 - beta).sqrt()", "/ schedule.a[t]"),
    ],
    "score-from-x0": [
        ("its square", "/ s**2", "/ s"),
        ("sign is turned", "(a * x0_hat - x_t)", "(x_t - a * x0_hat)"),
        ("data have shrunk", "a * x0_hat", "x0_hat"),
        ("expected noise", "(a * x0_hat - x_t) / s**2", "(x_t - a * x0_hat) / s"),
    ],
    "noise-free-spread": [
        ("this is a variance", "return factors.prod()", "return factors.square().prod()"),
        ("divide by the root", " / schedule.alphas.sqrt()", ""),
        ("ignores the data's variance", "schedule.alpha_bars * sigma**2 + ", ""),
    ],
    "memory": [
        ("turn it into noise", "[..., None] * needed).sum(1)", "[..., None] * data).sum(1)"),
        ("width of the bell", "needed.square()", "(s * needed).square()"),
        ("lack the 1/2", "-0.5 * needed", "-needed"),
        ("data themselves", "-0.5 * needed.square()", "-0.5 * ((x_t[:, None] - data) / s).square()"),
        (
            "nan",
            "torch.softmax(-0.5 * needed.square().sum(-1), dim=1)",
            "torch.exp(-0.5 * needed.square().sum(-1)); weights = weights / weights.sum(1, keepdim=True)",
        ),
    ],
    "rotate": [
        ("wrong way", "angle[t_next] - angle[t]", "angle[t] - angle[t_next]"),
        ("exchanged", "turn.cos() * x_t + turn.sin() * velocity", "turn.sin() * x_t + turn.cos() * velocity"),
        ("comes from alpha_bar", "torch.atan2(schedule.s, schedule.a)", "torch.acos(schedule.alpha_bars)"),
        ("clean picture", "angle[t_next] - angle[t]", "-angle[t]"),
    ],
    "my-betas": [
        ("between 0 and 1", "return 1 - alpha_bars /", "return 2 - alpha_bars /"),
        ("left at the end", "torch.linspace(6.5, -6.5, 50", "torch.linspace(6.5, -1, 50"),
        ("shape", "6.5, 50, dtype", "6.5, 49, dtype"),
        ("linear schedule", "return 1 - alpha", "return NoiseSchedule.linear(50, rescale=True).betas + 0 * alpha"),
    ],
}
