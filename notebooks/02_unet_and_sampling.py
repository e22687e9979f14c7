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
# # 2 · The U-Net, and how to sample from it
#
# In chapter 1 the perfect denoiser was a formula. For pictures there is none, so now a network learns it: the U-Net of
# Ho et al., trained with one line of loss on pictures that this machine renders for you. At the end it paints rooms that
# nobody rendered.
#
# **You will**
# 1. take a U-Net apart into the three pieces that chapter 3 will rearrange;
# 2. train it, and see what it learns first and what last;
# 3. give samples a score, with a baseline above and one below it;
# 4. see why nobody samples from the weights that were just trained, but from their average, and what a *worse* network is good for;
# 5. race three samplers: how many evaluations of the network does a good picture cost?
#
# | profile | time |
# |---|---|
# | `ci` | 85 s on two slow cores |
# | `laptop` | 5.3 min on two slow cores; on two fast ones about half of that (estimated) |
# | `gpu` | about 10 min (estimated, never timed on one) |
#
# **Before you start**: [chapter 1](01_ddpm_basics.ipynb); convolutions, and what a training loop does.
#
# **Reading**: Ho et al. 2020, [*Denoising diffusion probabilistic models*](https://arxiv.org/abs/2006.11239), section 3.4 and
# appendix B; Song et al. 2021, [*DDIM*](https://arxiv.org/abs/2010.02502), section 4; Lu et al. 2022,
# [*DPM-Solver++*](https://arxiv.org/abs/2211.01095), section 3; thesis 2.4, *Implementation Details*.

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

import matplotlib.pyplot as plt
import torch

from fdlib import samplers, viz, widgets
from fdlib.data.shapes3d import Shapes3D, split_indices
from fdlib.denoiser import Prediction
from fdlib.metrics.generation import FactorClassifier, frechet_distance
from fdlib.oracle import GaussianMixtureOracle
from fdlib.process import DenoisingObjective, LogitNormalT, add_noise, to_noise, to_x0
from fdlib.schedule import NoiseSchedule, time_grid
from fdlib.training import TrainingConfig, train
from fdlib.unet import UNet, timestep_embedding

viz.use_style()
schedule = NoiseSchedule.linear(T=1000)
device = course.device()

# %% [markdown]
# ## The pictures
#
# 3D Shapes is a world of 480 000 pictures: an object in a room, with ten colours each for floor, wall and object, eight
# sizes, four shapes and fifteen directions of view. We render as many as we want. Two sets, *disjoint*: one to train on, one
# that the network never sees and every score is computed on.

# %%
train_indices, test_indices = split_indices(
    train=profile.pick(ci=2000, laptop=12_000, gpu=50_000), test=profile.pick(ci=1500, laptop=5500, gpu=6000), seed=0
)
pictures = Shapes3D(size=32, indices=train_indices)
held_out = Shapes3D(size=32, indices=test_indices).images()
assert not set(train_indices.tolist()) & set(test_indices.tolist())

viz.show_images(held_out[:16], columns=8, caption="Sixteen held-out pictures, 32 x 32 pixels")

# %% [markdown]
# ## A U-Net in three parts
#
# The denoiser gets a noisy picture $x_t$ and the time $t$, and returns a picture: the noise. The U-Net does it in three parts.
# The thesis (equations 2.2 and 2.3) gives their outputs names that stay with us for the whole course:
#
# $$h_{enc} = \theta_{enc}(x_t, t), \qquad h_{mid} = \theta_{mid}(h_{enc}, t), \qquad \hat\epsilon = \theta_{dec}(h_{mid}, h_{enc}, t)$$
#
# - the **encoder** looks at ever larger parts of the picture at ever lower resolution. $h_{enc}$ is a *list*: what it saw on
#   every floor of the way down;
# - the **middle block** sees the whole picture at once;
# - the **decoder** climbs up again. On every floor it is handed what the encoder saw there (the *skips*), so it need not remember
#   where exactly an edge was.

# %%
torch.manual_seed(0)
denoiser = UNet(image_size=32, channels=24, multipliers=(1, 2, 2), blocks=1, attention=(), fold=2, predicts="velocity").to(device)  # see below

x_t, t = held_out[:4].to(device), torch.tensor([0, 10, 100, 999], device=device)
emb = denoiser.time(t)
h_enc = denoiser.encoder(torch.nn.functional.pixel_unshuffle(x_t, 2), emb)
h_mid = denoiser.middle(h_enc[-1], emb)
out = denoiser.decoder(h_mid, h_enc, emb)

for name, parts in {"h_enc": h_enc, "h_mid": [h_mid], "decoder": [out]}.items():
    print(f"{name:8}", "  ".join(str(tuple(part.shape[1:])) for part in parts))

# %% [markdown]
# The first step **folds** each 2x2 block of pixels into channels: 32 x 32 pixels of 3 numbers become 16 x 16 positions of 12. It
# loses nothing, and all layers then run on a quarter of the positions: that is what makes this chapter possible on a laptop.
# The thesis, with eight GPUs, does without. Here is its network; the `meta` device builds it without any memory for the weights.

# %%
with torch.device("meta"):
    thesis = UNet(image_size=64, channels=128, multipliers=(1, 2, 3, 4), blocks=3, attention=(16,))
print(f"thesis, 64 px: {thesis.parameter_count / 1e6:.1f} million parameters; ours: {denoiser.parameter_count / 1e6:.2f} million")
assert round(thesis.parameter_count / 1e6, 1) == 108.6

# %% [markdown]
# ### How does the network know the time?
#
# As a bare number, $t = 500$ says little to a network. So $t$ becomes a vector of sines and cosines, fast ones and slow ones, like
# the hands of a clock: neighbouring times have similar vectors, distant times do not. The vector is added inside every
# residual block.

# %%
embedding = timestep_embedding(torch.arange(1000), 64)
fig, axes = plt.subplots(1, 2, figsize=(11, 3))
axes[0].imshow(embedding.T, aspect="auto", cmap="cividis")
axes[0].set(title="the embedding of each t", xlabel="t", ylabel="channel")
similarity = torch.nn.functional.cosine_similarity(embedding[500:501], embedding)
axes[1].plot(similarity)
axes[1].set(title="similarity of t to t = 500", xlabel="t", ylabel="cosine")
plt.show()

# %% [markdown]
# ## What to ask the network for
#
# The thesis's network answers with the noise, $\hat\epsilon$. Look what that means for the first step of a sampler. The clean picture
# that a guess of the noise implies is
#
# $$\hat x_0 = \frac{x_t - s_t \hat\epsilon}{a_t}, \qquad a_{999} = .006$$
#
# so an error of .01 in the noise becomes an error of 1.6 in a picture that lives in $[-1, 1]$. A network trained for days copies $x_t$
# through all its layers more precisely than that; ours has minutes. So we ask for a mixture of noise and picture, the **velocity** of
# Salimans and Ho (2022, [*Progressive distillation*](https://arxiv.org/abs/2202.00512), appendix D), which says the same thing, exactly:
#
# $$v = a_t\, \epsilon - s_t\, x_0, \qquad \hat x_0 = a_t x_t - s_t \hat v, \qquad \hat\epsilon = s_t x_t + a_t \hat v$$
#
# Now no error is ever multiplied by more than 1, at any $t$. That is the `predicts="velocity"` above; samplers and losses convert by themselves.
#
# ### Before training
#
# The last convolution starts at zero, and so do the second ones of all residual blocks. The untrained network
# therefore answers $\hat v = 0$ to everything, and its loss is the mean square of $v$. That is our first baseline.

# %%
objective = DenoisingObjective(schedule, timesteps=LogitNormalT(-1.3, 1.3), quantity="velocity")  # see "Training"


@torch.no_grad()
def held_out_loss(network, n=500):
    """The denoising loss on held-out pictures, with the same noise and times for every network."""
    generator = torch.Generator(device).manual_seed(1)
    parts = held_out[:n].to(device).split(100)
    return sum(float(objective(network.eval(), part, generator)[0]) for part in parts) / len(parts)


untrained = copy.deepcopy(denoiser)
untrained_loss = held_out_loss(untrained)
a, s = schedule.at(LogitNormalT(-1.3, 1.3)(100_000, schedule.T, torch.Generator().manual_seed(0)), torch.zeros(100_000))
expected = float((a**2 + s**2 * held_out.square().mean()).mean())
print(f"loss of the untrained network on held-out pictures: {untrained_loss:.3f}, mean square of v: {expected:.3f}")
assert abs(untrained_loss - expected) < 0.02

# %% [markdown]
# ## Training
#
# The thesis's objective is its equation 2.8, $L = \mathbb{E}\,\|\epsilon - \hat\epsilon(x_t, t)\|^2$. You wrote its pieces in chapter 1;
# `DenoisingObjective` puts them together: draw $t$, draw noise, noise the pictures, compare. The loop around it
# (`fdlib.training.train`, one evening's reading) will train every model of this course. Stop it whenever you like with the
# stop button: what it has learned so far stays usable.
#
# Two things are not the thesis's. The error is measured in $v$, and $\|v - \hat v\|^2 = \|\epsilon - \hat\epsilon\|^2 / a_t^2$ (do you see why?): the same
# loss, with more weight where noise is strong. And $t$ is not uniform but $T\,\mathrm{sigmoid}(z)$ with $z \sim N(-1.3, 1.3^2)$, mostly between 70
# and 500 (Esser et al. 2024, section 3.1): there a room takes shape out of the noise. Both are for *short* trainings. After 1700 steps, DDPM's samples
# were at 11.7 % of the distance that we measure below (with $N(-1, 1)$); with noise in place of velocity, and $t = T u^{0.7}$ with $u$ uniform, at 15.8 %.
# Velocity alone does not do it: with $t = T u^2$ it was 17.3 % (one seed each, same noise, 1000 samples).

# %%
config = TrainingConfig(
    steps=profile.pick(ci=60, laptop=1500, gpu=10_000),
    batch_size=profile.pick(ci=16, laptop=32, gpu=128),
    learning_rate=3e-3,
    warmup=profile.pick(ci=10, laptop=50, gpu=50),
    ema_decay=0.998,
    log_every=20,
    mixed_precision=course.precision(),
)
watch = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(7)).to(device)
gallery = widgets.live_picture(
    lambda state: samplers.ddim(state.ema, schedule, watch, steps=20, clip_x0=True, progress=False).clamp(-1, 1).cpu()
)
early = {}  # what the network was at each picture: a later section has use for it


def remember(state):
    early[state.step] = copy.deepcopy(state.ema)


run = train(denoiser, objective, pictures, config, callbacks=[gallery, remember], callback_every=config.steps * 2 // 5)

# %%
viz.plot_curves({"training loss": run.history}, log=True, title="The denoising loss, measured in v")

# %% tags=["claim-live"]
live_loss = held_out_loss(run.ema)
print(f"held-out loss: untrained {untrained_loss:.3f}, after {run.step} steps {live_loss:.3f}")
assert live_loss < profile.pick(ci=0.8, laptop=0.18, gpu=0.15) * untrained_loss, "a short run must beat the untrained net"

# %% [markdown]
# ### What is easy, and what is hard
#
# One average hides a story. Look at the loss at each $t$ beside a baseline that knows nothing about rooms: the best *linear*
# guess, $\hat\epsilon = s_t x_t / (a_t^2 v + s_t^2)$, with $v$ the variance of the pixels. At large $t$ nearly all of $x_t$ is noise and
# copying it is almost right. At small $t$ the noise is a whisper on top of a picture, and only who knows what pictures look
# like can tell it apart.

# %%
times = [0, 3, 10, 30, 100, 200, 400, 600, 800, 999]
# the shipped checkpoint: a third wider, with attention, trained longer, and asked for the noise, as in the thesis
shipped = UNet.from_pretrained(course.asset("shapes32_unet")).to(device)


@torch.no_grad()
def loss_at(predict, t, n=100):
    generator = torch.Generator().manual_seed(2)
    x0 = held_out[:n]
    noise = torch.randn(x0.shape, generator=generator)
    x_t = add_noise(schedule, x0, t, noise)
    return float((predict(x_t.to(device), t).cpu() - noise).square().mean())


def network(model):
    return lambda x_t, t: to_noise(schedule, model(x_t, torch.full((len(x_t),), t, device=device)), x_t, t)


def best_linear(x_t, t):
    a, s = schedule.at(t, x_t)
    return s * x_t / (a**2 * held_out.square().mean().to(device) + s**2)


curves = {"best linear guess": best_linear, "yours": network(run.ema), "shipped checkpoint": network(shipped)}
fig, axis = plt.subplots(figsize=(7, 4))
for name, predict in curves.items():
    axis.plot(times, [loss_at(predict, t) for t in times], "o-", label=name)
axis.set(xscale="symlog", yscale="log", xlabel="t", ylabel="loss at t", title="Noise is hard to tell where there is little of it")
axis.legend()
plt.show()

# %% [markdown]
# Two things to notice. At small $t$ the networks win by far: they know rooms. At the very largest $t$ the simple guess, which is nearly
# a copy of $x_t$, beats even the shipped network: copying with great precision through many layers is something a network has to learn
# too, and it hardly pays, for the loss there is tiny already. Yours does not copy: the formula for $\hat\epsilon$ does it, and at $t = 999$ the network hardly
# matters.

# %% tags=["claim"]
shipped_loss = held_out_loss(shipped)
print(f"held-out loss: untrained {untrained_loss:.3f}, shipped {shipped_loss:.3f}")
assert shipped_loss < 0.13, "the shipped checkpoint must denoise pictures that it never saw"


# %% [markdown]
# ## Samples, and a trap
#
# How much does a copy that is not quite exact cost a sampler? Take noisy pictures, let both networks guess the clean one, and see how far off they are:

# %%
@torch.no_grad()
def clean_guess(model, t, n=8):
    """The clean picture that a network sees in held-out pictures at time t, and how far off it is (root mean square)."""
    x0 = held_out[:n].to(device)
    x_t = add_noise(schedule, x0, t, torch.randn(x0.shape, generator=torch.Generator().manual_seed(2)).to(device))
    guess = to_x0(schedule, model(x_t, torch.full((n,), t, device=device)), x_t, t)
    return guess.clamp(-1, 1).cpu(), float((guess - x0).square().mean().sqrt())


for t in (999, 900, 700, 400):
    print(f"t = {t}: yours (velocity) off by {clean_guess(run.ema, t)[1]:.2f}, shipped (noise) by {clean_guess(shipped, t)[1]:.2f}")
viz.show_rows({"rendered": held_out[:8], "yours, t = 999": clean_guess(run.ema, 999)[0], "shipped, t = 999": clean_guess(shipped, 999)[0]})

# %% [markdown]
# From pure noise nobody can know the room, and the right answer is the mean of all rooms: nearly what the middle row shows. The network that answers
# with noise, though trained longer, sends the sampler off to a place where no picture is. Ho et al.'s own code has a cure for such networks, and
# we take it for both: `clip_x0=True` clamps $\hat x_0$ to $[-1, 1]$ at every step.
#
# Now as many samples as a score needs, from noise that all networks share. The sampler is DPM-Solver++, which needs few
# evaluations; why, you will see in "Three roads" below.

# %%
few = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(4)).to(device)
z = torch.randn(profile.pick(ci=300, laptop=500, gpu=1000), 3, 32, 32, generator=torch.Generator().manual_seed(3))
grid = time_grid(1000, profile.pick(ci=10, laptop=12, gpu=20), power=1.5)  # the later, the denser


def paint(model, z=z):
    parts = [samplers.dpm_solver_pp(model, schedule, part.to(device), timesteps=grid, clip_x0=True, progress=False) for part in z.split(100)]
    return torch.cat(parts).clamp(-1, 1).cpu()


samples = {"yours": paint(run.ema), "shipped": paint(shipped)}
viz.show_rows({"rendered": held_out[:8], **{name: images[:8] for name, images in samples.items()}})

# %% [markdown]
# Can you name the object in each picture? Its shape, its colour, where its shadow falls? *Nobody told the network that there are
# objects.*
#
# ## A score for samples
#
# "Looks good" is no number. The usual one, FID, compares the *features* of real and generated pictures in a network trained to
# recognise things: it fits a Gaussian to each set of features and takes the Fréchet distance of the two
# (Heusel et al. 2017, equation 6):
#
# $$d^2 = \|\mu_a - \mu_b\|^2 + \mathrm{tr}\big(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}\big)$$
#
# FID's features come from ImageNet. Ours come from a small network that names the factors of a 3D Shapes picture; we ship it, so
# the distance works offline. A number alone means nothing, so we put two beside it: the distance of as many *real*
# pictures (nobody can do better) and that of pure noise.
#
# Real pictures are not at distance zero from each other: a mean and a covariance of a few hundred pictures are off by chance, and $d^2$ counts that too. Between 500 and
# 500 real pictures it is 2.0 % of the distance of noise. Pictures to compare *with* cost nothing here, so we take thousands of them.

# %%
judge = FactorClassifier.from_pretrained(course.asset("shapes_features"))
n = len(z)
real, others = judge.extract(held_out[n:]), judge.extract(held_out[:n])
distances = {f"{n} other real ones": frechet_distance(real, others)}
distances |= {name: frechet_distance(real, judge.extract(images)) for name, images in samples.items()}
distances["pure noise"] = noise_distance = frechet_distance(real, judge.extract(z))
for name, distance in distances.items():
    print(f"{name:20} {distance:8.0f}   {distance / noise_distance:6.1%} of noise")

# %% tags=["claim"]
assert distances["shipped"] < 0.05 * noise_distance, "samples must be at most 5 % as far from real pictures as noise is"

# %% [markdown]
# ## Why nobody samples from the weights just trained
#
# Each step of Adam follows the noise of one batch, one $t$ a picture, one draw of $\epsilon$: the weights jitter around a good place without
# settling. `train` therefore keeps a second copy, the *exponential moving average*
#
# $$\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta$$
#
# which is never trained, only averaged: the jitter cancels and the progress stays. Both copies saw the same data and cost one
# training. Compare them.

# %%
raw, averaged = held_out_loss(run.denoiser), held_out_loss(run.ema)
raw_distance = frechet_distance(real, judge.extract(paint(run.denoiser)))
print(f"weights just trained: loss {raw:.4f}, distance {raw_distance / noise_distance:.1%} of noise")
print(f"their average:        loss {averaged:.4f}, distance {distances['yours'] / noise_distance:.1%} of noise")

# %% [markdown]
# Too slow an average is worse than none: with $d = .9999$, the thesis's value for 50 000 steps and more, the average of a run of a
# few hundred steps still remembers the untrained network. `train` therefore starts with a small $d$ and lets it
# grow, $d_n = \min(d, (1+n)/(10+n))$.

# %%
for d in (0.9, 0.998, 0.9999):
    print(f"d = {d}: without that care, {d**run.step:.1%} of the untrained weights are left after {run.step} steps")

# %% [markdown]
# ## What a bad network is good for
#
# Look at your samples again: paler than the rendered rooms, their edges soft. A network that is not sure answers with an *average* of what it
# thinks possible, and averages of bright rooms are pale. You have a witness of that error: the network as it was after two fifths of the
# training, which makes the same mistake, only more of it. From the bad answer to the good one is a step in the right direction, so go
# on in that direction, past the good one:
#
# $$\tilde\epsilon = \hat\epsilon_{good} + w\,(\hat\epsilon_{good} - \hat\epsilon_{bad})$$
#
# This is *autoguidance* (Karras et al. 2024, [*Guiding a diffusion model with a bad version of itself*](https://arxiv.org/abs/2406.02507);
# their $w$ is our $w + 1$). It costs no training, and a second evaluation of a network at each step.

# %%
first = min(early, default=0)
bad = early.get(first, untrained)  # untrained, where you stopped the training before its first picture


def guided(x_t, t, w=1.0):
    good, worse = (to_noise(schedule, model(x_t, t), x_t, t) for model in (run.ema, bad))
    return Prediction(noise=good + w * (good - worse))


viz.show_rows({
    f"step {first}": paint(bad, z[:8]), f"step {run.step}": paint(run.ema, z[:8]), "guided": paint(guided, z[:8]), "rendered": held_out[:8],
})

# %% tags=["claim-live"]
distances["yours, guided"] = frechet_distance(real, judge.extract(paint(guided)))
for name in ("yours", "yours, guided", "shipped"):
    print(f"{name:15} {distances[name] / noise_distance:6.1%} of noise")
assert distances["yours, guided"] < profile.pick(ci=1.1, laptop=0.9, gpu=1.2) * distances["yours"], "guidance must help; after the 60 steps of ci, not hurt"
assert distances["yours, guided"] < profile.pick(ci=0.85, laptop=0.06, gpu=0.05) * noise_distance, "guided samples must be near real ones"

# %% [markdown]
# In the laptop profile we measured 8.4 % without and 4.0 % with guidance (after 1750 steps, 7.0 and 3.3 %). Another training (other weights at the
# start, other batches, 2000 steps) came to 8.4 and 3.7 %. Real pictures have 1.2 % themselves, so guidance takes away more than half of what is
# left. $w = 1$ and the age of the bad network were chosen on training pictures and other noise. Both can be overdone: in a training on other
# times, $w = 2$ gave 9.3 % where $w = 1$ gave 6.3 %, and a bad network that was too young (600 of 3400 steps, in a training on the noise) pointed past the
# target, to samples worse than plain ones. After the 60 steps of the `ci` profile there is nothing to go on from: guidance changes next to nothing.
#
# ## Three roads from the same noise
#
# DDPM draws fresh noise at every step. DDIM does not: it walks down a deterministic path, the *probability-flow ODE* of chapter 1.
# Solve the same ODE with a better method and you should get the **same picture** from the same noise, only with fewer
# evaluations. DPM-Solver++ remembers the previous prediction and extrapolates; Heun's method looks ahead, at the cost of a second
# evaluation a step.

# %%
settings = dict(clip_x0=True, progress=False)
roads = {
    "DDIM, 50": samplers.ddim(shipped, schedule, few, steps=50, **settings),
    "DPM-Solver++, 15": samplers.dpm_solver_pp(shipped, schedule, few, timesteps=time_grid(1000, 15, power=2), **settings),
    "Heun, 15 (29)": samplers.ode(shipped, schedule, few, steps=15, **settings),
    "DDPM, 100": samplers.ddpm(shipped, schedule, few, steps=100, generator=torch.Generator(device).manual_seed(5), **settings),
}
viz.show_rows({name: images.clamp(-1, 1).cpu() for name, images in roads.items()}, caption="Each column starts from one noise")

# %% [markdown]
# The three ODE roads end in the same room; DDPM, with its own dice, in another one.
#
# ### Where to spend the steps
#
# Evenly spaced times are not the best ones. Near the clean picture everything happens in few times: between $t = 100$ and 0
# the noise falls from a standard deviation of .32 to nothing. A **quadratic** grid puts more steps there (Song et al. 2021).

# %%
for power in (1, 2):
    print(f"power {power}:", time_grid(1000, 10, power=power), " (-1 is the clean picture)")

# %% [markdown]
# ### The race
#
# How far is each sampler from where the ODE really leads, for a given number of evaluations? The judge is DDIM with all 1000
# steps. Two denoisers run the race: the shipped network, and the exact denoiser of a Gaussian mixture, where nothing is
# learned. We report the *median* distance: a few paths pass close to a watershed between two pictures, and a mean would
# report only them.

# %%
SOLVERS = {  # and the power of its grid
    "DDIM, even": (samplers.ddim, 1),
    "DDIM": (samplers.ddim, 2),
    "DPM-Solver++, even": (samplers.dpm_solver_pp, 1),
    "DPM-Solver++": (samplers.dpm_solver_pp, 2),
    "Heun": (samplers.ode, 2),
}
BUDGETS = [5, 10, 20, 40, 80]
seeds = range(profile.pick(ci=2, laptop=5, gpu=5))


def race(denoiser, shape, reference_steps=1000, clip_x0=False):
    """Root-mean-square distance to the fine solution: {solver: {evaluations: [median of each seed]}}."""
    settings = dict(clip_x0=clip_x0, progress=False)
    table = {name: {} for name in SOLVERS}
    x_T = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(100 + seed)) for seed in seeds]).to(device)
    fine = samplers.ddim(denoiser, schedule, x_T, timesteps=time_grid(1000, reference_steps, power=2), **settings)
    for name, (solver, power) in SOLVERS.items():
        for budget in BUDGETS:
            steps = (budget + 1) // 2 if solver is samplers.ode else budget
            x = solver(denoiser, schedule, x_T, timesteps=time_grid(1000, steps, power=power), **settings)
            errors = (x - fine).flatten(1).square().mean(1).sqrt().view(len(seeds), -1).median(dim=1).values
            table[name][2 * steps - 1 if solver is samplers.ode else steps] = errors.tolist()
    return table


angles = torch.arange(6) * torch.pi / 3
oracle = GaussianMixtureOracle(schedule, torch.stack([angles.cos(), angles.sin()], 1), 0.04).to(device)
races = {
    "exact denoiser": race(oracle, (200, 2)),
    "trained network": race(shipped, (profile.pick(ci=2, laptop=2, gpu=32), 3, 32, 32),
                            reference_steps=profile.pick(ci=200, laptop=1000, gpu=1000), clip_x0=True),
}

# %%
viz.plot_convergence(races["exact denoiser"], title="Exact denoiser: distance to the fine solution")

# %%
viz.plot_convergence(races["trained network"], title="Trained network: distance to the fine solution")


# %%
def needed(curve, tolerance):
    """The fewest evaluations of the table whose median error over seeds is within the tolerance."""
    return next((n for n, errors in curve.items() if torch.tensor(errors).median() <= tolerance), None)


print(f"{'evaluations to come within':>28}  " + "  ".join(f"{name:>18}" for name in SOLVERS))
for title, table in races.items():
    for tolerance in (0.1, 0.05, 0.02, 0.01):
        row = [needed(table[name], tolerance) for name in SOLVERS]
        print(f"{title:>20} {tolerance:7.2f}  " + "  ".join(f"{'> 80' if n is None else n:>18}" for n in row))

# %%
exact = races["exact denoiser"]
for n in (20, 40, 80):
    assert max(exact["DPM-Solver++"][n]) < min(exact["DDIM"][n]), "second order must beat first on every seed"
assert max(exact["DPM-Solver++"][80]) < 0.2 * min(exact["DDIM"][80]), "... and the more so, the more steps"

# %% [markdown]
# Is this a success of the *network*? No: put random weights into it and the cell below still passes. It is a fact about
# solvers. That the place they reach is a room, that is what the network learned, and what the distances above measured.

# %%
learned = races["trained network"]
for n in (20, 40):
    assert max(learned["DPM-Solver++"][n]) < min(learned["DDIM"][n]), "second order must beat first on every seed"
assert max(learned["DPM-Solver++"][20]) < 0.05, "20 evaluations must land within .05 of the fine solution"

# %% [markdown]
# ## From picture to noise and back
#
# A deterministic road can be walked both ways. `ddim_invert` finds the noise from which DDIM returns to a given picture. The last
# chapter, on editing, lives on it. How exact is it? Each step up uses the prediction at its *start* where the step down will use that at its
# other end, so the trip is exact only in the limit of many steps.

# %%
originals = held_out[:6].to(device)
for steps in profile.pick(ci=[10, 25], laptop=[10, 25, 100], gpu=[10, 25, 100, 400]):
    latent = samplers.ddim_invert(shipped, schedule, originals, steps=steps, progress=False)
    back = samplers.ddim(shipped, schedule, latent, steps=steps, progress=False)
    print(f"{steps:4} steps: round trip off by {(back - originals).square().mean().sqrt():.4f}, latent's standard deviation {latent.std():.3f}")
viz.show_rows({"picture": originals.cpu(), "its noise": latent.clamp(-3, 3).cpu() / 3, "and back": back.clamp(-1, 1).cpu()})

# %% [markdown]
# ## Watch it happen
#
# Move the slider: the network's guess of the *clean* picture, from pure noise (left) to the end. Layout first, then colours, then
# edges.

# %%
guesses = []
samplers.dpm_solver_pp(shipped, schedule, few, steps=20, clip_x0=True, progress=False,
                       callback=lambda step: guesses.append((step.t, step.x0.clamp(-1, 1).cpu())))
widgets.slider_gallery([x0 for _, x0 in guesses], labels=[f"t = {t}" for t, _ in guesses], description="guess at")

# %% [markdown]
# ## What to try
#
# - Train as the thesis does: `UNet(..., predicts="noise")` and `DenoisingObjective(schedule)`, which draws $t$ uniformly. Samplers need no
#   change. Why? What happens to the loss at each $t$, and what to the samples, with `clip_x0` and without?
# - Guide with other weights: `w=0.5`, `w=3`; with the untrained network as the bad one; or with the shipped one as the good one. Which of the
#   two makes samples worse, a bad network that is too bad, or one that is too good?
# - `NoiseSchedule.cosine(1000)` in place of the linear one: train and compare distances.
#
# ## Exercises
#
# Exercises that check your answers are in [their own notebook](../exercises/02_unet_and_sampling.ipynb). These go further:
#
# 1. *(warm-up)* The loss curve is nearly flat for the second half of training, yet the samples keep improving. Which part of
#    the plot "loss at t" explains it?
# 2. Where do two DDPM runs from the same $x_T$ part? Store `step.x0` in a callback for two generators and plot their distance over $t$.
# 3. The Fréchet distance between two sets of real pictures is not 0. Plot it against the number of pictures in each. What does that say
#    about published FIDs from different numbers of samples?
# 4. Give DPM-Solver++ an explicit `timesteps` grid, denser at small $t$. Can you halve its error at 10 evaluations?
# 5. *(open)* Pictures with object and wall of the same colour: does the network still draw both? Design a measurement.
#
# **Next**: chapter 3 cuts this very U-Net at $h_{mid}$ and grows a second decoder, one that draws regions.
