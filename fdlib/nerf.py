"""Radiance fields and how they become pictures (Mildenhall et al. 2020, "NeRF"; thesis chapter 3).

    density, colour = field(points, directions)          what a scene is: matter at every point, seen from every side
    C(r) = sum_i T_i (1 - exp(-sigma_i delta_i)) c_i     equation 3: what a ray r(t) = origin + t direction sees
    T_i  = exp(-sum_{j<i} sigma_j delta_j)               how much light passes everything before sample i

A field is any callable that takes points (..., 3) and directions (..., 3) or broadcastable to them, and returns density
(...), at least 0, per unit of length, and colour (..., 3). Two are here: ``MLPField``, the paper's, for GPUs, and
``GridField``, a table of voxels, which a CPU trains in a minute.

Ranges: *colours* are in [0, 1] with the channel last, everywhere in this module; the library's *images* are in [-1, 1] with
the channel first, and ``Rendering.images`` is the one place where the first become the second.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from fdlib.cameras import rays
from fdlib.denoiser import Model
from fdlib.files import atomic_write

Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Background = float | Sequence[float] | Tensor

WHITE = 1.0
EPSILON = 1e-10  # opacity below which a ray is said to have met nothing


# ---------------------------------------------------------------------- fields


def positional_encoding(x: Tensor, frequencies: int) -> Tensor:
    """gamma(p) = (sin 2^0 pi p, cos 2^0 pi p, ..., sin 2^(L-1) pi p, cos 2^(L-1) pi p) of each coordinate (equation 4).

    Args:
        x: (..., D), coordinates in [-1, 1]: the lowest frequency has the period 2.
        frequencies: L.

    Returns:
        (..., 2 L D): all 2 L values of the first coordinate, then those of the second, and so on.

    >>> positional_encoding(torch.tensor([0.5]), 2)      # sin and cos of pi / 2, then of pi
    tensor([ 1.0000e+00, ...e-08, ...e-08, -1.0000e+00])
    """
    _check("frequencies", frequencies, isinstance(frequencies, int) and frequencies >= 1, "a whole number >= 1")
    scales = math.pi * 2.0 ** torch.arange(frequencies, dtype=x.dtype, device=x.device)
    angles = x[..., None] * scales  # (..., D, L)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


class MLPField(Model):
    """The network of Mildenhall et al. (2020), figure 7: the position decides the density, the direction joins for the colour.

    Args:
        bound: half the side of the cube around the origin that holds the scene; outside the density is 0. (The encoding is
            periodic: without an end the scene would repeat itself.)
        layers, width: of the part that sees the position alone; the paper has 8 and 256.
        skip: the layer, counted from 0, that sees the encoded position once more; the paper's fifth. ``None``, or a
            layer that there is not, for none.
        position_frequencies, direction_frequencies: L of the two encodings; the paper has 10 and 4.

    One difference from the paper: the density is ``softplus(raw - 1)``, not ``relu(raw)``. It is as good as 0 where there is
    nothing, but its gradient never dies, so that no seed is lost to an empty scene (Barron et al. 2021, "Mip-NeRF").
    """

    def __init__(
        self,
        bound: float = 1.0,
        layers: int = 8,
        width: int = 256,
        skip: int | None = 4,
        position_frequencies: int = 10,
        direction_frequencies: int = 4,
    ):
        super().__init__()
        _check_bound(bound)
        for name, value in (("layers", layers), ("width", width)):
            _check(name, value, isinstance(value, int) and value >= 1, "a whole number >= 1")
        _check("skip", skip, skip is None or skip >= 1, "None or the number of a layer from 1 on")
        self.bound, self.skip = float(bound), skip
        self.position_frequencies, self.direction_frequencies = position_frequencies, direction_frequencies
        encoded = 6 * position_frequencies
        widths = [encoded] + [width + (encoded if layer == skip else 0) for layer in range(1, layers)]
        self.trunk = nn.ModuleList(nn.Linear(n, width) for n in widths)
        self.density = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.view = nn.Linear(width + 6 * direction_frequencies, max(width // 2, 1))
        self.colour = nn.Linear(max(width // 2, 1), 3)

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (...) >= 0 and colour (..., 3) in [0, 1] at points (..., 3), seen along directions (broadcastable)."""
        encoded = positional_encoding(points / self.bound, self.position_frequencies)
        h = encoded
        for layer, linear in enumerate(self.trunk):
            h = F.relu(linear(torch.cat([h, encoded], dim=-1) if layer == self.skip else h))
        density = F.softplus(self.density(h).squeeze(-1) - 1) * _inside(points, self.bound)
        view = positional_encoding(F.normalize(directions, dim=-1), self.direction_frequencies)
        h = torch.cat([self.feature(h), view.expand(*h.shape[:-1], -1)], dim=-1)
        return density, torch.sigmoid(self.colour(F.relu(self.view(h))))


class GridField(Model):
    """A cube of voxels, each with a density and a colour, interpolated between the centres of eight of them.

    Nothing is shared between far points, so nothing has to be unlearned: minutes on a CPU where ``MLPField`` takes hours on
    a GPU. (Sun et al. 2022 and Fridovich-Keil et al. 2022 train such grids for the quality of the large networks.)

    Args:
        resolution: voxels along a side.
        bound: half the side of the cube around the origin that holds the scene; outside the density is 0.
        blur: standard deviation, in voxels, of a Gaussian that smooths the grid before it is read; change it with
            ``set_blur``. A blurred scene has no details to lock on, so wrong poses can still slide to the right ones.
        view_dependent: colours that change linearly with the direction (spherical harmonics up to degree 1).
        fog: the optical depth of one voxel at the start, so that an untrained field is a thin grey fog.

    ``grid`` is (4 or 13, R, R, R) with the axes (channel, z, y, x), the outermost voxel centres at +-bound: the first
    channel is the raw density, the others raw colours. Interpolation comes first, then

        density = softplus(raw + b) / (length of a voxel)      so that raw values mean the same at every resolution
        colour  = sigmoid(raw)

    because a non-linear function of a linear ramp can be sharper than a voxel (Sun et al. 2022).
    """

    def __init__(
        self,
        resolution: int = 32,
        bound: float = 1.0,
        blur: float = 0.0,
        view_dependent: bool = False,
        fog: float = 0.02,
    ):
        super().__init__()
        _check("resolution", resolution, isinstance(resolution, int) and resolution >= 2, "a whole number >= 2")
        _check("fog", fog, fog > 0, "positive")
        _check_bound(bound)
        self.resolution, self.bound, self.view_dependent = resolution, float(bound), view_dependent
        self.offset = math.log(math.expm1(fog))  # b: softplus(b) is the fog
        self.voxel = 2 * self.bound / (resolution - 1)
        self.grid = nn.Parameter(torch.zeros(13 if view_dependent else 4, *[resolution] * 3))
        self.register_buffer(
            "blur", torch.zeros(())
        )  # saved, and copied to averaged weights, with the grid it belongs to
        self.set_blur(blur)

    def set_blur(self, voxels: float) -> None:
        """Smooth more or less from now on: anneal it to 0 for a field that is coarse first and fine at last."""
        _check("blur", voxels, 0 <= voxels < math.inf, "0 or more (voxels)")
        self.blur.fill_(voxels)

    def smoothed(self) -> Tensor:
        """The grid as it is read, after the blur; the sum of each channel stays the same."""
        if (sigma := float(self.blur)) == 0:
            return self.grid
        smooth = _blur_matrix(self.resolution, sigma).to(self.grid)
        # One product of matrices an axis: (.., z, y, x) S^T smooths x, then the axes move on, three times round.
        grid = self.grid
        for _ in range(3):
            grid = (grid @ smooth.T).permute(0, 3, 1, 2)
        return grid

    def resized(self, resolution: int) -> Tensor:
        """The grid of a field with ``resolution`` voxels along a side that has the same densities and colours."""
        _check("resolution", resolution, isinstance(resolution, int) and resolution >= 2, "a whole number >= 2")
        grid = F.interpolate(self.smoothed()[None], size=[resolution] * 3, mode="trilinear", align_corners=True)[0]
        shorter = (self.resolution - 1) / (resolution - 1)  # a voxel's optical depth shrinks with its length
        depth = (F.softplus(grid[0] + self.offset) * shorter).clamp_min(1e-12)
        raw = depth + torch.log(-torch.expm1(-depth)) - self.offset  # the inverse of softplus
        return torch.cat([raw[None], grid[1:]])

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (...) >= 0 and colour (..., 3) in [0, 1] at points (..., 3), seen along directions (broadcastable)."""
        shape = points.shape[:-1]
        # With the channels last the four values of a voxel lie side by side in memory, which is where the time goes.
        grid = self.smoothed()[None].contiguous(memory_format=torch.channels_last_3d)
        where = (points / self.bound).reshape(1, -1, 1, 1, 3)
        parts = _threads(where)  # on a CPU grid_sample runs one thread a *batch* entry, so the points become a batch
        where = where.view(parts, -1, 1, 1, 3)
        options = dict(mode="bilinear", padding_mode="border", align_corners=True)
        values = F.grid_sample(grid.expand(parts, -1, -1, -1, -1), where, **options)  # (parts, channels, points, 1, 1)
        values = values.transpose(0, 1).reshape(len(self.grid), *shape)
        raw, colours = values[0], values[1:]
        if self.view_dependent:
            view = F.normalize(directions, dim=-1).movedim(-1, 0).expand(3, *shape)  # one weight a coordinate
            colours = colours[:3] + torch.einsum("dc...,d...->c...", colours[3:].unflatten(0, (3, 3)), view)
        density = F.softplus(raw + self.offset) * (_inside(points, self.bound) / self.voxel)
        return density, torch.sigmoid(colours).movedim(0, -1)


class SkipEmpty:
    """A finished field that is asked only where it holds matter; everywhere else the density is 0.

    Most samples of most rays lie in air, and a large network answers "nothing" there at full price. The field is looked up
    once at the corners of a coarse grid; a cell is asked about if one of its corners, or of its neighbours', holds matter
    (Mueller et al. 2022, "Instant NGP", keep such a grid during training; here the scene is finished).

    Args:
        field: any field with a ``bound``.
        resolution: cells along a side of its cube.
        threshold: optical depth of one cell, density times length, from which it holds matter.

    Matter that is finer than two cells can be missed; what is skipped is otherwise thinner than ``threshold`` a cell.
    """

    @torch.no_grad()
    def __init__(self, field: Field, resolution: int = 64, threshold: float = 1e-2, chunk: int = 1 << 16):
        if (bound := getattr(field, "bound", None)) is None:
            raise ValueError("bound is missing: this field does not say how far it reaches, so it has no empty cells")
        _check("resolution", resolution, isinstance(resolution, int) and resolution >= 2, "a whole number >= 2")
        like = next(iter(field.parameters()), torch.zeros(())) if isinstance(field, nn.Module) else torch.zeros(())
        self.field, self.bound, self.resolution = field, bound, resolution
        axis = torch.linspace(-bound, bound, resolution + 1, dtype=like.dtype, device=like.device)
        up = axis.new_tensor([0.0, 0.0, 1.0])
        density = torch.cat([field(part, up)[0] for part in torch.cartesian_prod(axis, axis, axis).split(chunk)])
        corners = density.view(1, 1, *[resolution + 1] * 3) * (2 * bound / resolution)
        # a window of four corners along each axis: the cell's own two, and one more of each neighbour
        self.occupied = F.max_pool3d(corners, kernel_size=4, stride=1, padding=1)[0, 0] > threshold

    def __call__(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (...) and colour (..., 3), as the field's; 0 both where it was not asked."""
        cell = ((points.detach() / self.bound + 1) * (self.resolution / 2)).long().clamp(0, self.resolution - 1)
        asked = self.occupied[tuple(cell.unbind(-1))] & (points.detach().abs().amax(-1) <= self.bound)
        density, colour = points.new_zeros(points.shape[:-1]), points.new_zeros(points.shape)
        density[asked], colour[asked] = self.field(points[asked], directions.expand_as(points)[asked])
        return density, colour


def _threads(points: Tensor) -> int:
    """Into how many equal parts to cut (1, P, ...) points so that each core has one."""
    cores = min(torch.get_num_threads(), 8) if points.device.type == "cpu" else 1
    return max(n for n in range(1, cores + 1) if points.shape[1] % n == 0)


@lru_cache(maxsize=4)
def _blur_matrix(size: int, sigma: float) -> Tensor:
    """(size, size): a Gaussian along one axis, mirrored at the ends; rows and columns sum to 1, so sums are kept."""
    return torch.from_numpy(gaussian_filter1d(np.eye(size), sigma, axis=0, mode="reflect"))


def _inside(points: Tensor, bound: float) -> Tensor:
    return (points.detach().abs().amax(-1) <= bound).to(points.dtype)


# ---------------------------------------------------------------------- rays


@dataclass
class Rendering:
    """What rays see.

    colour: (..., 3) in [0, 1], on the background.
    depth: (...), the mean of t where the light comes from, in units of the direction's length; the last sample's where the
        ray meets nothing at all.
    opacity: (...) in [0, 1], the sum of the weights: 1 is a ray that ends in the scene.
    weights: (..., S), how much each sample is seen; None where they were not asked for.
    """

    colour: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor | None = None

    @property
    def images(self) -> Tensor:
        """The colours (..., H, W, 3) as the library's images, (..., 3, H, W) in [-1, 1]."""
        return self.colour.movedim(-1, -3) * 2 - 1


def sample_along(
    near: Tensor, far: Tensor, samples: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Depths on each ray: one in each of S equal parts of [near, far] (Mildenhall et al. 2020, equation 2).

    Args:
        near, far: (...), the ends of each ray's interval.
        samples: S.
        generator: draws each depth at random inside its part, so that training sees all depths; without it the middle is
            taken, and the same ray always gives the same picture.

    Returns:
        depths (..., S), ascending; widths (..., 1), the length of a part.
    """
    _check_samples(samples)
    widths = ((far - near) / samples)[..., None]
    if generator is None:
        place = torch.full((samples,), 0.5, dtype=near.dtype, device=near.device)
    else:
        place = torch.rand((*near.shape, samples), generator=generator, dtype=near.dtype, device=near.device)
    parts = torch.arange(samples, dtype=near.dtype, device=near.device)
    return near[..., None] + (parts + place) * widths, widths


def volume_render(
    density: Tensor,
    colour: Tensor,
    depths: Tensor,
    widths: Tensor | None = None,
    background: Background = WHITE,
) -> Rendering:
    """From samples on rays to what the rays see (Mildenhall et al. 2020, equation 3).

    Args:
        density: (..., S), sigma_i >= 0. colour: (..., S, 3), c_i in [0, 1]. depths: (..., S), t_i, ascending.
        widths: delta_i, (..., S) or broadcastable: the length of ray that each sample stands for. By default the paper's
            t_{i+1} - t_i, and for the last sample, which has no successor, the same as for the one before it. With
            ``sample_along`` pass its widths: then random depths leave the optical depth unbiased.
        background: the colour behind the scene, a number or (3,) or (..., 3), in [0, 1]. White by default.

    >>> empty = volume_render(torch.zeros(1, 2), torch.zeros(1, 2, 3), torch.tensor([[1.0, 2.0]]))
    >>> empty.colour.tolist(), empty.opacity.tolist()
    ([[1.0, 1.0, 1.0]], [0.0])
    >>> wall = volume_render(torch.tensor([[0.0, 99.0]]), torch.zeros(1, 2, 3), torch.tensor([[1.0, 2.0]]))
    >>> wall.colour.tolist(), wall.depth.tolist()
    ([[0.0, 0.0, 0.0]], [2.0])
    """
    if density.shape != depths.shape or colour.shape != (*density.shape, 3):
        raise ValueError(
            "density, colour and depths must have the shapes (..., S), (..., S, 3) and (..., S), got "
            f"{tuple(density.shape)}, {tuple(colour.shape)} and {tuple(depths.shape)}"
        )
    if widths is None:
        if depths.shape[-1] < 2:
            raise ValueError("widths must be given for a single sample: it has no neighbour to measure its length by")
        steps = depths.diff(dim=-1)
        widths = torch.cat([steps, steps[..., -1:]], dim=-1)
    optical = density * widths
    # T_i. (The sum up to i minus the last term would be shorter, and wrong by 1e-3 before an opaque wall in float32.)
    passed = torch.exp(-F.pad(optical[..., :-1].cumsum(-1), (1, 0)))
    weights = -torch.expm1(-optical) * passed
    opacity = weights.sum(-1)
    background = torch.as_tensor(background, dtype=colour.dtype, device=colour.device)
    seen = (weights.unsqueeze(-1) * colour).sum(-2) + (1 - opacity).unsqueeze(-1) * background
    depth = ((weights * depths).sum(-1) + EPSILON * depths[..., -1]) / (opacity + EPSILON)
    return Rendering(seen, depth, opacity, weights)


def render_rays(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    near: float | Tensor,
    far: float | Tensor,
    samples: int,
    *,
    generator: torch.Generator | None = None,
    background: Background = WHITE,
    chunk: int | None = None,
    keep_weights: bool = True,
) -> Rendering:
    """What rays see of a field.

    Args:
        origins, directions: (..., 3) each. Directions need not have length 1: depths are counted in their lengths.
        near, far: where a ray begins and ends, in the same unit, numbers or (...). If the field has a ``bound``, a ray is
            sampled only where it is inside the field's cube, so that no sample is wasted on the empty space around it.
        samples: on each ray.
        generator: for random depths (training); without it each part's middle (``sample_along``).
        background: a colour in [0, 1], a number or (3,), white by default.
        chunk: rays at a time. Memory is then bounded by chunk * samples points; where gradients are wanted, each part is
            computed again in the backward pass (so it costs a third more time). By default all rays at once.
        keep_weights: whether to return the samples' weights (..., S).

    Raises:
        TypeError, ValueError: wrong shapes, near >= far, samples < 1, rays with NaN or infinity.
    """
    near, far = _check_rays(origins, directions, near, far, samples)
    if chunk is not None:
        _check("chunk", chunk, isinstance(chunk, int) and chunk >= 1, "a whole number of rays >= 1")
    shape = origins.shape[:-1]
    origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
    near, far = near.expand(shape).reshape(-1), far.expand(shape).reshape(-1)
    if (bound := getattr(field, "bound", None)) is not None:
        near, far = inside_cube(origins, directions, near, far, bound)
    part = partial(_render_part, field, background=background, keep_weights=keep_weights)
    if chunk is None or chunk >= len(origins):
        parts = [part(origins, directions, *sample_along(near, far, samples, generator))]
    else:
        if generator is not None:  # all at once, so that the same seed gives the same depths whatever the chunk
            drawn, widths = sample_along(near, far, samples, generator)
        parts = []
        for start in range(0, len(origins), chunk):
            rows = slice(start, start + chunk)
            placed = sample_along(near[rows], far[rows], samples) if generator is None else (drawn[rows], widths[rows])
            inputs = (origins[rows], directions[rows], *placed)
            if torch.is_grad_enabled():
                parts.append(checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(part(*inputs))
    joined = [None if x[0] is None else (x[0] if len(x) == 1 else torch.cat(x)) for x in zip(*parts, strict=True)]
    return Rendering(*(None if x is None else x.reshape(*shape, *x.shape[1:]) for x in joined))


def _render_part(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    widths: Tensor,
    background: Background,
    keep_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    points = torch.addcmul(origins[:, None], directions[:, None], depths[..., None])  # (N, S, 3)
    density, colour = field(points, directions[:, None])
    lengths = widths * directions.norm(dim=-1, keepdim=True)
    made = volume_render(density, colour, depths, lengths, background)
    return made.colour, made.depth, made.opacity, made.weights if keep_weights else None


@torch.no_grad()
def inside_cube(origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The part of [near, far] in which rays (N, 3) are inside the cube [-bound, bound]^3; of length 0 if there is none.

    No gradient: moving the *ends* of an interval over empty space changes nothing that is seen.
    """
    tiny = torch.finfo(directions.dtype).tiny ** 0.5
    slope = torch.where(directions.abs() < tiny, tiny, directions)  # a ray along a face never reaches it
    one, other = (-bound - origins) / slope, (bound - origins) / slope
    enter = torch.minimum(one, other).amax(-1)
    leave = torch.maximum(one, other).amin(-1)
    enter = torch.minimum(torch.maximum(near, enter), far)
    return enter, torch.maximum(torch.minimum(far, leave), enter)


# ---------------------------------------------------------------------- pictures, paths, points


def render_image(
    field: Field,
    c2w: Tensor,
    focal: float,
    size: int | tuple[int, int],
    near: float,
    far: float,
    samples: int = 64,
    *,
    background: Background = WHITE,
    chunk: int | None = 8192,
    generator: torch.Generator | None = None,
) -> Rendering:
    """The whole picture that a camera, or each of several, takes of a field, with depth and opacity (without weights).

    Args:
        c2w: camera-to-world matrices (..., 4, 4), OpenGL axes (``fdlib.cameras``).
        focal: focal length in pixels. size: pixels along a side, or (height, width).
        others: as for ``render_rays``. Gradients reach the field and the cameras, unless ``torch.no_grad()`` saves them.

    Returns:
        Rendering with colour (..., H, W, 3) in [0, 1]; its ``images`` are (..., 3, H, W) in [-1, 1].
    """
    height, width = (size, size) if isinstance(size, int) else size
    origins, directions = rays(c2w, height, width, focal)
    options = dict(background=background, chunk=chunk, generator=generator, keep_weights=False)
    return render_rays(field, origins, directions, near, far, samples, **options)


@torch.no_grad()
def render_path(
    field: Field,
    path: Tensor,
    focal: float,
    size: int | tuple[int, int],
    near: float,
    far: float,
    samples: int = 64,
    *,
    background: Background = WHITE,
    chunk: int = 8192,
    progress: bool = True,
) -> Rendering:
    """A film: one picture for each camera of a path (N, 4, 4), one after the other, without gradients, on the CPU."""
    if path.ndim != 3:
        raise ValueError(f"path must be camera-to-world matrices (N, 4, 4), got the shape {tuple(path.shape)}")
    options = dict(background=background, chunk=chunk)
    cameras = tqdm(path, desc="rendering", unit="view", disable=not progress, delay=1, leave=False)
    made = [render_image(field, c2w, focal, size, near, far, samples, **options) for c2w in cameras]
    return Rendering(*(torch.stack([getattr(m, name).cpu() for m in made]) for name in ("colour", "depth", "opacity")))


def disparity(rendering: Rendering) -> Tensor:
    """(...) opacity / depth: inverse depth, which falls to 0 where the rays meet nothing."""
    return rendering.opacity / rendering.depth.clamp(min=EPSILON)


@torch.no_grad()
def point_cloud(
    field: Field, threshold: float, resolution: int = 64, bound: float | None = None, chunk: int = 1 << 16
) -> tuple[Tensor, Tensor]:
    """Where a field is denser than a threshold: points (M, 3) and their colours (M, 3) in [0, 1], on a regular grid.

    Args:
        threshold: of the density, per unit of length. 1 / threshold is about how deep one sees into such matter.
        resolution: points along a side of the cube. bound: half of its side; by default the field's own.
        chunk: points at a time.

    Colours are those seen from outside, along the direction towards the origin.

    Raises:
        ValueError: the field is nowhere that dense (the message says how dense it is), or has no bound and none is given.
    """
    bound = getattr(field, "bound", None) if bound is None else bound
    if bound is None:
        raise ValueError("bound is missing: this field does not say how far it reaches, pass half the side of its cube")
    _check_bound(bound)
    _check("resolution", resolution, isinstance(resolution, int) and resolution >= 2, "a whole number >= 2")
    like = next(iter(field.parameters()), torch.zeros(())) if isinstance(field, nn.Module) else torch.zeros(())
    axis = torch.linspace(-bound, bound, resolution, dtype=like.dtype, device=like.device)
    kept, colours, densest = [], [], 0.0
    for points in torch.cartesian_prod(axis, axis, axis).split(chunk):
        density, colour = field(points, F.normalize(-points, dim=-1))
        dense = density > threshold
        densest = max(densest, float(density.max()))
        kept.append(points[dense])
        colours.append(colour[dense])
    points = torch.cat(kept)
    if not len(points):
        raise ValueError(f"threshold={threshold:g} is too high: the field's density reaches {densest:.4g}")
    return points, torch.cat(colours)


def write_ply(path: str | os.PathLike[str], points: Tensor, colours: Tensor | None = None, binary: bool = True) -> None:
    """Write points as a PLY file, which MeshLab, Blender and most 3-D viewers open.

    Args:
        points: (M, 3). colours: (M, 3) in [0, 1]. binary: little endian, or else plain text.
    """
    points = np.asarray(torch.as_tensor(points).detach().cpu(), np.float32)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must have the shape (M, 3), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points contain NaN or infinity")
    layout = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    if colours is not None:
        colours = np.asarray(torch.as_tensor(colours).detach().cpu(), np.float32)
        if colours.shape != points.shape:
            raise ValueError(f"colours must have the shape of points, {points.shape}, got {colours.shape}")
        if colours.size and not (colours.min() >= -1e-3 and colours.max() <= 1 + 1e-3):
            raise ValueError(
                f"colours must lie in [0, 1], got {colours.min():.3g} .. {colours.max():.3g}: from [-1, 1] use (x + 1) / 2"
            )
        layout += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    rows = np.empty(len(points), layout)
    for k, name in enumerate("xyz"):
        rows[name] = points[:, k]
    if colours is not None:
        for k, name in enumerate(("red", "green", "blue")):
            rows[name] = (colours[:, k].clip(0, 1) * 255).round()
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0", f"element vertex {len(rows)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in layout] + ["end_header", ""]
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode("ascii"))
        if binary:
            file.write(rows.tobytes())
        else:
            np.savetxt(file, rows, fmt=["%.7g"] * 3 + ["%d"] * (len(layout) - 3))


# ---------------------------------------------------------------------- what is refused


def _check(name: str, value, good: bool, wanted: str) -> None:
    if not good:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _check_bound(bound: float) -> None:
    _check("bound", bound, 0 < bound < math.inf, "positive: half the side of the cube that holds the scene")


def _check_samples(samples: int) -> None:
    good = isinstance(samples, int) and not isinstance(samples, bool) and samples >= 1
    _check("samples", samples, good, "a whole number >= 1")


def _check_rays(origins, directions, near, far, samples) -> tuple[Tensor, Tensor]:
    _check_samples(samples)
    for name, value in (("origins", origins), ("directions", directions)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must be a float tensor (..., 3), as fdlib.cameras.rays makes them")
        if value.shape != origins.shape or value.shape[-1:] != (3,):
            raise ValueError(
                f"origins and directions must have one shape (..., 3), got {tuple(origins.shape)} and {tuple(value.shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{name} contain NaN or infinity: the camera that made them is broken")
    near, far = (torch.as_tensor(x, dtype=origins.dtype, device=origins.device) for x in (near, far))
    if not (near < far).all() or not (near >= 0).all():
        raise ValueError(
            "near and far must satisfy 0 <= near < far: a ray begins at the camera and runs forward; got "
            f"near={float(near.max() if near.numel() else 0):g}, far={float(far.min() if far.numel() else 0):g}"
        )
    return near, far
