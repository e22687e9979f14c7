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
# # Exercises 3 · A mask generator
#
# They go with [chapter 3](../notebooks/03_mask_generator.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
# checks your answer and, if something is wrong, says what.

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

from fdlib.course.checks import ch03 as check


# %% [markdown]
# ## 3.1 · What do K regions cost?
# *★☆☆ · 2 points · 10 minutes*
#
# Let the encoder with the middle block cost $e$ operations, and one decoder $d$. The mask generator is a second decoder of the same size. What does the factorized network cost, in units of
# the plain U-Net's $e + d$, with $K$ regions?
#
# <details><summary>Hint</summary>
#
# What runs once, what runs $K$ times? The encoder sees the picture before there are masks.
# </details>

# %% nbgrader={"grade": false, "grade_id": "cost", "locked": false, "schema_version": 3, "solution": true, "task": false}
def cost(e, d, K):
    """Operations of the factorized network over those of the plain U-Net."""
    ### BEGIN SOLUTION
    return (e + d + K * d) / (e + d)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-cost", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.cost(cost)

# %% [markdown]
# ## 3.2 · Predict: who is stuck?
# *★☆☆ · 3 points · 10 minutes*
#
# For each of these networks at its start: is the gradient that reaches the *mask logits* exactly zero? Write `True` (exactly zero) or `False` for each, with a reason for yourself, *then* run the check: it measures.
#
# - `"equal, shared"`: $m_k = 1/K$ everywhere, one decoder for all regions (the lesson's saddle);
# - `"constant, shared"`: $m = (.5, .3, .2)$ at every pixel of every picture, one decoder;
# - `"equal, unshared"`: $m_k = 1/K$, but a decoder of its own for each region;
# - `"equal, shared, one region"`: $K = 1$, so that $m = 1$.
#
# <details><summary>Hint</summary>
#
# The gradient is $m_k (g_k - \sum_j m_j g_j)$. It vanishes if all branches say the same. When do they?
# </details>

# %% nbgrader={"grade": false, "grade_id": "stuck", "locked": false, "schema_version": 3, "solution": true, "task": false}
stuck = None  # {"equal, shared": …, "constant, shared": …, "equal, unshared": …, "equal, shared, one region": …}
### BEGIN SOLUTION
stuck = {"equal, shared": True, "constant, shared": False, "equal, unshared": False, "equal, shared, one region": True}
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check-stuck", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.stuck(stuck)


# %% [markdown]
# ## 3.3 · A softmax with a temperature
# *★★☆ · 3 points · 15 minutes*
#
# Let $m = \mathrm{softmax}(l / \tau)$. Given $g_k = \partial L / \partial m_k$, derive $\partial L / \partial l_k$. What does a high temperature do to the gradient, apart from making masks grey?
#
# <details><summary>Hint</summary>
#
# $\partial m_j / \partial l_k = \frac1\tau\, m_j (\delta_{jk} - m_k)$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "logit-gradient", "locked": false, "schema_version": 3, "solution": true, "task": false}
def logit_gradient(m, g, tau):
    """dL/dl, (B, K, H, W), from the masks m and g = dL/dm, both (B, K, H, W)."""
    ### BEGIN SOLUTION
    return m * (g - (m * g).sum(dim=1, keepdim=True)) / tau
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-logit-gradient", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.logit_gradient(logit_gradient)


# %% [markdown]
# ## 3.4 · Three bugs in parallel decoding
# *★★☆ · 4 points · 20 minutes*
#
# This runs, the shapes are right, and nothing is learned. Find the three places where it differs from equations 2.4, 2.6 and 2.7 and write it as it is meant. (`decoder(h_mid, skip)` here is
# a decoder with one skip at full resolution.)
#
# ```python
# def their_decoding(decoder, h_mid, skip, logits):
#     masks = logits.softmax(dim=-1)
#     total = 0
#     for k in range(logits.shape[1]):
#         m_k = masks[:, k : k + 1]
#         total = total + decoder(h_mid * m_k.mean(), skip * m_k)
#     return total
# ```
#
# <details><summary>Hint</summary>
#
# Over which dimension must masks sum to 1? What of $h_{mid}$ does equation 2.6 mask? Where does $m_k$ appear a second time?
# </details>

# %% nbgrader={"grade": false, "grade_id": "decoding", "locked": false, "schema_version": 3, "solution": true, "task": false}
def decoding(decoder, h_mid, skip, logits):
    """The prediction by parallel decoding; logits are (B, K, H, W), skip is (B, C, H, W)."""
    ### BEGIN SOLUTION
    masks = logits.softmax(dim=1)
    total = 0
    for m_k in masks.split(1, dim=1):
        total = total + m_k * decoder(h_mid, skip * m_k)
    return total
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-decoding", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.decoding(decoding)


# %% [markdown]
# ## 3.5 · One number for alive masks
# *★★☆ · 5 points · 20 minutes*
#
# The lesson watches three numbers. Two ways to be dead are *grey* (no pixel has a preference) and *collapsed* (one region holds everything). One number sees both: the entropy of the mean mask, minus the mean entropy of the
# masks, divided by $\log K$,
#
# $$\frac{H(\bar m) - \overline{H(m)}}{\log K}, \qquad H(p) = -\sum_k p_k \log p_k, \qquad \bar m_k = \text{mean of } m_k \text{ over all pixels of all pictures}.$$
#
# It is 0 for both kinds of death and 1 for decided masks of equal areas. (It is the mutual information between pixel and region.) Mind $0 \log 0 = 0$.
#
# <details><summary>Hint</summary>
#
# `torch.special.xlogy(p, p)` is $p \log p$, and 0 at 0.
# </details>

# %% nbgrader={"grade": false, "grade_id": "alive", "locked": false, "schema_version": 3, "solution": true, "task": false}
def alive(masks):
    """A number in [0, 1] for soft masks (N, K, H, W)."""
    ### BEGIN SOLUTION
    K = masks.shape[1]
    mean = masks.mean(dim=(0, 2, 3))
    of_mean = -torch.special.xlogy(mean, mean).sum()
    of_each = -torch.special.xlogy(masks, masks).sum(dim=1).mean()
    return (of_mean - of_each) / math.log(K)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-alive", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.alive(alive)


# %% [markdown]
# ## 3.6 · Why does Adam not escape?
# *★★★ · 4 points · 20 minutes*
#
# Adam divides the gradient by its own size, so that even $10^{-12}$ could become a full step, and rounding errors are about that large. Work out the *first* step exactly, from
#
# $$\mu = (1 - b_1) g, \quad \nu = (1 - b_2) g^2, \qquad \Delta\theta = -\eta\, \frac{\mu / (1 - b_1)}{\sqrt{\nu / (1 - b_2)} + \epsilon},$$
#
# and evaluate it for $g = 10^{-3}$ and $g = 10^{-12}$ with $\eta = 10^{-3}$ and the usual $\epsilon = 10^{-8}$.
#
# <details><summary>Hint</summary>
#
# Almost everything cancels. The sign of $g$ stays.
# </details>

# %% nbgrader={"grade": false, "grade_id": "first-step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def first_step(g, learning_rate, eps):
    """The change of a parameter in Adam's first step."""
    ### BEGIN SOLUTION
    return -learning_rate * g / (abs(g) + eps)
    ### END SOLUTION


for g in (1e-3, 1e-12):
    print(f"gradient {g:g}: first step {first_step(g, 1e-3, 1e-8):.1e}")

# %% nbgrader={"grade": true, "grade_id": "check-first-step", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.first_step(first_step)


# %% [markdown]
# ## 3.7 · Open: another way off the saddle
# *★★★ · 9 points · 60 minutes*
#
# Leave the mask head at zero, and break the symmetry somewhere else. Write `escape(net)`, which changes a fresh `FactorizedUNet` whose mask head is zero so that its masks receive a gradient at the first step, without touching
# the mask generator's last layer (`net.mask_generator.decoder.head`) and without noise in the loss. The check measures that gradient. Then judge your way against the library's (a small random head) in a short training.
#
# **Rubric** (6 points by hand): why the symmetry is broken, in terms of $g_k - \sum_j m_j g_j$ (2); a comparison over at least three seeds, with a number that needs no labels (2); what your way costs or changes later in training, tested (2).
#
# <details><summary>Hint</summary>
#
# Branches differ if they see different things or if their answers are read differently. Identical masks can still be handed to the decoder in different ways: `net.decode` is a method, and methods can be wrapped.
# </details>

# %% nbgrader={"grade": false, "grade_id": "escape", "locked": false, "schema_version": 3, "solution": true, "task": false}
def escape(net):
    """Change ``net`` in place."""
    ### BEGIN SOLUTION
    decode, K = net.decode, net.regions
    tilt = torch.linspace(0.9, 1.1, K).reshape(1, K, 1, 1)

    def tilted(h_mid, h_enc, emb, masks):
        weights = masks * tilt.to(masks)  # each region's masks count a little differently: its branch sees another scale
        return decode(h_mid, h_enc, emb, weights / weights.sum(dim=1, keepdim=True))

    net.decode = tilted
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-escape", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.escape(escape)

# %% [markdown] nbgrader={"grade": true, "grade_id": "escape-report", "locked": false, "points": 6, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer: with tilted weights the masks that the decoder gets differ by a constant factor, so its branches see skips of different scale and the g_k differ; the bracket is no longer zero although all logits are equal.
# Compare the entropy of the masks after equally many steps on three seeds or more. The tilt stays: the model keeps a preference for one region's scale, which shows in the occupancy; letting the tilt shrink to 1 during training removes that.
# ### END SOLUTION
