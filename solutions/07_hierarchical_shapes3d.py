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
# # Exercises 7 · Masks within masks
#
# They go with [chapter 7](../notebooks/07_hierarchical_shapes3d.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
# checks your answer and, if something is wrong, says what. Nothing here needs training.

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

from fdlib.course.checks import ch07 as check
from fdlib.data.shapes3d import LABELS, Shapes3D, split_indices


# %% [markdown]
# ## 7.1 · The number of a leaf
# *★☆☆ · 2 points · 5 minutes*
#
# A leaf is a path down the tree: in a tree of (3, 2) regions, path (2, 0) is the first part of the last region. The library numbers leaves so that the children of the first region come first: (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1) are
# 0 to 5. Which number has a path, for any number of levels?
#
# <details><summary>Hint</summary>
#
# Go down level by level. Below node $n$ of one level come $K$ nodes of the next, the first of them number $nK$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "leaf-number", "locked": false, "schema_version": 3, "solution": true, "task": false}
def leaf_number(path, regions):
    """The number of the leaf at path, one index a level; regions are the numbers of regions of the levels."""
    ### BEGIN SOLUTION
    node = 0
    for k, K in zip(path, regions, strict=True):
        node = node * K + k
    return node
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-leaf-number", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.leaf_number(leaf_number)


# %% [markdown]
# ## 7.2 · The masks of the leaves
# *★☆☆ · 3 points · 10 minutes*
#
# The second level works on all regions of all pictures in one batch: its row $b K_0 + i$ is region $i$ of picture $b$. So its masks come as `m1` (B K0, K1, H, W), beside `m0` (B, K0, H, W) of the first. Make the leaves' masks from them, (B, K0 K1, H, W), in the order of
# exercise 7.1. They must sum to 1 at every pixel.
#
# <details><summary>Hint</summary>
#
# `m1.unflatten(0, (B, K0))` brings the regions back to an axis of their own. A pixel belongs to a leaf if it belongs to the region and, within it, to the part.
# </details>

# %% nbgrader={"grade": false, "grade_id": "leaf-masks", "locked": false, "schema_version": 3, "solution": true, "task": false}
def leaf_masks(m0, m1):
    """Masks of the leaves (B, K0 K1, H, W)."""
    ### BEGIN SOLUTION
    m1 = m1.unflatten(0, m0.shape[:2])
    return (m0.unsqueeze(2) * m1).flatten(1, 2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-leaf-masks", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.leaf_masks(leaf_masks)


# %% [markdown]
# ## 7.3 · The thesis's formula
# *★★☆ · 4 points · 15 minutes*
#
# Section 2.5.1 of the thesis puts the two levels together:
#
# $$\sum_i m_i^0\,\frac{h_i^0 + \sum_j h_j^1\, m_j^1}{2}.$$
#
# Write it for whole batches. The superscript counts levels, so nothing is squared; $h_j^1$ and $m_j^1$ depend on $i$ as well, although the notation hides it.
#
# <details><summary>Hint</summary>
#
# From the inside out: `(h1 * m1.unsqueeze(2)).sum(1)` is the second level's prediction, one for each row $b K_0 + i$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "two-levels", "locked": false, "schema_version": 3, "solution": true, "task": false}
def two_levels(m0, h0, m1, h1):
    """The prediction (B, C, H, W); m0 (B, K0, H, W), h0 (B, K0, C, H, W), m1 (B K0, K1, H, W), h1 (B K0, K1, C, H, W)."""
    ### BEGIN SOLUTION
    below = (h1 * m1.unsqueeze(2)).sum(1).unflatten(0, m0.shape[:2])
    return (m0.unsqueeze(2) * (h0 + below) / 2).sum(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-two-levels", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.two_levels(two_levels)


# %% [markdown]
# ## 7.4 · Whose word counts how much
# *★★☆ · 3 points · 10 minutes*
#
# Deeper trees repeat the formula inside itself: $f_l = \sum_i m_i\,(h_i + f_{l+1}) / 2$, and the last level is $f_L = \sum_j m_j h_j$. Unfold it: with which weight does the prediction of each level enter $f_1$? Suppose that every level predicts the very same
# noise; what must the weights then sum to?
#
# <details><summary>Hint</summary>
#
# Each level hands one half on to all that is below it. The last has nothing below it.
# </details>

# %% nbgrader={"grade": false, "grade_id": "level-weights", "locked": false, "schema_version": 3, "solution": true, "task": false}
def level_weights(depth):
    """The weights (depth,) of levels 1 .. depth in the prediction, as a tensor."""
    ### BEGIN SOLUTION
    weights = 0.5 ** torch.arange(1, depth + 1).double()
    weights[-1] = 0.5 ** (depth - 1)
    return weights
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-level-weights", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.level_weights(level_weights)


# %% [markdown]
# ## 7.5 · What a tree costs
# *★★☆ · 4 points · 15 minutes*
#
# Every node that is cut needs one pass of an encoder and one of a mask generator, and one pass of a decoder for each region that it is cut into. How many passes of each kind does one picture take? Compare trees of 9 leaves with a flat model of
# 9 regions (a tree of one level) in the printout: where does the time go?
#
# <details><summary>Hint</summary>
#
# Level $l$ has $K_1 \cdots K_{l-1}$ nodes that are cut; the first level has one, the picture.
# </details>

# %% nbgrader={"grade": false, "grade_id": "passes", "locked": false, "schema_version": 3, "solution": true, "task": false}
def passes(regions):
    """Passes of an encoder (as many as of a mask generator), and of a decoder, for one picture: two numbers."""
    ### BEGIN SOLUTION
    nodes, encoders, decoders = 1, 0, 0
    for K in regions:
        encoders += nodes
        nodes *= K
        decoders += nodes
    return encoders, decoders
    ### END SOLUTION


for regions in ((3,), (9,), (3, 3), (2, 2, 2, 2)):
    print(f"regions {regions!s:13} encoders and mask generators {passes(regions)[0]:2}, decoders {passes(regions)[1]:2}")

# %% nbgrader={"grade": true, "grade_id": "check-passes", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.passes(passes)


# %% [markdown]
# ## 7.6 · Apart or together?
# *★★☆ · 4 points · 20 minutes*
#
# The lesson asks on how many pictures the object and its shadow lie in different leaves. Write that score: for each picture find the leaf that holds most pixels of part `a` and the one that holds most of part `b`; count the pictures where they differ, among the pictures that show
# *both* parts.
#
# <details><summary>Hint</summary>
#
# For one picture: `leaves[n][labels[n] == a]` are the leaves of the part's pixels; `torch.mode` or `bincount` finds the most frequent.
# </details>

# %% nbgrader={"grade": false, "grade_id": "apart", "locked": false, "schema_version": 3, "solution": true, "task": false}
def apart(leaves, labels, a, b):
    """Share of pictures with parts a and b in different leaves; leaves and labels are integers (N, H, W)."""
    ### BEGIN SOLUTION
    answers = []
    for leaf, label in zip(leaves, labels):
        if (label == a).any() and (label == b).any():
            answers.append(leaf[label == a].mode().values != leaf[label == b].mode().values)
    return sum(answers) / len(answers)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-apart", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.apart(apart)

# %%
_, held_out = split_indices(train=200, test=50, seed=0)
pictures = Shapes3D(size=32, indices=held_out)
labels = pictures.labels().long()
colours = ((pictures.images() + 1) * 1.5).long().clamp(max=2)
leaves = colours[:, 0] * 9 + colours[:, 1] * 3 + colours[:, 2]  # 27 boxes of colour: no learning at all
share = apart(leaves, labels, LABELS.index("object"), LABELS.index("shadow"))
print(f"27 boxes of colour keep object and shadow apart on {float(share):.0%} of {len(labels)} pictures")


# %% [markdown]
# ## 7.7 · Prune the tree
# *★★★ · 5 points · 30 minutes*
#
# A tree cuts every region, also those that are one thing already. Take back cuts that hardly cut: in each picture, where the largest child of a node holds at least `share` of the node's pixels, give it *all* of them. Leaves are integers in the order of exercise 7.1, with
# `regions = (K0, K1)`; an empty node stays as it is. Could a *label-free* rule like this raise the lesson's score? Which cuts would it wrongly take back?
#
# <details><summary>Hint</summary>
#
# `leaf // K1` is the node. For each picture and node: `bincount` of the children, `leaf % K1`.
# </details>

# %% nbgrader={"grade": false, "grade_id": "prune", "locked": false, "schema_version": 3, "solution": true, "task": false}
def prune(leaves, regions, share):
    """Leaves (N, H, W) with cuts taken back, a new tensor."""
    ### BEGIN SOLUTION
    K0, K1 = regions
    pruned = leaves.clone()
    for n in range(len(leaves)):
        for node in range(K0):
            inside = leaves[n] // K1 == node
            if inside.any():
                pixels = torch.bincount(leaves[n][inside] % K1, minlength=K1)
                if pixels.max() >= share * pixels.sum():
                    pruned[n][inside] = node * K1 + pixels.argmax()
    return pruned
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-prune", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.prune(prune)

# %% [markdown]
# ## 7.8 · Open: grown or trained at once?
# *★★★ · 8 points · 60 minutes*
#
# The lesson grows its tree: first one level, then the next below it. The thesis trains both at once, as far as its text tells. Design the experiment that decides which is better, for a budget of eight hours on two cores; write your predictions before you run anything, then run as much of it
# as you like.
#
# **Rubric** (8 points by hand): what is held equal, seconds or steps or pictures, and why (2); at least two scores, one of them without any map from region to class (1); the number of seeds, from a spread that the lesson prints (2); an answer to
# "the grown one merely has a better first level", that is a control that separates the two (2); predictions with numbers (1).
#
# <details><summary>Hint</summary>
#
# Start both from the same trained first level, or from none. How many conditions is that?
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "grown-report", "locked": false, "points": 8, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer: equal seconds, since a step of a tree costs several of a flat model, and it is seconds that a student has; steps and pictures are reported beside it. Conditions: (a) both levels from the start; (b) grown; (c) grown, the first level frozen after growing; (d) both levels
# from a trained first level, the second with random weights in place of the copy. (b) against (d) is the worth of the copy, (b) against (c) that of training the first level on, (a) against (d) that of a first level which is trained alone. Scores: mIoU of level 1 and the leaves' ARI, which needs no map.
# The number of seeds follows from the spread of the leaves' ARI over the lesson's three seeds: to see a difference of d with a standard deviation s takes about 8 (s / d)^2 seeds a condition.
# Prediction: (a) has a worse first level by .1 mIoU or more, since it makes a quarter of the steps; (b) and (d) differ by less than the spread.
# ### END SOLUTION
