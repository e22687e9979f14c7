"""Small scenes of boxes, ellipsoids and cylinders, seen from any side: each ray is solved in closed form.

Colour, coverage and depth of every pixel are as exact as float32, so whatever a radiance field gets wrong is the field's.
Light is *matte*: how bright a surface is depends on where it faces, not on who looks at it, hence the same point has the same
colour in all views (no shadows, no highlights).

Frames: z up, the azimuth counted from +x (``fdlib.cameras``): the car's front looks along +x. Lengths are in scene units; an
object lies within the unit ball. Colours are in [0, 1] here; ``MultiView`` turns them into images in [-1, 1].

    SCENES           what can be rendered, and from where
    car              no symmetry: each side has its colour, so one view tells the camera
    tower            a twisted pile of grey and ochre blocks: little colour, all in the shape
    cup              a body of revolution with a handle and a label: from behind, views are nearly alike
    plane            thin wings and a propeller, which a coarse grid blurs away
    desk             forward-facing: things at several depths before a painted wall, seen from a small patch in front
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlib.cameras import rays

Colour = tuple[float, float, float]
Paint = Colour | Mapping[str, Colour] | Callable[[Tensor], Tensor]
Range = tuple[float, float]

SUN = (0.48, 0.36, 0.8)  # where the light comes from
AMBIENT, DIRECT, SKY = 0.58, 0.32, 0.10  # at most 1 together: no colour is clipped
FACES = ("front", "back", "left", "right", "top", "bottom")  # of a box: +x, -x, +y, -y, +z, -z
RAYS_PER_CHUNK = 1 << 15  # what stays in a core's cache is rendered fastest


@dataclass(frozen=True)
class Solid:
    """A box, an ellipsoid or an elliptic cylinder (its axis along its own z).

    centre, half: position and half sizes along its own axes. turn: (yaw, pitch, roll) in degrees, about z, then its own y,
    then its own x. paint: a colour; for boxes also one a face (``FACES``, "else" for the others); or a function of the
    surface points (M, 3) in its own units, -1 .. 1, that gives colours (M, 3).
    """

    kind: Literal["box", "ellipsoid", "cylinder"]
    centre: Colour
    half: Colour
    paint: Paint = (0.7, 0.7, 0.7)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def rotation(self) -> Tensor:
        """(3, 3): the solid's axes as columns in the world."""
        made = torch.eye(3, dtype=torch.float64)
        for degrees, (i, j) in zip(self.turn, ((0, 1), (2, 0), (1, 2)), strict=True):
            c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            turn = torch.eye(3, dtype=torch.float64)
            turn[i, i] = turn[j, j] = c
            turn[i, j], turn[j, i] = -s, s
            made = made @ turn
        return made


@dataclass(frozen=True)
class Scene:
    """Solids, and the cameras that suit them: ranges in radians and scene units, from which views are drawn uniformly."""

    solids: tuple[Solid, ...]
    bound: float = 1.0  # half the side of a cube around the origin that holds everything
    azimuth: Range = (0.0, 2 * math.pi)
    elevation: Range = (0.1, 1.0)
    radius: Range = (3.0, 3.0)
    field_of_view: float = 0.7
    jitter: float = 0.0  # each coordinate of the point looked at lies within +-jitter of where it should
    converge: float = (
        1.0  # 1: all cameras look at the origin; 0: all in one direction, as somebody who steps aside with a phone
    )
    forward_facing: bool = False


def trace(solids: Sequence[Solid], origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """What rays (M, 3) meet first: its depth (M,), in units of the direction's length, infinite where there is nothing; its
    shaded colour (M, 3) in [0, 1], 0 where there is nothing."""
    depth = torch.full_like(origins[:, 0], math.inf)
    colour = torch.zeros_like(origins)
    sun = F.normalize(origins.new_tensor(SUN), dim=0)
    for solid in solids:
        # In its own units every solid is a unit cube, ball or cylinder. The map is linear, so t stays what it is. Coordinates
        # come first, (3, M), so that each operation runs through memory.
        to_local = solid.rotation().to(origins).T / origins.new_tensor(solid.half)[:, None]
        o = to_local @ (origins - origins.new_tensor(solid.centre)).T
        d = to_local @ directions.T
        t = INTERSECT[solid.kind](o, d)
        hit = (t < depth).nonzero().squeeze(1)
        if not len(hit):
            continue
        depth[hit] = t[hit]
        local = (o[:, hit] + t[hit] * d[:, hit]).T
        normal = _normal(solid.kind, local)
        facing = F.normalize(normal @ to_local, dim=-1)  # normals go back by the transpose of the map
        light = AMBIENT + DIRECT * (facing @ sun).clamp(min=0) + SKY * facing[:, 2].clamp(min=0)
        colour[hit] = _paint(solid.paint, local, normal) * light[:, None]
    return depth, colour


def _box(o: Tensor, d: Tensor) -> Tensor:
    d = torch.where(d.abs() < 1e-12, 1e-12, d)
    one, other = (-1 - o) / d, (1 - o) / d
    enter, leave = torch.minimum(one, other).amax(0), torch.maximum(one, other).amin(0)
    return torch.where((enter <= leave) & (enter > 0), enter, math.inf)


def _ellipsoid(o: Tensor, d: Tensor) -> Tensor:
    return _first_root((d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1)


def _cylinder(o: Tensor, d: Tensor) -> Tensor:
    side = _first_root((d[:2] * d[:2]).sum(0), (o[:2] * d[:2]).sum(0), (o[:2] * o[:2]).sum(0) - 1)
    side = torch.where((o[2] + side * d[2]).abs() <= 1, side, math.inf)
    dz = torch.where(d[2].abs() < 1e-12, 1e-12, d[2])
    cap = (-dz.sign() - o[2]) / dz  # of the two caps, the one that the ray comes from
    inside = (o[:2] + cap * d[:2]).square().sum(0) <= 1
    return torch.minimum(side, torch.where(inside & (cap > 0), cap, math.inf))


def _first_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The smaller root of a t^2 + 2 b t + c = 0 if it is real and positive, else infinity."""
    discriminant = b * b - a * c
    t = (-b - discriminant.clamp(min=0).sqrt()) / a.clamp(min=1e-20)
    return torch.where((discriminant > 0) & (t > 0), t, math.inf)


INTERSECT = {"box": _box, "ellipsoid": _ellipsoid, "cylinder": _cylinder}


def _normal(kind: str, local: Tensor) -> Tensor:
    """Outward normals, in the solid's own units, at points (M, 3) of the unit solid's surface."""
    if kind == "ellipsoid":
        return local
    if kind == "box":
        return F.one_hot(local.abs().argmax(-1), 3) * local.sign()
    flat = local[:, :2].norm(dim=-1)
    cap = (local[:, 2].abs() > flat)[:, None].to(
        local
    )  # on the side the radius is 1 and |z| smaller; on a cap the reverse
    return torch.cat([local[:, :2] * (1 - cap), local[:, 2:].sign() * cap], -1)


def _around(solids: Sequence[Solid]) -> Solid:
    """The box, along the world's axes, around all solids."""
    low, high = [], []
    for solid in solids:
        reach = solid.rotation().abs() @ torch.tensor(solid.half, dtype=torch.float64)  # of the solid's own box
        centre = torch.tensor(solid.centre, dtype=torch.float64)
        low.append(centre - reach)
        high.append(centre + reach)
    low, high = torch.stack(low).amin(0), torch.stack(high).amax(0)
    return Solid("box", tuple(((low + high) / 2).tolist()), tuple(((high - low) / 2).tolist()))


def _paint(paint: Paint, local: Tensor, normal: Tensor) -> Tensor:
    if callable(paint):
        return paint(local)
    if isinstance(paint, Mapping):
        table = local.new_tensor([paint.get(face, paint.get("else", (0.5, 0.5, 0.5))) for face in FACES])
        axis = normal.abs().argmax(-1)
        negative = normal.gather(1, axis[:, None]).squeeze(1) < 0
        return table[2 * axis + negative.long()]
    return local.new_tensor(paint)


def render_views(
    scene: Scene, c2w: Tensor, size: int, focal: float, supersample: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """What cameras see of a scene.

    Args:
        c2w: (N, 4, 4), OpenGL axes. size: pixels along a side. focal: in pixels.
        supersample: rays a pixel in each direction, an odd number: their mean is the pixel's colour and coverage, and the
            middle one, through the pixel's centre, gives its depth.

    Returns:
        premultiplied colour (N, size, size, 3) in [0, 1] (on black); coverage (N, size, size) in [0, 1]; depth (N, size, size),
        the distance from the camera along the ray, infinite where it meets nothing.
    """
    fine = size * supersample
    colours, covers, depths = [], [], []
    group, around = max(1, RAYS_PER_CHUNK // fine**2), _around(scene.solids)
    for cameras in c2w.split(group):
        origins, directions = rays(cameras, fine, fine, focal * supersample)
        origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
        depth, colour = torch.full_like(origins[:, 0], math.inf), torch.zeros_like(origins)
        near = trace((around,), origins, directions)[0].isfinite().nonzero().squeeze(1)  # most rays pass the object by
        depth[near], colour[near] = trace(scene.solids, origins[near], directions[near])
        depth, colour = depth.view(-1, fine, fine), colour.view(-1, fine, fine, 3)
        colours.append(F.avg_pool2d(colour.movedim(-1, 1), supersample).movedim(1, -1))
        covers.append(F.avg_pool2d(depth.isfinite().to(colour)[:, None], supersample)[:, 0])
        depths.append(depth[:, supersample // 2 :: supersample, supersample // 2 :: supersample])
    return torch.cat(colours), torch.cat(covers), torch.cat(depths)


# ---------------------------------------------------------------------- the scenes

RED, ORANGE, YELLOW = (0.84, 0.12, 0.12), (0.95, 0.5, 0.1), (0.97, 0.85, 0.15)
GREEN, TEAL, BLUE = (0.12, 0.62, 0.25), (0.05, 0.6, 0.6), (0.1, 0.25, 0.85)
PURPLE, PINK, BROWN = (0.5, 0.15, 0.65), (0.95, 0.45, 0.65), (0.45, 0.27, 0.12)
BLACK, DARK, GREY, LIGHT, WHITE = (
    (0.06, 0.06, 0.07),
    (0.2, 0.2, 0.22),
    (0.5, 0.5, 0.52),
    (0.8, 0.8, 0.8),
    (1.0, 1.0, 1.0),
)


def _smaller(solid: Solid, scale: float) -> Solid:
    centre, half = (tuple(scale * x for x in part) for part in (solid.centre, solid.half))
    return replace(solid, centre=centre, half=half)


def _wheel(x: float, y: float) -> tuple[Solid, Solid]:
    side = math.copysign(1, y)
    return (
        Solid("cylinder", (x, y, -0.27), (0.17, 0.17, 0.06), BLACK, (0, 0, 90)),
        Solid("cylinder", (x, y + 0.05 * side, -0.27), (0.09, 0.09, 0.025), LIGHT, (0, 0, 90)),
    )


def _car() -> Scene:
    body = {"front": YELLOW, "back": PURPLE, "left": BLUE, "right": GREEN, "top": RED, "bottom": DARK}
    glass = {"front": (0.55, 0.8, 0.95), "back": (0.15, 0.2, 0.3), "left": (0.3, 0.45, 0.6), "right": (0.45, 0.4, 0.3)}
    wheels = [part for x in (-0.5, 0.5) for y in (-0.36, 0.36) for part in _wheel(x, y)]
    return Scene((
        Solid("box", (0, 0, -0.1), (0.84, 0.36, 0.17), body),
        Solid("box", (-0.14, 0, 0.21), (0.42, 0.31, 0.15), {**glass, "top": WHITE}),
        Solid("box", (0.36, 0.0, 0.13), (0.26, 0.29, 0.015), (0.55, 0.8, 0.95), (0, 35, 0)),  # the windscreen leans
        *wheels,
        Solid("ellipsoid", (0.84, 0.22, -0.06), (0.05, 0.09, 0.08), WHITE),
        Solid("ellipsoid", (0.84, -0.22, -0.06), (0.05, 0.09, 0.08), WHITE),
        Solid("box", (-0.84, 0.25, -0.02), (0.02, 0.09, 0.05), RED),
        Solid("box", (-0.84, -0.25, -0.02), (0.02, 0.09, 0.05), RED),
        Solid("cylinder", (-0.87, -0.2, -0.2), (0.05, 0.05, 0.06), DARK, (0, 90, 0)),  # one exhaust, on the right
        Solid("box", (-0.14, 0.16, 0.42), (0.3, 0.1, 0.06), ORANGE),  # luggage, on the left half of the roof
        Solid("cylinder", (-0.42, -0.24, 0.5), (0.022, 0.022, 0.16), BLACK),  # an antenna, on the other
    ))  # fmt: skip


def _tower() -> Scene:
    ochre, stone = (0.75, 0.6, 0.35), (0.62, 0.62, 0.6)
    storeys = [
        Solid("box", (0.02 * k, -0.03 * k, -0.72 + 0.26 * k), (0.55 - 0.07 * k, 0.4 - 0.03 * k, 0.13),
              ochre if k % 2 else stone, (23.0 * k, 0, 0))
        for k in range(5)
    ]  # fmt: skip
    solids = (
        *storeys,
        Solid("cylinder", (0.1, -0.12, 0.58), (0.12, 0.12, 0.14), stone),
        Solid("ellipsoid", (0.1, -0.12, 0.76), (0.14, 0.14, 0.12), ochre),
        Solid("box", (0.5, 0.35, -0.66), (0.2, 0.12, 0.19), stone, (40, 0, 0)),  # an outhouse
        Solid("cylinder", (-0.45, 0.4, -0.62), (0.1, 0.1, 0.23), ochre),
        Solid("ellipsoid", (-0.35, -0.42, -0.7), (0.18, 0.24, 0.15), stone, (30, 0, 0)),
    )
    return Scene(tuple(_smaller(solid, 0.84) for solid in solids))


def _cup() -> Scene:
    def label(p: Tensor) -> Tensor:
        """A blue band, and a red patch over a sixth of the turn."""
        blue, white, red = (p.new_tensor(c) for c in (BLUE, (0.93, 0.9, 0.85), RED))
        colour = torch.where(((p[:, 2] - 0.55).abs() < 0.12)[:, None], blue, white)
        patch = (torch.atan2(p[:, 1], p[:, 0]).abs() < math.pi / 6) & ((p[:, 2] + 0.2).abs() < 0.4)
        return torch.where(patch[:, None], red, colour)

    handle = [
        Solid("box", (-0.27, 0.63, 0.28), (0.06, 0.17, 0.06), TEAL, (23, 0, 0)),
        Solid("box", (-0.33, 0.77, 0.0), (0.06, 0.06, 0.34), TEAL, (23, 0, 0)),
        Solid("box", (-0.27, 0.63, -0.28), (0.06, 0.17, 0.06), TEAL, (23, 0, 0)),
    ]
    solids = (
        Solid("cylinder", (0, 0, 0), (0.55, 0.55, 0.6), label),
        Solid("cylinder", (0, 0, 0.6), (0.48, 0.48, 0.005), BROWN),  # coffee
        *handle,
        Solid("cylinder", (0, 0, -0.66), (0.75, 0.75, 0.04), LIGHT),
    )
    return Scene(tuple(_smaller(solid, 0.95) for solid in solids))


def _plane() -> Scene:
    return Scene((
        Solid("ellipsoid", (0, 0, 0), (0.85, 0.13, 0.15), LIGHT),
        Solid("ellipsoid", (0.35, 0, 0.12), (0.2, 0.09, 0.1), (0.2, 0.4, 0.7)),
        Solid("box", (0.12, 0.47, 0.02), (0.16, 0.42, 0.02), RED, (-8, 0, 0)),
        Solid("box", (0.12, -0.47, 0.02), (0.16, 0.42, 0.02), GREEN, (8, 0, 0)),
        Solid("box", (-0.72, 0, 0.05), (0.09, 0.3, 0.015), ORANGE),
        Solid("box", (-0.74, 0, 0.2), (0.1, 0.015, 0.17), BLUE, (0, 12, 0)),
        Solid("cylinder", (0.86, 0, 0), (0.06, 0.06, 0.04), YELLOW, (0, 90, 0)),
        Solid("box", (0.88, 0, 0), (0.01, 0.025, 0.26), DARK, (0, 0, 30)),
        Solid("cylinder", (0.05, 0.55, -0.1), (0.08, 0.08, 0.17), DARK, (0, 90, 0)),  # engines of two sizes
        Solid("cylinder", (0.05, -0.55, -0.08), (0.06, 0.06, 0.13), DARK, (0, 90, 0)),
    ))  # fmt: skip


def _desk() -> Scene:
    def wallpaper(p: Tensor) -> Tensor:
        """Slanting stripes over patches of colour that do not repeat: enough for every part of the wall to be known again."""
        y, z = 1.6 * p[:, 1], 1.6 * p[:, 2]
        red = 0.55 + 0.25 * torch.sin(2.1 * y + 0.8 * z + 1.0) + 0.12 * torch.sin(9 * y + 4 * z)
        green = 0.55 + 0.25 * torch.sin(1.3 * y - 2.3 * z + 2.5) + 0.12 * torch.sin(9 * y + 4 * z)
        blue = 0.6 + 0.22 * torch.sin(1.7 * z + 2.9 * y - 1.0) + 0.12 * torch.sin(7 * z - 5 * y)
        return torch.stack([red, green, blue], -1)

    def boards(p: Tensor) -> Tensor:
        dark = (torch.sin(14 * p[:, 1] + 1.5 * torch.sin(2 * p[:, 0])) > 0).to(p)[:, None]
        return p.new_tensor((0.62, 0.42, 0.24)) - dark * p.new_tensor((0.14, 0.1, 0.06))

    return Scene(
        (
            Solid("box", (-1.05, 0, 0), (0.05, 1.6, 1.6), wallpaper),
            Solid("box", (-0.1, 0, -0.72), (0.9, 1.6, 0.08), boards),
            Solid("ellipsoid", (0.3, -0.35, -0.42), (0.22, 0.22, 0.22), RED),
            Solid("box", (-0.55, 0.3, -0.29), (0.14, 0.1, 0.35), BLUE, (20, 0, 0)),  # books
            Solid("box", (-0.5, 0.52, -0.34), (0.14, 0.09, 0.3), YELLOW, (14, 0, 0)),
            Solid("cylinder", (0.05, 0.2, -0.46), (0.14, 0.14, 0.18), TEAL),
            Solid("cylinder", (0.05, 0.2, -0.2), (0.02, 0.02, 0.28), ORANGE, (10, 12, 0)),  # a pencil in the pot
            Solid("cylinder", (-0.6, -0.5, -0.16), (0.035, 0.035, 0.48), DARK),  # a lamp
            Solid("ellipsoid", (-0.6, -0.5, 0.36), (0.24, 0.24, 0.16), PINK),
        ),
        bound=1.6,
        azimuth=(-0.17, 0.17),
        elevation=(0.08, 0.3),
        radius=(2.3, 2.7),
        field_of_view=0.5,
        jitter=0.08,
        converge=0.0,
        forward_facing=True,
    )


SCENES: dict[str, Scene] = {"car": _car(), "tower": _tower(), "cup": _cup(), "plane": _plane(), "desk": _desk()}
