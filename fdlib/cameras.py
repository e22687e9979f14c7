"""Where a camera is and what its pixels see: rotations, look-at, rays, projection, and every axis convention in one table.

A camera is its camera-to-world matrix T_wc = [Ro | ts] (thesis 3.3.1), "c2w" here: (..., 4, 4), the columns of Ro the camera's
axes written in world coordinates, ts its centre. A point of the camera's space goes to the world by  x_w = Ro x_c + ts.
The world's up is +z, as in Blender. Angles are radians. A pixel (column x, row y) covers [x, x + 1] by [y, y + 1]: its centre
is at (x + .5, y + .5), and the image's centre at (W / 2, H / 2).

Conventions differ in what the camera's own three axes are called; the world and the centre are the same in all. The library
uses "opengl" throughout; ``convert`` goes between them by  Ro_target = Ro_source A_source^T A_target :

    name       x      y      z        A: its axes, one a column, in OpenGL's      used by
    opengl     right  up     back     [[1, 0, 0], [0, 1, 0], [0, 0, 1]]           this library, Blender, NeRF
    opencv     right  down   forward  [[1, 0, 0], [0, -1, 0], [0, 0, -1]]         OpenCV, COLMAP
    llff       down   right  back     [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]          poses_bounds.npy
    pytorch3d  left   up     forward  [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]         PyTorch3D (see ``to_pytorch3d``)

PyTorch3D stores the inverse, world to camera, for row vectors:  X_camera = X_world R + T. So its R is Ro in its own axes, and
T = -ts R. Example: a camera at (0, 0, 3) of an untilted OpenGL frame looks down to the origin; in PyTorch3D it has R =
diag(-1, 1, -1), T = (0, 0, 3), for the origin lies 3 before it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

UP = (0.0, 0.0, 1.0)
"""The world's up."""

CONVENTIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "opengl": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "opencv": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "llff": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
    "pytorch3d": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
}
"""A of the table above, row by row."""


# ---------------------------------------------------------------------- rotations


def rodrigues(axis_angle: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of axis-angle vectors (..., 3): direction the axis omega, length the angle phi in radians.

        Ro = I + sin(phi) [omega]x + (1 - cos(phi)) [omega]x^2                     (thesis, equation 3.2)

    Written in v = phi omega as  I + sinc(phi) [v]x + sinc(phi / 2)^2 / 2 [v]x^2 , whose value and gradient are exact at v = 0,
    where a zero-initialised encoder starts and omega does not exist.

    >>> rodrigues(torch.tensor([0.0, 0.0, math.pi / 2])).round().int().tolist()
    [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    """
    _shaped(axis_angle, "axis_angle", 3)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))  # [v]x
    phi2 = axis_angle.square().sum(-1)[..., None, None]
    eye = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return eye + _sinc(phi2) * cross + 0.5 * _sinc(phi2 / 4).square() * (cross @ cross)


def axis_angle(rotation: Tensor) -> Tensor:
    """The inverse of ``rodrigues``: (..., 3) with angle in [0, pi] from matrices (..., 3, 3); differentiable but at pi.

    By way of the quaternion q = (cos(phi/2), sin(phi/2) omega), whose products 4 q q^T are sums of the matrix's elements. The
    row of its largest element is taken, so that nothing is divided by a small number. At pi the sign of omega is arbitrary.
    """
    _shaped(rotation, "rotation", 3, 3)
    m = [[rotation[..., i, j] for j in range(3)] for i in range(3)]
    a, b, c = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    d, e, f = m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2]
    trace = m[0][0] + m[1][1] + m[2][2]
    rows = [
        [1 + trace, a, b, c],
        [a, 1 - trace + 2 * m[0][0], d, e],
        [b, d, 1 - trace + 2 * m[1][1], f],
        [c, e, f, 1 - trace + 2 * m[2][2]],
    ]
    products = torch.stack([torch.stack(row, -1) for row in rows], -2)  # 4 q q^T
    best = products.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*rotation.shape[:-2], 1, 4)
    q = torch.nn.functional.normalize(products.gather(-2, best).squeeze(-2), dim=-1)
    q = torch.where(q[..., :1] < 0, -q, q)
    w, v = q[..., :1], q[..., 1:]
    n2 = v.square().sum(-1, keepdim=True)
    small = n2 < 1e-3 * w.square()  # phi / |v| = 2 atan(|v| / w) / |v| by its series, finite at 0
    r2 = torch.where(small, n2 / torch.where(small, w, 1.0).square(), 0.0)
    series = 2 / torch.where(small, w, 1.0) * (1 - r2 / 3 + r2**2 / 5 - r2**3 / 7 + r2**4 / 9)
    n = torch.where(small, 1.0, n2).sqrt()
    return torch.where(small, series, 2 * torch.atan2(n, w) / n) * v


def rotation_angle(a: Tensor, b: Tensor) -> Tensor:
    """(...) the angle in radians, 0 to pi, of the rotation between a and b, (..., 3, 3) each:  2 asin(|a - b|_F / (2 sqrt 2)).

    The usual acos((trace(a b^T) - 1) / 2) loses half its digits near 0, where good poses are, and must be clamped. A metric,
    not a loss: at pi the gradient of the asin is infinite.
    """
    _shaped(a, "a", 3, 3)
    _shaped(b, "b", 3, 3)
    chord = torch.linalg.vector_norm(a - b, dim=(-2, -1)) / math.sqrt(8)
    return 2 * torch.asin(chord.clamp(max=1))  # opposite rotations may come out a rounding error above 1


# ---------------------------------------------------------------------- placing cameras


def camera_to_world(rotation: Tensor, centre: Tensor) -> Tensor:
    """[Ro | ts] as (..., 4, 4), from rotations (..., 3, 3) and centres (..., 3)."""
    _shaped(rotation, "rotation", 3, 3)
    _shaped(centre, "centre", 3)
    shape = torch.broadcast_shapes(rotation.shape[:-2], centre.shape[:-1])
    top = torch.cat([rotation.expand(*shape, 3, 3), centre.expand(*shape, 3)[..., None]], -1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*shape, 1, 4)
    return torch.cat([top, bottom], -2)


def look_at(eye: Tensor, target: Tensor | Sequence[float] | float = 0.0, up: Sequence[float] | Tensor = UP) -> Tensor:
    """Camera-to-world matrices (..., 4, 4) of upright cameras at ``eye`` (..., 3) that look at ``target``.

    Args:
        target: (..., 3), or a number for all three coordinates.
        up: the world's up, (3,) or (..., 3); it appears vertical in the image.

    At the poles, where the camera looks along ``up``, "upright" means nothing. There the camera is the one that arrives along
    the meridian of azimuth 0 (more generally of the first world axis most nearly perpendicular to ``up``). No choice
    is continuous around a pole, since each meridian brings its own; this one is along that meridian, and its gradient is finite.

    Raises:
        ValueError: eye equal to target, an ``up`` of length 0, NaN.
    """
    _shaped(eye, "eye", 3)
    target, up = (torch.as_tensor(part, dtype=eye.dtype, device=eye.device) for part in (target, up))
    back = eye - target
    distance, height = back.detach().norm(dim=-1), up.detach().norm(dim=-1)
    if not bool((torch.isfinite(distance) & (distance > 0)).all()):
        raise ValueError("eye and target must be finite and apart: a camera cannot look at the point where it is")
    if up.shape[-1:] != (3,) or not bool((torch.isfinite(height) & (height > 0)).all()):
        raise ValueError(f"up must be a direction (3,) that is not 0, got {up.tolist()}")
    back = back / torch.linalg.vector_norm(back, dim=-1, keepdim=True)
    up = (up / torch.linalg.vector_norm(up, dim=-1, keepdim=True)).expand_as(back)
    right = torch.linalg.cross(up, back)
    squared = right.square().sum(-1, keepdim=True)
    pole = squared < torch.finfo(eye.dtype).eps  # |right| is the sine of the angle between back and up
    right = torch.where(pole, _at_pole(up, torch.where(pole, back, up)), right)
    squared = torch.where(pole, 1.0, squared)
    right = right / squared.sqrt()
    return camera_to_world(torch.stack([right, torch.linalg.cross(back, right), back], -1), eye)


def direction(azimuth: Tensor | float, elevation: Tensor | float) -> Tensor:
    """Unit vectors (..., 3): azimuth from +x towards +y, elevation in [-pi/2, pi/2] from the horizon towards +z.

    A camera there sits at ``eye == radius * direction``. Listing 3.1 of the thesis returns the transpose of the rotation it
    means, so its cameras sit elsewhere: eight octant candidates, meant to be 70.5 degrees apart, come as near as 48.2.

    Raises:
        ValueError: an elevation out of range, NaN.
    """
    azimuth, elevation = _tensors(azimuth, elevation)
    steepest = float(elevation.detach().abs().max()) if elevation.numel() else 0.0
    if not steepest <= math.pi / 2 + 1e-6:
        raise ValueError(f"elevation must lie in [-pi/2, pi/2] (radians, not degrees), got {steepest:g} in size")
    if not bool(torch.isfinite(azimuth).all()):
        raise ValueError("azimuth holds NaN or infinite values")
    flat = torch.cos(elevation)
    return torch.stack([flat * torch.cos(azimuth), flat * torch.sin(azimuth), torch.sin(elevation)], -1)


def spherical(azimuth: Tensor | float, elevation: Tensor | float, radius: Tensor | float) -> Tensor:
    """The eye (..., 3) of a camera on a sphere around the origin: ``radius * direction(azimuth, elevation)``.

    Raises:
        ValueError: a radius that is not positive, an elevation out of range.
    """
    towards = direction(azimuth, elevation)
    radius = torch.as_tensor(radius, dtype=towards.dtype, device=towards.device)
    if not bool(((radius > 0) & torch.isfinite(radius)).all()):
        raise ValueError(f"radius must be positive, got {float(radius.detach().min()):g}")
    return radius[..., None] * towards


def azimuth_elevation(eye: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of ``direction``, of vectors (..., 3) of any length: azimuth in (-pi, pi], elevation; (...) each."""
    _shaped(eye, "eye", 3)
    x, y, z = eye.unbind(-1)
    return torch.atan2(y, x), torch.atan2(z, torch.hypot(x, y))


def orbit(
    count: int, radius: float, elevation: Tensor | float = 0.5, start: float = 0.0, turn: float = 2 * math.pi
) -> Tensor:
    """A path of ``count`` cameras (count, 4, 4) around the origin, looking at it.

    Args:
        elevation: radians, one or (count,).
        start: the first azimuth. turn: the azimuth gone through; the last camera is one step short of it, so a full turn loops.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    azimuth = start + turn * torch.arange(count) / count
    return look_at(spherical(azimuth, elevation, radius))


@dataclass(frozen=True)
class Sectors:
    """Parts of a sphere, one a candidate camera: centre and full width of each in azimuth and elevation, radians, (n,) all."""

    azimuth: Tensor
    elevation: Tensor
    azimuth_extent: Tensor
    elevation_extent: Tensor

    @property
    def directions(self) -> Tensor:
        """(n, 3) unit vectors to the centres."""
        return direction(self.azimuth, self.elevation)

    def at(self, offsets: Tensor) -> Tensor:
        """Unit vectors (..., n, 3) at offsets (..., n, 2) in [-1, 1] of azimuth and elevation: 0 the centre, 1 an edge."""
        if offsets.shape[-2:] != (len(self.azimuth), 2):
            raise ValueError(f"offsets must be (..., {len(self.azimuth)}, 2), got {tuple(offsets.shape)}")
        centre = torch.stack([self.azimuth, self.elevation], -1).to(offsets)
        extent = torch.stack([self.azimuth_extent, self.elevation_extent], -1).to(offsets)
        return direction(*(centre + extent / 2 * offsets).unbind(-1))


def candidate_directions(
    n: int, *, half_sphere: bool, rows: int | None = None, elevation: tuple[float, float] | None = None
) -> Sectors:
    """The sphere, or its upper half, cut into n equal sectors, where the candidates of algorithm 4 of the thesis begin.

    Args:
        n: candidates, ``rows`` bands of elevation times n / rows sectors of azimuth, each of the same area.
        rows: by default 2 for the sphere, so that n = 8 gives the octants of the thesis, and 1 for the half sphere.
        elevation: lowest and highest, instead of [-pi/2, pi/2] or [0, pi/2].

    Sector k = row * (n / rows) + column; rows go up, columns towards larger azimuth from azimuth 0.

    Raises:
        ValueError: n that is no multiple of ``rows``, a range of elevation that is empty or out of bounds.
    """
    rows = rows if rows is not None else 1 if half_sphere else 2
    if rows < 1 or n < 1 or n % rows:
        raise ValueError(f"n must be a positive multiple of rows, got n={n}, rows={rows}: pass rows=1, say")
    low, high = elevation or (0.0 if half_sphere else -math.pi / 2, math.pi / 2)
    if not (-math.pi / 2 <= low < high <= math.pi / 2) or (half_sphere and low < 0):
        bound = "0" if half_sphere else "-pi/2"
        raise ValueError(f"elevation must rise within [{bound}, pi/2] (radians), got {low:g} to {high:g}")
    columns = n // rows
    width = 2 * math.pi / columns
    edges = torch.asin(torch.linspace(math.sin(low), math.sin(high), rows + 1, dtype=torch.float64).clamp(-1, 1))
    column, ones = torch.arange(columns).repeat(rows), torch.ones(n)
    middle, extent = (edges[1:] + edges[:-1]) / 2, edges[1:] - edges[:-1]
    middle, extent = (part.to(ones).repeat_interleave(columns) for part in (middle, extent))
    return Sectors((column + 0.5) * width, middle, width * ones, extent)


# ---------------------------------------------------------------------- pixels and points


def focal_length(field_of_view: float, size: int) -> float:
    """The focal length in pixels of a camera that sees ``field_of_view`` radians over ``size`` pixels.

    >>> round(focal_length(0.6911112, 128), 1)           # the cameras of NeRF's synthetic scenes
    177.8
    """
    if not 0 < field_of_view < math.pi:
        raise ValueError(f"field_of_view must lie between 0 and pi (radians, not degrees), got {field_of_view:g}")
    return size / 2 / math.tan(field_of_view / 2)


def field_of_view(focal: float, size: int) -> float:
    """The inverse of ``focal_length``."""
    if not focal > 0:
        raise ValueError(f"focal must be positive, got {focal:g}")
    return 2 * math.atan(size / 2 / focal)


def rays(
    c2w: Tensor,
    height: int,
    width: int,
    focal: float | Tensor,
    centre: tuple[float, float] | None = None,
    unit: bool = True,
) -> tuple[Tensor, Tensor]:
    """The rays through all pixel centres: origins and directions, (..., H, W, 3) each, in the world.

    Args:
        c2w: (..., 4, 4), OpenGL axes. focal: in pixels, one or (...). Gradients flow to both.
        centre: the principal point (x, y) in pixels, by default the image's centre.
        unit: directions of length 1, so that what is measured along a ray is distance. Otherwise of depth 1: measured along
            them is distance along the viewing axis.
    """
    _check_size(height, width)
    pixels = torch.arange(height * width, device=c2w.device)
    origins, directions = pixel_rays(c2w, pixels, height, width, focal, centre, unit)
    return origins.unflatten(-2, (height, width)), directions.unflatten(-2, (height, width))


def pixel_rays(
    c2w: Tensor,
    pixels: Tensor,
    height: int,
    width: int,
    focal: float | Tensor,
    centre: tuple[float, float] | None = None,
    unit: bool = True,
) -> tuple[Tensor, Tensor]:
    """As ``rays``, for some pixels only: integers (P,) or (..., P), row * width + column. Returns (..., P, 3) twice."""
    _check_size(height, width)
    check_poses(c2w)
    if pixels.is_floating_point() or pixels.ndim < 1:
        raise TypeError(f"pixels must be integers (P,) or (..., P), got {pixels.dtype} {tuple(pixels.shape)}")
    if pixels.numel() and not (int(pixels.min()) >= 0 and int(pixels.max()) < height * width):
        raise ValueError(f"pixels must lie in 0 .. {height * width - 1} for {height}x{width}")
    cx, cy = centre or (width / 2, height / 2)
    focal = _focal(focal, c2w)
    column, row = (pixels % width).to(c2w.dtype), (pixels // width).to(c2w.dtype)
    x, y = (column + 0.5 - cx) / focal, (cy - row - 0.5) / focal
    depth = (x.square() + y.square() + 1).rsqrt() if unit else torch.ones_like(x)
    directions = torch.stack([x * depth, y * depth, -depth], -1) @ c2w[..., :3, :3].mT
    return c2w[..., None, :3, 3].expand_as(directions), directions


def project(
    points: Tensor,
    c2w: Tensor,
    focal: float | Tensor,
    size: int | tuple[int, int],
    centre: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Where points of the world appear: pixel coordinates (..., N, 2), x then y, and depth (..., N) along the viewing axis.

    Args:
        points: (N, 3), seen by every camera, or (..., N, 3); one point may be (3,).
        c2w, focal, centre: as for ``rays``. size: (height, width), or one number for a square image.

    Where depth <= 0 the point is behind the camera and its pixel means nothing.
    """
    height, width = (size, size) if isinstance(size, int) else size
    _check_size(height, width)
    check_poses(c2w)
    _shaped(points, "points", 3)
    cx, cy = centre or (width / 2, height / 2)
    many = points if points.ndim > 1 else points[None]
    local = (many - c2w[..., None, :3, 3]) @ c2w[..., :3, :3]
    depth = -local[..., 2]
    scale = _focal(focal, c2w) / torch.where(depth == 0, 1.0, depth)
    pixels = torch.stack([cx + scale * local[..., 0], cy - scale * local[..., 1]], -1)
    return (pixels, depth) if points.ndim > 1 else (pixels.squeeze(-2), depth.squeeze(-1))


# ---------------------------------------------------------------------- conventions


def convert(c2w: Tensor, source: str, target: str) -> Tensor:
    """The same cameras with their axes named by another convention of the table above; (..., 4, 4) or (..., 3, 4).

    >>> llff = convert(torch.eye(4), "opengl", "llff")
    >>> llff[:3, 0].int().tolist(), llff[:3, 1].int().tolist()            # down, right
    ([0, -1, 0], [1, 0, 0])
    """
    check_poses(c2w)
    change = torch.eye(4, dtype=c2w.dtype, device=c2w.device)
    change[:3, :3] = _axes(source, "source").T.to(c2w) @ _axes(target, "target").to(c2w)
    return c2w @ change


def to_pytorch3d(c2w: Tensor, focal: float | Tensor, size: int | tuple[int, int]) -> dict:
    """The arguments of ``pytorch3d.renderer.PerspectiveCameras(**…)`` for cameras (N, 4, 4) with OpenGL axes.

    Args:
        focal: in pixels, one or (N,). size: (height, width) or one number.

    Returns:
        {"R": (N, 3, 3), "T": (N, 3), "focal_length": (N, 2), "principal_point": (N, 2) in pixels, "image_size": (N, 2) rows by
        columns, "in_ndc": False}. Its screen coordinates are then our pixel coordinates.
    """
    if c2w.ndim != 3:
        raise ValueError(f"c2w must be (N, 4, 4), got {tuple(c2w.shape)}")
    height, width = (size, size) if isinstance(size, int) else size
    _check_size(height, width)
    R = convert(c2w, "opengl", "pytorch3d")[:, :3, :3]
    N = len(c2w)
    return {
        "R": R,
        "T": -(c2w[:, None, :3, 3] @ R).squeeze(1),
        "focal_length": _focal(focal, c2w).reshape(-1, 1).expand(N, 2),
        "principal_point": c2w.new_tensor([width / 2, height / 2]).expand(N, 2),
        "image_size": torch.tensor([[height, width]], device=c2w.device).expand(N, 2),
        "in_ndc": False,
    }


def from_pytorch3d(R: Tensor, T: Tensor) -> Tensor:
    """Camera-to-world matrices (..., 4, 4), OpenGL axes, of PyTorch3D's R (..., 3, 3) and T (..., 3)."""
    _shaped(T, "T", 3)
    centre = -(R @ T[..., None]).squeeze(-1)  # 0 = centre R + T
    return convert(camera_to_world(R, centre), "pytorch3d", "opengl")


# ---------------------------------------------------------------------- checks


def check_poses(c2w: Tensor, name: str = "c2w") -> None:
    """Refuse what is not a camera-to-world matrix, (..., 4, 4) or (..., 3, 4), and say which ones and why.

    Raises:
        TypeError: no float tensor. ValueError: a wrong shape, NaN, a 3x3 part that is no rotation, a transposed matrix.
    """
    if not isinstance(c2w, Tensor) or not c2w.is_floating_point():
        kind = c2w.dtype if isinstance(c2w, Tensor) else type(c2w).__name__
        raise TypeError(f"{name} must be a float tensor, got {kind}")
    if c2w.ndim < 2 or tuple(c2w.shape[-2:]) not in ((4, 4), (3, 4)):
        raise ValueError(f"{name} must be (..., 4, 4), got {tuple(c2w.shape)}")
    poses = c2w.detach()
    Ro = poses[..., :3, :3]
    eye = torch.eye(3, dtype=Ro.dtype, device=Ro.device)
    proper = (torch.linalg.cross(Ro[..., 0], Ro[..., 1]) * Ro[..., 2]).sum(-1) > 0
    orthonormal = (Ro.mT @ Ro - eye).abs().amax((-2, -1)) < 1e-3
    row = (poses[..., 3:, :] - poses.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().sum((-2, -1)) < 1e-5
    finite = torch.isfinite(poses).all(-1).all(-1)
    if bool((finite & row & orthonormal & proper).all()):
        return
    for good, complaint in (
        (finite, "hold NaN or infinite values"),
        (row, "do not end in the row 0 0 0 1: are they transposed?"),
        (orthonormal, "have a 3x3 part that is no rotation: its columns must be perpendicular and of length 1"),
        (proper, "are mirrored: the 3x3 part has determinant -1, so one axis points the wrong way"),
    ):
        if not good.all():
            bad = (~good).reshape(-1).nonzero().flatten().tolist()
            which = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
            raise ValueError(f"{name}: {len(bad)} of {good.numel()} poses (number {which}) {complaint}")


def _axes(name: str, argument: str) -> Tensor:
    if name not in CONVENTIONS:
        near = difflib.get_close_matches(str(name).lower(), CONVENTIONS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"{argument}: no convention {name!r}; {hint}known are {', '.join(CONVENTIONS)}")
    return torch.tensor(CONVENTIONS[name])


def _sinc(x2: Tensor) -> Tensor:
    """sin(x) / x from x^2: a function of x^2 alone, smooth at 0 (there by its series, to all digits of float64)."""
    small = x2 < 0.01
    s = torch.where(small, x2, 0.0)
    series = 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72)))
    x = torch.where(small, 1.0, x2).sqrt()
    return torch.where(small, series, torch.sin(x) / x)


def _at_pole(up: Tensor, back: Tensor) -> Tensor:
    """The unit right vector of a camera that looks along ``up``, having come along the meridian of a fixed world axis."""
    first = up.detach().abs().argmin(-1, keepdim=True)
    meridian = torch.zeros_like(up).scatter(-1, first, 1.0)
    right = torch.linalg.cross(up.detach(), meridian)
    right = right - (right * back).sum(-1, keepdim=True) * back
    return right / torch.linalg.vector_norm(right, dim=-1, keepdim=True)


def _focal(focal: float | Tensor, c2w: Tensor) -> Tensor:
    """(..., 1) or (): the focal length beside each camera's pixels."""
    focal = torch.as_tensor(focal, dtype=c2w.dtype, device=c2w.device)
    if not bool(((focal > 0) & torch.isfinite(focal)).all()):
        raise ValueError(f"focal must be positive (pixels), got {focal.detach().flatten()[:4].tolist()}")
    return focal[..., None] if focal.ndim else focal


def _tensors(*values: Tensor | float) -> list[Tensor]:
    """Numbers as tensors like the first of them that is one, broadcast to one shape."""
    like = next((v for v in values if isinstance(v, Tensor) and v.is_floating_point()), torch.zeros(()))
    return list(torch.broadcast_tensors(*(torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in values)))


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive, got {height} and {width}")


def _shaped(x: Tensor, name: str, *shape: int) -> None:
    if not isinstance(x, Tensor) or tuple(x.shape[-len(shape) :]) != shape:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        hint = ": of a pose take [..., :3, :3]" if shape == (3, 3) else ""
        raise ValueError(f"{name} must be a tensor (..., {', '.join(map(str, shape))}), got {got}{hint}")
