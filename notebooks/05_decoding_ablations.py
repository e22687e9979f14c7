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
# # 5 · Four ways to use a mask
#
# Chapter 4's model has masks, and a decoder that is run once for each of them. Is that the point? One could hand the masks to a single decoder, at a third
# of the cost. One could mask other features, or give each region a decoder of its own. The thesis tried all of these (2.4.3), and says that only its own way works.
# In this chapter we take parallel decoding apart: what each way costs, what each branch can *see*, and what comes out of it, with a control that the thesis lacks.
#
# **You will**
# 1. write down four decodings and count what each of them costs;
# 2. find the leak by which a network can ignore its masks, without training anything;
# 3. train one variant yourself, and predict first how it will do;
# 4. compare it with stored runs of six models, and decide which of the thesis's claims hold here.
#
# | profile | time |
# |---|---|
# | `ci` | about 45 s |
# | `laptop` | about 5 min (estimated from the stored runs) |
# | `gpu` | about 5 min (estimated, never timed on one) |
#
# **Before you start**: [chapter 4](04_parallel_decoding.ipynb).
#
# **Reading**: thesis 2.4.3, table 2.6, equations 2.5 to 2.7.

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
import copy
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode

from fdlib import viz
from fdlib.denoiser import Prediction
from fdlib.emergence import MaskWatch, audition
from fdlib.factorized import DECODINGS, FactorizedUNet
from fdlib.metrics.shapes_test import ShapesTest
from fdlib.metrics.tables import TABLES
from fdlib.presets import PRESETS
from fdlib.process import DenoisingObjective
from fdlib.training import train

viz.use_style()
device = course.device()

# %% [markdown]
# ## Four decodings
#
# All of them share encoder, middle block and mask generator, so all have masks $m_1 \dots m_K$. With $D$ for a decoder, as in chapter 3:
#
# | name | prediction | |
# |---|---|---|
# | `parallel` | $\sum_k m_k \odot D(h_{mid},\; h_{enc} \odot m_k,\; t)$ | the thesis's, equations 2.6 and 2.7 |
# | `concat` | $D([h_{mid}, m],\; [h_{enc}, m],\; t)$ | masks are further channels, equation 2.5 |
# | `mask_mid` | $\sum_k m_k \odot D(h_{mid} \odot m_k,\; h_{enc},\; t)$ | the other features are masked |
# | `unshared` | $\sum_k m_k \odot D_k(h_{mid},\; h_{enc} \odot m_k,\; t)$ | a decoder for each region |
#
# In the library that is one word, `FactorizedUNet(…, decoding="concat")`. What do they cost? The counter below adds up the multiplications and additions of one training step, forward
# and backward, on torch's *meta* device, where nothing is computed.

# %%
preset = PRESETS["regions32"][1]
K = preset.model.regions
sizes = {name: replace(preset.model, decoding=name) for name in DECODINGS}
sizes |= {"plain": replace(preset.model, regions=0), "plain-wide": replace(preset.model, regions=0, channels=32)}


def cost(architecture, batch=16):
    """Parameters, and FLOPs of a training step."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = architecture.build()
        x, t = torch.empty(batch, 3, 32, 32), torch.empty(batch, dtype=torch.long)
        model(x, t).value.sum().backward()
    return model.parameter_count, counter.get_total_flops()


costs = {name: cost(architecture) for name, architecture in sizes.items()}
for name, (parameters, flops) in costs.items():
    print(f"{name:11} {parameters / 1e6:5.2f} M parameters {flops / 1e9:6.2f} GFLOP a step, {flops / costs['plain'][1]:.1f} plain U-Nets")

# %%
ratio = costs["plain-wide"][1] / costs["parallel"][1]
assert costs["parallel"][0] == costs["mask_mid"][0] < costs["unshared"][0], "sharing saves parameters"
assert costs["parallel"][1] == costs["unshared"][1], "and no computation"
assert 0.9 < ratio < 1.1, f"the wide control has the parallel model's compute, to a tenth: {ratio:.2f}"

# %% [markdown]
# Two things stand out. Sharing a decoder saves parameters, not time: `parallel` and `unshared` compute the same amount. And `parallel` costs four plain U-Nets. When the thesis finds that its samples
# are better than the plain model's (table 2.5), part of that could be plain computing power. So we add a control: `plain-wide`, a U-Net *without* masks and with twice the channels, which costs as much as `parallel`
# (and has 2.5 times its parameters).
#
# ## The leak
#
# A mask does something only if a branch cannot have what the mask takes away. Let us see what a branch can see. We give the networks a *hard* mask, left half and right half, and ask how the left branch's prediction depends on
# each place of the skips $h_{enc}$ and of $h_{mid}$: the size of the gradient. No training is needed; the weights are random.

# %%
halves = torch.zeros(1, 2, 32, 32)
halves[:, 0, :, :16], halves[:, 1, :, 16:] = 1, 1


def seen_by_left_branch(decoding):
    """How much the left branch's prediction depends on each place of the highest skip, and of h_mid."""
    torch.manual_seed(0)
    model = replace(preset.model, decoding=decoding, regions=2).build()
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        h_mid, h_enc, emb = model.encode(x, torch.full((1,), 30))
    h_mid, h_enc = h_mid.requires_grad_(), [h.requires_grad_() for h in h_enc]
    left = model.branches(h_mid, h_enc, emb, halves)[:, 0] * halves[:, :1]  # what the sum will use of it
    left.square().sum().backward()
    return h_enc[0].grad.abs().sum(1)[0], h_mid.grad.abs().sum(1)[0]


seen = {name: seen_by_left_branch(name) for name in ("parallel", "mask_mid", "unshared")}
fig, axes = plt.subplots(2, 3, figsize=(9, 5.6))
for column, (name, (skip, middle)) in enumerate(seen.items()):
    for row, (place, values) in enumerate((("first skip", skip), ("h_mid", middle))):
        axes[row, column].imshow(values / values.max(), cmap="cividis", vmin=0, vmax=0.3)
        axes[row, column].set_title(f"{name}: {place}", fontsize=10)
        axes[row, column].set_axis_off()
fig.suptitle("What the left branch can see (dark: nothing)")
plt.show()

# %%
right_share = {name: float(skip[:, 8:].sum() / skip.sum()) for name, (skip, _) in seen.items()}
print({name: f"{share:.4f} of the gradient beyond the border" for name, share in right_share.items()})
assert right_share["parallel"] == right_share["unshared"] == 0, "masked skips hold nothing of the other region"
assert right_share["mask_mid"] > 0, "open skips show the other region's edge"

# %% [markdown]
# In `parallel` the other half of the skips is dark: nothing that the fine features know of it reaches this branch. Only $h_{mid}$ tells what is there, coarsely, a 4 x 4 grid of
# features. In `mask_mid` it is the reverse: the skips are open, and the branch looks across the border as if there were none. It sees everything *whatever the mask is*. So nothing is lost if the
# masks are bad, and nothing is gained if they are good. `concat` has no branches at all: one decoder sees everything, and the masks are nothing but some more features.
#
# ## Predict
#
# Table 2.6 of the thesis, on birds:

# %%
for name, (overlap, fid) in TABLES["2.6"].rows.items():
    print(f"{name:16} IoU {overlap:5.1f}   FID {fid:5.2f}")

# %% [markdown]
# Its text draws from it that (a) parallel decoding segments best; (b) `concat` and masking $h_{mid}$ end in "a trivial solution where masks are simply ignored"; (c) sharing weights helps; and from table 2.5, that (d) the
# factorized model paints better than the plain one, since it has "a better architecture". On rendered rooms, with a small network and a short training: which of the four do you expect to hold? Write it down now.
#
# ## Train one yourself
#
# Choose a variant. The recipe is chapter 4's, but shorter, and so is the mirror test that looks for a good start without reading a label; the stored runs below were made in this way.

# %%
VARIANT = "concat"  # "parallel", "concat", "mask_mid" or "unshared"

experiment = copy.deepcopy(preset)
experiment.model.decoding = VARIANT
experiment.data.count = profile.pick(ci=1000, laptop=20_000, gpu=20_000)
config = replace(experiment.training, steps=profile.pick(ci=200, laptop=1200, gpu=1200), seed=0, mixed_precision=course.precision())
pictures, objective = experiment.data.build(32), experiment.objective()
start = audition(experiment.model.build, objective, pictures, config, pictures.datasets[0].images(slice(0, 200)),
                 steps=profile.pick(ci=20, laptop=60, gpu=60), tries=profile.pick(ci=1, laptop=6, gpu=6))
print(start)
config.seed = start.seed
torch.manual_seed(config.seed)
denoiser = experiment.model.build().to(device)
untrained = copy.deepcopy(denoiser).eval()
watch = MaskWatch(pictures.datasets[0].images(slice(0, 64)))
run = train(denoiser, objective, pictures, config, folder=start.folder, callbacks=[watch], callback_every=max(1, config.steps // 10))

# %%
test = ShapesTest.render(32, count=profile.pick(ci=100, laptop=1000, gpu=1000))
live = test.score(run.ema, objective.schedule)
print(f"{VARIANT}, {config.steps} steps: mIoU {live['miou']:.3f}; untrained {test.score(untrained, objective.schedule)['miou']:.3f}")
print(watch.history[-1][1])


# %% [markdown]
# ### Are the masks used?
#
# A question that the score cannot answer. So exchange the masks: each picture is denoised with the masks of *another* one. If the decoder relies on them, the denoising error goes up a lot; if it
# ignores them, nothing happens.

# %%
@torch.no_grad()
def denoising_error(model, images, exchange=False):
    """Mean squared error of the noise on these pictures, all times alike, with their own masks or with those of others."""

    def predict(x_t, t):
        h_mid, h_enc, emb = model.encode(x_t, t)
        masks = model.mask_generator(h_mid, h_enc, emb)
        return Prediction(noise=model.decode(h_mid, h_enc, emb, masks.roll(1, dims=0) if exchange else masks))

    even = DenoisingObjective(objective.schedule)
    generator = torch.Generator(device).manual_seed(0)
    return float(even(predict, images.to(device), generator)[0])


before, end = denoising_error(untrained, test.images[:100]), denoising_error(run.ema, test.images[:100])
swapped = denoising_error(run.ema, test.images[:100], exchange=True)
print(f"error on test pictures: untrained {before:.3f}, trained {end:.4f}, trained with other pictures' masks {swapped:.4f}")

# %% tags=["claim-live"]
assert end < 0.8 * before, f"even a short training must denoise pictures it has not seen: {end:.3f} against {before:.3f} before"

# %% [markdown]
# The same question to the shipped model of chapter 4, which decodes in parallel:

# %%
shipped = FactorizedUNet.from_pretrained(course.asset("shapes32_regions")).to(device)
own, others = (denoising_error(shipped, test.images[:100], exchange) for exchange in (False, True))
print(f"shipped, parallel: error {own:.4f} with its own masks, {others:.4f} with other pictures': {others / own:.1f} times")

# %% tags=["claim"]
assert own < 0.2, "the shipped model denoises"
assert others > 1.5 * own, f"and it needs its masks: {others / own:.2f}"

# %% [markdown]
# ## The stored runs
#
# Six models, 1200 steps of 16 pictures each, with the seeds that are listed below: `python benchmarks/ablations.py --seeds 0 1 2 --folder runs/ablations --json FILE`. A plain U-Net has no masks; its regions are
# k-means clusters of its features, which the thesis calls DatasetDDPM-unsup. Samples are compared with test pictures by the offline Fréchet distance of chapter 2, 320 on each side, all models from the
# same noise. The file carries commits, command and seeds.

# %%
stored = course.results("ablations")
NAMES = list(sizes)


def column(name, value):
    return [value(r) for r in stored["runs"] if r["model"] == name]


def cell(values, digits):
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})".ljust(23)


if stored is not None:
    print(f"commits {', '.join(stored['commits'])}, seeds {stored['seeds']}; mean over seeds, and range")
    print(f"{'':11} {'ms a step':>9}  {'mIoU':23}{'IoU of the object':23}{'Fréchet distance':23}{'error on test pictures'}")
    for name in NAMES:
        print(f"{name:11} {stored['cost'][name]['step_ms']:9.0f}  " + cell(column(name, lambda r: r["miou"]), 3)
              + cell(column(name, lambda r: r["per_class_iou"][2]), 2) + cell(column(name, lambda r: r["frechet"]), 0)
              + cell(column(name, lambda r: r["loss"]), 4))
    reference = stored["reference"]
    for name, scores in reference["baselines"].items():
        print(f"{name}: mIoU {scores['miou']:.3f}")
    print(f"Fréchet distance of other test pictures {reference['frechet_other_half']:.1f}, of noise {reference['frechet_noise']:.0f}")
    print(f"yours, {VARIANT}, {config.steps} steps: mIoU {live['miou']:.3f}, error {end:.4f}")

# %%
if stored:
    fig, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    measures = (("mIoU", lambda r: r["miou"]), ("Fréchet distance (lower is better)", lambda r: r["frechet"]),
                ("error with other pictures' masks, over own", lambda r: r.get("loss_with_other_masks", float("nan")) / r["loss"]))
    for axis, (title, value) in zip(axes, measures, strict=True):
        for i, name in enumerate(NAMES):
            axis.plot([i] * len(column(name, value)), column(name, value), "o", alpha=0.7)
        axis.set_xticks(range(len(NAMES)), NAMES, rotation=40, ha="right")
        axis.set_title(title, fontsize=10)
    axes[2].axhline(1, ls="--", c="grey")
    plt.show()

# %% [markdown]
# ## Which of the claims hold?
#
# The claims as inequalities, put to the stored means. (On a checkout without the file there is nothing to test.)

# %%
if stored:
    mean = {name: {key: sum(column(name, value)) / len(column(name, value)) for key, value in (
        ("miou", lambda r: r["miou"]), ("object", lambda r: r["per_class_iou"][2]), ("frechet", lambda r: r["frechet"]), ("loss", lambda r: r["loss"]),
        ("reliance", lambda r: r.get("loss_with_other_masks", r["loss"]) / r["loss"]))} for name in NAMES}
    claims = {
        "(a) parallel decoding segments best": mean["parallel"]["miou"] > max(mean[n]["miou"] for n in NAMES if n != "parallel"),
        "(b) concat ignores its masks": mean["concat"]["reliance"] < 1.1,
        "(b) mask_mid ignores its masks": mean["mask_mid"]["reliance"] < 1.1,
        "(c) sharing weights segments better": mean["parallel"]["miou"] > mean["unshared"]["miou"],
        "(c) sharing weights paints better": mean["parallel"]["frechet"] < mean["unshared"]["frechet"],
        "(d) parallel paints better than the plain U-Net, step for step": mean["parallel"]["frechet"] < mean["plain"]["frechet"],
        "(d) and at equal compute": mean["parallel"]["frechet"] < mean["plain-wide"]["frechet"],
    }
    for claim, holds in claims.items():
        print(f"{'holds   ' if holds else 'does not'}  {claim}")
    assert claims["(a) parallel decoding segments best"] and not claims["(d) and at equal compute"], "what the text below says"

# %% [markdown]
# *(a) holds, on each of the three seeds.* Parallel decoding is the one of the six whose regions are floor, walls and object. It is the object that separates it from the others.
#
# *(b) holds half.* The masks of `concat` are no regions: nearly grey, and hardly better than chance. But *ignored* they are not. Give a picture another one's masks, and the error nearly doubles. The decoder reads them as what they are to it, further features, in shades of grey that nobody else could read. And `mask_mid` does
# find sky, wall and floor here, without the object: what $h_{mid}$ holds is coarse, and coarse is what its masks become. On birds both came to the same IoU of 20.
#
# *(c) holds for the regions, not for the pictures.* Decoders of their own (`unshared`) are free to specialise on anything, and their masks stay grey for long. But they denoise better, and paint better.
#
# *(d) does not hold here.* Step for step, the factorized model denoises a little better than the plain one, and that on all seeds, but the distances of their samples overlap. Give the plain one the same compute, and it does both better, by far, in *less* time a step (large convolutions are
# efficient). Whatever the architecture gains in pictures can be bought with plain width. That takes nothing from the masks: the wide network has none.
#
# How far does this carry? Small networks, rendered rooms, and a training that is far from its end: the Fréchet distances are some twenty times those of chapter 2's denoiser, which saw 8000 steps of 64 pictures. At the end of a long training the order of the pictures may be another. And three seeds are few: exercise 5.5 asks what they can prove.

# %% [markdown]
# ## What to try
#
# - `VARIANT = "mask_mid"`, then `"unshared"`. Do the masks' three numbers tell you early how it will end?
# - Give `unshared` three times the steps: each of its decoders sees a third of the pixels. Does it catch up?
# - `experiment.model.mask_resize = "nearest"`. The thesis does not say how masks reach the skips' resolutions; does it matter?
# - A control of your own: the plain U-Net, four times as *long*, in place of four times as wide.
#
# ## Exercises
#
# Exercises that check your answers are in [their own notebook](../exercises/05_decoding_ablations.ipynb). These go further:
#
# 1. *(warm-up)* From the table of costs: what does one decoder cost, in plain U-Nets? And what would `parallel` cost with $K = 8$?
# 2. In `parallel`, $h_{mid}$ is open. Mask it as well (a decoding of your own: both). Predict what happens to the picture's layout, then to the score.
# 3. The exchange above gives each picture the masks of another room, in which walls and floor are at the same place. Which exchange would be harsher? And which number says how much of the ratio is due to the object alone?
# 4. *(open)* Three seeds: how large must a difference of two means be before you believe it?
#
# **Next**: [chapter 6](06_generate_and_segment.ipynb) lets the model paint, and cuts what it painted.
