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
# # Exercises 9 · From a noisy picture to its camera
#
# They go with [chapter 9](../notebooks/09_pose_from_denoising.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
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

from fdlib.course.checks import ch09 as check


# %% [markdown]
# ## 9.1 · Turned, or stepped aside?
# *★☆☆ · 3 points · 10 minutes*
#
# A camera looks straight ahead at a point in the middle of its picture. By how many pixels does the point move if the camera turns by an angle? By how many if it steps aside without turning, and the point is at some depth? Focal lengths are in pixels. Then read the printout: which of the two can
# a picture of 32 pixels tell apart from the other, and by what?
#
# <details><summary>Hint</summary>
#
# A point at $(x, z)$ before the camera appears $f\, x / z$ pixels from the middle. What are $x$ and $z$ after a turn?
# </details>

# %% nbgrader={"grade": false, "grade_id": "moved-pixels", "locked": false, "schema_version": 3, "solution": true, "task": false}
def by_turning(angle, focal):
    """Pixels that the point moves when the camera turns by ``angle`` radians."""
    ### BEGIN SOLUTION
    return focal * math.tan(angle)
    ### END SOLUTION


def by_stepping(distance, depth, focal):
    """Pixels that the point moves when the camera steps aside by ``distance``."""
    ### BEGIN SOLUTION
    return focal * distance / depth
    ### END SOLUTION


print(f"turning by a degree: {by_turning(math.radians(1), 40):.2f} pixels, near or far")
print(f"stepping aside by .04: {by_stepping(0.04, 2.0, 40):.2f} pixels at depth 2, {by_stepping(0.04, 3.5, 40):.2f} at 3.5")

# %% nbgrader={"grade": true, "grade_id": "check-moved-pixels", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.moved_pixels(by_turning, by_stepping)


# %% [markdown]
# ## 9.2 · Which noise does it see?
# *★☆☆ · 2 points · 10 minutes*
#
# Training draws $t = T u^p$ with $u$ uniform in $[0, 1]$. With which probability is $t$ below $t_0$? (How often does a training with $p = 2$ look at the lowest tenth of the noise?)
#
# <details><summary>Hint</summary>
#
# $T u^p < t_0$ says something about $u$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "share-below", "locked": false, "schema_version": 3, "solution": true, "task": false}
def share_below(t0, T, power):
    """Probability of t < t0."""
    ### BEGIN SOLUTION
    return (t0 / T) ** (1 / power)
    ### END SOLUTION


print(f"p = 1: {share_below(100, 1000, 1):.0%} of training is below a tenth of T; p = 2: {share_below(100, 1000, 2):.0%}")

# %% nbgrader={"grade": true, "grade_id": "check-share-below", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.share_below(share_below)


# %% [markdown]
# ## 9.3 · One camera as seen by another
# *★★☆ · 4 points · 20 minutes*
#
# Two cameras are given in the world. Where does camera b stand, and how is it turned, *in the coordinates of camera a*? Write the 4×4 matrix that takes points of b's space to a's space, without inverting a 4×4 matrix. (Only such relative poses can be found from pictures, up to a scale.)
#
# <details><summary>Hint</summary>
#
# From b to the world, then from the world to a. For a rotation, the inverse is the transpose, so world to a is $x \mapsto R_a^T (x - t_a)$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "relative", "locked": false, "schema_version": 3, "solution": true, "task": false}
def relative(a, b):
    """Camera b in the coordinates of camera a, (4, 4); a and b are camera-to-world."""
    ### BEGIN SOLUTION
    Ra, ta = a[:3, :3], a[:3, 3]
    result = torch.eye(4, dtype=a.dtype)
    result[:3, :3] = Ra.T @ b[:3, :3]
    result[:3, 3] = Ra.T @ (b[:3, 3] - ta)
    return result
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-relative", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.relative(relative)


# %% [markdown]
# ## 9.4 · The scale nobody knows
# *★★☆ · 4 points · 20 minutes*
#
# Estimated camera centres $e_i$ are right up to a scale and a shift (their rotation is known, here). Find the $s$ and $m$ that minimise $\sum_i \lVert s\, e_i + m - c_i \rVert^2$ for the true centres $c_i$. A warning: $e$ from $c$ and $c$ from $e$ are two different regressions if there are errors.
#
# <details><summary>Hint</summary>
#
# Centre both clouds first. Then $s$ is a quotient of two sums over all coordinates, and $m$ makes the means agree.
# </details>

# %% nbgrader={"grade": false, "grade_id": "scale-and-shift", "locked": false, "schema_version": 3, "solution": true, "task": false}
def scale_and_shift(e, c):
    """s (a number) and m (3,) of the least-squares fit of e (N, 3) to c (N, 3)."""
    ### BEGIN SOLUTION
    from_mean, true_from_mean = e - e.mean(dim=0), c - c.mean(dim=0)
    s = (from_mean * true_from_mean).sum() / from_mean.square().sum()
    return s, c.mean(dim=0) - s * e.mean(dim=0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-scale-and-shift", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.scale_and_shift(scale_and_shift)


# %% [markdown]
# ## 9.5 · The short way round
# *★★★ · 5 points · 25 minutes*
#
# The vector $v$ of equation 3.2 means "turn by $|v|$ about $v / |v|$". A turn by 350 degrees is a turn by 10 degrees the other way, so many $v$ are the same rotation, and a network that averages two of them gets nonsense. Write the one that is no longer than $\pi$.
#
# <details><summary>Hint</summary>
#
# The axis stays, up to its sign; bring the angle to $[-\pi, \pi)$. A negative angle about an axis is a positive one about its opposite. Mind $v = 0$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "short-way", "locked": false, "schema_version": 3, "solution": true, "task": false}
def short_way(v):
    """The same rotation as v (3,), of length at most pi."""
    ### BEGIN SOLUTION
    length = v.norm()
    if length == 0:
        return v
    wrapped = (length + math.pi) % (2 * math.pi) - math.pi
    return v * (wrapped / length)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-short-way", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.short_way(short_way)

# %% [markdown]
# ## 9.6 · Open: a table on top of a network
# *★★★ · 8 points · 60 minutes*
#
# NeRF\-\- has a camera for each training view, the encoder one for any view. Combine them: the encoder's camera, plus a small correction that is stored for each training view. Design the experiment that says whether the combination has the best of both, and what keeps the encoder from becoming lazy.
#
# **Rubric** (8 points by hand): what is measured on training views and what on views never seen, and why both (2); the three methods at equal length and on at least three seeds (2); a way to keep the corrections small, with the number that sets it chosen without the scoring views (2); the sign by which you would notice a lazy encoder, and the prediction of when it
# comes (2).
#
# <details><summary>Hint</summary>
#
# If the corrections explain everything, what does the encoder receive as a gradient?
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "combination-report", "locked": false, "points": 8, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer: pose errors after one alignment on training views, for training and for held-out views, beside shuffled poses; a penalty on the squared corrections, or corrections that are dropped for a random half of each batch, so that the encoder must also do alone; a lazy encoder shows as a growing gap between training and
# held-out errors while the norm of the corrections grows. Prediction: without penalty the gap opens as soon as the scene is sharp, for then a table is the quicker way to lower the loss.
# ### END SOLUTION
