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
# # Exercises 1 · DDPM basics
#
# They go with [chapter 1](../notebooks/01_ddpm_basics.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
# checks your answer and, if something is wrong, says what. Nothing is sent anywhere. Stars say how hard, minutes how long; open a hint when you
# have been stuck for five of them.

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

import torch

from fdlib import samplers
from fdlib.course.checks import ch01 as check
from fdlib.schedule import NoiseSchedule

schedule = NoiseSchedule.linear(T=1000)


# %% [markdown]
# ## 1.1 · From t to u in one jump
# *★☆☆ · 3 points · 10 minutes*
#
# The lesson jumps from the clean picture to any $t$. But a picture that is already at $t$ can jump on, to any later $u$, without a look at $x_0$:
#
# $$x_u = r\, x_t + \sqrt{v}\; z, \qquad z \sim \mathcal N(0, I).$$
#
# Express the factor $r$ and the variance $v$ by $a$ and $s$ at the two times (`schedule.a`, `schedule.s`).
#
# <details><summary>Hint</summary>
#
# Put $x_t = a_t x_0 + s_t \epsilon$ into the right side. The factor of $x_0$ must be $a_u$, and the variances of the two noises must add up to $s_u^2$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "jump", "locked": false, "schema_version": 3, "solution": true, "task": false}
def jump(schedule, t, u):
    """r and v of x_u = r x_t + sqrt(v) z, for t < u."""
    ### BEGIN SOLUTION
    r = schedule.a[u] / schedule.a[t]
    v = schedule.s[u] ** 2 - r**2 * schedule.s[t] ** 2
    return r, v
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-jump", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.jump(jump)


# %% [markdown]
# ## 1.2 · When noise takes over
# *★☆☆ · 2 points · 10 minutes*
#
# Suppose that every step adds the same $\beta$. At which index $t$ (counted from 0, as everywhere here) does the noise's variance exceed the signal's
# for the first time, $s_t^2 > a_t^2$? Find the formula; no loop.
#
# <details><summary>Hint</summary>
#
# With a constant $\beta$, $\bar\alpha_t = (1 - \beta)^{t+1}$. Compare with one half.
# </details>

# %% nbgrader={"grade": false, "grade_id": "first-noisy", "locked": false, "schema_version": 3, "solution": true, "task": false}
def first_noisy(beta):
    """The first index t, an int, at which noise outweighs signal."""
    ### BEGIN SOLUTION
    steps = math.log(0.5) / math.log(1 - beta)  # after so many, a fractional number, both are equal
    return math.floor(steps) + 1 - 1  # the next whole number of steps; step n ends at index n - 1
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-first-noisy", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.first_noisy(first_noisy)


# %% [markdown]
# ## 1.3 · Three bugs
# *★★☆ · 4 points · 15 minutes*
#
# A colleague typed equation 2.9 from memory. Her samples are grey mush. There are three mistakes in this step; write one without them.
#
# ```python
# def her_step(schedule, x_t, t, noise_hat, z):
#     beta, alpha_bar = schedule.betas[t], schedule.alpha_bars[t]
#     mean = (x_t - beta / (1 - alpha_bar) * noise_hat) / (1 - beta).sqrt()
#     return mean + beta * z
# ```
#
# <details><summary>Hint</summary>
#
# Which numbers here are variances, and which standard deviations? And what happens at $t = 0$?
# </details>

# %% nbgrader={"grade": false, "grade_id": "step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def step(schedule, x_t, t, noise_hat, z):
    """x_{t-1} by thesis equations 2.9 and 2.10 with sigma_t^2 = beta_t; z is standard normal noise like x_t."""
    ### BEGIN SOLUTION
    beta, s = schedule.betas[t], schedule.s[t]
    mean = (x_t - beta / s * noise_hat) / (1 - beta).sqrt()
    return mean + beta.sqrt() * z if t > 0 else mean
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-step", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.step(step)


# %% [markdown]
# ## 1.4 · The score, from a clean guess
# *★★☆ · 3 points · 10 minutes*
#
# The lesson writes the score by the predicted noise, $\nabla \log p_t(x_t) = -\mathbb E[\epsilon | x_t] / s_t$. A network that predicts the clean picture knows it too. Write the
# score by $\hat x_0 = \mathbb E[x_0 | x_t]$. (Known as Tweedie's formula.)
#
# <details><summary>Hint</summary>
#
# $x_t = a_t x_0 + s_t \epsilon$ holds for the expectations given $x_t$ as well.
# </details>

# %% nbgrader={"grade": false, "grade_id": "score-from-x0", "locked": false, "schema_version": 3, "solution": true, "task": false}
def score_from_x0(schedule, x_t, x0_hat, t):
    """The gradient of log p_t at x_t, given E[x0 | x_t]."""
    ### BEGIN SOLUTION
    a, s = schedule.at(t, x_t)
    return (a * x0_hat - x_t) / s**2
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-score-from-x0", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.score_from_x0(score_from_x0)


# %% [markdown]
# ## 1.5 · A prediction: how small does it get?
# *★★☆ · 4 points · 20 minutes*
#
# In section 5 the sampler without noise collapsed. How far? Take data on a line, $x_0 \sim \mathcal N(0, \sigma^2)$, whose exact denoiser is $\hat\epsilon = \dfrac{s_t\, x_t}{a_t^2\sigma^2 + s_t^2}$.
# Each step of equation 2.9 without noise then only multiplies $x$ by a number. Find it, and from it the standard deviation at the end, if the start has 1.
# Before you run the check, write down a guess for $\sigma = 1$ and the linear schedule. (True data would have 1.)
#
# <details><summary>Hint</summary>
#
# $x_{t-1} = k_t x_t$ with $k_t = \big(1 - \frac{\beta_t}{s_t} \cdot \frac{s_t}{a_t^2 \sigma^2 + s_t^2}\big) / \sqrt{\alpha_t}$, and all the $k_t$ multiply.
# </details>

# %% nbgrader={"grade": false, "grade_id": "noise-free-spread", "locked": false, "schema_version": 3, "solution": true, "task": false}
def noise_free_spread(schedule, sigma):
    """Standard deviation of x after all steps of equation 2.9 without noise; x_T has 1, the data sigma."""
    ### BEGIN SOLUTION
    total = schedule.alpha_bars * sigma**2 + schedule.s**2  # variance of x_t
    factors = (1 - schedule.betas / total) / schedule.alphas.sqrt()
    return factors.prod()
    ### END SOLUTION


print("sigma = 1, linear schedule:", float(noise_free_spread(schedule, 1.0)))

# %% nbgrader={"grade": true, "grade_id": "check-noise-free-spread", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.noise_free_spread(noise_free_spread)


# %% [markdown]
# ## 1.6 · The denoiser that has seen everything
# *★★☆ · 5 points · 20 minutes*
#
# For a data set of $N$ points the training loss has an exact minimiser. Given $x_t$, weigh each point by how probably it became this very $x_t$,
#
# $$w_i \propto \exp\Big(-\frac{\lVert x_t - a_t x^{(i)}\rVert^2}{2 s_t^2}\Big), \qquad \hat\epsilon = \sum_i w_i\, \frac{x_t - a_t x^{(i)}}{s_t}.$$
#
# Write it so that it survives $t = 0$, where all the exponentials are tiny. Then look at where its samples land, below the check.
#
# <details><summary>Hint</summary>
#
# `torch.softmax` of the exponents: it subtracts the largest first, so nothing becomes 0 / 0.
# </details>

# %% nbgrader={"grade": false, "grade_id": "memory", "locked": false, "schema_version": 3, "solution": true, "task": false}
def memory(schedule, data, x_t, t):
    """E[noise | x_t], (B, D), for a data set of points (N, D) that are all equally likely."""
    ### BEGIN SOLUTION
    a, s = schedule.at(t, x_t)
    needed = (x_t[:, None] - a * data) / s  # (B, N, D): the noise that each point would have needed
    weights = torch.softmax(-0.5 * needed.square().sum(-1), dim=1)
    return (weights[..., None] * needed).sum(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-memory", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.memory(memory)

# %%
from fdlib.denoiser import Prediction

data = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
x_T = torch.randn(500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def denoiser(x, t):
    return Prediction(noise=memory(schedule, data, x, int(t[0])))


samples = samplers.ddim(denoiser, schedule, x_T, steps=100, progress=False)
print(f"median distance of a sample to the nearest of the 20 points: {torch.cdist(samples, data).min(1).values.median():.4f}")


# %% [markdown]
# Every sample is one of the 20 points: the perfect minimiser of the loss only *remembers*. What a network adds is that it cannot.

# %% [markdown]
# ## 1.7 · DDIM is a rotation
# *★★★ · 5 points · 25 minutes*
#
# Since $a_t^2 + s_t^2 = 1$ there is an angle with $a_t = \cos\varphi_t$, $s_t = \sin\varphi_t$. Let the denoiser predict the velocity $v = a_t \epsilon - s_t x_0$. Then DDIM's step
# $x_{t'} = a_{t'} \hat x_0 + s_{t'} \hat\epsilon$ becomes a rotation in the plane of $x_t$ and $v$, by the difference of the angles. Derive it, and write it with sines and cosines of
# that difference only.
#
# <details><summary>Hint</summary>
#
# $\hat x_0 = \cos\varphi\, x_t - \sin\varphi\, v$ and $\hat\epsilon = \sin\varphi\, x_t + \cos\varphi\, v$ (check these two first). Then the addition theorems. `torch.atan2(s, a)` gives the angle.
# </details>

# %% nbgrader={"grade": false, "grade_id": "rotate", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rotate(schedule, x_t, velocity, t, t_next):
    """x at t_next by one DDIM step from x_t, given the predicted velocity at t."""
    ### BEGIN SOLUTION
    angle = torch.atan2(schedule.s, schedule.a)
    turn = angle[t_next] - angle[t]
    return turn.cos() * x_t + turn.sin() * velocity
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-rotate", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.rotate(rotate)


# %% [markdown]
# ## 1.8 · Open: fifty steps, well spent
# *★★★ · 8 points · 45 minutes*
#
# Design betas for a schedule of $T = 50$ steps with which `samplers.ddpm` comes nearer to the truth on a two-blob data set than the linear schedule
# (`NoiseSchedule.linear(50, rescale=True)`). The check only asks for a valid schedule that ends in noise. In the answer below it: what you tried, your measurement, and how you made sure
# that you did not win by luck.
#
# **Rubric** (6 points by hand): the measurement uses several seeds and shows their spread (2); baselines stand beside the result: linear, and true points against true points (2); the choice of betas is
# explained by where this data set decides something, and the explanation could be wrong and was tested (2).
#
# <details><summary>Hint</summary>
#
# Which $t$ decide *which* blob, and which decide the place within it? Compare `cosine`, and a schedule whose log signal-to-noise ratio falls evenly.
# </details>

# %% nbgrader={"grade": false, "grade_id": "my-betas", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_betas():
    """(50,) step variances, each strictly between 0 and 1, that leave less than 1 % of the signal's variance."""
    ### BEGIN SOLUTION
    log_snr = torch.linspace(6.5, -6.5, 50, dtype=torch.float64)  # even in log(a^2 / s^2)
    alpha_bars = torch.sigmoid(log_snr)
    return 1 - alpha_bars / torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-my-betas", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.my_betas(my_betas)

# %% [markdown] nbgrader={"grade": true, "grade_id": "my-betas-report", "locked": false, "points": 6, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer names the seeds, gives mean and spread of a distance (sliced Wasserstein, say) for at least: true against true points, the linear schedule, cosine, and the own one; and changes one thing at a time.
# For two blobs of variance .01 at (1, .3) and (-1, -.3), 2000 points, eight seeds, measured with `sigma="beta"`: true against true .019 (spread .009), linear .034 (.011), cosine .024 (.012), the betas above .022 (.009).
# An even fall of the log signal-to-noise ratio spends as many steps on each factor of e. It is best where structure exists at all scales; for two well separated blobs
# the decision falls in a narrow band of t, which a schedule may crowd. A prediction that can fail: moving the blobs apart moves that band, and the best schedule with it.
# ### END SOLUTION
