# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3 · A mask generator
#
# A segmenter is usually trained on masks that somebody drew. In this chapter and the next we build one that never sees any: it learns where
# things are because knowing it makes *denoising* easier. Here we build it piece by piece, and meet the symmetry that would keep it from
# learning anything at all.
#
# **You will**
# 1. cut the U-Net of chapter 2 in three and grow a second decoder, one that draws regions;
# 2. write parallel decoding, thesis equations 2.6 and 2.7, as a loop, then as one batched pass, and time both;
# 3. prove, then measure, that identical masks receive *no gradient*, and watch a training that goes nowhere;
# 4. break the symmetry, and watch the same training go somewhere.
#
# | profile | time |
# |---|---|
# | `ci` | about 30 s |
# | `laptop` | about 2 min |
# | `gpu` | about 2 min (estimated, never timed on one) |
#
# **Before you start**: [chapter 2](02_unet_and_sampling.ipynb); the chain rule; what a softmax is.
#
# **Reading**: thesis 2.3, figure 2.2, equations 2.2 to 2.8.

# %%
# The same first cell in every notebook: finds fdlib, or installs it (and nothing else), then looks at this machine.
import importlib.util, os, subprocess, sys

if getattr(importlib.util.find_spec("fdlib"), "origin", None) is None:  # a mere folder of that name does not count
    source = os.environ.get("FDLIB_SOURCE", "git+https://github.com/fdlib/fdlib")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source], check=True)
    importlib.invalidate_caches()

from fdlib import course

profile = course.bootstrap(drive=False)  # on Colab, drive=True keeps your training runs on Google Drive

# %%
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from fdlib import viz
from fdlib.data.shapes3d import Shapes3D, coarse, split_indices
from fdlib.emergence import MaskWatch
from fdlib.factorized import FactorizedUNet, resize_masks
from fdlib.process import DenoisingObjective, PowerT, add_noise
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, train
from fdlib.unet import Decoder, UNet

viz.use_style()
schedule = NoiseSchedule.linear(T=1000)
device = course.device()

# %% [markdown]
# ## What we would like to have
#
# The renderer knows which pixel shows what. We use its labels to *look*, here, and to *score*, in the next chapter. Nothing that learns
# will see them.

# %%
train_indices, test_indices = split_indices(train=profile.pick(ci=1000, laptop=5000, gpu=20_000), test=64, seed=0)
pictures = Shapes3D(size=32, indices=train_indices, layout="varied", seed=0)
wanted = Shapes3D(size=32, indices=test_indices)
images, labels = wanted.images().to(device), coarse(wanted.labels(), "three").long()
viz.show_rows({"pictures": images[:8].cpu(), "floor, walls, object": viz.label_map_colours(labels[:8])})

# %% [markdown]
# The training pictures look different from these: each shows a *window* of the room, at its own zoom and place, sometimes mirrored. In the
# official pictures the object stands in the middle every time, so a network could call the middle of the frame "object" without
# looking. Chapter 4 measures what this variety is worth.

# %%
viz.show_images(pictures.images(slice(0, 16)), columns=8, caption="Training pictures: sixteen windows")

# %% [markdown]
# ## The U-Net, cut in three
#
# In chapter 2 we called encoder, middle block and decoder one after the other. `UNet.encode` does the first two, and returns what any
# decoder gets to see:
#
# $$h_{enc} = \theta_{enc}(x_t, t), \qquad h_{mid} = \theta_{mid}(h_{enc}, t) \qquad\text{(thesis equations 2.2, 2.3)}$$

# %%
shape = dict(image_size=32, channels=16, multipliers=(1, 2, 2), blocks=1, attention=(), fold=2)
torch.manual_seed(0)
unet = UNet(**shape).to(device)
t = torch.full((len(images),), 30, device=device)
noise = torch.randn(images.shape, generator=torch.Generator(device).manual_seed(0), device=device)
x_t = add_noise(schedule, images, t, noise)
h_mid, h_enc, emb = unet.encode(x_t, t)
print("h_mid", tuple(h_mid.shape[1:]), "  h_enc", [tuple(h.shape[1:]) for h in h_enc])

# %% [markdown]
# ## A second decoder
#
# A decoder turns these features into a picture. Who says that it must be a picture of noise? Give a second decoder $K$ output channels and a
# softmax, and it draws, for every pixel, how much that pixel belongs to each of $K$ regions:
#
# $$m_k = \theta_{mask}(h_{mid}, h_{enc}, t), \qquad m_k \ge 0, \quad \textstyle\sum_k m_k = 1 \qquad\text{(thesis equation 2.4)}$$
#
# One detail is ours. The network works on 2 x 2 blocks of pixels (`fold=2`). If each pixel of a block had a logit of its own, masks could form a
# checkerboard inside the block. So there is one logit a block, interpolated smoothly between blocks.

# %%
K = 3


class MaskGenerator(nn.Module):
    def __init__(self, regions, unet, std):
        super().__init__()
        self.decoder = Decoder(channels_out=regions, **unet.decoder_shape)
        nn.init.normal_(self.decoder.head.weight, std=std)  # remember this line

    def forward(self, h_mid, h_enc, emb):
        logits = self.decoder(h_mid, h_enc, emb)  # (B, K, 16, 16)
        logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        return logits.softmax(dim=1)  # (B, K, 32, 32)


torch.manual_seed(0)
mask_generator = MaskGenerator(K, unet, std=0.02).to(device)
with torch.no_grad():
    masks = mask_generator(h_mid, h_enc, emb)
assert torch.allclose(masks.sum(dim=1), torch.ones(len(images), 32, 32, device=device))
print(f"untrained masks lie between {masks.min():.3f} and {masks.max():.3f}: all grey")

# %% [markdown]
# ## How should the decoder use them?
#
# The masks must *matter*, or nothing will teach them. Handing them to the decoder as extra channels (equation 2.5) is not enough: it may
# ignore them. The thesis forces its hand. There is one decoder, but it runs $K$ times, and each time it sees the skips through one mask only and
# answers for that region only:
#
# $$\hat\epsilon_k = \theta_{dec}(h_{mid},\; h_{enc} \odot m_k,\; t), \qquad
#   \hat\epsilon = \sum_k m_k \odot \hat\epsilon_k \qquad\text{(equations 2.6, 2.7)}$$
#
# The skips live at several resolutions, so the mask is averaged down to each.

# %%
nn.init.normal_(unet.decoder.head.weight, std=0.02)  # a decoder that answers 0 to everything would send no gradient back


def parallel_decoding(h_mid, h_enc, emb, masks):
    total = 0
    for k in range(masks.shape[1]):
        m_k = masks[:, k : k + 1]
        seen = [h * resize_masks(m_k, h.shape[-2:]) for h in h_enc]  # the skips, through mask k
        noise_k = F.pixel_shuffle(unet.decoder(h_mid, seen, emb), 2)
        total = total + m_k * noise_k
    return total


with torch.no_grad():
    by_loop = parallel_decoding(h_mid, h_enc, emb, masks)

# %% [markdown]
# `FactorizedUNet` is this, with one difference: the loop is gone. Branch $k$ of picture $b$ becomes row $bK + k$ of one large batch. Same
# numbers?

# %%
model = FactorizedUNet(**shape, regions=K).to(device)
weights = unet.state_dict() | {f"mask_generator.{name}": value for name, value in mask_generator.state_dict().items()}
model.load_state_dict(weights)
with torch.no_grad():
    prediction = model(x_t, t)
difference = (prediction.noise - by_loop).abs().max() / by_loop.abs().max()
print(f"largest difference: {difference:.1e} of the largest value")
assert difference < 1e-5 and torch.allclose(prediction.masks, masks, atol=1e-6)

# %% [markdown]
# And what does it cost? Three decoders and a mask generator in place of one decoder:

# %%
from torch.utils.flop_counter import FlopCounterMode


def cost(call):
    with FlopCounterMode(display=False) as counter:
        call().square().mean().backward()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        call().square().mean().backward()
        seconds.append(time.perf_counter() - start)
    return counter.get_total_flops() / 1e9, min(seconds)


def looped():
    h_mid, h_enc, emb = unet.encode(x_t, t)
    return parallel_decoding(h_mid, h_enc, emb, mask_generator(h_mid, h_enc, emb))


table = {"plain U-Net": cost(lambda: unet(x_t, t).noise), "K branches in a loop": cost(looped),
         "K branches in one batch": cost(lambda: model(x_t, t).noise)}
for name, (flops, seconds) in table.items():
    print(f"{name:24} {flops:6.1f} GFLOP {1000 * seconds:6.0f} ms a step of {len(images)} pictures")
ratio = table["K branches in one batch"][0] / table["plain U-Net"][0]
print(f"ratio of FLOPs: {ratio:.2f}")
assert 2.5 < ratio < 4


# %% [markdown]
# ## The saddle
#
# Everything in this network starts somewhere, and many layers of chapter 2 start at zero. Suppose the mask generator's last layer did. All logits are
# equal then, so $m_k = 1/K$ everywhere; every branch sees the same skips; and because *the decoder is shared*, all branches answer
# the same, $\hat\epsilon_k = \hat\epsilon_j$. Now nudge one logit $l_k$ of one pixel. The softmax gives
#
# $$\frac{\partial L}{\partial l_k} = m_k \Big( g_k - \sum_j m_j g_j \Big), \qquad g_k = \frac{\partial L}{\partial m_k}.$$
#
# No branch differs from another, so neither do the $g_k$: they equal their own mean, and the bracket is **zero**. Not small: zero, for every
# pixel, every picture, every $t$. Gradient descent never leaves. It is not a minimum, only a saddle: the slightest difference between masks
# gives the branches different things to say.

# %%
def mask_gradient(std, decoding="parallel"):
    """The largest gradient that reaches the mask generator's last layer, if that starts with this spread."""
    torch.manual_seed(0)
    net = FactorizedUNet(**shape, regions=K, decoding=decoding).to(device).double()
    net.mask_generator.decoder.head.weight.data.normal_(std=1).mul_(std)
    (net(x_t.double(), t).noise - noise).square().mean().backward()
    return float(net.mask_generator.decoder.head.weight.grad.abs().max())


spreads = [0, 1e-4, 1e-3, 1e-2, 1e-1]
gradients = {name: [mask_gradient(std, name) for std in spreads] for name in ("parallel", "unshared")}
for name, values in gradients.items():
    print(f"{name:9}", "  ".join(f"std {std:g}: {value:.1e}" for std, value in zip(spreads, values, strict=True)))
assert gradients["parallel"][0] < 1e-12, "identical masks and one shared decoder: no gradient at all"
assert gradients["parallel"][2] > 1e6 * gradients["parallel"][0]

# %% [markdown]
# The gradient grows in proportion to the difference that is there already. With decoders of their own (`unshared`) the branches differ
# from the start, and there is no saddle. Sharing is worth the trouble all the same: chapter 5 measures it.
#
# ### A training that goes nowhere
#
# The same network, the same data, the same loss, the same seed. One starts on the saddle, the other a little beside it.

# %%
config = TrainingConfig(steps=profile.pick(ci=100, laptop=400, gpu=2000), batch_size=16, learning_rate=1e-3, warmup=20,
                        ema_decay=0.95, log_every=10, mixed_precision=course.precision())
objective = DenoisingObjective(schedule, timesteps=PowerT(2))  # t = T u^2: more of the low noise, where regions can be seen
watched = pictures.images(slice(0, 64))
runs, watches = {}, {}
for name, std in {"on the saddle": 0.0, "beside it": 0.02}.items():
    torch.manual_seed(0)
    net = FactorizedUNet(**shape, regions=K).to(device)
    net.mask_generator.decoder.head.weight.data.normal_(std=1).mul_(std)
    watches[name] = MaskWatch(watched, show=0)  # judges the masks of these pictures now and then
    runs[name] = train(net, objective, pictures, config, callbacks=[watches[name]], callback_every=config.steps // 10, progress=False)
    print(f"{name:14} loss {runs[name].history[-1]['loss']:.3f}   {watches[name].history[-1][1]}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.5))
for name, run in runs.items():
    axes[0].plot([row["step"] for row in run.history], [row["loss"] for row in run.history], label=name)
    steps, healths = zip(*watches[name].history, strict=True)
    axes[1].plot(steps, [health.entropy for health in healths], "o-", label=name)
axes[0].set(title="Both losses fall", xlabel="step", ylabel="loss", yscale="log")
axes[1].set(title="Only one kind of mask moves", xlabel="step", ylabel="entropy of the masks", ylim=(0, 1.05))
axes[1].legend()
plt.show()

# %% [markdown]
# The loss of the run on the saddle falls like any other: as a denoiser it is fine. Nothing in the loss curve tells you that its masks
# are dead. That is why chapter 4 watches the masks themselves, with numbers that need no label:
#
# - **occupancy**: the share of the pictures that each region holds;
# - **entropy**: 1 when no pixel has a preferred region, 0 when all are sure;
# - **variation**: how much of the masks depends on the picture, rather than on the place in the frame.

# %% tags=["claim-live"]
moved = watches["beside it"].history[-1][1].entropy
assert moved < 0.9, f"masks beside the saddle must become decided: entropy {moved:.2f} of 1"

# %%
assert watches["on the saddle"].history[-1][1].entropy > 0.999, "on the saddle, masks stay grey"

# %%
rows = {"pictures": watched[:8]}
for name, run in runs.items():
    rows[name] = viz.overlay_masks(watched[:8], run.ema.segment(watched[:8].to(device)).cpu(), alpha=0.8)
viz.show_rows(rows, caption="Training pictures, and the masks after a very short training")

# %% [markdown]
# Regions, drawn by nobody. They are not yet what we would like to have. What it takes to get there is the next chapter.
#
# ## What to try
#
# - `regions=1` is the plain U-Net. Check it: copy the weights and compare the predictions.
# - `regions=8`, and watch the occupancy. Does the network use them all?
# - Start the mask head with `std=1`. Are hard random masks a better beginning than grey ones?
# - `mask_upsample="shuffle"` gives every pixel its own logit. Zoom into the masks after some training: can you see the checkerboard?
#
# ## Exercises
#
# Exercises that check your answers are in [their own notebook](../exercises/03_mask_generator.ipynb). These go further:
#
# 1. *(warm-up)* Why does equation 2.7 need no division by $\sum_k m_k$?
# 2. The derivation above uses that the branches share the decoder *and* that masks are equal at every pixel. Which of the two can you weaken? Try masks that are
#    constant over the picture but differ between regions: $m = (.5, .3, .2)$ everywhere. Predict the gradient, then measure it.
# 3. Adam divides the gradient by its own size, so even a gradient of $10^{-12}$ could become a full step. Why did the run on the saddle stay there? (Look for `eps`.)
# 4. Take `decoding="mask_mid"`, which masks $h_{mid}$ in place of the skips. How large is its gradient at the start compared to `parallel`'s? Why?
# 5. *(open)* Find another way off the saddle that leaves the mask head at zero.
#
# **Next**: [chapter 4](04_parallel_decoding.ipynb) trains this model until the regions mean something.
