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
# # Exercises 4 · Regions appear
#
# They go with [chapter 4](../notebooks/04_parallel_decoding.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
# checks your answer and, if something is wrong, says what. This time it is mostly about *measuring*: what a score sees, and what it does not.

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
from itertools import product

import torch

from fdlib.course.checks import ch04 as check
from fdlib.data.shapes3d import LABELS, Shapes3D, coarse, split_indices


# %% [markdown]
# ## 4.1 · The score of somebody who sees one thing
# *★☆☆ · 2 points · 5 minutes*
#
# A model puts every pixel into one region, and the best class is chosen for it. Which mIoU does it get, given the share of the pixels that each class has?
#
# <details><summary>Hint</summary>
#
# The IoU of the chosen class is its share, since the union is everything. And the other classes?
# </details>

# %% nbgrader={"grade": false, "grade_id": "one-region", "locked": false, "schema_version": 3, "solution": true, "task": false}
def one_region(shares):
    """mIoU of one region for everything; shares (C,) of the classes sum to 1."""
    ### BEGIN SOLUTION
    return shares.max() / len(shares)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-one-region", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.one_region(one_region)


# %% [markdown]
# ## 4.2 · Catch the misprint
# *★☆☆ · 2 points · 10 minutes*
#
# The thesis prints $\mathrm{DICE} = 2\,|A \cap B| / |A|$ (section 2.4). Show that this cannot be meant: find a prediction $A$ and a truth $B$ for which the printed formula gives more than 1, although the real one, $2\,|A \cap B| / (|A| + |B|)$, gives at most
# one half.
#
# <details><summary>Hint</summary>
#
# What happens to the printed formula if the prediction is one single pixel, and right?
# </details>

# %% nbgrader={"grade": false, "grade_id": "misprint", "locked": false, "schema_version": 3, "solution": true, "task": false}
def misprint():
    """A and B, bool (H, W)."""
    ### BEGIN SOLUTION
    truth = torch.zeros(8, 8, dtype=torch.bool)
    truth[2:6, 2:6] = True
    prediction = torch.zeros_like(truth)
    prediction[3, 3] = True
    return prediction, truth
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-misprint", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.misprint(misprint)


# %% [markdown]
# ## 4.3 · A score that can be bribed
# *★★☆ · 3 points · 15 minutes*
#
# *Purity* gives each region the class that most of its pixels have, and counts the pixels that are then right. Write it for a table of counts, region by class. Then look at the printout: a
# model with more regions, all of them drawn at random, is the purer. What is the limit with one pixel a region? This is why the lesson's map is fitted on other pictures, and why $K$ stands beside every score.
#
# <details><summary>Hint</summary>
#
# The best class of a region: the maximum of its row.
# </details>

# %% nbgrader={"grade": false, "grade_id": "purity", "locked": false, "schema_version": 3, "solution": true, "task": false}
def purity(table):
    """The share of all pixels that have their region's most frequent class; table (K, C) counts pixels by region and class."""
    ### BEGIN SOLUTION
    return table.max(dim=1).values.sum() / table.sum()
    ### END SOLUTION


generator = torch.Generator().manual_seed(0)
labels = torch.randint(3, (1000,), generator=generator)
for K in (1, 10, 100, 1000):
    regions = torch.randint(K, (1000,), generator=generator)
    counts = torch.bincount(regions * 3 + labels, minlength=3 * K).reshape(K, 3).double()
    print(f"{K:4} random regions for 1000 random labels: purity {float(purity(counts)):.2f}")

# %% nbgrader={"grade": true, "grade_id": "check-purity", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.purity(purity)


# %% [markdown]
# ## 4.4 · Eight looks at one picture
# *★★☆ · 4 points · 15 minutes*
#
# The masks depend on the noise that `segment` adds. Write a segmenter that looks $n$ times, with *different* noise each time, and averages the soft masks. Predict whether that is better, worse or the same at $t = 30$ and at $t = 300$; then try it on
# the shipped model (`FactorizedUNet.from_pretrained(course.asset("shapes32_regions"))`) with `ShapesTest` if you like.
#
# <details><summary>Hint</summary>
#
# `segment` takes `generator=`; without one it uses seed 0, every time.
# </details>

# %% nbgrader={"grade": false, "grade_id": "look-often", "locked": false, "schema_version": 3, "solution": true, "task": false}
def look_often(model, images, t, n):
    """Mean of n soft segmentations (N, K, H, W), each from noise of its own; the same again when called again."""
    ### BEGIN SOLUTION
    looks = [model.segment(images, t, generator=torch.Generator().manual_seed(seed)) for seed in range(n)]
    return torch.stack(looks).mean(dim=0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-look-often", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.look_often(look_often)


# %% [markdown]
# ## 4.5 · How many colours does the map need?
# *★★☆ · 5 points · 25 minutes*
#
# Masks are coloured like maps: parts that touch want different regions, others may share one. Write a function that finds the smallest number of regions with which no two touching parts share one. Try all assignments; there are few parts. `touch[i, j]` is the
# length of the border of parts i and j; lengths up to `ignore` do not count.
#
# <details><summary>Hint</summary>
#
# `product(range(K), repeat=len(touch))` lists all assignments of $K$ regions to the parts. Begin with $K = 1$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "colours", "locked": false, "schema_version": 3, "solution": true, "task": false}
def colours(touch, ignore=0.0):
    """The smallest K; touch is symmetric (P, P) with lengths >= 0."""
    ### BEGIN SOLUTION
    borders = [(i, j) for i in range(len(touch)) for j in range(i) if touch[i, j] > ignore]
    for K in range(1, len(touch) + 1):
        if any(all(region[i] != region[j] for i, j in borders) for region in product(range(K), repeat=len(touch))):
            return K
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-colours", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.colours(colours)

# %%
indices, _ = split_indices(train=200, test=1000, seed=0)
labels = Shapes3D(size=32, indices=indices).labels().long()
touch = torch.zeros(len(LABELS), len(LABELS))
for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[:, :, 1:], labels[:, :, :-1])):
    touch += torch.bincount((a * len(LABELS) + b).flatten(), minlength=len(LABELS) ** 2).reshape(len(LABELS), -1)
touch = (touch + touch.T).fill_diagonal_(0) / len(labels)
for ignore in (0.0, 1.0, 5.0):
    print(f"borders of up to {ignore:g} pixels ignored: {colours(touch, ignore)} regions would do")


# %% [markdown]
# ## 4.6 · A leak in the score
# *★★☆ · 4 points · 20 minutes*
#
# A student reports .97. Her code fits the map from region to class on the very pictures that are scored, one map a picture. Rewrite it as the lesson scores: *one* map for all, fitted on the `fit` pictures only, then mIoU over all
# pixels of the test pictures together. Several regions may have the same class; take the map with the best mIoU on the fit pictures, found by trying all. (All regions are integers (N, H, W).)
#
# ```python
# def her_score(fit, fit_labels, test, test_labels, K, C):
#     scores = []
#     for regions, labels in zip(test, test_labels):
#         scores.append(max(miou(torch.tensor(m)[regions], labels, C) for m in product(range(C), repeat=K)))
#     return sum(scores) / len(scores)
# ```
#
# <details><summary>Hint</summary>
#
# First the map: `max(product(…), key=…)`. Then one call of `miou` on all test pictures.
# </details>

# %%
def miou(predicted, labels, C):
    """Mean over the classes of intersection over union, over all pixels given; a class that nobody has counts as 1."""
    overlaps = []
    for c in range(C):
        p, l = predicted == c, labels == c
        overlaps.append(((p & l).sum() / (p | l).sum()) if (p | l).any() else torch.tensor(1.0))
    return float(torch.stack(overlaps).mean())


# %% nbgrader={"grade": false, "grade_id": "fair-score", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fair_score(fit, fit_labels, test, test_labels, K, C):
    """mIoU on the test pictures by one map, fitted on the fit pictures."""
    ### BEGIN SOLUTION
    best = max(product(range(C), repeat=K), key=lambda m: miou(torch.tensor(m)[fit], fit_labels, C))
    return miou(torch.tensor(best)[test], test_labels, C)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-fair-score", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.fair_score(fair_score)


# %% [markdown]
# ## 4.7 · Thick or thin
# *★★★ · 5 points · 30 minutes*
#
# A moat is long and thin, an object is not, and to see that takes no label. Write the *thickness* of a region: its area over the length of its border, summed over all pictures first. A border is a side of a pixel with the region on one side and something else of the same
# picture on the other; the frame is no border. (The thickness of a line one pixel wide that crosses the picture is 1/2. Why?)
#
# <details><summary>Hint</summary>
#
# Compare each pixel with the one below it, and with the one to its right: `region[:, 1:] != region[:, :-1]`.
# </details>

# %% nbgrader={"grade": false, "grade_id": "thickness", "locked": false, "schema_version": 3, "solution": true, "task": false}
def thickness(region):
    """Area over border length, over all pictures together; region is bool (N, H, W)."""
    ### BEGIN SOLUTION
    across = (region[:, 1:] != region[:, :-1]).sum()
    along = (region[:, :, 1:] != region[:, :, :-1]).sum()
    return region.sum() / (across + along)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-thickness", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.thickness(thickness)

# %%
parts = coarse(labels, "three")
edge = torch.zeros_like(parts, dtype=torch.bool)
edge[:, 1:] |= parts[:, 1:] != parts[:, :-1]
edge[:, :, 1:] |= parts[:, :, 1:] != parts[:, :, :-1]
for name, region in {"object": parts == 2, "floor": parts == 0, "a moat around everything": edge}.items():
    print(f"{name:25} thickness {float(thickness(region)):.2f}")

# %% [markdown]
# ## 4.8 · Open: which of the two decisions matters?
# *★★★ · 8 points · 60 minutes*
#
# The lesson's recipe differs from the thesis's in two decisions: windows in place of the official frame, and $t = T u^{1.5}$ in place of uniform. Design the ablation that tells what each is worth, as if the machine's time were yours for one night (eight hours; a run of 4000 steps takes
# six minutes). Write the *design*, with the predictions, before you run anything; then run as much of it as you like.
#
# **Rubric** (8 points by hand): all four combinations, and why two are not enough (2); number of seeds, justified by a spread (the lesson names four scores) (2); a test set that no decision was tuned on, and which of the two tests decides (1); predictions with
# numbers (1); what result would mean that both decisions together do more, or less, than each alone (2).
#
# <details><summary>Hint</summary>
#
# With scores of .77, .80, .79 and .72, how many seeds make a difference of .05 visible?
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "ablation-report", "locked": false, "points": 8, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer: a 2 x 2 design, layout (official, windows) by times (uniform, u^1.5), since the effect of one may depend on the other. The four scores have a standard deviation of .036; the difference of two means of n seeds has a standard error of .036 sqrt(2/n),
# so .05 is two standard errors at n = 4 or 5, if failures (stripes) do not occur; as they do, count failures separately and report medians. 80 runs fit into eight hours: 20 seeds in each cell. The windows test decides, since closed eyes do well on the official one;
# the checkpoint is the last of each run, never the best. Interaction: the sum of the two single gains against the gain of both together.
# ### END SOLUTION
