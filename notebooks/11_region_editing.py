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
# # 11 · Edit one region, leave the rest alone
#
# A denoiser that was trained on nothing but noise knows how its pictures can vary. In this chapter we ask it: *in which ways can this one region
# change?* Nobody labels anything, nothing is trained; all answers are in the Jacobian of the network, taken with a mask.
#
# **You will**
# 1. invert pictures, and see why an edit is only as local as the inversion is exact;
# 2. find the directions that move a region most, without ever writing a Jacobian down;
# 3. project them so that the rest stands still, and measure whether it does;
# 4. move one with a slider, carry it over to other pictures; find them in the picture itself, where they can be confined;
# 5. let a factorized model choose the region, then swap, move and re-noise it.
#
# | profile | time |
# |---|---|
# | `ci` | about 45 s (measured on a busy machine, one thread) |
# | `laptop` | about 1 min (65 s on one thread of a busy machine) |
# | `gpu` | about 3 min (estimated, never timed on one) |
#
# **Before you start**: [chapter 2](02_unet_and_sampling.ipynb), [chapter 4](04_parallel_decoding.ipynb).
#
# **Reading**: the abstract of Li et al., *Unsupervised Region-Based Image Editing of Denoising Diffusion Models*. We have the abstract, the captions of
# its figures, and no more. The paper's are: the Jacobian of the region, power iteration, the projection onto a subspace orthogonal to the other
# regions, the coarse mask, application along DDIM inversion and sampling. Our reading is every formula below, and ours are what goes beyond: the
# softened projection, several times aligned with each other, directions confined to the region, exact inversions, regions that a model discovered, the edits at the bottleneck.

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
import warnings

import torch
import torch.nn.functional as F
from IPython.display import display

from fdlib import inversion, viz, widgets
from fdlib.data.shapes3d import LABELS, Shapes3D, split_indices
from fdlib.directions import discovered_mask, find_directions
from fdlib.editing import EditedDenoiser, Recomposed, edit, moved, renoised
from fdlib.factorized import FactorizedUNet
from fdlib.metrics.editing import locality, match_strength
from fdlib.process import add_noise
from fdlib.schedule import NoiseSchedule, time_grid
from fdlib.unet import UNet

viz.use_style()
schedule = NoiseSchedule.linear()
denoiser = UNet.from_pretrained(course.asset("shapes32_unet")).eval()

# %% [markdown]
# Small pictures and small networks: everything here runs on the CPU. The pictures are held out; the region is the object with a rim of one
# pixel. A coarse mask is enough: it only says where to look, and is not used when the edit is applied.

# %%
count = profile.pick(ci=4, laptop=8, gpu=8)
_, test = split_indices(train=0, test=10_000, seed=0)
data = Shapes3D(32, test[: count + 10])
images, others = data.images(slice(0, count)), data.images(slice(count, count + 10))
drawn = (data.labels(slice(0, count)) == LABELS.index("object")).float()[:, None]
mask = F.max_pool2d(drawn, 3, stride=1, padding=1)
viz.show_rows({"pictures": images, "region": mask.expand(-1, 3, -1, -1) * 2 - 1})

# %% [markdown]
# ## There and back
#
# To edit a *given* picture we first need the noise it comes from. DDIM's inversion guesses: each step up would need the noise predicted at its own
# end, and takes that of its start. Two newer ways can be undone exactly. EDICT (Wallace et al. 2023) keeps two noises, each of which steps by the other's
# prediction; BDIA (Zhang et al. 2023) makes each step a linear combination of the last two states,
#
# $$z_{i-1} = \gamma\,\bigl(z_{i+1} - \mathrm{DDIM}(z_i \to t_{i+1})\bigr) + \mathrm{DDIM}(z_i \to t_{i-1}).$$
#
# Exact means: up to rounding. So the table has two number types; beside the error stands the spread of the latent, which for honest noise is 1.

# %%
steps, errors = profile.pick(ci=10, laptop=50, gpu=50), {}
print(f"{'':14}{'type':10}{'RMS error':>12}{'largest':>12}{'latent std':>12}{'evaluations':>13}")
for dtype in (torch.float32, torch.float64):
    for method in inversion.METHODS:
        found = inversion.round_trip(denoiser.to(dtype), schedule, images[:2].to(dtype), steps, method=method)
        print(f"{method:14}{str(dtype)[6:]:10}{found['rms']:12.1e}{found['largest']:12.1e}{found['latent_std']:12.2f}{found['evaluations']:13d}")
        errors[method, dtype] = found["rms"]
denoiser = denoiser.float()

# %%
assert max(errors[method, torch.float64] for method in ("edict", "bdia")) < 1e-6 < errors["ddim", torch.float64], "exact, and not"

# %% [markdown]
# ## What can move here?
#
# Fix a noisy picture $x_t$. Between encoder and decoder the network has a feature $h$, here 1024 numbers. Hold everything else and ask how the predicted
# noise depends on it:
#
# $$J = \frac{\partial\,\varepsilon(x_t, t; h)}{\partial h}, \qquad J_M = M \odot J, \qquad J_{\text{rest}} = (1-M) \odot J .$$
#
# The right singular vectors of $J_M$ are the directions in which the region reacts most. $J$ has 3 million entries, and we need none of them: products
# $Jv$ (`torch.func.jvp`) and $J^\top u$ (`vjp`) are enough for subspace iteration,
# $V \leftarrow \mathrm{orth}(J_M^\top J_M V)$. It stops when the *subspace* stands still; single vectors may go on turning in it.

# %%
t = 279
grid = [time for time in time_grid(1000, 25) if time <= 440]  # no edit needs noisier times than this
noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
x_t = add_noise(schedule, images, t, noise)
quick = dict(extra=4, tolerance=0.05)
plain = find_directions(denoiser, schedule, x_t, t, mask, k=3, projection="none", iterations=6, **quick)
print("how much the region reacts:", plain.inside[0].round(decimals=3).tolist())
print("and the rest of the picture:", plain.outside[0].round(decimals=3).tolist())

# %% [markdown]
# The rest reacts as well: the network has no reason to keep regions apart. So we find the directions that move the *rest* most, $V_{\text{rest}}$, the leading
# $r'$ singular vectors of $J_{\text{rest}}$, and take out what ours have in common with them:
#
# $$v_{\text{edit}} = \frac{(I - V_{\text{rest}}V_{\text{rest}}^\top)\,v}{\lVert\cdot\rVert}, \qquad \lVert J_{\text{rest}} v_{\text{edit}}\rVert \le \sigma_{r'+1}(J_{\text{rest}}).$$

# %%
projected = find_directions(denoiser, schedule, x_t, t, mask, k=3, projection="project", rest_rank=20, iterations=4, **quick)
linear = {name: (d.inside / d.outside).square()[:, 0].median().item() for name, d in (("unprojected", plain), ("projected", projected))}
print("squared change inside over outside, to first order:", {name: round(value, 1) for name, value in linear.items()})

# %% [markdown]
# ## Apply it
#
# $h \leftarrow h + \text{strength}\cdot\lVert h\rVert\, v$ at every step of a window of times, here 200 to 400. A direction is a fact about one time, and far
# from it a projected one leaks (below). An edited denoiser is again a denoiser (`EditedDenoiser`), so the samplers do not know about it.

# %%
window = (200, 400)
latent = inversion.invert(denoiser, schedule, images, method="edict", timesteps=grid, progress=False)
unedited = inversion.sample(denoiser, schedule, latent, progress=False)
strengths = [-1.0, -0.6, -0.3, 0.0, 0.3, 0.6, 1.0]
frames = [edit(denoiser, schedule, latent, projected, s, window=window, unedited=unedited).images.clamp(-1, 1) for s in strengths]
widgets.slider_gallery(frames, strengths, description="strength", value=5)

# %% [markdown]
# A gallery: three directions of the first picture, both ways. What does each one change? No name comes with it.

# %%
one = inversion.invert(denoiser, schedule, images[:1], method="edict", timesteps=grid, progress=False)
rows = {
    f"direction {i}": torch.cat([edit(denoiser, schedule, one, projected[0], s, i, window=window, unedited=unedited[:1]).images for s in strengths])
    for i in range(3)
}
viz.show_rows({name: row.nan_to_num().clamp(-1, 1) for name, row in rows.items()}, titles=[f"{s:+.1f}" for s in strengths])


# %% [markdown]
# ## Did the projection help?
#
# Two methods can be compared only where they change the region equally. So for each picture the strength is searched at which the RMS change *inside* is .1. Then
# count what changed outside. Beside it, always, the error of the inversion without any edit.

# %%
def measure(found, method="edict", window=window):
    latent = inversion.invert(denoiser, schedule, images, method=method, timesteps=grid, progress=False)
    base = inversion.sample(denoiser, schedule, latent, progress=False)

    def apply(strength):
        return edit(denoiser, schedule, latent, found, strength, window=window, unedited=base).images

    _, made = match_strength(apply, base, mask, target=0.1, start=0.3, rounds=4)
    return made, locality(made, base, mask), float((base - images).square().mean().sqrt())


made, scores = {}, {}
for name, directions in (("unprojected", plain), ("projected", projected)):
    made[name], scores[name], error = measure(directions)
    s = scores[name]
    print(f"{name:12} RMS inside {s['inside'].median():.3f}, outside {s['outside'].median():.4f}; energy inside / outside "
          f"{s['energy'].median():5.1f} {[round(v, 1) for v in s['energy'].tolist()]}; inversion alone {error:.1e}")

# %% [markdown]
# A second look, at one step. The edited network is still a denoiser: outside of the region its noise is as right as before.

# %%
with torch.no_grad():
    told = EditedDenoiser(denoiser, schedule, projected, strength=0.3)(x_t, torch.full((len(x_t),), t)).noise
square = (told - noise).square()
wrong = {name: float((square * m).sum() / m.expand_as(square).sum()) for name, m in (("inside", mask), ("outside", 1 - mask))}
print("mean squared error of the edited noise (1: knows nothing):", {name: round(value, 3) for name, value in wrong.items()})

# %% tags=["claim"]
assert wrong["outside"] < 0.1, "outside of the region the edited network must still denoise"

# %%
change = {name: ((made[name] - unedited).abs().mean(1, keepdim=True).expand(-1, 3, -1, -1) * 8 - 1).nan_to_num().clamp(-1, 1) for name in made}
viz.show_rows({
    "pictures": images,
    "unprojected": made["unprojected"].nan_to_num().clamp(-1, 1), "its change": change["unprojected"],
    "projected": made["projected"].nan_to_num().clamp(-1, 1), "change": change["projected"],
}, caption="Change: brighter is more, enlarged")

# %% [markdown]
# The numbers vary much from picture to picture, and four pictures decide nothing. `benchmarks/editing.py` measures held-out pictures, several directions of
# each, and variants: with more of the rest known (`rest_rank=40`), softened instead of cut off (`projection="soften"`), found anew at four times
# and aligned with each other (`find_path`). Its results, as far as they have been run, are in `benchmarks/results/editing.json`:

# %%
stored = course.results("editing")
if stored is not None:
    for name, row in stored["summary"].items():
        print(f"{name:31} {row['pictures']:4d} pictures: energy inside / outside, quartiles {[round(v, 1) for v in row['energy']]}")

# %% [markdown]
# ## In the picture itself
#
# $h$ lives on a $4\times4$ grid: no direction of it can stay within an object, whatever we project. Nothing obliges us to take $h$. Let the *noisy picture* move, and ask how the clean picture that it implies reacts
# (as in low-rank controllable editing, Chen et al. 2024):
#
# $$J = \frac{\partial\,\hat x_0(x_t, t)}{\partial x_t}, \qquad x_t \leftarrow x_t + \text{strength}\cdot\lVert x_t\rVert\, v \quad\text{once, at one } t,$$
#
# and the remaining steps make a picture of it. Here a region has places, so a direction can be *confined* to it, $v = M \odot v$ (`support="region"`, ours). What then moves outside is only what the network makes of the change inside; and
# against that there is the projection, as before.

# %%
t_x = 500
there = inversion.invert(denoiser, schedule, images, method="ddim", timesteps=time_grid(t_x + 1, 20), progress=False)
kept = inversion.sample(denoiser, schedule, there, progress=False)
confined = find_directions(
    denoiser, schedule, there.x, t_x, mask, k=3, space="x", of="x0", support="region",
    projection="soften", rest_rank=profile.pick(ci=10, laptop=40, gpu=40), iterations=2, extra=4, tolerance=0.5,  # rough, but for the first few directions enough
)


def at_change(size, index=0):
    """The pictures edited along one direction, as strongly as makes an RMS change of ``size`` inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the search may try a strength at which a picture breaks
        return match_strength(lambda s: edit(denoiser, schedule, there, confined, s, index, unedited=kept).images, kept, mask, size, start=0.06)[1]


small = locality(at_change(0.1), kept, mask)
print(f"RMS change inside {small['inside'].median():.2f}: energy inside / outside {small['energy'].median():.0f}; "
      f"DDIM's inversion alone {float((kept - images).square().mean().sqrt()):.3f}")
viz.show_rows({"pictures": images, **{f"direction {i}": at_change(0.8, i).nan_to_num().clamp(-1, 1) for i in range(3)}},
              caption="Confined directions of $x_t$, a large change: RMS .8 inside")

# %% [markdown]
# On 100 held-out pictures, two directions each, RMS .1 inside, at t = 300 (`benchmarks/editing.py`; median of energy inside over outside): 20 unprojected, 65 with 20 directions of the rest projected out, **124** confined to the region and softened against 40; 135 where chapter 4's model found the region. In $h$
# the same pictures gave 8, 13, and 22 with everything that helps.
#
# And what do they change? On the eight pictures of the laptop profile the first direction repaints the object and leaves everything else as it was. The second may make another shape of it. The third breaks it as often as not; so look before you count. Counted, on 20 of the pictures, five confined directions each at t = 500, RMS .8: a factor of the object (hue, scale or shape) moves by more than one standard deviation while floor hue, wall hue and orientation stay within .2, for 2.0 of the five directions in the sense in which they came out, and for
# **3.0** in at least one of their two senses (a singular vector has no sign); the counting cannot tell a new object from a broken one. In $h$ it was 1.1, at RMS .4 and in the one sense only. Shape moves most (.8 in the median), then hue (.4) and scale (.3).
#
# ## Carry it over
#
# A direction found on one picture, applied to ten others. No mask takes part any more.

# %%
others_latent = inversion.invert(denoiser, schedule, others, method="ddim", timesteps=grid, progress=False)
carried = edit(denoiser, schedule, others_latent, projected[0], 0.5, window=window)
viz.show_rows({"other pictures": others, "unedited": carried.unedited.nan_to_num().clamp(-1, 1), "edited": carried.images.nan_to_num().clamp(-1, 1)})

# %% [markdown]
# ## A region that nobody drew
#
# The model of chapter 4 cuts pictures by itself. Point at a pixel, and take the region it found there as the mask: no label and no drawing anywhere. Its masks are
# imperfect, and so are these.

# %%
finder = FactorizedUNet.from_pretrained(course.asset("shapes32_regions")).eval()
soft = finder.segment(images)
found_mask, region = discovered_mask(soft, row=17, column=16)
shares = found_mask.mean((1, 2, 3))
usable = [i for i, share in enumerate(shares.tolist()) if 0 < share < 1]
viz.show_rows({"pictures": images, f"region {region}, discovered": found_mask.expand(-1, 3, -1, -1) * 2 - 1, "drawn": mask.expand(-1, 3, -1, -1) * 2 - 1})

# %%
if usable:
    i = usable[0]
    own = find_directions(denoiser, schedule, x_t[i : i + 1], t, found_mask[i : i + 1], k=2, rest_rank=20, iterations=4, **quick)
    mine = inversion.invert(denoiser, schedule, images[i : i + 1], method="edict", timesteps=grid, progress=False)
    row = torch.cat([edit(denoiser, schedule, mine, own, s, window=window, unedited=unedited[i : i + 1]).images for s in strengths])
    display(viz.show_images(row.nan_to_num().clamp(-1, 1), titles=[f"{s:+.1f}" for s in strengths], caption="The region was found, not drawn"))

# %% [markdown]
# ## Edit at the bottleneck
#
# In the factorized model the prediction is a sum over regions, $\sum_k m_k\,\varepsilon_k$. So there is an edit without any direction: exchange one region's mask and
# what its branch says of the clean picture, and keep the others. From another picture: **swap**. From the picture itself, shifted: **move**. From the picture under fresh noise: **re-noise**.

# %%
bottleneck = inversion.invert(finder, schedule, images, method="ddim", timesteps=grid, iterations=2, progress=False)
again, trajectory = inversion.record(finder, schedule, bottleneck, progress=False)
sources = {
    "swapped with the next": {time: x.roll(-1, dims=0) for time, x in trajectory.items()},
    "moved right by 4": moved(trajectory, 0, 4),
    "re-noised": renoised(finder, schedule, images, grid, torch.Generator().manual_seed(1)),
}
rows = {"pictures": images, "inverted and back": again}
for name, source in sources.items():
    rows[name] = inversion.sample(Recomposed(finder, schedule, source, region, window=(80, 440)), schedule, bottleneck, progress=False)
viz.show_rows({name: row.nan_to_num().clamp(-1, 1) for name, row in rows.items()})

# %% [markdown]
# ## What fails
#
# - **Colour is hard in $h$.** There the directions mostly change the object's outline and shading; object hue moved by less than half a standard deviation in
#   our trials (3 training pictures). At noisier times hue moves more, and the rest with it. $x_t$ holds the colours, so there they can be had.
# - **Names.** A confined direction may change hue and shape at once, or turn a ball into a blot. None of them is called "hue".
# - **All steps at once.** The projection holds near its own time. On four training pictures the first direction, applied at all times, scored 11.3 without
#   projection and 3.1 with it.
# - **BDIA and edits.** The exact inversion that costs least returns to the picture to rounding, but nothing damps a perturbation on its way. On three
#   training pictures the same unprojected edit scored 12.7 (median energy inside over outside) with BDIA and 17.3 with DDIM. We take EDICT.
# - **Strength.** Beyond about one norm of $h$ the network leaves the range where its derivative says anything. `Edit.blown` tells when a picture broke.
# - **The bottleneck.** The shipped masks are grey, so a region that is taken away leaves a ghost, and one that arrives is pale.
#
# ## What to try
#
# 1. A box as the region: `fdlib.directions.box_mask`. A piece of the wall, or of the floor.
# 2. `rest_rank` 5, 20, 80. Where does the change inside become too small to see?
# 3. `window=(400, 800)`, with directions found at 600.
# 4. `t_x = 300`, or 700. When does a confined direction repaint the object, when does it reshape it?
#
# ## Exercises
#
# Exercises that check your answers are in [their own notebook](../exercises/11_region_editing.ipynb). These go further:
#
# 1. Show that $\lVert J_{\text{rest}} v\rVert \le \sigma_{r'+1}$ for every unit $v$ orthogonal to the leading $r'$ right singular vectors.
# 2. $h$-space has 1024 dimensions on a $4\times4$ grid. Why can no direction of it move a single pixel?
# 3. DDIM's inversion has an `iterations` option. What does it repeat, and when does it converge?
