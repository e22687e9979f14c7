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
# # Exercises 10 · Unknown cameras
#
# They go with [chapter 10](../notebooks/10_pose_distribution_360.ipynb). Fill in the cells that say `YOUR CODE HERE` and run the cell below each: it
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

from fdlib.course.checks import ch10 as check


# %% [markdown]
# ## 10.1 · The mean of 350 and 10 degrees
# *★☆☆ · 3 points · 10 minutes*
#
# Cameras stand at azimuths 350 and 10 degrees. Their mean azimuth is 0, not 180. Write a mean of angles (degrees) that knows this: the angle of the mean of the points on the unit circle, in $[0, 360)$.
#
# <details><summary>Hint</summary>
#
# `torch.atan2(mean of sines, mean of cosines)`, and mind the units.
# </details>

# %% nbgrader={"grade": false, "grade_id": "mean-azimuth", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mean_azimuth(degrees):
    """The mean direction in degrees, in [0, 360), of angles (N,) in degrees."""
    ### BEGIN SOLUTION
    radians = torch.deg2rad(degrees)
    return torch.rad2deg(torch.atan2(radians.sin().mean(), radians.cos().mean())) % 360
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-mean-azimuth", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.mean_azimuth(mean_azimuth)


# %% [markdown]
# ## 10.2 · How many steps do these betas need?
# *★☆☆ · 2 points · 10 minutes*
#
# The usual linear betas run from .0001 to .02, whatever $T$ is. With $T = 100$ they leave .364 of the signal's variance. Guess, then compute: what is the smallest $T$ with which they leave less than a given share?
#
# <details><summary>Hint</summary>
#
# What is left is $\prod_t (1 - \beta_t)$. A loop over $T$ is fine.
# </details>

# %% nbgrader={"grade": false, "grade_id": "smallest-steps", "locked": false, "schema_version": 3, "solution": true, "task": false}
def smallest_steps(share, beta_min=1e-4, beta_max=0.02):
    """The smallest T (an int) whose linear betas leave alpha_bar < share at the end."""
    ### BEGIN SOLUTION
    T = 2
    while (1 - torch.linspace(beta_min, beta_max, T, dtype=torch.float64)).prod() >= share:
        T += 1
    return T
    ### END SOLUTION


print("less than .001 is left from T =", smallest_steps(0.001))

# %% nbgrader={"grade": true, "grade_id": "check-smallest-steps", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.smallest_steps(smallest_steps)


# %% [markdown]
# ## 10.3 · A prediction: eight blind guesses
# *★★☆ · 4 points · 20 minutes*
#
# A "method" draws $N$ azimuths at random, independently and uniformly on the circle, and reports the error of *the best one*. What mean error, in degrees, does it get? (One guess: 90.) This is why an oracle over candidates must be called an oracle, and why the lesson's table takes the candidate with the
# best *score*, which has not seen the answer.
#
# <details><summary>Hint</summary>
#
# One error is uniform on $[0, 180]$. The smallest of $N$ exceeds $x$ with probability $(1 - x / 180)^N$; the mean of a positive number is the integral of that over $x$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "best-of", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_of(N):
    """Expected smallest error in degrees among N random azimuths."""
    ### BEGIN SOLUTION
    return 180 / (N + 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-best-of", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.best_of(best_of)


# %% [markdown]
# ## 10.4 · The same pictures of a larger world
# *★★☆ · 4 points · 20 minutes*
#
# Make the world $k$ times as large: cameras, near and far, scene. Not one pixel may change. What becomes of a camera-to-world matrix, of near and far, and of the *densities* of the field?
#
# <details><summary>Hint</summary>
#
# A rotation has no unit. A density is per unit of length, and the same light must be stopped on a way that is $k$ times as long.
# </details>

# %% nbgrader={"grade": false, "grade_id": "enlarge", "locked": false, "schema_version": 3, "solution": true, "task": false}
def enlarge(c2w, near, far, density, k):
    """c2w (4, 4), near, far and density (any shape) of the same scene in a world k times as large."""
    ### BEGIN SOLUTION
    larger = c2w.clone()
    larger[:3, 3] *= k
    return larger, k * near, k * far, density / k
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-enlarge", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.enlarge(enlarge)


# %% [markdown]
# ## 10.5 · How many candidates are alive?
# *★★☆ · 4 points · 15 minutes*
#
# "Used at least once" counts a candidate with one view of a thousand. The *effective number* does not: $\exp$ of the entropy of the shares. It is $N$ if all get the same, 1 if one gets everything. Write it for the list of chosen candidates.
#
# <details><summary>Hint</summary>
#
# `bincount`, shares, `torch.special.xlogy`. A candidate that nobody chose contributes 0.
# </details>

# %% nbgrader={"grade": false, "grade_id": "effective", "locked": false, "schema_version": 3, "solution": true, "task": false}
def effective(chosen, N):
    """The effective number of candidates; chosen (B,) holds integers 0 .. N - 1."""
    ### BEGIN SOLUTION
    shares = chosen.bincount(minlength=N).double() / len(chosen)
    return torch.exp(-torch.special.xlogy(shares, shares).sum())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-effective", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
check.effective(effective)


# %% [markdown]
# ## 10.6 · Sharing out unevenly
# *★★☆ · 5 points · 25 minutes*
#
# The lesson's plan gives every candidate the same share. If you know that half of the views come from the front, that is wrong. Write a Sinkhorn with given shares: rows sum to 1, column $i$ to $B\,q_i$ with $\sum_i q_i = 1$, and $P_{bi} = u_b e^{-E_{bi} / \tau} v_i$. Stop after normalising the *rows*. Errors and $\tau$ are in
# the same units; no centring is needed, but subtract each row's minimum, so that nothing underflows.
#
# <details><summary>Hint</summary>
#
# The lesson's loop, with `len(P) * shares` in the place of $B / N$.
# </details>

# %% nbgrader={"grade": false, "grade_id": "share-out", "locked": false, "schema_version": 3, "solution": true, "task": false}
def share_out(errors, shares, tau, rounds=200):
    """The plan (B, N) for errors (B, N) and shares (N,) of the candidates."""
    ### BEGIN SOLUTION
    P = torch.exp(-(errors - errors.min(dim=1, keepdim=True).values) / tau)
    for _ in range(rounds):
        P = P / P.sum(dim=0) * (len(P) * shares)
        P = P / P.sum(dim=1, keepdim=True)
    return P
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-share-out", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
check.share_out(share_out)


# %% [markdown]
# ## 10.7 · The mean of rotations
# *★★★ · 6 points · 40 minutes*
#
# Eight noisy looks at one picture give eight camera rotations. Their arithmetic mean is not a rotation. The rotation nearest to it (in the Frobenius norm) is: with the singular value decomposition of the mean, $M = U S V^T$, it is $U D V^T$, where $D = \mathrm{diag}(1, 1, \det(U V^T))$. Write it, and make sure that
# what you return is never a mirror image.
#
# <details><summary>Hint</summary>
#
# `torch.linalg.svd` returns $U$, $S$ and $V^T$ (not $V$). Test it on rotations that are far apart, where the determinant of $U V^T$ is -1.
# </details>

# %% nbgrader={"grade": false, "grade_id": "mean-rotation", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mean_rotation(rotations):
    """The mean rotation (3, 3) of rotations (N, 3, 3)."""
    ### BEGIN SOLUTION
    U, _, Vt = torch.linalg.svd(rotations.mean(dim=0))
    flip = torch.ones(3, dtype=U.dtype)
    flip[2] = torch.linalg.det(U @ Vt)
    return U @ torch.diag(flip) @ Vt
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-mean-rotation", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
check.mean_rotation(mean_rotation)

# %% [markdown]
# ## 10.8 · Open: which assumption would you give up?
# *★★★ · 8 points · 60 minutes*
#
# The lesson lists five things that the denoiser is told. Choose the one that a real data set (your own photos of a chair, say) is most likely to break, and design the experiment that shows what it costs and how the model would have to change.
#
# **Rubric** (8 points by hand): the choice is argued from how such pictures are taken (1); how views with the assumption broken *by degrees* are rendered, so that the cost becomes a curve (2); what is measured: poses after alignment beside their shuffled baseline, and PSNR, with a word on why PSNR alone will not do (2); the
# change of the parametrisation, with the number of free parameters a camera, and what may go wrong with it (2); what would make you give up the idea (1).
#
# <details><summary>Hint</summary>
#
# `MultiView.render("car", radius=…, elevation=…, field_of_view=…)` breaks some of them for you. Which of the others can you break by changing `c2w` before rendering?
# </details>

# %% [markdown] nbgrader={"grade": true, "grade_id": "assumption-report", "locked": false, "points": 8, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# A model answer: hand-held photos do not look exactly at the centre. Perturb each camera's target by a random vector of length 0, .05, .1, .2, .4 of the radius, and train on each set with three seeds or more; report rotation and centre errors after one alignment on the training views, with shuffled poses beside them, since a scene of several half
# cars can render well from wrong places. The change: two more numbers a camera, where it looks; five degrees of freedom in place of two or three. New freedom can be used to hide: a shift of the picture may be explained by the camera's turn or by the scene, so the new
# numbers start at 0 and are held small at first. Give up if at the smallest perturbation errors already equal the shuffled baseline on most seeds.
# ### END SOLUTION
