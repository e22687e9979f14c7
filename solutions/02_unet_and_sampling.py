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
# # Exercises 2 · The U-Net and sampling
#
# They go with [chapter 2](../notebooks/02_unet_and_sampling.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
# checks your answer and, if something is wrong, says what. Nothing here needs a GPU or more than seconds.

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
import torch

from fdlib import samplers
from fdlib.course.checks import ch02 as check
from fdlib.oracle import GaussianMixtureOracle
from fdlib.schedule import NoiseSchedule, time_grid

schedule = NoiseSchedule.linear(T=1000)


# %% [markdown]
# ## 2.1 · How far is one time from another?
# *★☆☆ · 2 points · 10 minutes*
#
# The network reads $t$ as sines and cosines, $\big(\sin \omega_i t,\; \cos \omega_i t\big)$ with $\omega_i = 10000^{-i / h}$, $i = 0, \dots, h - 1$, where $h$ is half the number of channels. Show that the scalar product of
# the embeddings of two times depends on their difference alone, and write that product down.
#
# <details><summary>Hint</summary>
#
# $\sin a \sin b + \cos a \cos b = \cos(a - b)$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "likeness", "locked": false, "schema_version": 3, "solution": true, "task": false}
def likeness(difference, channels):
    """The scalar product of the embeddings of t and t + difference."""
    ### BEGIN SOLUTION
    half = channels // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    return torch.cos(omega * difference).sum()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-likeness", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.likeness(likeness)


# %% [markdown]
# ## 2.2 · A small error, seen through a_t
# *★☆☆ · 2 points · 5 minutes*
#
# The predicted noise is off by $\delta$. By how much is the clean picture off that it implies? Then read the three printed numbers: where on the way down is a network's error dangerous?
#
# <details><summary>Hint</summary>
#
# $\hat x_0 = (x_t - s_t \hat\epsilon) / a_t$, once with $\hat\epsilon$ and once with $\hat\epsilon + \delta$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "x0-error", "locked": false, "schema_version": 3, "solution": true, "task": false}
def x0_error(schedule, t, delta):
    """The size of the error of x0 at time t, if the noise is off by delta >= 0."""
    ### BEGIN SOLUTION
    return schedule.s[t] / schedule.a[t] * delta
    ### END SOLUTION


for t in (10, 500, 999):
    print(f"t = {t}: an error of .01 in the noise becomes {float(x0_error(schedule, t, 0.01)):.4f} in the picture")

# %% nbgrader={"grade": true, "grade_id": "check-x0-error", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.x0_error(x0_error)


# %% [markdown]
# ## 2.3 · Count a residual block
# *★★☆ · 3 points · 15 minutes*
#
# Without building one: how many numbers can a residual block learn? It has, in this order,
#
# - group normalisation of its input: a factor and an offset for each channel;
# - a 3×3 convolution from $c_{in}$ to $c_{out}$ channels; a linear layer from the time embedding ($c_{emb}$ numbers) to $c_{out}$;
# - group normalisation again; a 3×3 convolution from $c_{out}$ to $c_{out}$;
# - a shortcut around it all: a 1×1 convolution if $c_{in} \ne c_{out}$, nothing otherwise.
#
# All convolutions and linear layers have biases.
#
# <details><summary>Hint</summary>
#
# A $k \times k$ convolution has $k^2 c_{in} c_{out}$ weights and $c_{out}$ biases.
# </details>

# %% nbgrader={"grade": false, "grade_id": "block-size", "locked": false, "schema_version": 3, "solution": true, "task": false}
def block_size(c_in, c_out, c_emb):
    """Number of learned parameters of a residual block, an int."""
    ### BEGIN SOLUTION
    norms = 2 * c_in + 2 * c_out
    convolutions = (9 * c_in + 1) * c_out + (9 * c_out + 1) * c_out
    embedding = (c_emb + 1) * c_out
    shortcut = (c_in + 1) * c_out if c_in != c_out else 0
    return norms + convolutions + embedding + shortcut
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-block-size", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.block_size(block_size)


# %% [markdown]
# ## 2.4 · The average that learned nothing
# *★★☆ · 4 points · 15 minutes*
#
# With this update, samples from the averaged weights are as jittery as those from the raw ones, and after a while training itself goes wrong. Write one without its mistakes. Group
# normalisation has no running statistics, but another network might have: buffers (`network.buffers()`) are to be *copied*.
#
# ```python
# def their_update(average, network, d):
#     for p, q in zip(average.parameters(), network.parameters()):
#         p.data = q.data.mul_(d).add_((1 - d) * p.data)
# ```
#
# <details><summary>Hint</summary>
#
# Two questions: who should get the large factor $d$, the average or the newcomer? And what does the underscore in `mul_` do to the network that is being trained?
# </details>

# %% nbgrader={"grade": false, "grade_id": "update", "locked": false, "schema_version": 3, "solution": true, "task": false}
@torch.no_grad()
def update(average, network, d):
    """average <- d average + (1 - d) network, in place; buffers are copied; the network is left alone."""
    ### BEGIN SOLUTION
    for mean, new in zip(average.parameters(), network.parameters()):
        mean.copy_(d * mean + (1 - d) * new)
    for mean, new in zip(average.buffers(), network.buffers()):
        mean.copy_(new)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-update", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.update(update)


# %% [markdown]
# ## 2.5 · What is left of the beginning
# *★★☆ · 3 points · 15 minutes*
#
# `train` averages with a decay that grows: update number $n = 1, 2, \dots$ uses $d_n = \min\big(d, \frac{1 + n}{10 + n}\big)$. Which share of the average is still the *untrained* weights after $N$ updates?
# Predict before you run: with $d = .9999$ and $N = 500$, is it more or less than 1 %? And without that care, $d_n = d$?
#
# <details><summary>Hint</summary>
#
# Each update multiplies what was there by $d_n$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "left-over", "locked": false, "schema_version": 3, "solution": true, "task": false}
def left_over(d, updates):
    """The share of the initial weights in the average after so many updates."""
    ### BEGIN SOLUTION
    n = torch.arange(1, updates + 1, dtype=torch.float64)
    return ((1 + n) / (10 + n)).clamp(max=d).prod()
    ### END SOLUTION


print(f"d = .9999 after 500 updates: {float(left_over(0.9999, 500)):.1e} with care, {0.9999**500:.1%} without")

# %% nbgrader={"grade": true, "grade_id": "check-left-over", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.left_over(left_over)


# %% [markdown]
# ## 2.6 · The distance of a generator that always paints the same
# *★★☆ · 4 points · 20 minutes*
#
# Where covariances are diagonal, the Fréchet distance of two Gaussians needs no matrix root. Derive that formula from
# $\lVert\mu_a - \mu_b\rVert^2 + \mathrm{tr}\big(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}\big)$. Then predict: a generator always returns the *mean* of all real pictures' features. Is it nearer to the real
# ones than a generator with the right variety and a mean that is off by half a standard deviation in every feature?
#
# <details><summary>Hint</summary>
#
# For one feature: $\sigma_a^2 + \sigma_b^2 - 2 \sigma_a \sigma_b$ is a square.
# </details>

# %% nbgrader={"grade": false, "grade_id": "diagonal-distance", "locked": false, "schema_version": 3, "solution": true, "task": false}
def diagonal_distance(mean_a, std_a, mean_b, std_b):
    """Squared Fréchet distance of two Gaussians with independent features; all arguments are (D,)."""
    ### BEGIN SOLUTION
    return ((mean_a - mean_b) ** 2 + (std_a - std_b) ** 2).sum()
    ### END SOLUTION


zero, one = torch.zeros(64), torch.ones(64)
print(f"always the mean: {float(diagonal_distance(zero, one, zero, 0 * one)):.1f}; off by half a standard deviation: "
      f"{float(diagonal_distance(zero, one, zero + 0.5, one)):.1f}")

# %% nbgrader={"grade": true, "grade_id": "check-diagonal-distance", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.diagonal_distance(diagonal_distance)


# %% [markdown]
# ## 2.7 · A sampler of your own
# *★★★ · 6 points · 40 minutes*
#
# In $y = x / a$ and $u = s / a$ the probability-flow ODE is $\mathrm dy / \mathrm du = \hat\epsilon$, and DDIM is Euler's method. The oldest way to second order with *one* evaluation a step is that of Adams and Bashforth: remember
# the last slope $\hat\epsilon_{before}$, and extrapolate it linearly to the middle of the present step. For steps of different length, $h = u_{next} - u$ and $h_{before}$,
#
# $$y_{next} = y + h \Big(\hat\epsilon + \frac{h}{2 h_{before}} (\hat\epsilon - \hat\epsilon_{before})\Big).$$
#
# Write it as a sampler: the first step is Euler's, all others, the last one to the clean picture included, are as above. `schedule.at(t, x)` gives $a$ and $s$, for `CLEAN` (-1) too; a denoiser wants $t$ as a tensor
# (B,) and returns a `Prediction`.
#
# <details><summary>Hint</summary>
#
# Loop over `zip(times, times[1:])`. Keep `noise_before` and `h_before` from step to step. Convert back with $x = a_{next}\, y$ before the next evaluation; at the clean end $a = 1$ and $u = 0$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "ab2", "locked": false, "schema_version": 3, "solution": true, "task": false}
@torch.no_grad()
def ab2(denoiser, schedule, x_T, times):
    """x at the last of the decreasing ``times``; the denoiser (which predicts noise) is evaluated once a step."""
    ### BEGIN SOLUTION
    x, noise_before, h_before = x_T, None, None
    for t, t_next in zip(times, times[1:]):
        (a, s), (a_next, s_next) = schedule.at(t, x), schedule.at(t_next, x)
        noise = denoiser(x, torch.full((len(x),), t)).noise
        h = s_next / a_next - s / a
        slope = noise
        if noise_before is not None:
            slope = noise + h / (2 * h_before) * (noise - noise_before)
        x = a_next * (x / a + h * slope)
        noise_before, h_before = noise, h
    return x
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-ab2", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
check.ab2(ab2)

# %%
angles = torch.arange(6) * torch.pi / 3
oracle = GaussianMixtureOracle(schedule, torch.stack([angles.cos(), angles.sin()], 1).double(), 0.04)
x_T = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
fine = samplers.ode(oracle, schedule, x_T, steps=200, progress=False)
print("median distance to the fine solution")
for steps in (10, 20, 40, 80):
    times = time_grid(1000, steps, power=2)
    ends = {"DDIM": samplers.ddim(oracle, schedule, x_T, timesteps=times, progress=False),
            "DPM-Solver++": samplers.dpm_solver_pp(oracle, schedule, x_T, timesteps=times, progress=False),
            "yours": ab2(oracle, schedule, x_T, times)}
    print(f"{steps:3} evaluations  " + "  ".join(f"{name} {(x - fine).norm(dim=1).median():.4f}" for name, x in ends.items()))

# %% [markdown]
# ## 2.8 · Open: does it know the object?
# *★★★ · 8 points · 60 minutes*
#
# In some rooms object and wall have the same colour. Does the shipped network (`course.asset("shapes32_unet")`) paint such objects, or does it avoid them? Design a measurement, carry it out, and report it. Part of the task
# is to say what result would have convinced you of the opposite.
#
# **Rubric** (8 points by hand): a question sharp enough that a number can answer it (2); real pictures as a baseline, from held-out indices (2); enough samples, with an error bar on the number (2); what the measurement cannot
# see, named (1); the opposite result, described beforehand (1).
#
# <details><summary>Hint</summary>
#
# `FactorClassifier` (`course.asset("shapes_features")`) names the factors of a picture. How often is it right on *rendered* rooms of this kind? Without that number yours means nothing.
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "same-colour-report", "locked": false, "points": 8, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer: among N samples count those for which the classifier reads equal hues for object and wall; one in ten of the real pictures is of that kind (ten hues each, independent), so a network that has learned the distribution
# gives about 10 %, with a binomial standard error of sqrt(.09 / N). The classifier's own accuracy on rendered rooms with equal hues is reported first, since a classifier that fails there would hide the effect. Far below 10 % would mean
# avoidance, far above that it merges object and wall. What it cannot see: pictures in which no object was painted at all; they need a look, or a detector of empty rooms.
# ### END SOLUTION
