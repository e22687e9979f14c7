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
# # Exercises 6 · Paint and segment
#
# They go with [chapter 6](../notebooks/06_generate_and_segment.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
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

from fdlib.course.checks import ch06 as check


# %% [markdown]
# ## 6.1 · Too little noise
# *★☆☆ · 2 points · 5 minutes*
#
# The lesson's walk from one picture to another gave both ends the *same* noise. With two independent noises, the mixture $(1-\lambda)\, n_1 + \lambda\, n_2$ has another standard deviation than 1, and the model expects 1. Which?
#
# <details><summary>Hint</summary>
#
# Variances of independent numbers add; a factor counts squared.
# </details>

# %% nbgrader={"grade": false, "grade_id": "spread", "locked": false, "schema_version": 3, "solution": true, "task": false}
def spread(share):
    """Standard deviation of (1 - share) n1 + share n2, for independent standard normal n1 and n2."""
    ### BEGIN SOLUTION
    return math.sqrt((1 - share) ** 2 + share**2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-spread", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.spread(spread)


# %% [markdown]
# ## 6.2 · Walk on the sphere
# *★★☆ · 4 points · 20 minutes*
#
# A way between two noises that keeps their length is the great circle. With $\theta$ the angle between $a$ and $b$,
#
# $$\mathrm{slerp}(a, b, \lambda) = \frac{\sin((1-\lambda)\,\theta)}{\sin\theta}\, a + \frac{\sin(\lambda\,\theta)}{\sin\theta}\, b.$$
#
# Write it for batches: each picture of the batch has its own angle, taken over all of its pixels and channels.
#
# <details><summary>Hint</summary>
#
# `flatten(1)` makes a row of each picture. The angle's cosine is the dot product over the product of the lengths. Bring the two weights to the shape (B, 1, 1, 1).
# </details>

# %% nbgrader={"grade": false, "grade_id": "slerp", "locked": false, "schema_version": 3, "solution": true, "task": false}
def slerp(a, b, share):
    """The point at ``share`` of the way from a to b, (B, C, H, W), along the great circle of each picture."""
    ### BEGIN SOLUTION
    x, y = a.flatten(1), b.flatten(1)
    angle = torch.acos((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)))
    first, second = (torch.sin(part * angle) / torch.sin(angle) for part in (1 - share, share))
    return first[:, None, None, None] * a + second[:, None, None, None] * b
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-slerp", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.slerp(slerp)


# %% [markdown]
# ## 6.3 · Two means
# *★★☆ · 3 points · 15 minutes*
#
# The IoU of the foreground over many pictures can mean two things: the mean of each picture's IoU, or the IoU of all pixels taken together. Papers often do not say which. Return both. (Every picture here has some foreground.)
#
# <details><summary>Hint</summary>
#
# Count intersections and unions picture by picture first. Then either divide and average, or sum and divide.
# </details>

# %% nbgrader={"grade": false, "grade_id": "two-means", "locked": false, "schema_version": 3, "solution": true, "task": false}
def two_means(found, truth):
    """(mean over pictures of their IoU, IoU over all pixels); found and truth are bool (N, H, W)."""
    ### BEGIN SOLUTION
    both, either = (found & truth).flatten(1).sum(1), (found | truth).flatten(1).sum(1)
    return (both / either).mean(), both.sum() / either.sum()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-two-means", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.two_means(two_means)


# %% [markdown]
# ## 6.4 · Settled for good
# *★★☆ · 4 points · 20 minutes*
#
# While a picture is being painted, pixels change their regions, some of them several times. Write for each pixel the first step *from which on* its region stays what it is at the end. (A pixel that changes in the last step has S - 1, one that never changes has 0.)
#
# <details><summary>Hint</summary>
#
# `regions[1:] != regions[:-1]` says where a change happened. You want the step after the *last* change.
# </details>

# %% nbgrader={"grade": false, "grade_id": "settled-since", "locked": false, "schema_version": 3, "solution": true, "task": false}
def settled_since(regions):
    """int (N, H, W), each in 0 .. S - 1; regions is int (S, N, H, W), the region of each pixel at each of S steps."""
    ### BEGIN SOLUTION
    step = torch.arange(1, len(regions)).view(-1, 1, 1, 1)
    return torch.where(regions[1:] != regions[:-1], step, 0).amax(dim=0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-settled-since", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.settled_since(settled_since)


# %% [markdown]
# ## 6.5 · What an agreement is worth
# *★★★ · 5 points · 30 minutes*
#
# A judge is right on a share $p$ of the pixels, a model on a share $q$, and you measure how often the two agree. If the masks that come along agree with the judge on 93 % of the pixels (table 2.5), how good are they? Return the smallest and the largest agreement that is possible for given $p$ and $q$. There are $C$ classes;
# when both are wrong they may be wrong in the same way, or, with three classes or more, in different ways.
#
# <details><summary>Hint</summary>
#
# Let $x$ be the share on which both are right. It lies between $\max(0, p + q - 1)$ and $\min(p, q)$, and both are wrong on $1 - p - q + x$. For the largest agreement, let them be wrong alike; for the smallest, with $C \geq 3$, differently. With two classes there is only one way to be wrong.
# </details>

# %% nbgrader={"grade": false, "grade_id": "agreement", "locked": false, "schema_version": 3, "solution": true, "task": false}
def agreement(p, q, C):
    """(smallest, largest) possible share of pixels with equal answers of a judge of accuracy p and a model of accuracy q."""
    ### BEGIN SOLUTION
    low, high = max(0.0, p + q - 1), min(p, q)
    smallest = low if C > 2 else low + (1 - p - q + low)
    return smallest, high + (1 - p - q + high)
    ### END SOLUTION


low, high = agreement(0.97, 0.93, 3)
print(f"a judge right on 97 %, a model on 93 %: they agree on {low:.0%} to {high:.0%}")

# %% nbgrader={"grade": true, "grade_id": "check-agreement", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.agreement(agreement)

# %% [markdown]
# ## 6.6 · Open: without one example
# *★★★ · 6 points · 60 minutes*
#
# The thesis segments PASCAL VOC with a model trained on ImageNet, by telling it for each VOC class an ImageNet class that a person chose (table 2.7). Design the same test for 3D Shapes: a conditional model that has seen three of the four shapes, and pictures of the fourth. What do you tell it? What do you compare with? Run as
# much of it as you like with the last sections of the lesson.
#
# **Rubric** (6 points by hand): the map from the class held out to a class told, and why (1); the comparison with a model that has seen all four (1), with a *wrong* label told (1) and with a model that is told nothing (1); where the map from regions to classes is fitted, and that no picture of the held-out shape is among them (1); seeds (1).
#
# <details><summary>Hint</summary>
#
# If a wrong label does as well as the right one, what has the label done?
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "zero-shot-report", "locked": false, "points": 6, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer. Hold out capsules, tell "cylinder", which looks most like them; train on the other three shapes, three seeds. Fit the map from regions to floor, walls, object on training pictures of the three shapes only. Score pictures of capsules (a) told cylinder, (b) told cube, (c) by a model without labels,
# trained on the same three shapes, (d) by a conditional model that has seen all four and is told capsule. If (a), (b) and (c) agree within the spread, the label carries nothing that the masks need, and the transfer is the masks' own; the thesis's mapping rule would then be a detail. (d) is the ceiling.
# ### END SOLUTION
