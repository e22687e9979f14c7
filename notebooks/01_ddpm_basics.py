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
# # 1 · DDPM basics: into the noise, and back
#
# A diffusion model learns one modest skill: *given a noisy picture, say what is noise*. This chapter shows why that
# skill is enough to paint new pictures. No network yet (one tiny exception): our "pictures" are mostly points in the
# plane, where the perfect denoiser can be written down, so that every formula can be checked against the truth.
#
# **You will**
# 1. noise pictures in one jump, and see why 1000 small steps are the same thing;
# 2. derive one step of the way back, $q(x_{t-1} \mid x_t, x_0)$, and verify it by simulation;
# 3. see that predicting noise *is* regression on the score, and do the regression;
# 4. look inside an exact denoiser;
# 5. write the DDPM sampler in a handful of lines and measure how good its samples are;
# 6. move a slider through time, and watch samplers carry noise to data.
#
# | profile | time |
# |---|---|
# | `ci` | about 25 s |
# | `laptop` | about 45 s |
# | `gpu` | about 45 s (this chapter computes on the CPU) |
#
# **Before you start**: Python with PyTorch tensors; expectation, variance and the bell curve of a Gaussian; Bayes' rule.
#
# **Reading**: thesis 2.3.1 and 2.3.4 (equations 2.1, 2.8, 2.9, 2.10, algorithms 1 and 2); Ho et al. 2020,
# [*Denoising diffusion probabilistic models*](https://arxiv.org/abs/2006.11239), sections 2 and 3.

# %% [markdown]
# ### Notation
#
# | here | thesis and Ho et al. | in words |
# |---|---|---|
# | $x_0$ | $x_0$ | a clean picture (or point) |
# | $t = 0, \dots, T-1$ | $t = 1, \dots, T$ | time, counted from 0 because arrays are: our $t = 30$ is their $31$ |
# | $a_t$ | $\sqrt{\bar\alpha_t}$ | how much signal is left at $t$ |
# | $s_t$ | $\sqrt{1 - \bar\alpha_t}$ | standard deviation of the noise at $t$ |
# | $\beta_t$, $\alpha_t = 1 - \beta_t$ | the same | what *one step* does; $\bar\alpha_t = \alpha_0 \alpha_1 \cdots \alpha_t$ |
#
# The clean picture comes before index 0. The library writes `CLEAN` (-1) for its time: $a = 1$, $s = 0$.

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
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from fdlib import process, samplers, viz, widgets
from fdlib.data.shapes3d import index_to_factors, render
from fdlib.oracle import GaussianMixtureOracle
from fdlib.schedule import CLEAN, NoiseSchedule

viz.use_style()
torch.set_num_threads(1)  # the tensors of this chapter are tiny: sharing them among cores costs more than it saves


def seeded(seed):
    """A source of random numbers that gives the same numbers in every run."""
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## 1 · The forward process
#
# Destroying a picture is easy: mix it with noise, a little more for each $t$,
#
# $$x_t = a_t\, x_0 + s_t\, \epsilon, \qquad \epsilon \sim \mathcal N(0, I) \tag{thesis 2.1}$$
#
# until nothing is left of it. Here are four pictures of *3D Shapes*, the little world that you will meet again in the
# next chapters (we render it ourselves), on their way down.

# %%
schedule = NoiseSchedule.linear(T=1000)  # Ho et al. 2020: beta grows linearly from 0.0001 to 0.02
pictures = render(index_to_factors([480, 167_025, 301_334, 459_111]), size=32).images  # (4, 3, 32, 32) in [-1, 1]
pictures_noise = torch.randn(pictures.shape, generator=seeded(0))

times = [0, 30, 100, 200, 300, 500, 999]
strip = [pictures] + [process.add_noise(schedule, pictures, t, pictures_noise) for t in times]
viz.show_strip(strip, ["clean"] + [f"t = {t}" for t in times])

# %% [markdown]
# Move the slider. At which $t$ do you lose the *object's* shape, and when the colour of the floor? Big things survive
# longer than small ones: remember this when a network has to decide in which order to paint.

# %%
widgets.noise_slider(
    pictures,
    lambda t: process.add_noise(schedule, pictures, t, pictures_noise),
    value=100,
    caption=lambda t: f"signal a = {schedule.a[t]:.3f}, noise s = {schedule.s[t]:.3f}",
)

# %% [markdown]
# ### Many small steps are one jump
#
# The process is *defined* by small steps. Each shrinks the picture a little and adds a little fresh noise $z_t$:
#
# $$x_t = \sqrt{1-\beta_t}\; x_{t-1} + \sqrt{\beta_t}\; z_t .$$
#
# Put two of them together, with $\alpha_t = 1 - \beta_t$:
#
# $$x_t = \sqrt{\alpha_t \alpha_{t-1}}\; x_{t-2} \;+\; \underbrace{\sqrt{\alpha_t \beta_{t-1}}\; z_{t-1} + \sqrt{\beta_t}\; z_t}_{\text{two independent Gaussians: their variances add}}$$
#
# The variance of the sum is $\alpha_t (1 - \alpha_{t-1}) + 1 - \alpha_t = 1 - \alpha_t\alpha_{t-1}$. So two steps look
# like one step with $\alpha_t\alpha_{t-1}$ in the place of $\alpha_t$. Carry on down to $x_0$ and the product becomes
# $\bar\alpha_t$: that is the one jump above, with $a_t^2 = \bar\alpha_t$ and $s_t^2 = 1 - \bar\alpha_t$.
#
# Derivations can be wrong, so let us walk: many walkers start at the same point and take all 1000 steps. Their mean must
# be $a_t x_0$ and their variance $s_t^2$, up to the error of counting finitely many walkers.

# %%
n = profile.pick(ci=4_000, laptop=20_000, gpu=20_000)
x0 = torch.tensor([0.8, -1.5], dtype=torch.float64)
g, x, walk = seeded(1), x0.repeat(n, 1), {}
for t, beta in enumerate(schedule.betas):
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(x.shape, generator=g, dtype=x.dtype)
    if t in (0, 9, 99, 299, 999):
        walk[t] = x

print("   t    mean of the walkers     a_t x_0              variance            s_t^2")
for t, x in walk.items():
    a, s = schedule.a[t], schedule.s[t]
    (m0, m1), (v0, v1), (e0, e1) = x.mean(0), x.var(0), a * x0
    print(f"{t:4}   ({m0:7.4f}, {m1:7.4f})    ({e0:7.4f}, {e1:7.4f})   ({v0:.4f}, {v1:.4f})    {s**2:.4f}")
    mean_off = (x.mean(0) - a * x0) / (s / math.sqrt(n))  # in standard errors
    variance_off = (x.var(0) / s**2 - 1) / math.sqrt(2 / n)
    assert mean_off.abs().max() < 4 and variance_off.abs().max() < 4, (t, mean_off, variance_off)

# %%
line = torch.linspace(-4, 4, 400)
figure, panels = plt.subplots(1, 4, figsize=(11, 2.6), sharex=True)
for panel, t in zip(panels, [9, 99, 299, 999]):
    a, s = float(schedule.a[t]), float(schedule.s[t])
    panel.hist(walk[t][:, 0].numpy(), bins=60, density=True, color=viz.OKABE_ITO["sky"], label="walkers")
    one_jump = torch.exp(-0.5 * ((line - a * x0[0]) / s) ** 2) / (s * math.sqrt(2 * math.pi))
    panel.plot(line, one_jump, "k", label="one jump")
    panel.set(title=f"t = {t}", yticks=[], xlabel="first coordinate", xlim=(-4, 4))
_ = panels[0].legend(loc="upper left")

# %% [markdown]
# **"Isn't $\beta_t$ the variance of $x_t$?"** No: $\beta_t$ is what *one step* adds. What has gathered until $t$ is
# $s_t^2 = 1 - \bar\alpha_t$.
#
# **"Why shrink at all?"** So that $x_t$ keeps one size. If $x_0$ has variance 1, then so has every $x_t$, since
# $a_t^2 + s_t^2 = 1$: a network always sees inputs of the same scale. Without shrinking, the steps' noise would add up
# to more than ten times that of the picture:

# %%
torch.testing.assert_close(schedule.a**2 + schedule.s**2, torch.ones(1000, dtype=torch.float64))
print(f"The betas add up to {schedule.betas.sum():.2f}.")
assert schedule.betas.sum() > 10

# %% [markdown]
# ### How fast? The schedule
#
# The schedule says how quickly signal gives way to noise. What counts is the *signal-to-noise ratio* $a_t^2 / s_t^2$.

# %%
cosine = NoiseSchedule.cosine(T=1000)  # Nichol and Dhariwal 2021
short = NoiseSchedule.linear(T=100)  # the same betas in fewer steps: an easy mistake
viz.plot_schedule({"linear, T = 1000": schedule, "cosine, T = 1000": cosine, "linear, T = 100": short})

# %%
for name, each in {"linear": schedule, "cosine": cosine}.items():
    equal = int((each.snr < 1).nonzero()[0])
    print(f"{name:7}noise outweighs signal from t = {equal}; signal's share at the end: {each.alpha_bars[-1]:.1e}")
    assert each.alpha_bars[-1] < 1e-4
assert (schedule.snr < 1).nonzero()[0] == 259 and (cosine.snr < 1).nonzero()[0] == 496

# counting from 0 or from 1 is a difference you can measure: the thesis's t = 30 is our index 29
assert round(float(schedule.alpha_bars[30]), 5) == 0.98771
assert round(float(schedule.alpha_bars[29]), 5) == 0.98840

# %% [markdown]
# Look at the green curve. The betas .0001 … .02 are meant for 1000 steps. With 100 steps, $\bar\alpha_{T-1} = .364$: more
# than a third of the picture's variance is still there at the "end". It hurts later: sampling *starts* from pure noise,
# a state that this process never reaches. We shall see the damage in section 5.

# %%
rescaled = NoiseSchedule.linear(T=100, rescale=True)  # betas times 1000 / T
last = {"T = 1000": schedule, "T = 100": short, "T = 100, rescaled": rescaled}
assert round(float(short.alpha_bars[-1]), 3) == 0.364 and rescaled.alpha_bars[-1] < 1e-4
viz.show_rows(
    {name: process.add_noise(each, pictures, each.T - 1, pictures_noise) for name, each in last.items()},
    caption="The last x_t of three schedules. In the middle row the pictures have not gone.",
)

# %% [markdown]
# **To try**: put your own numbers into `NoiseSchedule.linear(T=…, beta_min=…, beta_max=…)` and plot the schedule. Which
# `beta_max` makes 100 steps end in noise?
#
# ### A face in the plane
#
# A picture has thousands of coordinates; we cannot draw them. So our second "data set" lives in the plane. It is a face,
# made of five Gaussian blobs: two eyes, and a mouth in three strokes. One sample is one point. Noise treats it exactly
# as it treats pictures.

# %%
means = torch.tensor([[-0.8, 0.9], [0.8, 0.9], [-1.0, -0.55], [0.0, -1.0], [1.0, -0.55]]).double()


def blob(length, width, degrees):
    """Covariance of a Gaussian stroke: standard deviations along and across its direction."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return turn @ torch.diag(torch.tensor([length**2, width**2], dtype=torch.float64)) @ turn.T


eye, mouth = blob(0.16, 0.16, 0), [blob(0.3, 0.09, -52), blob(0.35, 0.09, 0), blob(0.3, 0.09, 52)]
covariances = torch.stack([eye, eye, *mouth])
face = GaussianMixtureOracle(schedule, means, covariances)  # section 4 opens its lid

points = face.sample(600, seeded(2))
points_noise = torch.randn(points.shape, generator=seeded(3), dtype=points.dtype)


def plane(panel, title, limits=2.8):
    panel.spines[:].set_visible(False)
    panel.set(title=title, aspect="equal", xlim=(-limits, limits), ylim=(-limits, limits), xticks=[], yticks=[])


figure, panels = plt.subplots(1, 5, figsize=(11, 2.5))
for panel, t in zip(panels, [CLEAN, 30, 150, 400, 999]):
    x_t = process.add_noise(schedule, points, t, points_noise)
    panel.scatter(*x_t.T, s=3)
    plane(panel, "clean" if t == CLEAN else f"t = {t}")

# %% [markdown]
# ## 2 · One step back: $q(x_{t-1} \mid x_t, x_0)$
#
# Now the other direction. Given $x_t$, where did it come from? Alone that is hard to say, because it depends on all
# the pictures there are. But if somebody told us $x_0$ too, Bayes' rule would answer it:
#
# $$q(x_{t-1} \mid x_t, x_0) \;\propto\; \underbrace{q(x_t \mid x_{t-1})}_{\text{one step: } \mathcal N(\sqrt{\alpha_t}\, x_{t-1},\; \beta_t)} \;\; \underbrace{q(x_{t-1} \mid x_0)}_{\text{one jump: } \mathcal N(a_{t-1} x_0,\; s_{t-1}^2)}$$
#
# Both factors are Gaussian in $x_{t-1}$, so the product is too. Coordinates do not mix, so take one, and call it
# $x = x_{t-1}$. Up to a constant, $-2 \log$ of the product is
#
# $$\frac{(x_t - \sqrt{\alpha_t}\,x)^2}{\beta_t} + \frac{(x - a_{t-1}x_0)^2}{s_{t-1}^2}
# = \Big(\underbrace{\frac{\alpha_t}{\beta_t} + \frac{1}{s_{t-1}^2}}_{1/\text{variance}}\Big)\, x^2
# - 2 \Big(\underbrace{\frac{\sqrt{\alpha_t}\, x_t}{\beta_t} + \frac{a_{t-1} x_0}{s_{t-1}^2}}_{\text{mean}/\text{variance}}\Big)\, x + \text{const}.$$
#
# (*Completing the square*: $\frac{(x - m)^2}{v} = \frac1v x^2 - 2\frac mv x + \dots$, so read off $1/v$ and $m/v$.)
# With $\alpha_t s_{t-1}^2 + \beta_t = s_t^2$ this becomes
#
# $$\text{variance} = \frac{\beta_t\, s_{t-1}^2}{s_t^2}, \qquad
# \text{mean} = \frac{\beta_t\, a_{t-1}}{s_t^2}\; x_0 \;+\; \frac{\sqrt{\alpha_t}\; s_{t-1}^2}{s_t^2}\; x_t .$$
#
# The mean is a compromise between where the data say we go ($x_0$) and where we are ($x_t$). In a picture, with a
# schedule of only 20 steps so that one step is large:

# %%
coarse = NoiseSchedule.cosine(T=20)
t, x0_here, xt_here = 8, 1.0, -0.4
beta, alpha = coarse.betas[t], coarse.alphas[t]
a_before, s_before = coarse.a[t - 1], coarse.s[t - 1]


def bell(x, mean, variance):
    return torch.exp(-0.5 * (x - mean) ** 2 / variance) / torch.sqrt(2 * math.pi * variance)


line = torch.linspace(-2.2, 2.8, 500, dtype=torch.float64)
mean, variance = process.posterior(coarse, line.new_tensor([[x0_here]]), line.new_tensor([[xt_here]]), t, t - 1)
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(line, bell(line, a_before * x0_here, s_before**2), label="one jump from $x_0$")
axes.plot(line, bell(line, xt_here / alpha.sqrt(), beta / alpha), label="what $x_t$ says about $x_{t-1}$")
axes.plot(line, bell(line, mean.item(), variance), "k", linewidth=2.5, label="both: $q(x_{t-1} | x_t, x_0)$")
axes.set(xlabel="$x_{t-1}$", yticks=[], title=f"T = 20, t = {t}, $x_0$ = {x0_here:g}, $x_t$ = {xt_here:g}")
_ = axes.legend()

# %% [markdown]
# The black curve is narrower than both: two witnesses know more than one. And it must be the normalised product of the
# other two. Is it?

# %%
product = bell(line, a_before * x0_here, s_before**2) * bell(xt_here, alpha.sqrt() * line, beta)
product = product / torch.trapezoid(product, line)
torch.testing.assert_close(product, bell(line, mean.item(), variance), rtol=1e-3, atol=1e-5)

# %% [markdown]
# ### By simulation
#
# The picture used the formula's own ingredients. A stricter judge is simulation, which knows no Bayes' rule: send many
# walkers from one $x_0$ to $x_{t-1}$ and a step on to $x_t$, *then look back*. Among the walkers with nearly the same
# $x_t$, how are the $x_{t-1}$ spread? If the formula holds, $x_{t-1}$ is a straight line in $x_t$ plus noise that is
# equally wide everywhere.

# %%
n = profile.pick(ci=50_000, laptop=400_000, gpu=400_000)


def look_back(schedule, t, x0, n, g):
    """n pairs (x_{t-1}, x_t) of walkers that started at x0."""
    z, z_t = torch.randn(2, n, generator=g, dtype=torch.float64)
    x_before = schedule.a[t - 1] * x0 + schedule.s[t - 1] * z
    return x_before, schedule.alphas[t].sqrt() * x_before + schedule.betas[t].sqrt() * z_t


x_before, x_t = look_back(coarse, t, x0_here, n, seeded(4))
edges = torch.linspace(-1.4, 2.6, 17, dtype=torch.float64)
middles = (edges[1:] + edges[:-1]) / 2
inside = [(x_t > low) & (x_t < high) for low, high in zip(edges[:-1], edges[1:])]
bin_means = torch.stack([x_before[i].mean() for i in inside])
bin_stds = torch.stack([x_before[i].std() for i in inside])
formula, variance = process.posterior(coarse, torch.full((16, 1), x0_here).double(), middles[:, None], t, t - 1)

figure, axes = plt.subplots(figsize=(7, 3.4))
axes.scatter(x_t[:3000], x_before[:3000], s=2, color="silver", label="walkers")
axes.errorbar(middles, bin_means, bin_stds, fmt="o", label="mean and spread of the walkers in a bin")
axes.plot(middles, formula[:, 0], "k", label="the formula: mean, and one standard deviation")
for sign in (-1, 1):
    axes.plot(middles, formula[:, 0] + sign * variance.sqrt(), "k--", linewidth=1)
axes.set(xlabel="$x_t$", ylabel="$x_{t-1}$", xlim=(-1.7, 2.9), ylim=(-1.7, 2.9))
_ = axes.legend()

# %% [markdown]
# Now with numbers. A least-squares line through the walkers gives slope and height; what is left over gives the
# variance. All three must agree with `process.posterior` within the error of a simulation with finitely many walkers
# (we allow 4 standard errors), on several schedules and times.

# %%
for each, t in [(coarse, 2), (coarse, 8), (schedule, 30), (schedule, 500)]:
    x0_here = torch.tensor(0.7, dtype=torch.float64)
    x_before, x_t = look_back(each, t, x0_here, n, seeded(t))
    centre, spread = x_t.mean(), x_t.std()
    slope = ((x_t - centre) * x_before).mean() / spread**2
    height = x_before.mean()  # of the line at x_t = centre
    left_over = (x_before - height - slope * (x_t - centre)).var()

    two = torch.stack([centre, centre + 1])[:, None]  # the formula at two x_t: its height and its slope
    ends, variance = process.posterior(each, x0_here.repeat(2, 1), two, t, t - 1)
    error = {
        "height": (height - ends[0, 0]) / (variance / n).sqrt(),
        "slope": (slope - (ends[1, 0] - ends[0, 0])) / ((variance / n).sqrt() / spread),
        "variance": (left_over / variance - 1) / math.sqrt(2 / n),
    }
    off = ", ".join(f"{key} {value:+.1f}" for key, value in error.items())
    print(f"T = {each.T:4}, t = {t:3}: off by standard errors: {off}")
    assert all(abs(value) < 4 for value in error.values())

# %% [markdown]
# Two consequences that you will meet again.
#
# - **The very last step has no noise.** At $t = 0$ the step before is the clean picture, $s_{-1} = 0$: the variance is 0
#   and the mean is $x_0$ itself. This is why samplers add no noise at the end (thesis equation 2.10).
# - **There are two candidates for a sampler's $\sigma_t^2$**: this variance, and $\beta_t$, which is a little larger, by the
#   factor $s_t^2 / s_{t-1}^2$. With 1000 steps they differ only at small $t$. Ho et al. found both to work.

# %%
some = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
mean, variance = process.posterior(schedule, x0=some, x_t=torch.randn_like(some), t=0, t_next=CLEAN)
assert variance == 0 and torch.allclose(mean, some)

ratio = schedule.s[:-1] ** 2 / schedule.s[1:] ** 2
print("posterior variance / beta:", ", ".join(f"{ratio[t - 1]:.3f} at t = {t}" for t in [1, 2, 10, 100, 900]))
assert ratio[0] < 0.5 and ratio[99:].min() > 0.98

# %% [markdown]
# ## 3 · Why predict the noise?
#
# The step back needs $x_0$, which is what we want to know. The way out: *predict* it. Since $x_t = a_t x_0 + s_t\epsilon$,
# whoever knows $x_t$ and the noise knows the picture, so a network may as well predict the noise, by plain regression:
#
# $$L = \mathbb E\,\lVert \epsilon - f(x_t, t)\rVert^2 \tag{thesis 2.8}$$
#
# But many pairs $(x_0, \epsilon)$ lead to the same $x_t$; the noise cannot be *known*. What does regression do then?
# It finds the mean: the $f$ with the smallest squared error is $f(x_t, t) = \mathbb E[\epsilon \mid x_t]$. And this mean
# has a meaning of its own. Let $p_t$ be the density of all noised data. Differentiate its logarithm:
#
# $$\nabla \log p_t(x) = \frac{\int \nabla_x\, q(x \mid x_0)\, p(x_0)\, dx_0}{p_t(x)}
# = \mathbb E\big[\nabla_x \log q(x \mid x_0) \,\big|\, x_t = x\big]
# = \mathbb E\Big[ -\frac{x - a_t x_0}{s_t^2} \,\Big|\, x_t = x\Big] = -\frac{1}{s_t}\,\mathbb E[\epsilon \mid x_t = x].$$
#
# The gradient $\nabla \log p_t$ is called the **score**: it points to where data are denser. So
#
# $$\boxed{\;\mathbb E[\epsilon \mid x_t] = -\,s_t \nabla \log p_t(x_t)\;}$$
#
# and *predicting noise is regression on the score*. Nobody has to know $p_t$ for it: pictures and noise are enough.
#
# ### Check it
#
# For the face, a mixture of Gaussians, $p_t$ is known (noise only makes each blob wider), so the right side is the
# gradient of a formula. `face(x, t).noise` computes the left side another way, from the posterior of each blob.

# %%
g = seeded(5)
for t in [0, 30, 150, 400, 999]:
    x = (1.5 * torch.randn(500, 2, generator=g, dtype=torch.float64)).requires_grad_()
    (score,) = torch.autograd.grad(face.log_density(x, t).sum(), x)
    worst = (face(x, t).noise + schedule.s[t] * score).abs().max().item()
    print(f"t = {t:3}: E[noise | x_t] and -s_t * score differ by at most {worst:.0e}")
    assert worst < 1e-10

# %% [markdown]
# And without any formula for the density? Take a large data set, and weigh each example by how probably it became this
# very $x_t$: $w_i \propto q(x_t \mid x_0^{(i)})$. The weighted mean of the noise that each of them would have needed
# must be the same number again.

# %%
t, data = 150, face.sample(profile.pick(ci=20_000, laptop=100_000, gpu=100_000), seeded(6))
a, s = schedule.a[t], schedule.s[t]
x_t = process.add_noise(schedule, face.sample(20, g), t, torch.randn(20, 2, generator=g, dtype=torch.float64))

noise_needed = (x_t[:, None] - a * data) / s  # (20, N, 2): from each example to each x_t
weights = torch.softmax(-0.5 * noise_needed.square().sum(-1), dim=1)[..., None]  # (20, N, 1)
by_counting = (weights * noise_needed).sum(1)
standard_error = (weights * (noise_needed - by_counting[:, None])).square().sum(1).sqrt()
off = (by_counting - face(x_t, t).noise) / standard_error
print(f"{len(data)} examples and the closed form: {off.square().mean().sqrt():.2f} standard errors apart (1 expected)")
assert 0.5 < off.square().mean().sqrt() < 1.5

# %% [markdown]
# ### Now learn it
#
# Real data have no closed form, so a network must find $\mathbb E[\epsilon \mid x_t]$ by regression. The face is the
# place to see whether it does. A tiny network, *one* fixed $t$ (chapter 2 does all of them), and the five lines of the
# thesis's algorithm 1. Watch what it is shown: samples and noise. Never the score, never the density.

# %%
t, steps, batch = 100, profile.pick(ci=1_000, laptop=2_000, gpu=2_000), 512
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(2, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))
optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)  # smaller and smaller steps, to settle down

g, losses = seeded(7), []
for _ in range(steps):
    x0 = face.sample(batch, g).float()
    noise = torch.randn(x0.shape, generator=g)
    x_t = process.add_noise(schedule, x0, t, noise)
    loss = (net(x_t) - noise).square().mean()  # thesis equation 2.8

    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    rate.step()
    losses.append(loss.item())

# %% [markdown]
# How good is it? On fresh points we compare the *loss*, and the squared *distance to the exact denoiser*, with two
# trivial predictors: always 0, and the best straight line through the data.

# %%
x0 = face.sample(50_000, seeded(8)).float()
noise = torch.randn(x0.shape, generator=seeded(9))
x_t = process.add_noise(schedule, x0, t, noise)
exact = face(x_t.double(), t).noise.float()
line = x_t @ torch.linalg.lstsq(x_t, noise).solution  # through the origin: the face's mean is nearly there
guesses = {"always 0": 0 * x_t, "straight line": line, "network": net(x_t).detach(), "exact": exact}

loss = {name: (guess - noise).square().mean().item() for name, guess in guesses.items()}
distance = {name: (guess - exact).square().mean().item() for name, guess in guesses.items()}
print("predictor        loss   distance to the exact denoiser")
for name in guesses:
    print(f"{name:14} {loss[name]:6.3f}   {distance[name]:.4f}")

assert distance["network"] < 0.05 * distance["straight line"] < 0.05 * distance["always 0"]
assert loss["exact"] == min(loss.values())

# %% [markdown]
# Read the two columns together.
#
# **"The loss does not go to 0: is training broken?"** No. The exact denoiser, which nobody can beat, has a loss far
# above 0, because the noise in $x_t$ is not determined by $x_t$. The loss is this floor *plus* the distance to the
# exact answer:
#
# $$\mathbb E\lVert \epsilon - f\rVert^2 = \underbrace{\mathbb E\lVert \epsilon - \mathbb E[\epsilon|x_t]\rVert^2}_{\text{floor: nobody's fault}} + \underbrace{\mathbb E\lVert f - \mathbb E[\epsilon|x_t]\rVert^2}_{\text{what can be learned}}$$
#
# So a training loss that looks flat may still hide learning: near the floor, the interesting part is tiny.

# %%
for name in guesses:
    chance = 2 * math.sqrt(loss["exact"] * distance[name] / exact.numel())  # of a sum over finitely many points
    assert abs(loss[name] - loss["exact"] - distance[name]) < 4 * chance + 1e-6, name
assert loss["exact"] > 20 * distance["network"]

figure, axes = plt.subplots(figsize=(7, 2.8))
axes.plot(losses, linewidth=0.7, color=viz.OKABE_ITO["sky"], label="network, each batch")
axes.axhline(loss["straight line"], linestyle=":", color="k", label="best straight line")
axes.axhline(loss["exact"], color=viz.OKABE_ITO["vermillion"], label="floor: the exact denoiser")
axes.set(xlabel="step", ylabel="loss", ylim=(0, 1.1))
_ = axes.legend(loc="upper right")

# %% [markdown]
# And as a field of arrows, minus the predicted noise: the direction in which a denoiser pushes. Left what the network
# learned, right the truth.

# %%
axis = torch.linspace(-1.8, 1.8, 19, dtype=torch.float64)
grid = torch.cartesian_prod(axis, axis)
fields = {"network": net(grid.float()).detach(), "exact": face(grid, t).noise}
figure, panels = plt.subplots(1, 2, figsize=(8, 4))
for panel, (name, field) in zip(panels, fields.items()):
    panel.scatter(*x_t[:1500].T, s=2, color="silver")
    panel.quiver(*grid.T, *-field.T, angles="xy", scale=32, width=0.005, color=viz.OKABE_ITO["blue"])
    plane(panel, f"{name}, t = {t}", limits=1.9)

# %% [markdown]
# They agree where there are data, and may part where there are none: a network learns nothing about places that it
# never sees.
#
# **To try**: train at `t = 10` and at `t = 700`. Where is the floor now, and why? (Which of the two is the harder
# question: "what is the noise?" when there is little of it, or when there is much?)

# %% [markdown]
# ## 4 · Inside an exact denoiser
#
# Knowing the noise means knowing a clean picture: $\hat x_0 = (x_t - s_t\,\hat\epsilon)/a_t$ (`process.to_x0`). For the
# exact denoiser this is $\mathbb E[x_0 \mid x_t]$, the *average of all clean points that could have become* $x_t$. Each arrow
# starts at some $x_t$ and ends there.

# %%
figure, panels = plt.subplots(1, 4, figsize=(11, 3.1))
for panel, t in zip(panels, [30, 150, 400, 900]):
    x_t = process.add_noise(schedule, points[:70], t, points_noise[:70])
    x0_hat = process.to_x0(schedule, face(x_t, t), x_t, t)
    panel.scatter(*points.T, s=2, color="silver")
    panel.scatter(*x_t.T, s=10, color=viz.OKABE_ITO["blue"])
    panel.quiver(*x_t.T, *(x0_hat - x_t).T, angles="xy", scale_units="xy", scale=1, width=0.004, alpha=0.5)
    panel.scatter(*x0_hat.T, s=10, color=viz.OKABE_ITO["vermillion"], zorder=3)
    plane(panel, f"t = {t}", limits=2.3)
dots = panels[0].collections
_ = panels[0].legend(dots[:2] + dots[3:], ["data", "$x_t$", "$\\hat x_0$"], loc="lower left", fontsize=8)

# %% [markdown]
# - $t = 30$, little noise: each point goes back to its own stroke.
# - $t = 150$: between the strokes the answers are averages, which lie where no data are.
# - $t = 900$, nearly all noise: whatever the input, the answer is the mean of the whole face.
#
# **"So $\hat x_0$ is a sample?"** No! It is an average, and for pictures an average is *blurred*. It becomes sharp
# only as $t$ falls. How much of $x_0$ is known at each $t$? Measure the error that even the exact denoiser makes, as a
# share of the data's variance:

# %%
x0 = face.sample(profile.pick(ci=4_000, laptop=20_000, gpu=20_000), seeded(10))
noise = torch.randn(x0.shape, generator=seeded(11), dtype=x0.dtype)
times, unknown = list(range(0, 1000, 37)), []
for t in times:
    x_t = process.add_noise(schedule, x0, t, noise)
    x0_hat = process.to_x0(schedule, face(x_t, t), x_t, t)
    unknown.append(((x0_hat - x0).square().sum() / (x0 - x0.mean(0)).square().sum()).item())

assert all(later > earlier - 0.01 for earlier, later in zip(unknown, unknown[1:])), "more noise, less known"
assert unknown[0] < 0.001 and unknown[-1] > 0.99
assert (x0_hat - x0.mean(0)).norm(dim=1).max() < 0.1  # at the end: everybody gets the same answer, the mean

figure, axes = plt.subplots(figsize=(7, 2.8))
axes.plot(times, unknown, marker="o")
_ = axes.set(xlabel="t", ylabel="unknown share of $x_0$", ylim=(0, 1.05))

# %% [markdown]
# ## 5 · Sampling
#
# All is ready. Start with pure noise. At each $t$: ask the denoiser, take the step of section 2 with $\hat x_0$ in the
# place of the unknown $x_0$, and go on. Putting $\hat x_0 = (x_t - s_t\hat\epsilon)/a_t$ into the mean of section 2 and tidying up gives
# the thesis's
#
# $$x_{t-1} = \frac{1}{\sqrt{\alpha_t}}\Big(x_t - \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\,\hat\epsilon\Big) + \sigma_t z,
# \qquad z \sim \mathcal N(0, I), \text{ but } z = 0 \text{ in the last step.} \tag{thesis 2.9, 2.10}$$
#
# Is it the same? Tidying up is where signs get lost:

# %%
x_t, t = torch.randn(100, 2, generator=seeded(12), dtype=torch.float64), 321
noise = face(x_t, t).noise
by_section_2, _ = process.posterior(schedule, process.to_x0(schedule, face(x_t, t), x_t, t), x_t, t, t - 1)
by_equation_29 = (x_t - schedule.betas[t] / schedule.s[t] * noise) / schedule.alphas[t].sqrt()
torch.testing.assert_close(by_section_2, by_equation_29, rtol=1e-12, atol=1e-12)

# %% [markdown]
# So here is a complete diffusion sampler. We take $\sigma_t^2 = \beta_t$.

# %%
n = profile.pick(ci=1_000, laptop=2_000, gpu=2_000)

g = seeded(13)
x = torch.randn(n, 2, generator=g, dtype=torch.float64)
for t in reversed(range(schedule.T)):
    beta, s = schedule.betas[t], schedule.s[t]
    x = (x - beta / s * face(x, t).noise) / (1 - beta).sqrt()  # thesis equation 2.9
    if t > 0:
        x = x + beta.sqrt() * torch.randn(x.shape, generator=g, dtype=x.dtype)  # 2.10: no noise in the last step
by_hand = x

viz.scatter_2d({"samples": by_hand[:1000]}, density=lambda x: face.log_density(x, CLEAN).exp(), limits=2)

# %% [markdown]
# A face, out of nothing but noise and directions. The library's `samplers.ddpm` does the same, with a progress bar, checks and
# callbacks around it; given the same random numbers it must land on the same points.

# %%
g = seeded(13)
x_T = torch.randn(n, 2, generator=g, dtype=torch.float64)
by_library = samplers.ddpm(face, schedule, x_T, generator=g)
torch.testing.assert_close(by_library, by_hand, rtol=1e-9, atol=1e-9)

# %% [markdown]
# ### Is it really the same distribution?
#
# "Looks like a face" is no measurement. We need a distance between two clouds of points. On a line that is easy: sort
# both clouds, and take the mean distance of partners, which is how far the points must be moved to turn one cloud into the other. In
# the plane, do so in many directions and average: the **sliced Wasserstein distance**.
#
# A distance alone says little. Two *true* clouds are not at distance 0 from each other either, being finite, and this is
# the best that any sampler can hope for. So we put three baselines beside it, for several seeds:
# true points against true points; noise; and the exact denoiser asked *once*, in a single jump from $t = 999$.

# %%
seeds = range(profile.pick(ci=2, laptop=5, gpu=5))


def sliced_wasserstein(x, y, directions=64):
    """Mean distance that points must move, over directions; x and y are (N, 2)."""
    angle = math.pi * torch.arange(directions, dtype=x.dtype) / directions
    project = torch.stack([angle.cos(), angle.sin()])  # (2, directions)
    return ((x @ project).sort(dim=0).values - (y @ project).sort(dim=0).values).abs().mean().item()


distances = {"true points": [], "DDPM samples": [], "noise": [], "one single jump": []}
for seed in seeds:
    g = seeded(100 + seed)
    truth, truth_again = face.sample(n, g), face.sample(n, g)
    x_T = torch.randn(n, 2, generator=g, dtype=torch.float64)
    clouds = {
        "true points": truth_again,
        "DDPM samples": samplers.ddpm(face, schedule, x_T, generator=g),
        "noise": x_T,
        "one single jump": process.to_x0(schedule, face(x_T, 999), x_T, 999),
    }
    for name, cloud in clouds.items():
        distances[name].append(sliced_wasserstein(truth, cloud))

print("distance to true points")
for name, values in distances.items():
    print(f"{name:16} {sum(values) / len(values):.3f}   each seed: " + " ".join(f"{value:.3f}" for value in values))
average = {name: sum(values) / len(values) for name, values in distances.items()}

# %%
assert average["DDPM samples"] < 2 * average["true points"]  # as good as true points, up to chance
assert average["DDPM samples"] < 0.3 * average["noise"]
assert average["one single jump"] > average["noise"]  # one jump: everybody at the mean, worse than not trying

# %% [markdown]
# **"Why 1000 steps, if the denoiser is perfect?"** The last line answers: even the perfect denoiser, asked once, says
# "the mean of everything", because that is the right answer to the question *what is the average clean point behind this noise*.
# Sampling is many small questions, each answered with a little more certainty, and the noise in between makes the choice
# of *one* face out of all. (Fewer than 1000 will do with better samplers: section 6 and chapter 2.)
#
# **"Why add noise while denoising? Is that not a step backwards?"** Leave out the last two lines of the loop, and all
# the different starts end at the same point, in the middle of the mouth.
# Each step of equation 2.9 goes to a *mean*, and means of means have no variety left. Half of its push only makes room for
# the noise that is to follow.

# %%
x = x_T
for t in reversed(range(schedule.T)):
    x = (x - schedule.betas[t] / schedule.s[t] * face(x, t).noise) / schedule.alphas[t].sqrt()
without_noise = x

print(f"spread of the ends: {without_noise.std(0).norm():.3f}, of true points: {truth.std(0).norm():.3f}")
assert without_noise.std(0).norm() < 0.05 * truth.std(0).norm()
assert (without_noise - means[3]).norm(dim=1).max() < 0.1  # the middle stroke of the mouth
assert sliced_wasserstein(truth, without_noise) > average["noise"]

figure, panels = plt.subplots(1, 2, figsize=(7, 3.5))
for panel, (name, cloud) in zip(panels, {"with noise": clouds["DDPM samples"], "without noise": without_noise}.items()):
    panel.scatter(*points.T, s=3, color="silver")
    panel.scatter(*cloud.T, s=6, color=viz.OKABE_ITO["vermillion"])
    plane(panel, name, limits=2)

# %% [markdown]
# ### The damage of 100 steps with the wrong betas
#
# In section 1 we left a schedule that does not end in noise. Our face does not mind: its mean is near 0 and its
# variance near 1, so the noise we start from *resembles* the half-noised face that we should start from. Move the face
# away from the middle, though (as a data set of bright pictures is), and see where the samples land:

# %%
moved = means + torch.tensor([2.0, 0.0], dtype=torch.float64)
landed = {}
for name, each in {"T = 100": short, "T = 100, rescaled": rescaled}.items():
    x = samplers.ddpm(GaussianMixtureOracle(each, moved, covariances), each, x_T, generator=seeded(14))
    landed[name] = sliced_wasserstein(truth + moved[0] - means[0], x)
    print(f"{name:20} distance {landed[name]:.3f}; mean of the samples ({x[:, 0].mean():5.2f}, {x[:, 1].mean():5.2f})")
assert landed["T = 100"] > 3 * landed["T = 100, rescaled"]
assert landed["T = 100, rescaled"] < 3 * average["true points"]

# %% [markdown]
# The samples are drawn toward the middle, because the sampler was told "this is $x_{T-1}$" and believed it. With pictures
# the same bug gives samples of medium brightness, whatever the data (Lin et al. 2023,
# [*Common diffusion noise schedules and sample steps are flawed*](https://arxiv.org/abs/2305.08891)).

# %% [markdown]
# ## 6 · Through time, by hand
#
# The slider moves $t$. Left: the noised face, and the density $p_t$ that the exact denoiser works with. Right: what it
# predicts for each of these points. At the noisy end all predictions are one point, the mean. On the way down they spread
# and fill the *inside* of the face, where no data are: averages of the undecided. Only below t = 150 or so do they
# settle on the eyes and the mouth.

# %%
frame_times = [999, 900, 800, 700, 600, 550, 500, 450, 400, 350, 300, 250, 200, 150, 100, 70, 50, 30, 15, 0]
frames, every = [], profile.pick(ci=3, laptop=1, gpu=1)
lines = torch.linspace(-2.8, 2.8, 80, dtype=torch.float64)
pixels = torch.cartesian_prod(lines, lines)
for t in frame_times[::every]:
    x_t = process.add_noise(schedule, points, t, points_noise)
    x0_hat = process.to_x0(schedule, face(x_t, t), x_t, t)
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 4.3))
    density = face.log_density(pixels, t).exp().reshape(80, 80).T
    panels[0].imshow(density, extent=(-2.8, 2.8, -2.8, 2.8), origin="lower")
    panels[0].scatter(*x_t[:300].T, s=5, color=viz.OKABE_ITO["vermillion"])
    panels[1].scatter(*points.T, s=3, color="silver")
    panels[1].scatter(*x0_hat[:300].T, s=8, color=viz.OKABE_ITO["vermillion"])
    plane(panels[0], f"$x_t$ and its density, t = {t}")
    plane(panels[1], "prediction $\\hat x_0$ (grey: data)")
    frames.append(figure)
    plt.close(figure)  # or it would appear below the cell as well

widgets.slider_gallery(frames, labels=frame_times[::every])

# %% [markdown]
# ### Three samplers on their way
#
# DDPM wanders: each step adds noise. The same denoiser can also be followed *without* any randomness. **DDIM** keeps the
# predicted noise instead of drawing new one, $x_{t-1} = a_{t-1}\hat x_0 + s_{t-1}\hat\epsilon$ (not the broken loop above, which
# threw the noise away), and the **ODE** sampler (Heun's method) follows the same smooth curves with a better rule for
# each step. Chapter 2 explains and compares them; here, watch. All three players start from the same noise.

# %%
start = torch.randn(150, 2, generator=seeded(15), dtype=torch.float64)


def film(sampler, **options):
    """The positions of all points after each step, and the time of each."""
    path, labels = [start], ["t = 999"]

    def remember(step):
        path.append(step.x)
        labels.append("clean" if step.t_next == CLEAN else f"t = {step.t_next}")

    sampler(face, schedule, start, callback=remember, **options)
    chosen = [round(i) for i in torch.linspace(0, len(path) - 1, min(len(path), 101)).tolist()]
    return torch.stack([path[i] for i in chosen]), [labels[i] for i in chosen]


def show(path, labels):
    frames = profile.pick(ci=8, laptop=40, gpu=40)
    density = lambda x: face.log_density(x, CLEAN).exp()  # noqa: E731
    return viz.animate_trajectories(path, density, labels, limits=2.8, tail=12, frames=frames)


ddpm_path, labels = film(samplers.ddpm, generator=seeded(16))
show(ddpm_path, labels)

# %% [markdown]
# **DDPM**: no point keeps its direction for long; where it ends is decided late.

# %%
ddim_path, labels = film(samplers.ddim, steps=100)
show(ddim_path, labels)

# %% [markdown]
# **DDIM**: smooth curves. Each start has one end.

# %%
ode_path, labels = film(samplers.ode, steps=50)
show(ode_path, labels)

# %% [markdown]
# **ODE**: the same curves, in half as many steps (each of them asks the denoiser twice). In numbers:

# %%
fine = samplers.ode(face, schedule, start, steps=1000)


def median_gap(x, y):
    """Median distance between the ends of the same starts."""
    return (x - y).norm(dim=1).median().item()


ddpm_again = samplers.ddpm(face, schedule, start, generator=seeded(17))
ddim_again = samplers.ddim(face, schedule, start, steps=100)
print(f"DDPM, run again with other noise: {median_gap(ddpm_path[-1], ddpm_again):.5f}")
print(f"DDIM, run again:                  {median_gap(ddim_path[-1], ddim_again):.5f}")
assert median_gap(ddpm_path[-1], ddpm_again) > 0.5, "where DDPM ends is not written in its start"
assert median_gap(ddim_path[-1], ddim_again) == 0, "where DDIM ends is"

print("\ngap to the fine solution:     DDIM        ODE")
for k in [100, 400]:
    ddim_gap = median_gap(samplers.ddim(face, schedule, start, steps=k), fine)
    ode_gap = median_gap(samplers.ode(face, schedule, start, steps=k // 2), fine)
    print(f"    asking {k:3} times {ddim_gap:16.5f} {ode_gap:10.5f}")
    assert max(ddim_gap, ode_gap) < 0.05, "DDIM and ODE follow the same curves"
assert ode_gap < ddim_gap, "with many questions, the better rule pays"

# %% [markdown]
# Look at the two rows: asking 100 times, the better rule does not pay yet; asking 400 times, it does. The last stretch decides,
# where the strokes are finer than the steps. Chapter 2 has a sampler that is good at few.
#
# ## What you know now
#
# - $x_t = a_t x_0 + s_t \epsilon$: a jump to any time, in one line.
# - $q(x_{t-1}|x_t, x_0)$: one step back, *if* $x_0$ is known.
# - A denoiser trained by plain regression gives $\mathbb E[\epsilon|x_t] = -s_t \nabla\log p_t$, and from it an average $\hat x_0$.
# - Step back with $\hat x_0$ in place of $x_0$, add the right noise, repeat: samples.
#
# The only thing missing is a denoiser for *pictures*. Chapter 2 builds it.
#
# ## Exercises
#
# Exercises that check your answers are in [their own notebook](../exercises/01_ddpm_basics.ipynb). These go further:
#
# 1. **By hand.** Section 5 checked numerically that putting $\hat x_0 = (x_t - s_t\hat\epsilon)/a_t$ into the posterior's
#    mean gives equation 2.9. Do it with pen and paper. (You need $\alpha_t s_{t-1}^2 + \beta_t = s_t^2$ once.)
# 2. **Fewer steps.** Run `samplers.ddpm(face, schedule, x_T, steps=k)` for k = 1000, 100, 30, 10, once with
#    `sigma="beta"` and once with `sigma="posterior"`. From which k on does the choice matter? Which is better, and can you
#    say why from the picture of the samples?
# 3. **The data set's own denoiser.** Section 3 computed $\mathbb E[\epsilon|x_t]$ by weighing examples. Write this as a
#    denoiser for a data set of only 20 points (a function `(x_t, t) -> Prediction(noise=…)` will do) and sample from it.
#    What comes out? It is the *exact* minimiser of the training loss. What, then, does a network that generalises do?
# 4. **Three languages.** Repeat the regression of section 3 with a network that predicts $x_0$, and one that predicts the
#    velocity $a_t\epsilon - s_t x_0$. Convert all three to noise with `process.convert` and compare their distances to
#    the exact denoiser at t = 20 and t = 700. Who wins where?
# 5. **Your own schedule.** Design betas for T = 50 with which DDPM beats the linear schedule (rescaled) on the face, measured by
#    `sliced_wasserstein` over five seeds. How do you make sure that you did not win by luck?
