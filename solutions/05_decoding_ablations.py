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
# # Exercises 5 · Four ways to use a mask
#
# They go with [chapter 5](../notebooks/05_decoding_ablations.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
# checks your answer and, if something is wrong, says what. Two are about the decodings, the others about what an ablation can prove.

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
from itertools import combinations

import torch
import torch.nn.functional as F

from fdlib.course.checks import ch05 as check


# %% [markdown]
# ## 5.1 · What a step costs
# *★☆☆ · 2 points · 10 minutes*
#
# Say that encoder and middle block together cost $E$, and that anything shaped like a decoder costs $D$, the mask generator too. What does one forward pass of each model cost? (Neglect that the decoder of `concat` is a little wider.)
#
# <details><summary>Hint</summary>
#
# The masks must be there before anything is decoded, in every model but the plain one. How often does each run its decoder, and its encoder?
# </details>

# %% nbgrader={"grade": false, "grade_id": "forward-cost", "locked": false, "schema_version": 3, "solution": true, "task": false}
def forward_cost(E, D, K, model):
    """Cost of a pass; model is "plain", "parallel", "concat", "mask_mid" or "unshared"."""
    ### BEGIN SOLUTION
    decoders = {"plain": 1, "concat": 2}.get(model, K + 1)
    return E + decoders * D
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-forward-cost", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.forward_cost(forward_cost)


# %% [markdown]
# ## 5.2 · Decode in parallel
# *★★☆ · 4 points · 20 minutes*
#
# Write equations 2.6 and 2.7: each region's branch gets `h_mid` and the skips times its mask; the branches' predictions are summed, each times its mask. Skips have different sizes: bring the masks to them by averaging (`F.adaptive_avg_pool2d`).
#
# <details><summary>Hint</summary>
#
# A loop over the K regions is enough. `masks[:, k : k + 1]` keeps the axis that broadcasts over channels.
# </details>

# %% nbgrader={"grade": false, "grade_id": "decode", "locked": false, "schema_version": 3, "solution": true, "task": false}
def decode(decoder, h_mid, h_enc, masks):
    """The prediction (B, C, H, W); decoder(h_mid, h_enc) -> (B, C, H, W), h_enc a list of (B, c, h, w), masks (B, K, H, W)."""
    ### BEGIN SOLUTION
    total = 0
    for k in range(masks.shape[1]):
        m = masks[:, k : k + 1]
        seen = [h * F.adaptive_avg_pool2d(m, h.shape[-2:]) for h in h_enc]
        total = total + m * decoder(h_mid, seen)
    return total
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-decode", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.decode(decode)


# %% [markdown]
# ## 5.3 · Grey masks
# *★☆☆ · 2 points · 10 minutes*
#
# At the beginning of the training all masks are nearly grey: $m_k = 1/K$ everywhere. Then the K branches of parallel decoding compute one and the same thing. Write their sum with a *single* call of the decoder.
#
# <details><summary>Hint</summary>
#
# Put $m_k = 1/K$ into equations 2.6 and 2.7. What does each branch see of the skips? And what do K equal things, each times 1/K, sum to?
# </details>

# %% nbgrader={"grade": false, "grade_id": "grey", "locked": false, "schema_version": 3, "solution": true, "task": false}
def grey(decoder, h_mid, h_enc, K):
    """What parallel decoding gives for masks that are 1/K everywhere, by one call of decoder(h_mid, h_enc)."""
    ### BEGIN SOLUTION
    return decoder(h_mid, [h / K for h in h_enc])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-grey", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.grey(grey)


# %% [markdown]
# ## 5.4 · Are the masks used?
# *★★☆ · 4 points · 20 minutes*
#
# The test of the lesson, as a function: the mean squared error of the predicted noise when each picture is denoised with the masks of the *next* picture of the batch (the last one with those of the first), divided by the error with its own masks.
#
# <details><summary>Hint</summary>
#
# `model.encode(x_t, t)` gives `h_mid, h_enc, emb`; `model.mask_generator(h_mid, h_enc, emb)` the masks; `model.decode(h_mid, h_enc, emb, masks)` the predicted noise. `masks.roll(-1, dims=0)` hands each picture the masks of the next.
# </details>

# %% nbgrader={"grade": false, "grade_id": "reliance", "locked": false, "schema_version": 3, "solution": true, "task": false}
@torch.no_grad()
def reliance(model, x_t, t, noise):
    """Error with the next picture's masks over error with its own; x_t and noise (B, C, H, W), t (B,)."""
    ### BEGIN SOLUTION
    h_mid, h_enc, emb = model.encode(x_t, t)
    masks = model.mask_generator(h_mid, h_enc, emb)
    own = F.mse_loss(model.decode(h_mid, h_enc, emb, masks), noise)
    other = F.mse_loss(model.decode(h_mid, h_enc, emb, masks.roll(-1, dims=0)), noise)
    return other / own
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-reliance", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.reliance(reliance)


# %% [markdown]
# ## 5.5 · What three seeds can prove
# *★★★ · 5 points · 30 minutes*
#
# Two models, a few seeds each. Is the difference of their means luck? If the model made no difference, any way of dealing the scores out to the two groups would have been as likely as the one that you saw. So deal them out in *all* ways, and count in how many the
# means differ by at least as much as they do here, in either direction. That share is the p-value of the permutation test (Fisher 1935). Then look at the printout: how small can it get with three seeds each, however large the difference?
#
# <details><summary>Hint</summary>
#
# `combinations(range(len(a) + len(b)), len(a))` lists all groups of the size of `a`. Compare absolute values, and allow for rounding: `>= observed - 1e-12`.
# </details>

# %% nbgrader={"grade": false, "grade_id": "permutation", "locked": false, "schema_version": 3, "solution": true, "task": false}
def permutation(a, b):
    """p-value of the difference of the means of two lists of scores, over all ways of dealing them out."""
    ### BEGIN SOLUTION
    scores, n = [*a, *b], len(a)
    gaps = []
    for group in combinations(range(len(scores)), n):
        first = sum(scores[i] for i in group)
        gaps.append(abs(first / n - (sum(scores) - first) / len(b)))
    return sum(gap >= gaps[0] - 1e-12 for gap in gaps) / len(gaps)
    ### END SOLUTION


for seeds in (2, 3, 4, 5):
    print(f"{seeds} seeds each, the worst of one model far above the best of the other: p = {permutation([0.9] * seeds, [0.1] * seeds):.3f}")

# %% nbgrader={"grade": true, "grade_id": "check-permutation", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.permutation(permutation)

# %% [markdown]
# ## 5.6 · Open: a fair control
# *★★★ · 6 points · 45 minutes*
#
# The lesson's control has the compute of the factorized model, and more parameters. One could also give a plain U-Net four times the *steps*, or the factorized model a quarter of the width. Say for each of the three what it holds fixed (parameters, FLOPs a step, FLOPs in all, pictures seen, time), which claim of the thesis it
# could refute, and which one you would run if you had time for one. Predict its result before you run it, with a number.
#
# **Rubric** (6 points by hand): the three controls compared on at least four quantities (3); the claim is named to which the choice matters (1); a prediction with a number (1); what result would change your mind (1).
#
# <details><summary>Hint</summary>
#
# "Paints better because of its architecture" and "paints better at equal cost" are different claims.
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "control-report", "locked": false, "points": 6, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer. Wider: same FLOPs a step and in all, same pictures, 2.5 times the parameters, about the same time. Longer: same parameters as the plain model, FLOPs in all, four times the pictures, same time in all. A narrower factorized model: FLOPs of the plain one, fewer parameters, same pictures.
# "A better architecture at equal cost" is refuted by any of them in which the plain model paints as well; longer training is the strictest, as a short run is far from converged and steps are what helps most then. Prediction for longer: its Fréchet distance falls below the factorized model's,
# by a factor of two. I would change my mind if after four times the steps the plain model were still behind on all seeds.
# ### END SOLUTION
