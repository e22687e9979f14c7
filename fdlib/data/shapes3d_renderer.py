"""The world of 3D Shapes, rendered analytically: one room, one object, one lamp, and rays that are solved in closed form.

In the genuine data set (Burgess and Kim 2018) a camera orbits an object that stands in an open room. `WORLD` holds the
camera, the room and the light as fitted to 25 genuine images by least squares (mean error 1.8 of 255); the shading is the
simplest that explains them. Everything is a function of the ray, so any resolution, and any crop of the frame, is as
exact as any other, and every pixel's label and depth are known.

The genuine images came without their labels, so one sign is a guess: here a positive orientation moves the camera to the
right, which brings the left corner into view. The sizes of cylinders rest on the better of two fits (the other has every
cylinder one step of the scale smaller).

Frames: x to the right, y into the room, z up, the object's foot at the origin. Lengths are in units of the radius of
a sphere of scale 1. The picture's frame reaches from -1 to 1 in both directions, u to the right and v *down*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdlib.data.shapes3d_factors import (
    FLOOR,
    LEFT_WALL,
    OBJECT,
    RIGHT_WALL,
    SHADOW,
    SKY,
    Layout,
    as_values,
    check_layout,
    number,
    plain_layout,
)

__all__ = ["RENDERER_VERSION", "WORLD", "Rendering", "World", "hue_to_rgb", "render", "render_values"]

RENDERER_VERSION = 2  # raise it whenever a pixel changes: caches of rendered images carry it
SAMPLES_PER_CHUNK = 150_000  # rays at a time: what stays in a core's cache is rendered fastest


@dataclass(frozen=True)
class World:
    """Everything that is the same in all images, as fitted to genuine ones. Lights are multiples of a surface's colour."""

    field_of_view: float = 45.0  # degrees
    distance: float = 6.603  # of the camera from the axis that it orbits
    height: float = 1.815
    pitch: float = -1.051  # degrees, negative looks down
    back: float = 8.914  # distance of the walls from the object, and their height
    left: float = 8.206
    right: float = 8.367
    wall: float = 4.591
    cube: float = 0.834  # half of the edge at scale 1
    cylinder: float = 0.887  # radius, and half of the height
    capsule: float = 0.814  # radius, and half of the length of the straight part
    lamp: tuple[float, float, float] = (-4.378, 2.408, 20.807)
    headlight: float = 0.6391  # on walls: it hangs at the camera, so a wall that is turned away is darker
    left_light: float = 0.4471
    right_light: float = 0.3806
    back_light: tuple[float, float, float] = (0.43718, -0.0085, -0.00108)  # a parabola in x
    floor_light: tuple[float, float] = (0.0443, 1.2674)  # everywhere, and at most from the lamp
    floor_centre: tuple[float, float] = (-3.738, 1.067)  # below the lamp, and how far its light reaches
    floor_reach: tuple[float, float] = (8.537, 9.148)
    shadow_light: float = 0.3438
    # a parabola in the cosine between normal and view
    object_light: tuple[float, float, float] = (0.4266, 0.6668, -0.1424)
    object_lamp: float = 0.673
    shine: float = 0.11  # white added on the side of the lamp
    floor_tile: tuple[float, float] = (0.594, 0.5155)  # the hexagons: how far apart, and how far their rows are
    floor_pattern: float = 0.018  # strength
    wall_tile: tuple[float, float] = (0.5755, 0.5163)
    wall_pattern: float = -0.01
    wall_slope: float = -0.009  # for each unit of height
    smudge_start: float = 0.35  # where the texture of the side walls begins
    smudge_period: float = 4.638
    # x and height of the centre, half axes, lean, strength
    smudges: tuple[tuple[float, ...], ...] = ((0.27, 2.55, 0.58, 0.68, 0.14, 0.06), (0.94, 1.74, 0.46, 0.3, 0.3, 0.055))
    sky: tuple[float, float, float] = (153 / 255, 226 / 255, 249 / 255)


WORLD = World()


class Rendering(NamedTuple):
    """What `render` returns.

    images: float32 (N, 3, size, size) in [-1, 1].
    labels: uint8 (N, size, size), indices of `LABELS`: what the ray through the pixel's centre meets.
    depth: float32 (N, size, size), along the optical axis in sphere radii; infinite in the sky.
    """

    images: Tensor
    labels: Tensor
    depth: Tensor


def render(
    factors: Sequence[Any] | np.ndarray | Tensor, size: int = 64, layout: Layout | None = None, supersample: int = 3
) -> Rendering:
    """Render pictures with the label and the depth of every pixel.

    Args:
        factors: (N, 6). Whole numbers are factor indices, as `index_to_factors` returns them; floating-point numbers
            are factor *values*, as `factor_values` returns them, where every hue, scale in [.75, 1.25] and orientation
            in [-30, 30] will do.
        size: height and width in pixels, at least 8.
        layout: the window of the frame that is seen, from `random_layout`; None is the official camera.
        supersample: rays per pixel in each direction, an odd number: the middle one gives label and depth.

    Returns:
        Rendering(images (N, 3, size, size) float32 in [-1, 1], labels (N, size, size) uint8 (`LABELS`), depth (N, size,
        size) float32 along the optical axis in sphere radii, infinite in the sky).

        Labels are those of the pixel's centre. At most one corner of the room is in view; "left wall" and "right wall"
        are the walls on its two sides, before mirroring. If no corner is in view (small angles), the back wall, which
        then fills the picture, has the name it keeps when the corner comes into view: "right wall" for orientations
        above 0, else "left wall".

    Raises:
        TypeError, ValueError: a bad argument, by name.

    Example: render(index_to_factors([0])).images[0, :, 0, 0] is the sky, (153, 226, 249) / 127.5 - 1 = (.2, .77, .95).
    """
    values = as_values(factors)
    size = number(size, "size", 8, 4096)
    supersample = number(supersample, "supersample", 1, 15)
    if supersample % 2 == 0:
        raise ValueError(f"supersample must be odd, so that one ray meets the pixel's centre, got {supersample}")
    layout = plain_layout(len(values)) if layout is None else check_layout(layout, len(values))
    with torch.no_grad():
        return render_values(values, size, layout, supersample)


def render_values(values: Tensor, size: int, layout: Layout, supersample: int, world: World = WORLD) -> Rendering:
    """`fdlib.data.shapes3d.render` behind its checks: factor values, float (N, 6), and a layout of N entries."""
    n = len(values)
    images = torch.empty(n, 3, size, size)
    labels = torch.empty(n, size, size, dtype=torch.uint8)
    depth = torch.empty(n, size, size)

    def work(job: tuple[int, Tensor]) -> None:
        shape, rows = job
        part = _render_chunk(shape, values[rows], size, Layout(*(x[rows] for x in layout)), supersample, world)
        images[rows], labels[rows], depth[rows] = part

    # One shape at a time, so that no ray is intersected with a shape that is not there.
    chunk = max(1, SAMPLES_PER_CHUNK // (size * supersample) ** 2)
    by_shape = (torch.nonzero(values[:, 4] == shape, as_tuple=True)[0] for shape in range(4))
    jobs = [(shape, rows) for shape, chosen in enumerate(by_shape) for rows in chosen.split(chunk) if len(rows)]
    # Threads that each render their own chunk, instead of threads that meet after every small operation: on a shared
    # machine, where one of them is often late, that is ten times faster.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, jobs))
    finally:
        torch.set_num_threads(threads)
    return Rendering(images, labels, depth)


def _render_chunk(
    shape: int, values: Tensor, size: int, layout: Layout, supersample: int, world: World
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and depth of pictures that show the same shape."""
    n, m = len(values), size * supersample
    scale, angle = values[:, 3].float()[:, None, None], torch.deg2rad(values[:, 5].float())[:, None, None]
    cos, sin = torch.cos(angle), torch.sin(angle)

    # Rays are camera + t * direction. The camera never rolls, so the parts of a direction that depend on the row and
    # those that depend on the column stay small arrays until they meet. The direction's part along the optical axis
    # is 1, so t is the depth.
    grid = (2 * torch.arange(m) + 1 - m) / m  # exactly symmetric, so that a mirrored picture is exact as well
    zoom, shift_x, shift_y = (x.float()[:, None, None] for x in layout[:3])
    slope = math.tan(math.radians(world.field_of_view / 2))
    across = slope * (shift_x + zoom * torch.where(layout.flip[:, None, None], -grid, grid))  # (N, 1, m)
    down = slope * (shift_y + zoom * grid[:, None])  # (N, m, 1)
    pitch = math.radians(world.pitch)
    ahead, dz = math.cos(pitch) + down * math.sin(pitch), math.sin(pitch) - down * math.cos(pitch)
    x0, y0, z0 = world.distance * sin, -world.distance * cos, world.height
    dx, dy = cos * across - sin * ahead, sin * across + cos * ahead  # in the room's axes, (N, m, m)

    # Each map holds the light of one material, and zeros where another one is seen.
    maps = torch.zeros(n, 5, m, m)
    wall_map, floor_map, object_map, shine_map, sky_map = maps.unbind(1)

    # Walls. The corner in view is the right one if the camera stands to the left of the middle, and vice versa.
    t = (world.back - y0) / dy
    x = torch.addcmul(x0, t, dx)
    looks_left = angle > 0
    is_side = torch.where(looks_left, x < -world.left, x > world.right)
    side = torch.where(looks_left, -world.left, world.right)
    t = torch.where(is_side, (side - x0) / dx, t)
    z = torch.addcmul(torch.tensor(z0), t, dz)
    a, b, c = world.back_light
    light = ((c * x + b) * x).add_(a + world.headlight * cos)
    side_light = torch.where(looks_left, world.left_light, world.right_light) + world.headlight * sin.abs()
    light = torch.where(is_side, side_light, light)
    sky, floor = z > world.wall, z < 0
    band = slice(int(sky.all(2).all(0).sum()), m - int(floor.all(2).all(0).sum()))  # the rows that show a wall
    if band.start < band.stop:
        y = (world.smudge_start - y0) - t * dy
        along = torch.where(is_side, torch.where(looks_left, -y, y), x)[:, band]
        light[:, band] *= _wallpaper(world, along, z[:, band])
    torch.mul(light, ~(sky | floor), out=wall_map)
    sky_map.copy_(sky)
    middle = slice(supersample // 2, None, supersample)
    labels = torch.where(is_side ^ looks_left, RIGHT_WALL, LEFT_WALL)[:, middle, middle].to(torch.uint8)
    depth = t[:, middle, middle]
    labels = torch.where(sky[:, middle, middle], SKY, labels)
    depth = torch.where(sky[:, middle, middle], math.inf, depth)

    # The floor, in the rows from the first one where any picture shows it.
    top = int((~floor.any(2).any(0)).sum())
    if top < m:
        floor = floor[:, top:]
        t = z0 / -dz[:, top:].clamp(max=-1e-6)  # (N, rows, 1): a row of the picture is a line of equal depth
        x, y = torch.addcmul(x0, t, dx[:, top:]), torch.addcmul(y0, t, dy[:, top:])
        (cx, cy), (rx, ry) = world.floor_centre, world.floor_reach
        light = 1 / (((x - cx) / rx).square_().add_(((y - cy) / ry).square_()).add_(1))
        light.mul_(world.floor_light[1]).add_(world.floor_light[0])
        shadow = _shadow(world, shape, scale, x, y)
        light.masked_fill_(shadow, world.shadow_light)
        # Far away the pattern is finer than a pixel: it fades, as textures do, and leaves no moiré.
        footprint = t.square() * (2 * slope / (size * world.height)) * zoom
        light.mul_(
            _hexagons(x, y, world.floor_tile, world.floor_pattern * torch.exp(-((1.5 * footprint) ** 2))).add_(1)
        )
        torch.mul(light, floor, out=floor_map[:, top:])
        # the same, at the middle of the pixels
        rows = slice((-(top - supersample // 2)) % supersample, None, supersample)
        first = (top + rows.start) // supersample
        ground = torch.where(shadow[:, rows, middle], SHADOW, FLOOR).to(torch.uint8)
        labels[:, first:] = torch.where(floor[:, rows, middle], ground, labels[:, first:])
        depth[:, first:] = torch.where(floor[:, rows, middle], t[:, rows], depth[:, first:])

    # The object, in the whole pixels that it can touch.
    r0, r1, c0, c1 = (k * supersample for k in _window(world, shape, scale, across, down, supersample))
    if r0 < r1 and c0 < c1:
        rows, columns = slice(r0, r1), slice(c0, c1)
        dx, dy, dz = dx[:, rows, columns], dy[:, rows, columns], dz[:, rows]
        t, nx, ny, nz = _object(world, shape, scale, x0, y0, z0, dx, dy, dz)
        seen = t < math.inf
        length2 = across[:, :, columns].square() + (ahead * ahead)[:, rows] + dz * dz
        facing = (nx * dx + ny * dy + nz * dz).mul_(-torch.rsqrt(length2)).clamp_(min=0)
        a, b, c = world.object_light
        lamp, shine = _mesh_light(world, nx, ny, nz)
        light = ((c * facing + b) * facing).add_(lamp, alpha=world.object_lamp)
        shine = shine * world.shine
        maps[:, :, rows, columns] *= ~seen[:, None]
        object_map[:, rows, columns] = torch.where(seen, light.add_(a), 0.0)
        shine_map[:, rows, columns] = torch.where(seen, shine, 0.0)
        pixel_rows, pixel_columns = (slice(k.start // supersample, k.stop // supersample) for k in (rows, columns))
        seen, t = seen[:, middle, middle], t[:, middle, middle]
        labels[:, pixel_rows, pixel_columns].masked_fill_(seen, OBJECT)
        depth[:, pixel_rows, pixel_columns] = torch.where(seen, t, depth[:, pixel_rows, pixel_columns])

    hues = hue_to_rgb(values[:, :3].float())  # (N, floor / wall / object, rgb)
    fixed = torch.tensor([[1.0, 1.0, 1.0], world.sky]).expand(n, 2, 3)
    colours = torch.cat([hues[:, [1, 0, 2]], fixed], 1).mT  # (N, rgb, map)
    picture = torch.bmm(colours, maps.view(n, 5, m * m)).clamp_(0, 1)  # clipped before filtering, as genuine edges show
    weights = _pixel_filter(m, size)
    images = weights @ (picture.view(n * 3 * m, m) @ weights.T).view(n, 3, m, size)
    return images.clamp_(0, 1).mul_(2).sub_(1), labels, depth


def _wallpaper(world: World, along: Tensor, z: Tensor) -> Tensor:
    """What the walls' texture multiplies their light by: faint hexagons, darker upwards, and a smudge in each tile."""
    light = _hexagons(z, along, world.wall_tile, world.wall_pattern).add_(z, alpha=world.wall_slope)
    u = along / world.smudge_period
    u = (u - u.round()).mul_(world.smudge_period)
    for x, y, width, height, lean, depth in world.smudges:
        inside = 1 - ((u - x + lean * (z - y)) / width).square_() - ((z - y) / height).square_()
        light -= (2 * inside).clamp_(0, 1).mul_(depth)
    return light.add_(1)


def _hexagons(x: Tensor, y: Tensor, tile: tuple[float, float], strength: float | Tensor) -> Tensor:
    """A honeycomb of bright spots, `tile[0]` apart along x, in rows `tile[1]` apart along y: the sum of three waves."""
    row = torch.cos(y * (math.pi / tile[1]))
    return torch.cos(x * (2 * math.pi / tile[0])).mul_(2).add_(row).mul_(row).sub_(0.5).mul_(strength)


def _window(
    world: World, shape: int, scale: Tensor, across: Tensor, down: Tensor, supersample: int
) -> tuple[int, int, int, int]:
    """First and last + 1 row and column, in pixels, that the object can touch in any of the pictures."""
    half, height = {
        0: (math.sqrt(2) * world.cube, 2 * world.cube),
        1: (world.cylinder, 2 * world.cylinder),
        2: (1.0, 2.0),
        3: (world.capsule, 4 * world.capsule),
    }[shape]
    # a margin of 2 % makes up for the tilt of the camera
    half, height, near = 1.02 * half * scale, height * scale, world.distance - half * scale
    slant = math.tan(math.radians(world.pitch))
    high = (world.height - height) / torch.where(height > world.height, near, near + 2 * half)
    column = (across.abs() <= half / near).any(0)[0]
    row = ((down >= high + slant - 0.02) & (down <= world.height / near + slant + 0.02)).any(0)[:, 0]
    bounds = []
    for hit in (row, column):
        (places,) = torch.nonzero(hit, as_tuple=True)
        if len(places) == 0:
            return 0, 0, 0, 0
        bounds += [int(places[0]) // supersample, int(places[-1]) // supersample + 1]
    return tuple(bounds)


def _object(
    world: World, shape: int, s: Tensor, x0: Tensor, y0: Tensor, z0: float, dx: Tensor, dy: Tensor, dz: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Depth at which rays meet the object (infinite where they do not), and its outward unit normal there."""
    if shape == 0:
        h = s * world.cube
        near, far = [], []
        for o, d, low, high in ((x0, dx, -h, h), (y0, dy, -h, h), (z0, dz, 0 * h, 2 * h)):
            a, b = (low - o) / d, (high - o) / d
            near.append(torch.minimum(a, b))
            far.append(torch.maximum(a, b))
        t = torch.maximum(torch.maximum(near[0], near[1]), near[2])
        out = torch.minimum(torch.minimum(far[0], far[1]), far[2])
        normal = [torch.where(t == n, -torch.sign(d), 0.0) for n, d in zip(near, (dx, dy, dz), strict=True)]
        return torch.where(t < out, t, math.inf), *normal
    if shape == 2:
        t = _ball(s, s, x0, y0, z0, dx, dy, dz)
        return t, (x0 + t * dx) / s, (y0 + t * dy) / s, (z0 + t * dz) / s - 1
    r = s * (world.cylinder if shape == 1 else world.capsule)
    a, b, c = dx * dx + dy * dy, x0 * dx + y0 * dy, x0 * x0 + y0 * y0 - r * r
    inside = b * b - a * c
    root = inside.clamp(min=0).sqrt()
    t = (-b - root) / a
    if shape == 1:
        ends = -z0 / dz, (2 * r - z0) / dz
        cap = torch.minimum(*ends)
        out = torch.minimum(torch.maximum(*ends), (root - b) / a)
        side = t > cap
        t = torch.maximum(t, cap)
        t = torch.where((inside > 0) & (t < out), t, math.inf)
        zero = torch.zeros(())
        return (
            t,
            torch.where(side, (x0 + t * dx) / r, zero),
            torch.where(side, (y0 + t * dy) / r, zero),
            torch.where(side, zero, -torch.sign(dz)),
        )
    z = z0 + t * dz
    t = torch.where((inside > 0) & (z >= r) & (z <= 3 * r), t, math.inf)
    for centre in (r, 3 * r):
        t = torch.minimum(t, _ball(r, centre, x0, y0, z0, dx, dy, dz))
    z = z0 + t * dz
    return t, (x0 + t * dx) / r, (y0 + t * dy) / r, (z - z.clamp(r, 3 * r)) / r


def _ball(r: Tensor, centre: Tensor, x0: Tensor, y0: Tensor, z0: float, dx: Tensor, dy: Tensor, dz: Tensor) -> Tensor:
    """Depth at which rays meet the ball of radius r around (0, 0, centre), infinite where they do not."""
    z = z0 - centre
    a, b, c = dx * dx + dy * dy + dz * dz, x0 * dx + y0 * dy + z * dz, x0 * x0 + y0 * y0 + z * z - r * r
    inside = b * b - a * c
    return torch.where(inside > 0, (-b - inside.clamp(min=0).sqrt()) / a, math.inf)


def _mesh_light(world: World, nx: Tensor, ny: Tensor, nz: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine between normals and the direction to the lamp, and whether it is positive, as the genuine renderer has them.

    That one computed light at the corners of a mesh of 28 slices and 16 stacks and interpolated between them. It makes the
    end of the shine ragged on spheres and one slice wide on cylinders.
    """
    turn = torch.atan2(nx, -ny).div_(math.pi)  # -1 .. 1
    tilt = torch.asin(nz.clamp(-1, 1)).div_(math.pi / 2)
    place = torch.stack(torch.broadcast_tensors(turn, tilt), -1)
    table = _mesh_table(world.lamp).expand(len(place), -1, -1, -1)
    return torch.nn.functional.grid_sample(table, place, align_corners=True).unbind(1)


@lru_cache(maxsize=4)
def _mesh_table(lamp: tuple[float, float, float]) -> Tensor:
    turn = torch.linspace(-math.pi, math.pi, 29)
    tilt = torch.linspace(-math.pi / 2, math.pi / 2, 17)[:, None]
    x, y, z = torch.nn.functional.normalize(torch.tensor(lamp), dim=0)
    cosine = torch.cos(tilt) * (torch.sin(turn) * x - torch.cos(turn) * y) + torch.sin(tilt) * z
    return torch.stack([cosine.clamp(min=0), (cosine > 1e-6).float()])[None]


def _shadow(world: World, shape: int, s: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Whether the object stands between the points (x, y) of the floor and the lamp."""
    lx, ly = (
        (place - k) / world.lamp[2] for place, k in zip(world.lamp, (x, y))
    )  # a ray moves so while it climbs by 1
    if shape == 0:  # the part of the ray above the square, in heights
        h = s * world.cube
        ends = [((-h - x) / lx, (h - x) / lx), ((-h - y) / ly, (h - y) / ly)]
        enter = torch.maximum(*(torch.minimum(*pair) for pair in ends)).clamp_(min=0)
        leave = torch.minimum(*(torch.maximum(*pair) for pair in ends))
        return (enter < leave) & (enter < 2 * h)
    along, flat = x * lx + y * ly, lx * lx + ly * ly
    if shape == 2:
        return _passes(s, s, x, y, along, flat)
    r = s * (world.cylinder if shape == 1 else world.capsule)
    low, high = (0 * r, 2 * r) if shape == 1 else (r, 3 * r)
    z = torch.minimum(torch.maximum(-along / flat, low), high)  # where the ray is nearest to the axis
    side = (x + z * lx).square_().add_((y + z * ly).square_()) < r * r
    return side if shape == 1 else side | _passes(r, r, x, y, along, flat) | _passes(r, 3 * r, x, y, along, flat)


def _passes(r: Tensor, z: Tensor, x: Tensor, y: Tensor, along: Tensor, flat: Tensor) -> Tensor:
    """Whether the ray from the floor comes nearer than r to the point (0, 0, z)."""
    return x * x + y * y + z * z - (z - along).square_() / (1 + flat) < r * r


def hue_to_rgb(hue: Tensor) -> Tensor:
    """Saturated colours of hues (...) in turns: (..., 3) in [0, 1]. 0 is red, (1, 0, 0), and 1 / 3 is green."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    return 1 - torch.minimum(k, 4 - k).clamp(0, 1)


@lru_cache(maxsize=16)
def _pixel_filter(samples: int, size: int) -> Tensor:
    """The matrix (size, samples) that turns rays into pixels along one direction.

    The genuine images ring at edges as Lanczos-reduced ones do (249 245 255 85 0 4 from sky to wall in blue), so that
    is the filter. It belongs to their 64 pixels: smaller images are boxes of those, as a reader would reduce them.
    """
    fine = size * max(1, math.ceil(64 / size))
    x = (torch.arange(samples, dtype=torch.float64) + 0.5) * (fine / samples)
    d = x - (torch.arange(fine, dtype=torch.float64)[:, None] + 0.5)
    weights = torch.where(d.abs() < 3, torch.sinc(d) * torch.sinc(d / 3), 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    return weights.view(size, fine // size, samples).mean(1).float()
