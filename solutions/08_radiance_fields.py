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
# # Exercises 8 · Radiance fields
#
# They go with [chapter 8](../notebooks/08_radiance_fields.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
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

from fdlib.course.checks import ch08 as check


# %% [markdown]
# ## 8.1 · How dense is half opaque?
# *★☆☆ · 2 points · 5 minutes*
#
# A voxel of side $\delta$ stops the share $\alpha$ of the light that crosses it. What is its density? And, in a second function, how opaque are $n$ such voxels in a row?
#
# <details><summary>Hint</summary>
#
# $\alpha = 1 - e^{-\sigma\delta}$. What *passes* multiplies.
# </details>

# %% nbgrader={"grade": false, "grade_id": "density", "locked": false, "schema_version": 3, "solution": true, "task": false}
def density(alpha, delta):
    """sigma of a voxel of side delta and opacity alpha in [0, 1)."""
    ### BEGIN SOLUTION
    return -math.log(1 - alpha) / delta
    ### END SOLUTION


def in_a_row(alpha, n):
    """Opacity of n voxels of opacity alpha, one behind the other."""
    ### BEGIN SOLUTION
    return 1 - (1 - alpha) ** n
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-density", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.density(density, in_a_row)


# %% [markdown]
# ## 8.2 · Crop, then shrink
# *★☆☆ · 3 points · 10 minutes*
#
# A camera has focal length $f$ in pixels, its pictures $S \times S$ pixels. You cut out the middle $C \times C$ pixels, then shrink the cutting to $N \times N$. What is the focal length of the new pictures, in their pixels, and what is their field of view?
#
# <details><summary>Hint</summary>
#
# Cutting does not move any ray. Shrinking makes pixels larger. The field of view is the angle between the rays to the left and right edge.
# </details>

# %% nbgrader={"grade": false, "grade_id": "new-camera", "locked": false, "schema_version": 3, "solution": true, "task": false}
def new_camera(f, S, C, N):
    """Focal length in new pixels, and field of view in radians."""
    ### BEGIN SOLUTION
    focal = f * N / C
    return focal, 2 * math.atan(N / 2 / focal)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-new-camera", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.new_camera(new_camera)


# %% [markdown]
# ## 8.3 · One medium over another
# *★★☆ · 4 points · 20 minutes*
#
# Rendering a ray in one go or in two halves must give the same picture. Let the front half have seen the colour $c_f$ (already weighted: $\sum_i w_i c_i$, no background) and the opacity $\alpha_f$, the back half $c_b$ and $\alpha_b$, each computed *as if the other were not there*. Combine
# them. (This is how renderers for scenes larger than memory work, and it is associative but not commutative.)
#
# <details><summary>Hint</summary>
#
# What reaches the eye from the back half is dimmed by what passes the front: $1 - \alpha_f$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "over", "locked": false, "schema_version": 3, "solution": true, "task": false}
def over(c_f, alpha_f, c_b, alpha_b):
    """Colour (..., 3) and opacity (...) of both; colours are weighted sums (..., 3), opacities (...)."""
    ### BEGIN SOLUTION
    passes = 1 - alpha_f
    return c_f + passes[..., None] * c_b, alpha_f + passes * alpha_b
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-over", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.over(over)


# %% [markdown]
# ## 8.4 · The median depth
# *★★☆ · 4 points · 20 minutes*
#
# The lesson's depth is a mean, and lies between two surfaces where a ray meets two: in the empty air. A *median* depth does not. For a slab of constant density $\sigma$ that the ray enters at $t_{in}$ and leaves after the length $\ell$: where is half of the light that the slab stops
# at all stopped?
#
# <details><summary>Hint</summary>
#
# Up to a depth $x$ inside, the slab has stopped $1 - e^{-\sigma x}$. Set that to half of what the whole slab stops, and solve for $x$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "median-depth", "locked": false, "schema_version": 3, "solution": true, "task": false}
def median_depth(t_in, length, sigma):
    """The distance along the ray before and behind which the slab stops equally much light."""
    ### BEGIN SOLUTION
    stopped = 1 - math.exp(-sigma * length)
    return t_in - math.log(1 - stopped / 2) / sigma
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-median-depth", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.median_depth(median_depth)


# %% [markdown]
# ## 8.5 · Where does this camera stand?
# *★★☆ · 4 points · 20 minutes*
#
# PyTorch3D stores the inverse of our matrix, for row vectors: $X_{camera} = X_{world} R + T$. Listing 3.1 of the thesis computes $T$ for cameras on a sphere and lacks a transpose, so its cameras do not stand at $r$ times the direction that they were given. To see it you need
# the centre of such a camera. Find it, and the direction (a unit vector in the world) in which it looks. (In PyTorch3D's camera space, $+z$ is ahead.)
#
# <details><summary>Hint</summary>
#
# The centre is the point with $X_{camera} = 0$. $R$ is a rotation, so its inverse is its transpose. For the direction, which $X_{world}$ is mapped to $(0, 0, 1)$ if you leave $T$ away?
# </details>

# %% nbgrader={"grade": false, "grade_id": "stands", "locked": false, "schema_version": 3, "solution": true, "task": false}
def stands(R, T):
    """Centre (3,) and viewing direction (3,) in the world; R is (3, 3), T is (3,)."""
    ### BEGIN SOLUTION
    return -T @ R.T, R[:, 2]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-stands", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.stands(stands)


# %% [markdown]
# ## 8.6 · Four bugs in a ray
# *★★☆ · 5 points · 25 minutes*
#
# A field trained with these rays comes out blurred, upside down and with depths that are too short. Write the function as the lesson means it: rays through pixel *centres*, of length 1, from the camera's centre, for our OpenGL axes (x right, y up, looking along $-z$).
#
# ```python
# def their_ray(c2w, row, column, size, focal):
#     x = (column - size / 2) / focal
#     y = (row - size / 2) / focal
#     direction = torch.tensor([x, y, -1.0]) @ c2w[:3, :3]
#     return c2w[:3, 3], direction
# ```
#
# <details><summary>Hint</summary>
#
# Rows count downwards, y upwards. A matrix acts on a column vector from the left. Where is the middle of pixel 0? What is the length of $(x, y, -1)$?
# </details>

# %% nbgrader={"grade": false, "grade_id": "one-ray", "locked": false, "schema_version": 3, "solution": true, "task": false}
def one_ray(c2w, row, column, size, focal):
    """Origin (3,) and direction (3,) of the ray through the middle of a pixel; c2w is (4, 4)."""
    ### BEGIN SOLUTION
    x = (column + 0.5 - size / 2) / focal
    y = (size / 2 - row - 0.5) / focal
    direction = c2w[:3, :3] @ torch.tensor([x, y, -1.0], dtype=c2w.dtype)
    return c2w[:3, 3], direction / direction.norm()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-one-ray", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.one_ray(one_ray)


# %% [markdown]
# ## 8.7 · Look where there is something
# *★★★ · 6 points · 40 minutes*
#
# Most samples of a ray fall into empty air. The paper (section 5.2) therefore renders twice: a coarse pass gives weights $w_i$ for the pieces of the ray, and the second pass draws its samples *in proportion to them*. Write that drawing, for one ray, by inverting the cumulative distribution of the
# piecewise constant density: piece $i$ reaches from `edges[i]` to `edges[i + 1]` and has probability $w_i / \sum w$; within a piece, all places are equally likely. `u` holds numbers in $[0, 1)$, and each is to become one depth.
#
# <details><summary>Hint</summary>
#
# `cdf` has one entry more than there are weights and begins with 0. `torch.searchsorted(cdf, u, right=True) - 1` is the piece of each u; then go the right share of the way through that piece.
# </details>

# %% nbgrader={"grade": false, "grade_id": "resample", "locked": false, "schema_version": 3, "solution": true, "task": false}
def resample(edges, weights, u):
    """(M,) depths from edges (S + 1,), weights (S,) >= 0 that need not sum to 1, and u (M,) in [0, 1)."""
    ### BEGIN SOLUTION
    p = weights / weights.sum()
    cdf = torch.cat([p.new_zeros(1), p.cumsum(0)])
    piece = (torch.searchsorted(cdf, u, right=True) - 1).clamp(max=len(p) - 1)
    share = (u - cdf[piece]) / p[piece]
    return edges[piece] + share * (edges[piece + 1] - edges[piece])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-resample", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
check.resample(resample)

# %% [markdown]
# ## 8.8 · Open: make four views suffice
# *★★★ · 8 points · 90 minutes*
#
# Four pictures are learned by heart. Add *one* thing to the objective, without any further picture, that helps the field from four views on views it never saw. Predict how many dB it brings before you measure.
#
# **Rubric** (8 points by hand): an assumption about scenes, stated in words, and its formula (2); a fair comparison: same steps, same four views, at least three different choices of four (2); the weight of the new term chosen without looking at the views that
# give the score (2); what the assumption costs where it is wrong, shown on 120 views or another scene (1); the prediction, and what you learned from its error (1).
#
# <details><summary>Hint</summary>
#
# What do you know about densities in general? Most of space is empty; neighbours are alike; a ray is stopped in one place rather than in many.
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "four-views-report", "locked": false, "points": 8, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer names an assumption, for example that neighbouring voxels are alike (total variation of the density), that rays are stopped in one place (low entropy of the weights along a ray), or that space is mostly empty (mean opacity). The weight is chosen on a fifth
# view that is kept out of training and of the score, or by cross-validation among the four. With 120 views the same term can only cost: report how much.
# ### END SOLUTION
