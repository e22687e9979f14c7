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
# # Exercises 11 · Editing one region
#
# They go with [chapter 11](../notebooks/11_region_editing.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
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
import torch

from fdlib.course.checks import ch11 as check


# %% [markdown]
# ## 11.1 · How local is an edit?
# *★☆☆ · 3 points · 10 minutes*
#
# A picture was edited where a mask is 1. Write the ratio of the mean squared change *per pixel* inside the mask to that outside. (Why per pixel, and not the sums? Think of a small object in a large room.)
#
# <details><summary>Hint</summary>
#
# The mask is (N, 1, H, W) with values 0 and 1, pictures are (N, 3, H, W): weigh the squared change with the mask, and divide by how many numbers the mask covers.
# </details>

# %% nbgrader={"grade": false, "grade_id": "locality", "locked": false, "schema_version": 3, "solution": true, "task": false}
def locality(before, after, mask):
    """Mean squared change inside over that outside, all pictures together."""
    ### BEGIN SOLUTION
    change = (after - before).square().mean(dim=1, keepdim=True)
    inside = (change * mask).sum() / mask.sum()
    outside = (change * (1 - mask)).sum() / (1 - mask).sum()
    return inside / outside
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-locality", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.locality(locality)


# %% [markdown]
# ## 11.2 · Take out what moves the rest
# *★☆☆ · 3 points · 10 minutes*
#
# The columns of $V$ are orthonormal: the directions that move the rest of the picture most. Remove from a direction $v$ its part in their span, and give what is left the length 1.
#
# <details><summary>Hint</summary>
#
# $V^T v$ are the coordinates of that part, $V V^T v$ is the part itself.
# </details>

# %% nbgrader={"grade": false, "grade_id": "take-out", "locked": false, "schema_version": 3, "solution": true, "task": false}
def take_out(v, V):
    """A unit vector (D,) without any part in the span of the columns of V (D, r)."""
    ### BEGIN SOLUTION
    left = v - V @ (V.T @ v)
    return left / left.norm()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-take-out", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.take_out(take_out)


# %% [markdown]
# ## 11.3 · The worst that can still happen
# *★★☆ · 4 points · 20 minutes*
#
# After that, how much can a unit vector move the rest at most? Find the largest $\lVert J v \rVert$ over all unit vectors $v$ that are orthogonal to the leading $r$ right singular vectors of $J$. Predict which singular value it is before you write it.
#
# <details><summary>Hint</summary>
#
# In the basis of the right singular vectors, $\lVert J v\rVert^2 = \sum_i \sigma_i^2 v_i^2$. Which $v_i$ are still allowed?
# </details>

# %% nbgrader={"grade": false, "grade_id": "worst", "locked": false, "schema_version": 3, "solution": true, "task": false}
def worst(J, r):
    """The largest change (a number) for J (M, D) and r < min(M, D)."""
    ### BEGIN SOLUTION
    return torch.linalg.svdvals(J)[r]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-worst", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.worst(worst)


# %% [markdown]
# ## 11.4 · There and back, exactly
# *★★☆ · 4 points · 20 minutes*
#
# DDIM's inversion is only nearly exact: each step up needs the prediction at a place that it has yet to reach. The *midpoint rule* has no such trouble. It steps from $x_{n-1}$ over $x_n$,
#
# $$x_{n+1} = x_{n-1} + 2 h f(x_n),$$
#
# and keeps two neighbours at a time. Write the step back: from $(x_n, x_{n+1})$ to $(x_{n-1}, x_n)$. Why is it exact for *any* $f$, however wild? (EDICT and BDIA play the same trick.)
#
# <details><summary>Hint</summary>
#
# Solve for $x_{n-1}$. Where is $f$ evaluated, and do you know that place on the way back?
# </details>

# %% nbgrader={"grade": false, "grade_id": "back", "locked": false, "schema_version": 3, "solution": true, "task": false}
def back(x, x_next, h, f):
    """(x_{n-1}, x_n) from (x_n, x_{n+1}) = (x, x_next)."""
    ### BEGIN SOLUTION
    return x_next - 2 * h * f(x), x
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-back", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.back(back)


# %% [markdown]
# ## 11.5 · The leading direction, without a matrix
# *★★★ · 6 points · 35 minutes*
#
# $J$ is never written down: it would not fit. All you have are the products $J v$ (`forward`) and $J^T u$ (`backward`), as `torch.func.jvp` and `vjp` give them. Find the leading right singular vector and its singular value by the power method: multiply by $J^T J$, give the result length 1, again and again.
#
# <details><summary>Hint</summary>
#
# Start from the given vector. Each round: `backward(forward(v))`, then normalise. At the end, the singular value is $\lVert J v\rVert$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "leading", "locked": false, "schema_version": 3, "solution": true, "task": false}
def leading(forward, backward, start, rounds=200):
    """v (D,), of length 1, and sigma (a number)."""
    ### BEGIN SOLUTION
    v = start / start.norm()
    for _ in range(rounds):
        v = backward(forward(v))
        v = v / v.norm()
    return v, forward(v).norm()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-leading", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
check.leading(leading)

# %% [markdown]
# ## 11.6 · Open: what is "the rest"?
# *★★★ · 8 points · 60 minutes*
#
# Make the object larger, and its shadow ought to grow; recolour it, and a mirror ought to show it. So "change nothing outside the mask" is sometimes the wrong wish. Choose one such dependence in the rendered rooms, and design a measurement that tells a leak (the wall's hue changes) from a consequence (the shadow follows).
#
# **Rubric** (8 points by hand): the dependence, and how the renderer tells you the right answer (2); two numbers, one for leaks and one for consequences, that cannot be traded for one another (3); a baseline for each: no edit but the inversion, and an edit without projection (2); an edit that your measurement would judge wrongly (1).
#
# <details><summary>Hint</summary>
#
# The renderer draws the same room with the object larger. How far is the edited picture from *that* one, outside the object?
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "rest-report", "locked": false, "points": 8, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer: estimate the factors of the edited picture with a regressor, render the room with the original's factors but the new size of the object, and compare the edited picture with both renderings, in the pixels that belong to floor and wall in all of them (leak: distance to either, far from the shadow) and in the pixels where the two renderings differ
# outside of the object (consequence: how far along from the old to the new). Judged wrongly: an edit that moves the object, for which neither rendering is the right one.
# ### END SOLUTION
