"""The world of 3D Shapes, rendered analytically: one room, one object, one lamp, and rays that are solved in closed form.

The genuine data set (Burgess and Kim 2018) was rendered by a game-like engine: a camera orbits an object that stands in
an open room. `WORLD` holds the camera, the room and the light as fitted to genuine images by least squares; the shading
below is the simplest that explains them. Everything is a function of the ray, so any resolution, and any
crop of the frame, is as exact as any other, and every pixel's label and depth are known.

Frames: x to the right, y into the room, z up, the object's foot at the origin. Lengths are in units of the radius of
a sphere of scale 1. The picture's frame reaches from -1 to 1 in both directions, u to the right and v *down*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LABELS", "WORLD", "Layout", "Rendering", "World", "random_layout", "render_values"]

RENDERER_VERSION = 1  # raise it whenever a pixel changes: caches of rendered images carry it
LABELS = ("sky", "left wall", "right wall", "floor", "shadow", "object")
SKY, LEFT_WALL, RIGHT_WALL, FLOOR, SHADOW, OBJECT = range(6)
SAMPLES_PER_CHUNK = 150_000  # rays at a time: what stays in a core's cache is rendered fastest


@dataclass(frozen=True)
class World:
    """Everything that is the same in all images, as fitted to genuine ones. Lights are multiples of a surface's colour."""

    field_of_view: float = 45.0  # degrees
    distance: float = 6.570  # of the camera from the axis that it orbits
    height: float = 1.809
    pitch: float = -1.022  # degrees, negative looks down
    back: float = 8.963  # distance of the walls from the object, and their height
    left: float = 8.255
    right: float = 8.418
    wall: float = 4.598
    cube: float = 0.831  # half of the edge at scale 1
    cylinder: float = 0.957  # radius, and half of the height
    capsule: float = 0.872  # radius, and half of the length of the straight part
    lamp: tuple[float, float] = (-0.194, 0.078)  # x and y of the direction to the lamp, where z is 1
    headlight: float = 0.583  # on walls: it hangs at the camera, so a wall that is turned away is darker
    left_light: float = 0.43
    right_light: float = 0.39
    back_light: tuple[float, float, float] = (0.461, -0.0101, -0.00066)  # a parabola in x
    floor_light: tuple[float, float] = (0.048, 1.261)  # everywhere, and at most from the lamp
    floor_centre: tuple[float, float] = (-3.654, 1.116)  # below the lamp, and how far its light reaches
    floor_reach: tuple[float, float] = (8.416, 9.338)
    shadow_light: float = 0.345
    object_light: tuple[float, float, float] = (0.44, 0.62, -0.11)  # a parabola in the cosine between normal and view
    object_lamp: float = 0.7
    shine: float = 0.12  # white added on the side of the lamp
    shine_from: tuple[float, float, float] = (-0.84, 0.54, 0.6)
    shine_width: float = 0.2  # of its soft end
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


class Layout(NamedTuple):
    """Which part of the official frame is seen: a window that lies inside it, perhaps mirrored. One entry an image.

    zoom: (N,) width of the window over that of the frame, in (0, 1].
    shift_x, shift_y: (N,) its centre; the frame reaches from -1 (left, top) to 1, so at most 1 - zoom in size.
    flip: (N,) bool, mirror the window left to right.
    """

    zoom: Tensor
    shift_x: Tensor
    shift_y: Tensor
    flip: Tensor


def random_layout(
    n: int,
    generator: torch.Generator | None = None,
    zoom: tuple[float, float] = (0.55, 1.0),
    shift: float = 1.0,
    flip: bool = True,
) -> Layout:
    """Draw windows for training: a uniform width, a uniform place inside the frame, mirrored or not.

    Args:
        n: how many.
        generator: the source of randomness, on the CPU; None is torch's global one.
        zoom: the smallest and the largest width, 0 < smallest <= largest <= 1.
        shift: 0 keeps windows in the middle, 1 lets them lie anywhere inside the frame.
        flip: mirror every second one, on average.

    Raises:
        ValueError, TypeError: an argument outside of its range.

    Example: the window reaches from shift - zoom to shift + zoom and stays within -1 and 1.

        layout = random_layout(1000, torch.Generator().manual_seed(0))
        assert ((layout.shift_x.abs() + layout.zoom) <= 1).all()
    """
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"n must be a whole number, at least 0, got {n!r}")
    if not (isinstance(zoom, (tuple, list)) and len(zoom) == 2 and 0 < zoom[0] <= zoom[1] <= 1):
        raise ValueError(f"zoom must be a pair (smallest, largest) with 0 < smallest <= largest <= 1, got {zoom!r}")
    if not 0 <= shift <= 1:
        raise ValueError(f"shift must be between 0 (centred) and 1 (anywhere inside the frame), got {shift!r}")
    # always four numbers an image, so that an option changes nothing but what it names
    draw = torch.rand(n, 4, generator=generator)
    width = zoom[0] + (zoom[1] - zoom[0]) * draw[:, 0]
    room = (1 - width) * shift
    # the last factor: rounding must not push a window over the frame's edge
    x, y = ((2 * draw[:, k] - 1) * room * (1 - 1e-6) for k in (1, 2))
    return Layout(width, x, y, (draw[:, 3] < 0.5) & bool(flip))


def plain_layout(n: int) -> Layout:
    """The official camera, `n` times."""
    return Layout(torch.ones(n), torch.zeros(n), torch.zeros(n), torch.zeros(n, dtype=torch.bool))


def render_values(
    values: Tensor, size: int, layout: Layout, supersample: int, world: World = WORLD
) -> Rendering:
    """`render` after its checks, by factor values: (N, 6) float, any hue, scale and orientation in the official range."""
    n = len(values)
    images = torch.empty(n, 3, size, size)
    labels = torch.empty(n, size, size, dtype=torch.uint8)
    depth = torch.empty(n, size, size)
    chunk = max(1, SAMPLES_PER_CHUNK // (size * supersample) ** 2)
    for shape in range(4):  # one shape at a time: no ray is intersected with a shape that is not there
        (chosen,) = torch.nonzero(values[:, 4] == shape, as_tuple=True)
        for rows in chosen.split(chunk):
            part = _render_chunk(shape, values[rows], size, Layout(*(x[rows] for x in layout)), supersample, world)
            images[rows], labels[rows], depth[rows] = part
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
    grid = (torch.arange(m) + 0.5) / m * 2 - 1
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
        lx, ly, lz = torch.nn.functional.normalize(torch.tensor([*world.lamp, 1.0]), dim=0).tolist()
        light = ((c * facing + b) * facing).add_((nx * lx + ny * ly + nz * lz).clamp_(min=0), alpha=world.object_lamp)
        sx, sy, sz = (k / world.shine_width for k in world.shine_from)
        shine = (nx * sx + ny * sy + nz * sz).add_(0.5).clamp_(0, 1).mul_(world.shine)
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


def _object(world, shape, s, x0, y0, z0, dx, dy, dz):
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
        t = _ball(1.0 * s, 1.0 * s, x0, y0, z0, dx, dy, dz)
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


def _ball(r, centre, x0, y0, z0, dx, dy, dz):
    z = z0 - centre
    a, b, c = dx * dx + dy * dy + dz * dz, x0 * dx + y0 * dy + z * dz, x0 * x0 + y0 * y0 + z * z - r * r
    inside = b * b - a * c
    return torch.where(inside > 0, (-b - inside.clamp(min=0).sqrt()) / a, math.inf)


def _shadow(world, shape, s, x, y):
    """Whether the object stands between the points (x, y) of the floor and the lamp, which is far away."""
    lx, ly = world.lamp  # towards the lamp, a ray climbs by 1 while it moves by (lx, ly)
    if shape == 0:  # the part of the ray above the square, in heights
        h = s * world.cube
        ends = [((-h - x) / lx, (h - x) / lx), ((-h - y) / ly, (h - y) / ly)]
        enter = torch.maximum(*(torch.minimum(*pair) for pair in ends)).clamp_(min=0)
        leave = torch.minimum(*(torch.maximum(*pair) for pair in ends))
        return (enter < leave) & (enter < 2 * h)
    if shape == 2:
        return _passes(s, s, x, y, lx, ly)
    r = s * (world.cylinder if shape == 1 else world.capsule)
    low, high = (0.0, 2 * r) if shape == 1 else (r, 3 * r)
    # the height at which the ray is nearest to the axis
    z = (x * lx + y * ly).mul_(-1 / (lx * lx + ly * ly))
    z = torch.minimum(z.clamp_(min=low), torch.as_tensor(high))
    side = (x + z * lx).square_().add_((y + z * ly).square_()) < r * r
    return side if shape == 1 else side | _passes(r, r, x, y, lx, ly) | _passes(r, 3 * r, x, y, lx, ly)


def _passes(r, z, x, y, lx, ly):
    """Whether the ray from the floor comes nearer than r to the point (0, 0, z)."""
    x, y = x + z * lx, y + z * ly  # where the ray is at that height, and from there to the nearest point
    along = x * lx + y * ly
    return x * x + y * y - along * along / (1 + lx * lx + ly * ly) < r * r


def hue_to_rgb(hue: Tensor) -> Tensor:
    """Fully saturated colours of hues (...) in turns, 0 is red: (..., 3) in [0, 1]. hue_to_rgb(1 / 3) is green, (0, 1, 0)."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[..., None]) % 6
    return 1 - torch.minimum(k, 4 - k).clamp(0, 1)


@lru_cache(maxsize=16)
def _pixel_filter(samples: int, size: int) -> Tensor:
    """The matrix (size, samples) that turns rays into pixels along one direction.

    The genuine images ring at edges as Lanczos-reduced ones do (249 245 255 85 0 4 from sky to wall in blue), so that is
    the filter. It belongs to their 64 pixels: smaller images are boxes of those, as a reader would reduce them.
    """
    fine = size * max(1, math.ceil(64 / size))
    x = (torch.arange(samples, dtype=torch.float64) + 0.5) * (fine / samples)
    d = x - (torch.arange(fine, dtype=torch.float64)[:, None] + 0.5)
    weights = torch.where(d.abs() < 3, torch.sinc(d) * torch.sinc(d / 3), 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    return weights.view(size, fine // size, samples).mean(1).float()
