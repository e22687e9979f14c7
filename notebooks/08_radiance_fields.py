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
# # 8 · Radiance fields
#
# So far a denoiser answered with pixels. The last part of this course asks for more: an answer that is a *camera* and a *scene*, from which
# the picture follows. This chapter builds the second half of that: how a scene that is nothing but a function becomes a picture, and
# how pictures become a scene. Here somebody still tells us where each camera stood. Chapters 9 and 10 take that away.
#
# **You will**
# 1. read a camera off a matrix, and send a ray through one pixel;
# 2. write the volume rendering integral on that ray, and check it against a ball whose picture you can compute by hand;
# 3. train a scene on 120 pictures, with the loop of chapter 2 and another objective, and walk around it;
# 4. see what happens when there are too few pictures;
# 5. see why a network, in place of a table, needs its positions encoded.
#
# | profile | time |
# |---|---|
# | `ci` | about 40 s |
# | `laptop` | about 2 min |
# | `gpu` | about 3 min (estimated, never timed on one) |
#
# **Before you start**: [chapter 2](02_unet_and_sampling.ipynb) for the training loop; rotation matrices; what $e^{-x}$ has to do with fog.
#
# **Reading**: Mildenhall et al. 2020, [*NeRF*](https://arxiv.org/abs/2003.08934), sections 3 to 5; thesis 3.3; for grids in place of networks
# Sun et al. 2022, [*Direct voxel grid optimization*](https://arxiv.org/abs/2111.11215).

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

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torch import nn

from fdlib import nerf, viz, widgets
from fdlib.cameras import look_at, orbit, pixel_rays, project, rays, spherical, to_pytorch3d
from fdlib.data.multiview import MultiView
from fdlib.metrics.geometry import psnr
from fdlib.training import TrainingConfig, train

viz.use_style()
device = course.device()

# %% [markdown]
# ## Pictures, and where they were taken
#
# A toy car, rendered for you from 120 places around it, and from others that no training will see. Every side has its own colour, there
# are no mirrors and no highlights: a point of the car has the same colour from wherever you look. Remember that, we will use it.

# %%
size = profile.pick(ci=32, laptop=32, gpu=64)
views = MultiView.render("car", views=120, size=size, seed=0)
held_out = MultiView.render("car", views=profile.pick(ci=24, laptop=60, gpu=60), size=size, seed=1000)
print(views)
viz.show_images(views.images[:16], columns=8, caption="Sixteen of the training views")

# %% [markdown]
# ### A camera is a matrix
#
# With each picture comes a matrix, `c2w`, *camera to world*:
#
# $$T_{wc} = \begin{pmatrix} R & t \\ 0 & 1 \end{pmatrix}, \qquad x_{world} = R\, x_{camera} + t$$
#
# Put $x_{camera} = 0$ and you see what $t$ is: the place where the camera stands. Put unit vectors and you see what the columns of $R$ are:
# the directions that the camera calls right, up and *back*. (It looks along its own $-z$. Others count differently; the table in
# `fdlib.cameras` has four conventions, and mixing two of them up is the classic mistake of this subject.)

# %%
print(views.c2w[0].numpy().round(2))
R, t = views.c2w[0, :3, :3], views.c2w[0, :3, 3]
print(f"\nit stands {t.norm():.2f} from the origin, which is the car's middle")
assert torch.allclose(R.T @ R, torch.eye(3), atol=1e-5), "three directions at right angles"
assert torch.allclose(R[:, 2], t / t.norm(), atol=1e-5), "back is away from the car: the camera looks at it"


# %% [markdown]
# Five points are enough to draw a camera: its centre, and the corners of its picture a little in front of it. In the camera's own
# space they are always the same. The matrix puts them into the world.

# %%
def draw_cameras(axis, c2w, focal, size, colour, label=None, length=0.5):
    s = size / 2 / focal  # half the picture's width, one unit before the camera
    shape = length * torch.tensor([[0, 0, 0], [-s, -s, -1], [s, -s, -1], [s, s, -1], [-s, s, -1]])
    for pose in c2w:
        world = shape @ pose[:3, :3].T + pose[:3, 3]
        axis.plot(*world[[1, 2, 3, 4, 1, 0, 2, 3, 0, 4]].T, color=colour, linewidth=0.8, label=label)
        label = None  # one entry in the legend is enough


def stage(axis, reach=3.0, floor=0.0):
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(floor, floor + 0.8 * reach))
    axis.set(xlabel="x", ylabel="y", zlabel="z")
    axis.set_box_aspect((2, 2, 0.8), zoom=1.15)
    axis.view_init(elev=25, azim=-60)


figure = plt.figure(figsize=(9, 5.5))
axis = figure.add_subplot(projection="3d")
draw_cameras(axis, views.c2w[:60], views.focal, size, viz.LINE_COLOURS[0], "training")
draw_cameras(axis, held_out.c2w[:10], views.focal, size, viz.LINE_COLOURS[1], "held out")
stage(axis)
axis.legend()
axis.set_title("All around the car, a little or a lot above it")
plt.show()

# %% [markdown]
# ## One ray
#
# A pixel sees along a line. It starts at the camera's centre $o$ and runs through the middle of the pixel:
#
# $$r(t) = o + t\,d, \qquad |d| = 1$$
#
# With $|d| = 1$ the number $t$ is a distance. The focal length says how fast rays fan out. Check what a ray is: *every* point on it must
# appear at the same pixel.

# %%
camera = look_at(spherical(azimuth=0.6, elevation=0.4, radius=3.0))
origins, directions = rays(camera, size, size, views.focal)  # (size, size, 3) each
row, column = size // 3, size // 4
on_the_ray = origins[row, column] + torch.tensor([[1.0], [2.0], [3.0]]) * directions[row, column]
pixels, depth_along_axis = project(on_the_ray, camera, views.focal, size)
print("three points on one ray appear at", pixels.numpy().round(3).tolist(), "(x, y)")
assert torch.allclose(pixels, torch.tensor([column + 0.5, row + 0.5]).expand(3, 2), atol=1e-3)


# %% [markdown]
# ## What the ray sees
#
# A **radiance field** is a function that says of every point of space how much matter is there, the *density* $\sigma$, and what colour that
# matter has, $c$. Think of fog: in a short piece $dt$ of the ray a share $\sigma\,dt$ of the light is stopped. What has passed
# everything up to $t$ is the *transmittance* $T(t)$, and the pixel's colour is the sum of what each piece contributes, dimmed by
# what lies before it (Mildenhall et al. 2020, equation 1):
#
# $$C(r) = \int_{near}^{far} T(t)\,\sigma(r(t))\,c(r(t), d)\,dt, \qquad T(t) = \exp\Big(-\int_{near}^{t} \sigma(r(s))\,ds\Big)$$
#
# A computer takes samples, each standing for a piece of length $\delta_i$ (equation 3):
#
# $$\hat C = \sum_i w_i c_i, \qquad w_i = T_i\,\alpha_i, \qquad \alpha_i = 1 - e^{-\sigma_i \delta_i}, \qquad
#   T_i = \prod_{j<i} (1 - \alpha_j)$$
#
# $\alpha_i$ is the *opacity* of one piece, a number in $[0, 1]$; $\sigma_i$ is a density, per unit of length, and has no upper end. Keep them
# apart. Here is a scene of two balls, a thin blue one before a dense orange one, and the sum on the ray through the picture's middle.

# %%
def two_balls(points, directions):
    """Density (...) and colour (..., 3) of points (..., 3). Nothing here depends on the direction."""
    blue, orange = torch.tensor([0.0, 0.45, 0.70]), torch.tensor([0.90, 0.60, 0.0])
    towards = camera[:3, 2]  # from the origin to the camera above
    in_blue = (points - 0.5 * towards).norm(dim=-1) < 0.3
    in_orange = (points + 0.3 * towards).norm(dim=-1) < 0.4
    density = 1.5 * in_blue + 12.0 * in_orange
    return density, torch.where(in_blue[..., None], blue, orange)


o, d = camera[:3, 3], -camera[:3, 2]
near, far, samples = 2.0, 4.0, 200
delta = (far - near) / samples
depths = near + (torch.arange(samples) + 0.5) * delta
sigma, c = two_balls(o + depths[:, None] * d, d)

alpha = 1 - torch.exp(-sigma * delta)
T = torch.cat([torch.ones(1), (1 - alpha).cumprod(0)[:-1]])
w = T * alpha
seen = (w[:, None] * c).sum(0) + (1 - w.sum()) * 1.0  # what passes everything meets a white background
print(f"weights sum to {w.sum():.4f}; the pixel is {seen.numpy().round(3)}")

# %%
fig, axes = plt.subplots(1, 3, figsize=(12, 3), sharex=True)
axes[0].bar(depths, sigma, width=delta, color=c.numpy())
axes[1].plot(depths, T)
axes[2].bar(depths, w, width=delta, color=c.numpy())
for axis, title in zip(axes, (r"density $\sigma$", "transmittance $T$", "weights $w$"), strict=True):
    axis.set(title=title, xlabel="distance along the ray")
plt.show()

# %% [markdown]
# The orange ball is opaque, yet only a thin layer at its front has weight: behind that, $T$ is used up. Nobody programmed surfaces. They
# follow from the sum.
#
# Two checks. The weights telescope, $\sum_i T_i \alpha_i = 1 - \prod_i (1 - \alpha_i)$, so their sum is itself an opacity: that of the whole
# ray. And the library's `volume_render` must say the same as our few lines.

# %%
by_library = nerf.volume_render(sigma, c, depths)
assert torch.allclose(w.sum(), 1 - (1 - alpha).prod(), atol=1e-5)
assert torch.allclose(by_library.weights, w, atol=1e-5)
assert torch.allclose(by_library.colour, seen, atol=1e-5)


# %% [markdown]
# The mean of the distance under these weights is a *depth*, $\sum_i w_i t_i / \sum_i w_i$. So each ray gives three things for one price. Over
# all pixels:

# %%
def shades(values, low, high):
    """Numbers (..., H, W) as colours, dark at low, bright at high: uint8 (..., H, W, 3)."""
    scaled = ((values.cpu() - low) / (high - low)).numpy()
    return (mpl.colormaps["cividis"](scaled)[..., :3] * 255).round().astype("uint8")


def depth_picture(depth, opacity):
    """Distances from 2.2 (dark) to 3.7 (bright); white where a ray meets little."""
    picture = shades(depth, 2.2, 3.7)
    picture[(opacity < 0.5).cpu().numpy()] = 255
    return picture


def three_pictures(made):
    depth = depth_picture(made.depth, made.opacity)
    return {"colour": made.images.cpu(), "depth": depth, "opacity": shades(made.opacity, 0, 1)}


sides = look_at(spherical(torch.tensor([0.6, 0.9, 1.3, 2.2]), 0.4, 3.0))  # the first is the camera above
balls = nerf.render_image(two_balls, sides, focal=120.0, size=64, near=2.0, far=4.0, samples=96)
viz.show_rows(three_pictures(balls), caption="Two balls from four sides; depth: dark is near, bright is far")

# %% [markdown]
# ### A ball by hand
#
# Is the sum *right*? For one ball of constant density $\sigma$ and radius $\rho$ the integral can be done by hand. A ray that passes the
# centre at distance $b$ runs through the ball on a length $\ell = 2\sqrt{\rho^2 - b^2}$, so
#
# $$\text{opacity} = 1 - e^{-\sigma \ell}, \qquad
#   \text{depth} = t_{in} + \frac{1}{\sigma} - \frac{\ell\, e^{-\sigma \ell}}{1 - e^{-\sigma \ell}}, \qquad t_{in} = -o \cdot d - \ell / 2.$$

# %%
rho, sigma_ball = 0.8, 2.0


def ball(points, directions):
    density = sigma_ball * (points.norm(dim=-1) < rho)
    return density, torch.tensor([0.8, 0.4, 0.0]).expand(points.shape)


middle = -(origins * directions).sum(-1)  # where each ray passes the centre nearest
b2 = (origins + middle[..., None] * directions).square().sum(-1)
chord = 2 * (rho**2 - b2).clamp(min=0).sqrt()
exact_opacity = 1 - torch.exp(-sigma_ball * chord)
mean_way = 1 / sigma_ball - chord * (1 - exact_opacity) / exact_opacity.clamp(min=1e-9)  # inside the ball
exact_depth = middle - chord / 2 + mean_way

errors = {}
for n in (8, 32, 128, 512, 2048):
    made = nerf.render_rays(ball, origins, directions, 2.0, 4.0, n)
    errors[n] = float((made.opacity - exact_opacity).abs().max())
    print(f"{n:5} samples: opacity off by at most {errors[n]:.4f}")
hit = chord > 0.2
depth_error = float((made.depth - exact_depth)[hit].abs().max())
print(f"depth off by at most {depth_error:.4f} where the ray meets the ball")
assert errors[2048] < 2e-3 < 0.02 < errors[8] and depth_error < 2e-3

# %% [markdown]
# The error is where the ray enters and leaves: a sample stands for its whole piece, so an edge is known to a piece's length only. In
# training we therefore draw each sample *at random inside its piece* (equation 2): wrong on one ray, right on average, and no depth is
# ever left out.
#
# ## A field with adjustable parts
#
# Everything above is differentiable: from the pixel's colour back to $\sigma$ and $c$ at every sample. So let the field be something that can
# learn. Mildenhall et al. take a network; on a CPU a **table** is faster by far. `GridField` cuts a cube into voxels and keeps a density
# and a colour for each. Between the centres of eight voxels it interpolates linearly in x, y and z.

# %%
resolution = profile.pick(ci=32, laptop=48, gpu=96)
torch.manual_seed(0)
field = nerf.GridField(resolution, bound=views.bound)
print(f"{resolution}^3 voxels of 4 numbers make {field.parameter_count:,}; the pictures hold {views.images.numel():,}")

where = torch.tensor([[0.1, 0.2, 0.3]])
sigma_start, c_start = field(where, torch.tensor([[0.0, 0.0, 1.0]]))
print(f"untrained, it is thin fog: density {sigma_start.item():.2f}, colour {c_start.detach().numpy().round(2)}")


# %% [markdown]
# ## Training: the same loop, another objective
#
# `train` from chapter 2 does not know what a denoiser is. It wants a model, data, and an *objective*: a function of model and
# batch that returns a loss. Ours takes a batch of views with their cameras, picks some pixels in each, sends rays, and compares. Whole pictures
# are never rendered: a handful of pixels of many views says more than all pixels of one.

# %%
class RenderingObjective:
    """Mean squared error of random pixels, as seen from cameras that are known."""

    def __init__(self, views, pixels, samples):
        self.views, self.pixels, self.samples = views, pixels, samples

    def __call__(self, field, batch, generator):
        images, c2w = batch["image"], batch["c2w"]
        B, _, H, W = images.shape
        chosen = torch.randint(H * W, (B, self.pixels), generator=generator, device=images.device)
        origins, directions = pixel_rays(c2w, chosen, H, W, self.views.focal)
        made = nerf.render_rays(field, origins, directions, self.views.near, self.views.far, self.samples,
                                generator=generator, keep_weights=False)
        wanted = images.flatten(2).mT.gather(1, chosen[..., None].expand(-1, -1, 3))  # (B, pixels, 3)
        loss = (made.colour - (wanted + 1) / 2).square().mean()  # colours live in [0, 1], images in [-1, 1]
        return loss, {}  # the second is for further numbers to log


# %% [markdown]
# ### What is a good number?
#
# The usual score is the *peak signal-to-noise ratio*, $-10 \log_{10}$ of the mean squared error of colours in $[0, 1]$: 20 dB is an error of .1, 30 dB
# one of .03. Without baselines it means nothing, so here are two that know no geometry: the mean of all training views, and the training view
# taken nearest to where the held-out camera stands.

# %%
mean_view = views.images.mean(0, keepdim=True).expand_as(held_out.images)
distance = torch.cdist(held_out.c2w[:, :3, 3], views.c2w[:, :3, 3])  # between camera centres
nearest_view = views.images[distance.argmin(1)]


def score(images, wanted):
    """PSNR in dB, the mean over images in [-1, 1]."""
    return float(psnr(images.cpu(), wanted, data_range=2.0).mean())


@torch.no_grad()
def render(field, views, count=None):
    """What a field looks like from the cameras of the first so many views (of all, without a number)."""
    c2w = views.c2w[:count].to(device)
    return nerf.render_image(field.eval(), c2w, views.focal, views.size, views.near, views.far, samples=96)


table = {
    "mean of the training views": score(mean_view, held_out.images),
    "nearest training view": score(nearest_view, held_out.images),
    "untrained field": score(render(field.to(device), held_out).images, held_out.images),
}
for name, value in table.items():
    print(f"{name:27} {value:5.1f} dB")

# %%
steps = profile.pick(ci=120, laptop=500, gpu=2000)


def recipe(n):
    """The same number of rays a step from n views, however many there are."""
    batch = min(32, n)
    config = TrainingConfig(
        steps=steps, batch_size=batch, learning_rate=0.3, decay="cosine", ema_decay=0.95, log_every=20
    )
    return config, profile.pick(ci=1024, laptop=2048, gpu=8192) // batch  # the latter: pixels of each view


config, pixels = recipe(len(views))
samples = profile.pick(ci=32, laptop=48, gpu=96)
watch = widgets.live_picture(lambda state: render(state.ema, held_out, 8).images.clamp(-1, 1).cpu())
objective = RenderingObjective(views, pixels, samples)
run = train(field, objective, views, config, callbacks=[watch], callback_every=steps // 4)

# %%
viz.plot_curves({f"{len(views)} views": run.history}, log=True, title="Mean squared error of the pixels")

# %%
made = render(run.ema, held_out)
table["radiance field"] = score(made.images, held_out.images)
for name, value in table.items():
    print(f"{name:27} {value:5.1f} dB")
rows = {"held-out view": held_out.images, "rendered": made.images.cpu(), "nearest training view": nearest_view}
viz.show_rows({name: images[:8] for name, images in rows.items()})

# %% tags=["claim-live"]
margin = table["radiance field"] - table["nearest training view"]
assert margin > profile.pick(ci=2, laptop=6, gpu=6), f"must beat the nearest view by far, got {margin:+.1f} dB"
assert table["radiance field"] > profile.pick(ci=23, laptop=27, gpu=27), "in dB, on views never seen"

# %% [markdown]
# Note the learning rate: .3, more than a hundred times chapter 2's. The weights of a network all pull on every output, so they must move
# with care. A voxel is pulled only by the few rays that cross it.
#
# ## Nobody said how deep
#
# The training compared colours and nothing else. But to be right from all sides at once, matter has to be where it is: a point that is
# painted at the wrong depth is at the wrong pixel in every other view. The renderer that made the pictures knows the true
# distances. We ask it only now.

# %%
there = held_out.depth.isfinite()
rows = three_pictures(made) | {"true depth": depth_picture(held_out.depth.clamp(max=4), there.float())}
viz.show_rows({name: part[:8] for name, part in rows.items()}, caption="Held-out views by the field; the truth below")

# %%
error = float((made.depth.cpu() - held_out.depth)[there].abs().median())
flat = float((3.0 - held_out.depth)[there].abs().median())
print(f"median error of the depth: {error:.3f}; a voxel is {field.voxel:.3f} wide")
print(f"the guess that all of the car is 3 away: {flat:.3f}")

# %% tags=["claim-live"]
assert error < profile.pick(ci=0.4, laptop=0.2, gpu=0.2) * flat, f"depth must follow from colours: off by {error:.3f}"

# %% [markdown]
# Look closely at the row of opacities: specks float in the empty air, and the row of colours shows nothing there. They are *white*, before a
# white background. No picture can object to them, so nothing removes them.
#
# Papers like to show **disparity**, $1 / \text{depth}$, in place of depth: near things, where errors are seen most, get most of the scale, and
# where there is nothing it falls to 0 all by itself. `nerf.disparity` is opacity over depth.

# %%
viz.show_rows({"disparity": shades(nerf.disparity(made)[:8], 0, 0.45)})

# %% [markdown]
# ## Walk around it
#
# A field has no pixels. Render it from where no camera ever stood, at any size.

# %%
count, large = profile.pick(ci=8, laptop=36, gpu=72), profile.pick(ci=48, laptop=80, gpu=128)
path = orbit(count, radius=3.0, elevation=0.45).to(device)
focal = views.focal * large / size  # the same field of view, in smaller pixels
film = nerf.render_path(run.ema, path, focal, large, views.near, views.far, samples=64, progress=False)
colours, depths_seen = viz.to_uint8(film.images), depth_picture(film.depth, film.opacity)
frames = [viz.image_grid([colours[i], depths_seen[i]], columns=2) for i in range(count)]
degrees = [f"{360 * i // count}°" for i in range(count)]
widgets.slider_gallery(frames, labels=degrees, description="azimuth", scale=4, play=True)

# %% [markdown]
# And here is the table itself: what it holds at six heights, from the wheels to the roof, seen from above. White is empty.

# %%
heights, along = torch.linspace(-0.32, 0.38, 6), torch.linspace(-1, 1, 64)
z, y, x = torch.meshgrid(heights, along.flip(0), along, indexing="ij")  # y grows upwards in the pictures
with torch.no_grad():
    places, down = torch.stack([x, y, z], -1).to(device), torch.tensor([0.0, 0.0, -1.0], device=device)
    density, colour = run.ema(places, down)
solid = (1 - torch.exp(-density * run.ema.voxel))[..., None]  # the opacity of one voxel
slices = (solid * colour + (1 - solid)).movedim(-1, 1) * 2 - 1
viz.show_images(slices.cpu(), [f"z = {h:.2f}" for h in heights], columns=6)

# %% [markdown]
# The car is hollow, or filled with whatever it pleased: no ray ever got there, so no gradient did. A radiance field knows what can
# be seen, and nothing else.
#
# ### Points for other programs
#
# Keep the places that are denser than a threshold, with their colours, and the field becomes a point cloud. A PLY file of it opens in MeshLab,
# Blender, and most viewers. The threshold here: a voxel of that density stops $1 - e^{-.5}$, four tenths, of the light.

# %%
points, colours = nerf.point_cloud(run.ema, threshold=0.5 / field.voxel, resolution=64)
points, colours = points.cpu(), colours.cpu()
file = course.run_folder("08_radiance_fields") / "car.ply"
nerf.write_ply(file, points, colours)
print(f"{len(points):,} points, written to {file.name} in the run folder")

# %%
figure = plt.figure(figsize=(10, 5))
axis = figure.add_subplot(projection="3d")
axis.scatter(*points.T, c=colours.numpy(), s=4, depthshade=False)
draw_cameras(axis, orbit(12, 2.0, 0.45), views.focal, size, viz.LINE_COLOURS[0], length=0.35)
stage(axis, reach=1.8, floor=-0.45)
axis.set_title("The point cloud, and cameras on an orbit")
plt.show()

# %% [markdown]
# ## Too few views
#
# Nothing forces the field to be a car. It is forced to *look* like one from where we have pictures. Four pictures hold some twelve thousand
# numbers, the table many times more, so a great many tables agree with them. Same training, fewer views:

# %%
fewer = {}
for n in (4, 12):
    torch.manual_seed(0)
    few = views.subset(range(n))
    config, pixels = recipe(n)
    small = nerf.GridField(resolution, bound=views.bound)
    fewer[n] = train(small, RenderingObjective(few, pixels, samples), few, config, progress=False).ema
fewer[len(views)] = run.ema

scores, rows = {}, {"truth": held_out.images[:8]}
for n, ema in fewer.items():
    known = views.subset(range(min(n, 12)))
    new = render(ema, held_out).images
    scores[n] = score(render(ema, known).images, known.images), score(new, held_out.images)
    rows[f"{n} views"] = new[:8].cpu()
    print(f"{n:4} views: {scores[n][0]:5.1f} dB on views trained on, {scores[n][1]:5.1f} dB on others")
viz.show_rows(rows, caption="Held-out views of fields trained on 4, 12 and 120 pictures")

# %% tags=["claim-live"]
gaps = {n: seen_before - new for n, (seen_before, new) in scores.items()}
assert gaps[4] > gaps[len(views)] + 3, f"four views are learned by heart: gaps {gaps}"
assert scores[len(views)][1] > scores[12][1] > scores[4][1] + 1, f"more views, better new ones: {scores}"

# %% [markdown]
# Look at both columns of numbers. On its own four pictures the poor field looks *best* of all. Whoever looks at the training error only would pick it.
# Chapter 10 will meet the same trap in a worse form: there the field can also bend the *cameras* until everything fits.
#
# ## If the field is a network
#
# NeRF's field is a network from position to density and colour. It is small, and it can be sharp anywhere. But fed with plain coordinates it comes
# out blurred: networks like ours are quick to learn slow functions and very slow to learn quick ones (Rahaman et al. 2019 call it spectral bias).
# The remedy is the *positional encoding*, equation 4, applied to each coordinate:
#
# $$\gamma(p) = \big(\sin 2^0 \pi p,\; \cos 2^0 \pi p,\; \dots,\; \sin 2^{L-1} \pi p,\; \cos 2^{L-1} \pi p\big)$$
#
# You know its relative: it tells the U-Net the time. Why does it help? Take the scalar product of two encoded positions. With
# $\sin a \sin b + \cos a \cos b = \cos(a - b)$,
#
# $$\gamma(p) \cdot \gamma(q) = \sum_{l=0}^{L-1} \cos\big(2^l \pi (p - q)\big)$$
#
# which depends on the distance alone, and peaks at 0: with each further frequency, near neighbours become easier to tell apart.

# %%
p = torch.linspace(-0.5, 0.5, 401)
fig, axis = plt.subplots(figsize=(7, 3))
for L in (1, 3, 6):
    product = nerf.positional_encoding(p[:, None], L) @ nerf.positional_encoding(torch.zeros(1), L)
    assert torch.allclose(product, torch.cos(2.0 ** torch.arange(L) * math.pi * p[:, None]).sum(1), atol=1e-4)
    axis.plot(p, product / L, label=f"L = {L}")
axis.set(title="How alike are the encodings of p and 0?", xlabel="p", ylabel=r"$\gamma(p) \cdot \gamma(0)\, /\, L$")
axis.legend()
plt.show()

# %% [markdown]
# One dimension is enough to see it. The signal: one row of pixels across the car. The network: three layers, from a position to a colour.
# The loop is `train` again, with two lines of objective.

# %%
sharp = MultiView.render("car", views=2, size=128, seed=5).images[0]
line = sharp[:, 64].T  # (128, 3): a row of pixels
x = torch.linspace(-1, 1, len(line))[:, None]
signal = torch.cat([x, line], dim=1)  # each row of this table is an example: position, colour


class Line(nn.Module):
    """Colour at a position; frequencies = 0 takes the position as it is."""

    def __init__(self, frequencies, width=64):
        super().__init__()
        self.frequencies = frequencies
        first, second = nn.Linear(2 * frequencies or 1, width), nn.Linear(width, width)
        self.net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x):
        return self.net(nerf.positional_encoding(x, self.frequencies) if self.frequencies else x)


def regression(net, batch, generator):
    return (net(batch[:, :1]) - batch[:, 1:]).square().mean(), {}


fits = {}
for L in (0, 3, 6):
    torch.manual_seed(0)
    config = TrainingConfig(
        steps=profile.pick(ci=250, laptop=500, gpu=500), batch_size=len(signal), learning_rate=5e-3, ema_decay=0.9
    )
    net = train(Line(L), regression, signal, config, progress=False).ema
    with torch.no_grad():
        fits[L] = net(x.to(device)).cpu()
losses = {L: float((fit - line).square().mean()) for L, fit in fits.items()}

fig, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True)
for axis, (L, fit) in zip(axes, fits.items(), strict=True):
    axis.plot(x, line[:, 0], color="0.6", linewidth=4, label="pixels (red channel)")
    axis.plot(x, fit[:, 0], label="network")
    axis.set(title=f"{f'L = {L}' if L else 'plain position'}: error {losses[L]:.4f}", xlabel="position")
axes[0].legend()
plt.show()

# %% tags=["claim-live"]
assert losses[6] < 0.2 * losses[0], f"the encoding must make edges learnable: {losses}"

# %% [markdown]
# `nerf.MLPField` is the network of the paper, with this encoding ($L = 10$ for positions, 4 for directions), and `render_image` takes it like any
# other field. It has six hundred thousand numbers where a table of $128^3$ voxels has eight million, but every sample passes through
# all of them: hours on a GPU where the table needs a minute on your CPU.

# %%
with torch.device("meta"):  # no memory for the weights: we only count
    network, large_table = nerf.MLPField(), nerf.GridField(128)
print(f"network {network.parameter_count:,}, table {large_table.parameter_count:,}")
assert 12 * network.parameter_count < large_table.parameter_count


# %% [markdown]
# ## The same in PyTorch3D
#
# The listings of the thesis build on PyTorch3D, a library for rendering that can be differentiated. Its cameras store the *inverse* matrix, for row vectors, with x to the left;
# `to_pytorch3d` converts. Its renderer splits the work as we did: a ray sampler, the field, and a ray marcher for the sum. One trap: its
# `EmissionAbsorptionRaymarcher` wants **opacities** $\alpha_i \in [0, 1]$, though its argument is called `rays_densities`. Our densities go through
# $1 - e^{-\sigma_i \delta_i}$ first.
#
# It has no pip package for Linux; conda-forge has one, and `environment.yml` asks for it. Where it is missing, the cell below says so and
# nothing else changes.

# %%
def pytorch3d_render(field, views, samples=64):
    """Pictures (B, H, W, 3) in [0, 1] of a field, by PyTorch3D's cameras, ray sampler and ray marcher."""
    from pytorch3d.renderer import (
        EmissionAbsorptionRaymarcher, ImplicitRenderer, NDCMultinomialRaysampler, PerspectiveCameras,
        ray_bundle_to_ray_points,
    )

    step = (views.far - views.near) / samples
    cameras = PerspectiveCameras(**to_pytorch3d(views.c2w.to(device), views.focal, views.size), device=device)
    sampler = NDCMultinomialRaysampler(  # it puts samples at both ends, we in the middle of each piece
        image_width=views.size, image_height=views.size, n_pts_per_ray=samples,
        min_depth=views.near + step / 2, max_depth=views.far - step / 2,
    )

    def opacities(ray_bundle, **kwargs):
        directions = ray_bundle.directions[..., None, :]  # of depth 1, not of length 1
        density, colour = field(ray_bundle_to_ray_points(ray_bundle), directions)
        delta = step * directions.norm(dim=-1)
        return (1 - torch.exp(-density * delta))[..., None], colour

    renderer = ImplicitRenderer(sampler, EmissionAbsorptionRaymarcher())
    made, _ = renderer(cameras=cameras, volumetric_function=opacities)
    return made[..., :3] + (1 - made[..., 3:])  # colour, and white where light passes


def ours_render(field, views, samples=64):
    """The same rays and the same samples by our renderer."""
    origins, directions = rays(views.c2w.to(device), views.size, views.size, views.focal, unit=False)

    def unbounded(points, directions):  # without `bound`, so that rays are sampled outside the cube too
        return field(points, directions)

    return nerf.render_rays(unbounded, origins, directions, views.near, views.far, samples).colour


has_pytorch3d = importlib.util.find_spec("pytorch3d") is not None
if has_pytorch3d:
    four = held_out.subset(range(4))
    with torch.no_grad():
        theirs, ours = pytorch3d_render(run.ema, four), ours_render(run.ema, four)
    print(f"largest difference of a colour: {float((theirs - ours).abs().max()):.1e}")
    assert (theirs - ours).abs().max() < 1e-3
else:
    print("PyTorch3D is not installed. To have it:  conda install -c conda-forge pytorch3d")

# %% [markdown]
# It can also draw cameras and points as a scene that you turn with the mouse (this needs plotly as well).

# %%
if has_pytorch3d and importlib.util.find_spec("plotly") is not None:
    from pytorch3d.renderer import PerspectiveCameras
    from pytorch3d.structures import Pointclouds
    from pytorch3d.vis.plotly_vis import plot_scene

    cameras = PerspectiveCameras(**to_pytorch3d(held_out.c2w[:12], held_out.focal, held_out.size))
    cloud = Pointclouds(points=[points], features=[colours])
    display(plot_scene({"car": {"points": cloud, "cameras": cameras}}, camera_scale=0.2))
else:
    print("The scene needs pytorch3d and plotly:  conda install -c conda-forge pytorch3d plotly")

# %% [markdown]
# ## What comes next
#
# Compare the two halves of this chapter's training with chapter 2's. There: noise a picture, ask a network for the clean one, compare. Here: take a camera, ask a
# field for the picture, compare. Join them and you have the idea of thesis chapter 3: noise a picture, ask a network for the *camera*, render
# the field from there, and call that the clean picture. The denoising loss then teaches where the camera was and what the scene is,
# although neither was ever given. Chapter 9 does it with one guess, chapter 10 with several, all around the object.
#
# ## What to try
#
# - Other scenes: `MultiView.render("tower")`, `"cup"`, `"plane"`. Which is hardest for the table, and why?
# - Look at the car from below, `look_at(spherical(0.6, -0.8, 3.0))`. Who has ever seen that side?
# - Shift all training cameras by two pixels' worth, or turn each by 5 degrees in a random direction, and train again. How many dB does a pose error cost?
# - `GridField(resolution, view_dependent=True)` lets colours change with the direction. Does it help here? Should it?
# - `render_rays` takes any `background`. Draw a new grey for each batch, and lay the views on it with `views.masks`. What becomes of the white specks?
# - `field.set_blur(2.0)` before you render: the same scene, coarse. Chapter 10 trains this way at first.
#
# ## Exercises
#
# Exercises that check your answers are in [their own notebook](../exercises/08_radiance_fields.ipynb). These go further:
#
# 1. *(warm-up)* A voxel of length $\delta$ has opacity .5. What is its density? What is the opacity of two of them in a row?
# 2. Derive the ball's depth formula. What does it become for $\sigma \to \infty$, and for $\sigma \to 0$? Check both with the cell.
# 3. In the two-ball scene, move the blue ball *behind* the orange one. Predict the three plots before you draw them.
# 4. The pictures were made by averaging nine rays a pixel, we train with one. Render at twice the size and average: does PSNR rise? Why, or why not?
# 5. Seven rays of ten meet only background. Draw pixels on the car more often than others. Does training get faster? What goes wrong if you *never* draw background?
# 6. *(open)* Four views are not enough. What could be added to the objective, without any further picture, that makes them suffice?
#
# **Next**: chapter 9 takes the cameras away.
