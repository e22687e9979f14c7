"""Typical wrong answers to the exercises of chapter 3; see 01.py for the form."""

WRONG = {
    "cost": [
        ("mask generator is missing", "(e + d + K * d)", "(e + K * d)"),
        ("encoder runs once", "(e + d + K * d)", "(K * (e + d) + d)"),
        ("K separate networks", "(e + d + K * d) / (e + d)", "K"),
        ("in units of", " / (e + d)", ""),
    ],
    "stuck": [
        ("equal, shared: you say False", '"equal, shared": True', '"equal, shared": False'),
        ("another scale", '"constant, shared": False', '"constant, shared": True'),
        ("weights of their own", '"equal, unshared": False', '"equal, unshared": True'),
        ("1 whatever its logit", '"equal, shared, one region": True', '"equal, shared, one region": False'),
        ("say True or False", '"equal, unshared": False', '"equal, unshared": "no"'),
    ],
    "logit-gradient": [
        ("temperature is missing", " / tau", ""),
        ("divides the gradient", " / tau", " * tau"),
        ("weighted with m", "(m * g).sum(dim=1, keepdim=True)", "g.mean(dim=1, keepdim=True)"),
        ("factor m_k", "return m * (g", "return (g"),
        ("bracket is missing", "(g - (m * g).sum(dim=1, keepdim=True))", "g"),
    ],
    "decoding": [
        ("dimension 1", "softmax(dim=1)", "softmax(dim=-1)"),
        ("weighs each branch", "m_k * decoder(", "decoder("),
        ("leaves h_mid alone", "decoder(h_mid,", "decoder(h_mid * m_k,"),
        ("no division by K", "return total", "return total / logits.shape[1]"),
        ("through its own mask", "skip * m_k)", "skip)"),
    ],
    "alive": [
        ("divide by log K", " / math.log(K)", ""),
        ("order is turned", "(of_mean - of_each)", "(of_each - of_mean)"),
        ("grey masks would pass", "(of_mean - of_each)", "of_mean"),
        ("collapsed masks would pass", "(of_mean - of_each)", "of_each"),
        (
            "picture by picture",
            "mean = masks.mean(dim=(0, 2, 3))\n    of_mean = -torch.special.xlogy(mean, mean).sum()",
            "mean = masks.mean(dim=(2, 3))\n    of_mean = -torch.special.xlogy(mean, mean).sum(1).mean()",
        ),
        ("nan", "-torch.special.xlogy(masks, masks)", "-(masks * masks.log())"),
    ],
    "first-step": [
        ("against the gradient", "-learning_rate", "learning_rate"),
        ("outside of the root", "(abs(g) + eps)", "math.sqrt(g * g + eps)"),
        ("full step", "(abs(g) + eps)", "abs(g)"),
        ("corrections for the first step", "g / (abs(g) + eps)", "0.1 * g / (math.sqrt(0.001) * abs(g) + eps)"),
        ("plain gradient descent", " / (abs(g) + eps)", ""),
        ("sign is lost", "* g /", "* abs(g) /"),
    ],
    "escape": [
        ("still on the saddle", "net.decode = tilted", "pass"),
        ("still on the saddle", "torch.linspace(0.9, 1.1, K)", "torch.full((K,), 1.1)"),
        (
            "leave the last layer",
            "net.decode = tilted",
            "torch.nn.init.normal_(net.mask_generator.decoder.head.weight)",
        ),
        ("must not be random", "tilt.to(masks)", "(1 + torch.rand(K, 1, 1)).to(masks)"),
    ],
}
