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
# # 0 · Welcome
#
# This course takes you from "add noise to a point" to diffusion models that were never told what an object or a camera
# is, and found out. You run everything yourself, on a laptop if you like, and nothing is taken on trust: each chapter
# *measures* what it claims.
#
# **In this chapter** you get an overview, the notation, and a check of your machine. There is nothing to learn by heart;
# run it once and look around.
#
# | profile | time |
# |---|---|
# | `ci` | about 10 s |
# | `laptop` | about 10 s |
# | `gpu` | about 20 s (its sizes, timed on 2 CPU cores) |
#
# **Before you start**: nothing. **Reading**: the thesis's chapter 1, if you have it at hand.

# %% [markdown]
# ## What you will have built
#
# | chapter | what you build | is it there? |
# |---|---|---|
# | 00 | a look around (you are here) | yes |
# | [01 DDPM basics](01_ddpm_basics.ipynb) | noise, the way back, an exact denoiser, a sampler in a few lines | yes |
# | [02 U-Net and sampling](02_unet_and_sampling.ipynb) | a network that paints small rooms with an object, and three samplers in a race | yes |
# | [03 Mask generator](03_mask_generator.ipynb) | a second decoder that sorts pixels into regions, with nobody telling it which | yes |
# | [04 Regions appear](04_parallel_decoding.ipynb) | masks that find floor, walls and object, and the ways in which they fail to | yes |
# | [05 Four ways to use a mask](05_decoding_ablations.ipynb) | the same without its key parts: what breaks, and why | yes |
# | [06 Paint and segment](06_generate_and_segment.ipynb) | pictures and their segmentation out of the same noise | yes |
# | [07 Masks within masks](07_hierarchical_shapes3d.ipynb) | regions within regions, and what they are worth | yes |
# | [08 Radiance fields](08_radiance_fields.ipynb) | a 3D scene from views with known cameras | yes |
# | [09 Pose from denoising](09_pose_from_denoising.ipynb) | the camera of a single noisy picture, without ever being told one | yes |
# | [10 Pose distribution 360](10_pose_distribution_360.ipynb) | views from all around, where nobody knows the cameras and one guess is not enough | yes |
# | [11 Region editing](11_region_editing.ipynb) | change one region of a picture and leave the rest alone | yes |
#
# Chapters 3 to 7 follow chapter 2 of the thesis behind this course (*factorized diffusion*), chapters 8 to 10 follow its chapter 3
# (*poses inside diffusion*).
#
# First, the cell that every notebook starts with. It finds the library `fdlib`, or installs it (on Colab, say), and tells you
# what it runs on.

# %%
# The same first cell in every notebook: finds fdlib, or installs it (and nothing else), then looks at this machine.
import importlib.util, os, subprocess, sys

if getattr(importlib.util.find_spec("fdlib"), "origin", None) is None:  # a mere folder of that name does not count
    source = os.environ.get("FDLIB_SOURCE", "git+https://github.com/fdlib/fdlib")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", source], check=True)
    importlib.invalidate_caches()

from fdlib import course

profile = course.bootstrap(drive=False)  # on Colab, drive=True keeps your training runs on Google Drive

# %% [markdown]
# ## One idea carries the whole course
#
# A diffusion model noises pictures and trains a **denoiser** to see through the noise. Noise schedule, training loop and
# samplers never change in this course. What changes is the inside of the denoiser: we force everything that it knows about a
# picture through a **bottleneck** that can only hold one kind of thing, a few region masks, say, or a camera's pose. To denoise well
# through it, the network must *find* the regions, or the pose. Nobody labels anything.

# %%
import matplotlib.pyplot as plt

from fdlib import viz

blue, orange = viz.OKABE_ITO["blue"], viz.OKABE_ITO["orange"]
figure, axes = plt.subplots(figsize=(10.5, 4.2))
axes.set(xlim=(-1, 106), ylim=(0, 42))
axes.axis("off")


def box(x, y, width, height, text, edge="0.35", face="white", weight="normal"):
    axes.add_patch(plt.Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, linewidth=1.5))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", weight=weight, linespacing=1.4)


def arrow(x, y, to_x, to_y):
    axes.annotate("", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "-|>", "color": "0.35", "linewidth": 1.5})


box(0, 29, 14, 9, "pictures\n$x_0$")
box(20, 29, 16, 9, "forward\nprocess")
box(42, 29, 18, 9, "DENOISER", edge=blue, face="#E6F1F8", weight="bold")
axes.text(39, 35, "$x_t$, $t$", ha="center", fontsize=10)
box(66, 29, 15, 9, "prediction\nof the noise")
box(87, 29, 18, 9, "loss, sampler,\nevaluation")
for x in [14, 36, 60, 81]:
    arrow(x, 33.5, x + 6, 33.5)

axes.text(51, 24.6, "one of these bottlenecks inside", ha="center", color="0.35", style="italic")
bottlenecks = {
    "plain U-Net": "no bottleneck\nchapters 1, 2",
    "factorized U-Net": "region masks $m_k$\nchapters 3 - 6, 11",
    "hierarchical": "masks in masks\nchapter 7",
    "pose + NeRF": "a camera, a 3D scene\nchapters 8 - 10",
}
for i, (name, text) in enumerate(bottlenecks.items()):
    x = 2 + 26 * i
    box(x, 3, 23, 13, f"{name}\n{text}", edge=orange if i else blue)
    axes.plot([x + 11.5, 51], [16, 23.5], color="0.75", linewidth=1, zorder=0)
arrow(51, 26.5, 51, 29)

# %% [markdown]
# ## Notation
#
# The same letters mean the same things everywhere, in text and in code.
#
# | symbol | in code | meaning |
# |---|---|---|
# | $x_0$ | `x0` | a clean picture, values in $[-1, 1]$ |
# | $t$ | `t` | time, $0, \dots, T-1$, more noise for larger $t$. **The thesis counts from 1**, arrays from 0: our $t = 30$ is its 31 |
# | $\bar\alpha_t$ | `schedule.alpha_bars[t]` | share of the picture's variance left at $t$ |
# | $a_t = \sqrt{\bar\alpha_t}$ | `schedule.a[t]` | how much signal is in $x_t$ |
# | $s_t = \sqrt{1 - \bar\alpha_t}$ | `schedule.s[t]` | how much noise is in $x_t$ |
# | $\epsilon$ | `noise` | standard normal noise |
# | $x_t = a_t x_0 + s_t \epsilon$ | `process.add_noise(…)` | the noised picture (thesis 2.1) |
# | $\hat\epsilon$, $\hat x_0$ | `Prediction.noise`, `.x0` | what a denoiser makes of $x_t$ |
# | $v = a_t\epsilon - s_t x_0$ | `Prediction.velocity` | the *velocity*: a third way to say the same |
# | $h_{enc}$, $h_{mid}$ | `h_enc`, `h_mid` | features inside the U-Net: of its encoder's layers, of its middle (thesis 2.2, 2.3) |
# | $m_k$ | `Prediction.masks[:, k]` | mask of region $k$; at each pixel the masks sum to 1 (thesis 2.4) |

# %%
from fdlib.schedule import NoiseSchedule

schedule = NoiseSchedule.linear(T=1000)
print(schedule)
print(f"t = 30: alpha_bar {schedule.alpha_bars[30]:.5f}, signal a {schedule.a[30]:.5f}, noise s {schedule.s[30]:.5f}")
assert round(float(schedule.alpha_bars[30]), 5) == 0.98771
assert round(float(schedule.alpha_bars[29]), 5) == 0.98840  # what the thesis calls t = 30

# %% [markdown]
# ## What you need to know
#
# - **Python and PyTorch**: tensors, shapes, a training loop that you have written once yourself.
# - **Probability**: expectation and variance, the Gaussian, Bayes' rule, conditional expectation $\mathbb E[y \mid x]$.
# - **Networks**: what a convolution does. We explain the U-Net.
#
# You do not need to know diffusion, segmentation or 3D vision. That is what the course is for.
#
# ## How to work with a notebook
#
# - **Run the cells in order** with Shift+Enter, or all of them with *Run > Run All Cells*.
# - **Guess first.** Before you run a cell that prints a number or draws a picture, say what you expect. Being wrong is where the
#   learning happens.
# - **`assert` lines are the claims.** They fail if the claim is false on your machine. When they pass, you have not been told
#   something: you have seen it.
# - **Break things.** *To try* says where to begin. When nothing makes sense any more: *Kernel > Restart Kernel and Run All Cells*.
# - **Exercises** wait at the end of each chapter, and in a notebook of their own whose cells tell you whether you are right.
# - Every notebook `NN_name.ipynb` has a twin `NN_name.py` with the same content, which is easier to read in a diff. `make sync`
#   makes the notebook from the script.
#
# ## Three sizes
#
# A **profile** says how much is computed. It never changes *what* is done.
#
# | profile | for | a chapter takes |
# |---|---|---|
# | `ci` | tests: look at the code, not at the pictures | seconds to a few minutes |
# | `laptop` | two CPU cores (what you get without a GPU) | at most 10 minutes |
# | `gpu` | a Colab T4 or better (what you get with CUDA) | stated at its top |
#
# To choose another, set `FDLIB_PROFILE` *before* Jupyter starts: `FDLIB_PROFILE=ci make lab`. In a running
# notebook, put `%env FDLIB_PROFILE=ci` in a new cell above the first one and restart the kernel. In code the choice looks like this:

# %%
steps = profile.pick(ci=20, laptop=1500, gpu=6000)
print(f"In profile {profile} that would be {steps} steps.")

# %% [markdown]
# ## Is your machine ready?
#
# The next cell looks at your machine: cores, memory, disk, folders, GPU. You need not read its code; read what it prints.

# %%
import os
import platform
import shutil
from pathlib import Path

import torch

from fdlib.course.session import cpu_share
from fdlib.files import cache_folder

GIB, advice = 2**30, []


def report(name, value, problem=None):
    print(f"{name:10} {value}" + ("   <- see below" if problem else ""))
    if problem:
        advice.append(f"- {name}: {problem}")


def memory_gib():
    """Memory that this process may use; None where the system does not tell (Windows)."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = Path("/sys/fs/cgroup/memory.max")  # a container's share
        share = limit.read_text().strip() if limit.is_file() else "max"
        return min(memory, int(share) if share.isdigit() else memory) / GIB
    except (AttributeError, OSError, ValueError):
        return None


def report_folder(name, find, variable):
    """Can files be written there, and is there room?"""
    advise = f"let the environment variable {variable} point to a folder that you can write to, with 2 GiB or more."
    try:
        folder = find()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".can-i-write").write_text("yes")
        (folder / ".can-i-write").unlink()
    except OSError as error:
        return report(name, "no folder", f"{error}; {advise}")
    free = shutil.disk_usage(folder).free / GIB
    report(name, f"{folder} ({free:.0f} GiB free)", f"the disk is nearly full; {advise}" if free < 2 else None)


cuda, cores, memory = torch.cuda.is_available(), cpu_share(), memory_gib()
report("system", f"{platform.system()} {platform.machine()}")
report("Python", f"{platform.python_version()}, torch {torch.__version__}")
report("cores", cores, "expect about twice the minutes stated." if cores < 2 and not cuda else None)
small = "close other programs, and run one notebook at a time." if memory and memory < 4 else None
report("memory", f"{memory:.1f} GiB" if memory else "not known", small)
report_folder("cache", cache_folder, "FDLIB_CACHE")
report_folder("runs", lambda: course.run_folder("00_welcome"), "FDLIB_RUNS")
if cuda:
    gpu_memory = torch.cuda.get_device_properties(0).total_memory / GIB
    few = "it may run out of memory; the laptop size then still works." if gpu_memory < 6 else None
    report("GPU", f"{torch.cuda.get_device_name()}, {gpu_memory:.0f} GiB", few)
    words = {"fp16": "fp16 (no bf16 of its own, like the T4)", "no": "float32 only (an old GPU)"}
    report("precision", words.get(course.precision(), "bf16"))
else:
    report("GPU", "none that torch can use: every chapter runs without one, in a smaller size")

print("\n" + ("\n".join(advice) if advice else "All fine."))

# %% [markdown]
# And how fast is it? We time the heart of chapter 2, one training step of its little U-Net, and work out the rest. It is an estimate:
# other programs that run at the same time slow it down, now or later.

# %%
import time

from fdlib.process import DenoisingObjective
from fdlib.unet import UNet

# Chapter 2: steps of its training, pictures in each, and how many pictures its samplers show the network besides
chapter_2_steps = profile.pick(ci=60, laptop=1500, gpu=10_000)
batch = profile.pick(ci=16, laptop=32, gpu=128)
sampled = profile.pick(ci=25_000, laptop=80_000, gpu=390_000)

device = course.device()
network = UNet(image_size=32, channels=24, multipliers=(1, 2, 2), blocks=1, attention=(), fold=2).to(device)
optimiser, objective = torch.optim.Adam(network.parameters()), DenoisingObjective(schedule)
images = torch.zeros(batch, 3, 32, 32, device=device)

seconds = []
for _ in range(profile.pick(ci=5, laptop=20, gpu=20)):
    start = time.perf_counter()
    loss, _ = objective(network, images)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    loss.item()  # waits for the GPU
    seconds.append(time.perf_counter() - start)
step = sorted(seconds)[len(seconds) // 2]

training = step * chapter_2_steps
sampling = step / 3 * sampled / batch  # a step is one pass forward, and one back that costs twice as much
minutes = (training + sampling) / 60
millions = network.parameter_count / 1e6
print(f"{millions:.2f} million parameters: {1000 * step:.0f} ms a step, {batch} pictures each, on {device}")
print(f"Chapter 2, profile {profile}: about {minutes:.1f} minutes here, {training / 60:.1f} of them to train.")
assert 0 < minutes < 600

# %% [markdown]
# More than 10 minutes on a laptop? Then take the `ci` profile for a first reading, or a free GPU on Colab.
#
# ## On Colab
#
# - Choose a GPU: *Runtime > Change runtime type > T4 GPU*. A T4 has no bf16 of its own; the library knows that and trains in fp16.
# - The first cell installs `fdlib` and only what is missing. It leaves Colab's torch, numpy and IPython alone.
# - A session may end at any time, and its files with it. Write `course.bootstrap(drive=True)` in the first cell, and
#   `course.run_folder("my_run")` lies on your Google Drive: a training that is given this folder continues from its last
#   checkpoint when you run the cell again.
#
# Anywhere else, runs go to the folder that the check above printed, or wherever `FDLIB_RUNS` points.
#
# ## When you are stuck
#
# - **Read the last line of the error.** The library names the argument that is wrong and says how to fix it.
# - `help(NoiseSchedule)`, or `NoiseSchedule?` in a cell, shows what a class or function wants. The modules are short: read them.
# - `make help` lists the commands of the project; `make test` says whether your installation is sound.
# - Found a mistake, or a sentence that nobody can understand? Please open an issue in the repository (its address is in the
#   first cell). What you tell us helps the next reader.
#
# Ready? [Chapter 1](01_ddpm_basics.ipynb) begins with a picture, and destroys it.
