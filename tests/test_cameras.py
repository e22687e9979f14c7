"""Cameras: rotations against scipy, look-at at its worst places, rays against a naive loop, conventions by numbers."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fdlib import cameras
from fdlib.cameras import (
    CONVENTIONS,
    azimuth_elevation,
    camera_to_world,
    candidate_directions,
    check_poses,
    convert,
    direction,
    field_of_view,
    focal_length,
    from_pytorch3d,
    look_at,
    orbit,
    pixel_rays,
    project,
    rays,
    rodrigues,
    rotation_angle,
    spherical,
    to_pytorch3d,
)

PI = math.pi


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=atol)


def random_c2w(n=5, seed=0, dtype=torch.float64):
    rotation = torch.as_tensor(Rotation.random(n, random_state=seed).as_matrix())
    centre = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return camera_to_world(rotation, 3 * centre).to(dtype)


def vectors(*lengths, seed=0):
    v = torch.randn(len(lengths), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return v / v.norm(dim=1, keepdim=True) * torch.tensor(lengths, dtype=torch.float64)[:, None]


# ---------------------------------------------------------------------- rotations

LENGTHS = (
    0.0,
    1e-12,
    1e-6,
    1e-3,
    0.0999,
    0.1001,
    0.5,
    1.0,
    2.0,
    3.0,
    PI - 1e-3,
    PI,
    4.0,
    6.0,
)  # .1: where the series ends


def test_rodrigues_is_scipys():
    v = vectors(*LENGTHS)
    close(rodrigues(v), Rotation.from_rotvec(v.numpy()).as_matrix(), 1e-15 * 8)


def test_rodrigues_keeps_batch_shape_and_dtype():
    v = torch.randn(2, 4, 3)
    assert rodrigues(v).shape == (2, 4, 3, 3) and rodrigues(v).dtype == torch.float32
    close(rodrigues(v), Rotation.from_rotvec(v.reshape(-1, 3).numpy()).as_matrix().reshape(2, 4, 3, 3), 1e-6)


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-3, 0.0999, 0.1001, 1.0, 3.0])
def test_rodrigues_has_exact_first_and_second_derivatives_at_zero_too(length):
    v = vectors(length).requires_grad_()
    assert torch.autograd.gradcheck(rodrigues, v)
    assert torch.autograd.gradgradcheck(rodrigues, v)


def test_the_derivative_at_zero_is_the_cross_product_matrix():
    derivative = torch.autograd.functional.jacobian(rodrigues, torch.zeros(3, dtype=torch.float64))
    for k in range(3):
        for j in range(3):  # d/dv_k (Ro e_j) = e_k x e_j
            expected = np.cross(np.eye(3)[k], np.eye(3)[j])
            close(derivative[:, j, k], expected, 0)


def test_axis_angle_is_scipys_and_inverts_rodrigues():
    for seed in range(20):
        v = vectors(*LENGTHS[:11], seed=seed)  # up to almost pi
        R = rodrigues(v)
        close(cameras.axis_angle(R), v, 1e-12)
        close(cameras.axis_angle(R), Rotation.from_matrix(R.numpy()).as_rotvec(), 1e-12)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 2, 3], [-1, 0, 1]])
@pytest.mark.parametrize("angle", [PI, PI - 1e-9, PI - 1e-6])
def test_axis_angle_near_half_a_turn_gives_that_rotation_back(axis, angle):
    v = torch.tensor(axis, dtype=torch.float64)
    R = rodrigues(angle * v / v.norm())
    close(rodrigues(cameras.axis_angle(R)), R, 1e-12)


@pytest.mark.parametrize("length", [0.0, 1e-3, 0.06, 0.07, 1.0, 2.0, 3.0])
def test_axis_angle_has_an_exact_gradient(length):
    v = vectors(length, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: cameras.axis_angle(rodrigues(v)), v)


def test_rotation_angle_of_tiny_and_of_large_rotations():
    base = torch.as_tensor(Rotation.random(random_state=1).as_matrix())
    for length in (0.0, 1e-9, 1e-7, 1e-3, 1.0, 3.0, PI):
        angle = rotation_angle(base, base @ rodrigues(vectors(length)[0]))
        close(angle, length, 1e-7 if length == PI else 1e-15 + 1e-13)
    by_acos = torch.arccos(((base @ (base @ rodrigues(vectors(1e-9)[0])).T).trace() - 1).clamp(-2, 2) / 2)
    assert not 0.9e-9 < by_acos < 1.1e-9  # what the usual formula makes of a good pose


def test_rotation_angle_is_scipys_and_broadcasts():
    a, b = Rotation.random(30, random_state=0), Rotation.random(30, random_state=1)
    A, B = (torch.as_tensor(r.as_matrix()) for r in (a, b))
    close(rotation_angle(A, B), (a.inv() * b).magnitude(), 1e-12)
    assert rotation_angle(A[:, None], B[None]).shape == (30, 30)


def test_rotation_angle_is_never_nan_at_half_a_turn():
    a = torch.as_tensor(Rotation.random(200, random_state=0).as_matrix(), dtype=torch.float32)
    b = a @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    close(rotation_angle(a, b), torch.full((200,), PI), 2e-3)


# ---------------------------------------------------------------------- placing cameras


def test_look_at_by_hand():
    c2w = look_at(torch.tensor([4.0, 0.0, 0.0]))  # from +x: +y is to the right, +z up, and +x behind
    close(c2w, [[0, 0, 1, 4], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], 0)


def test_look_at_looks_at_the_target_upright():
    eye = vectors(*[2.0] * 50)
    target = 0.3 * vectors(*[1.0] * 50, seed=1)
    c2w = look_at(eye, target)
    check_poses(c2w)
    forward = (target - eye) / (target - eye).norm(dim=1, keepdim=True)
    close(-c2w[:, :3, 2], forward)
    close(c2w[:, 2, 0], torch.zeros(50))  # right is level
    assert (c2w[:, 2, 1] > 0).all()  # up is up
    close(c2w[:, :3, 3], eye, 0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_look_at_at_the_poles_is_the_limit_along_azimuth_zero(sign, dtype):
    pole = look_at(torch.tensor([0.0, 0.0, 2.0 * sign], dtype=dtype))
    check_poses(pole)
    close(pole[:3, 0], [0.0, 1.0, 0.0], 0)
    for steps in (1e-2, 1e-4, 1e-6, 1e-9, 0.0):
        near = look_at(spherical(0.0, torch.tensor(sign * (PI / 2 - steps), dtype=dtype), 2.0))
        close(near, pole, 2 * steps + 1e-6)


@pytest.mark.parametrize("up", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 2, 3)])
def test_look_at_along_any_up_is_a_rotation(up):
    up = torch.tensor(up, dtype=torch.float64)
    for sign in (1, -1):
        c2w = look_at(sign * 3 * up, up=up)
        check_poses(c2w)
        close(c2w[:3, 2], sign * up / up.norm())


def test_look_at_has_finite_gradients_everywhere():
    """At the poles, near them, and on the axis of the stand-in's right, in one batch."""
    eye = torch.tensor([[0, 0, 2], [0, 0, -2], [1e-9, 0, 2], [1e-4, 0, 2], [0, 2, 0], [0, -2, 0], [2, 0, 0], [1, 1, 1]])
    for dtype in (torch.float32, torch.float64):
        x = eye.to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(look_at(x).square().sum() + look_at(x)[..., :3, :3].sum(), x)
        assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e6


def test_look_at_gradcheck():
    eye = vectors(2.0, 3.0, 1.0).requires_grad_()
    target = 0.2 * vectors(1.0, 1.0, 1.0, seed=5)
    assert torch.autograd.gradcheck(look_at, (eye, target.requires_grad_()))


def test_eye_is_radius_times_direction():
    azimuth = torch.linspace(-7, 7, 40, dtype=torch.float64)
    elevation = torch.linspace(-PI / 2, PI / 2, 40, dtype=torch.float64)
    towards, eye = direction(azimuth, elevation), spherical(azimuth, elevation, 4.03)
    close(eye, 4.03 * towards, 0)
    close(towards.norm(dim=1), torch.ones(40))
    c2w = look_at(eye)
    close(c2w[:, :3, 3], 4.03 * towards, 0)
    close(c2w[:, :3, :3] @ torch.tensor([0.0, 0, 4.03], dtype=torch.float64), eye)  # what listing 3.1 means


def test_what_the_docstring_says_about_listing_3_1():
    """Its rotation, written out with numpy for the eight octants, transposed and as printed."""
    right_way, as_printed = [], []
    for signs in np.array(np.meshgrid([1, -1], [1, -1], [1, -1])).reshape(3, -1).T:
        forward = signs / np.sqrt(3)
        right = np.cross([0, 1, 0], forward)
        right = right / np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        right_way.append(R.T @ [0, 0, 1])
        as_printed.append(R @ [0, 0, 1])
        np.testing.assert_allclose(right_way[-1], forward, atol=1e-12)

    def nearest(eyes):
        angles = np.degrees(np.arccos(np.clip(np.array(eyes) @ np.array(eyes).T, -1, 1)))
        return (angles + 999 * np.eye(8)).min()

    assert nearest(right_way) == pytest.approx(70.53, abs=0.01)
    assert nearest(as_printed) == pytest.approx(48.19, abs=0.01)


def test_directions_by_hand_and_back():
    close(direction(0.0, 0.0), [1.0, 0, 0], 1e-7)
    close(direction(PI / 2, 0.0), [0.0, 1, 0], 1e-7)
    close(direction(0.3, PI / 2), [0.0, 0, 1], 1e-7)
    azimuth = torch.linspace(-3.1, 3.1, 9, dtype=torch.float64)
    elevation = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)
    back = azimuth_elevation(spherical(azimuth, elevation, 2.5))
    close(back[0], azimuth)
    close(back[1], elevation)
    assert spherical(0.1, 0.2, torch.tensor([1.0, 2.0, 3.0])).shape == (3, 3)


def test_orbit_closes_and_stays_on_the_sphere():
    path = orbit(12, 3.0, 0.4)
    check_poses(path)
    close(path[:, :3, 3].norm(dim=1), torch.full((12,), 3.0), 1e-5)
    steps = (path[:, :3, 3] - path[:, :3, 3].roll(1, 0)).norm(dim=1)
    assert steps.max() - steps.min() < 1e-5  # the step from the last to the first is one like the others
    spiral = orbit(5, 2.0, elevation=torch.linspace(0, 1, 5), start=1.0, turn=0.5)
    azimuth, elevation = azimuth_elevation(spiral[:, :3, 3])
    close(azimuth, 1.0 + 0.1 * torch.arange(5), 1e-5)
    close(elevation, torch.linspace(0, 1, 5), 1e-5)


# ---------------------------------------------------------------------- candidates


def test_eight_candidates_of_the_sphere_are_the_octants():
    signs = candidate_directions(8, half_sphere=False).directions.sign()
    assert len({tuple(row) for row in signs.tolist()}) == 8


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (8, dict(half_sphere=True)),
        (12, dict(half_sphere=True)),
        (12, dict(half_sphere=True, rows=3)),
        (8, dict(half_sphere=False)),
        (1, dict(half_sphere=False, rows=1)),
        (6, dict(half_sphere=True, rows=2, elevation=(0.1, 1.0))),
    ],
)
def test_sectors_tile_their_part_of_the_sphere_with_equal_areas(n, options):
    sectors = candidate_directions(n, **options)
    low, high = options.get("elevation") or (0 if options["half_sphere"] else -PI / 2, PI / 2)
    generator = torch.Generator().manual_seed(0)
    azimuth = 2 * PI * torch.rand(20_000, generator=generator)
    height = math.sin(low) + (math.sin(high) - math.sin(low)) * torch.rand(20_000, generator=generator)
    elevation = torch.asin(height)
    inside = (azimuth[:, None] - sectors.azimuth).abs() < sectors.azimuth_extent / 2
    inside &= (elevation[:, None] - sectors.elevation).abs() < sectors.elevation_extent / 2
    assert (inside.sum(1) == 1).float().mean() > 0.999  # every direction in one sector, up to rounding at the edges
    shares = inside.float().mean(0)
    close(shares, torch.full((n,), 1 / n), 5 * math.sqrt(1 / n / 20_000))


def test_offsets_move_within_a_sector():
    sectors = candidate_directions(8, half_sphere=True)
    close(sectors.at(torch.zeros(8, 2)), sectors.directions, 1e-6)
    edge = sectors.at(torch.tensor([1.0, 0.0]).expand(8, 2))
    close(
        edge, sectors.at(torch.tensor([-1.0, 0.0]).expand(8, 2)).roll(-1, 0), 1e-6
    )  # one's end is the next one's start
    top = sectors.at(torch.tensor([0.0, 1.0], dtype=torch.float64).expand(4, 8, 2))
    assert top.shape == (4, 8, 3) and top.dtype == torch.float64
    close(top[..., 2], torch.ones(4, 8), 1e-9)
    offsets = (torch.rand(8, 2, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    assert torch.autograd.gradcheck(sectors.at, offsets)


# ---------------------------------------------------------------------- rays and projection


def naive_rays(c2w, height, width, focal, cx, cy):
    result = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            d = np.array([(column + 0.5 - cx) / focal, -(row + 0.5 - cy) / focal, -1.0])
            result[row, column] = c2w[:3, :3] @ d
    return result


@pytest.mark.parametrize("centre", [None, (2.5, 1.75)])
def test_rays_are_those_of_a_naive_loop(centre):
    c2w = random_c2w(3)
    origins, directions = rays(c2w, 4, 6, 5.5, centre=centre, unit=False)
    assert origins.shape == directions.shape == (3, 4, 6, 3)
    cx, cy = centre or (3, 2)
    for k in range(3):
        close(directions[k], naive_rays(c2w[k].numpy(), 4, 6, 5.5, cx, cy))
        close(origins[k], c2w[k, :3, 3].expand(4, 6, 3), 0)
    unit = rays(c2w, 4, 6, 5.5, centre=centre)[1]
    close(unit, directions / directions.norm(dim=-1, keepdim=True))


def test_the_middle_pixel_of_an_odd_image_looks_straight_ahead():
    c2w = random_c2w(1)[0]
    close(rays(c2w, 5, 7, 9.0)[1][2, 3], -c2w[:3, 2])
    close(rays(c2w, 4, 4, 9.0)[1].mean((0, 1)).sign(), (-c2w[:3, 2]).sign(), 0)


def test_pixel_rays_are_the_chosen_rays():
    c2w = random_c2w(4, dtype=torch.float32)
    focal = torch.tensor([3.0, 4.0, 5.0, 6.0])
    _, directions = rays(c2w, 3, 5, focal)
    shared = torch.tensor([0, 14, 7, 7])
    each = torch.randint(15, (4, 6), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pixel_rays(c2w, shared, 3, 5, focal)[1], directions.flatten(1, 2)[:, shared])
    o, d = pixel_rays(c2w, each, 3, 5, focal)
    torch.testing.assert_close(d, directions.flatten(1, 2).gather(1, each[..., None].expand(4, 6, 3)))
    assert o.shape == d.shape == (4, 6, 3) and d.dtype == torch.float32
    candidates = c2w.reshape(2, 2, 4, 4)  # candidates of each image share its pixels
    assert pixel_rays(candidates, each[:2, None], 3, 5, 4.0)[1].shape == (2, 2, 6, 3)


@pytest.mark.parametrize("unit", [True, False])
def test_rays_gradcheck_with_respect_to_pose_and_focal(unit):
    v = torch.tensor([[0.0, 0, 0], [0.3, -0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    centre = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    focal = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def from_pose(v, centre, focal):
        return rays(camera_to_world(rodrigues(v), centre), 2, 3, focal, unit=unit)

    assert torch.autograd.gradcheck(from_pose, (v, centre, focal))
    assert torch.autograd.gradcheck(lambda c2w: rays(c2w, 2, 3, 3.0, unit=unit), random_c2w(2).requires_grad_())


def test_the_origin_projects_to_the_image_centre():
    c2w = look_at(vectors(*[4.0] * 20))
    pixels, depth = project(torch.zeros(3, dtype=torch.float64), c2w, 100.0, (48, 64))
    close(pixels, torch.tensor([32.0, 24.0]).expand(20, 2), 1e-10)
    close(depth, torch.full((20,), 4.0))


def test_a_ray_through_a_projected_point_passes_the_point():
    c2w = look_at(vectors(*[4.0] * 6), 0.1)
    points = vectors(*[0.7] * 9, seed=2)
    pixels, depth = project(points, c2w, 30.0, (20, 24))
    assert pixels.shape == (6, 9, 2) and depth.shape == (6, 9)
    for k in range(6):
        for n in range(9):  # a one-pixel image whose only pixel centre is there
            centre = (24 / 2 + 0.5 - float(pixels[k, n, 0]), 20 / 2 + 0.5 - float(pixels[k, n, 1]))
            o, d = rays(c2w[k], 1, 1, 30.0, centre=centre)
            to = points[n] - o[0, 0]
            close(torch.linalg.cross(d[0, 0], to), torch.zeros(3), 1e-12)
            assert d[0, 0] @ to > 0


def test_points_on_rays_project_to_pixel_centres():
    c2w = random_c2w(2)
    o, d = rays(c2w, 3, 5, 7.0, unit=False)
    pixels, depth = project((o + 2.5 * d).flatten(1, 2), c2w, 7.0, (3, 5))
    y, x = torch.meshgrid(torch.arange(3) + 0.5, torch.arange(5) + 0.5, indexing="ij")
    close(pixels, torch.stack([x, y], -1).reshape(1, 15, 2).expand(2, 15, 2))
    close(depth, torch.full((2, 15), 2.5))  # directions of depth 1


def test_points_behind_have_negative_depth_and_nothing_is_nan():
    c2w = look_at(torch.tensor([0.0, -4.0, 0.0]))
    points = torch.tensor([[0.0, -5.0, 0.0], [0.0, -4.0, 0.0]])
    pixels, depth = project(points, c2w, 10.0, 8)
    assert depth[0] == -1 and depth[1] == 0 and not pixels.isnan().any()


def test_focal_length_and_field_of_view():
    assert focal_length(PI / 2, 100) == pytest.approx(50)
    assert field_of_view(focal_length(0.7, 64), 64) == pytest.approx(0.7)


# ---------------------------------------------------------------------- conventions

NAMES = {
    "right": (1, 0, 0),
    "left": (-1, 0, 0),
    "up": (0, 1, 0),
    "down": (0, -1, 0),
    "back": (0, 0, 1),
    "forward": (0, 0, -1),
}


@pytest.mark.parametrize(
    ("target", "axes"),
    [
        ("opengl", ("right", "up", "back")),
        ("opencv", ("right", "down", "forward")),
        ("llff", ("down", "right", "back")),
        ("pytorch3d", ("left", "up", "forward")),
    ],
)
def test_each_convention_by_its_words(target, axes):
    """A worked example: a camera at (4, 0, 0) looking at the origin, so right is +y, up is +z, back is +x."""
    world = {"right": [0, 1, 0], "up": [0, 0, 1], "back": [1, 0, 0]}
    world |= {"left": [0, -1, 0], "down": [0, 0, -1], "forward": [-1, 0, 0]}
    c2w = convert(look_at(torch.tensor([4.0, 0.0, 0.0])), "opengl", target)
    for column, name in enumerate(axes):
        close(c2w[:3, column], world[name], 0)
        assert tuple(np.array(CONVENTIONS[target])[:, column]) == NAMES[name]
    close(c2w[:, 3], [4, 0, 0, 1], 0)
    words = [line.split() for line in cameras.__doc__.splitlines() if line.strip().startswith(target)]
    assert words[0][1:4] == list(axes)  # the table says so, too


@pytest.mark.parametrize("source", CONVENTIONS)
@pytest.mark.parametrize("target", CONVENTIONS)
def test_conversions_go_back_and_through_each_other(source, target):
    c2w = random_c2w(4)
    there = convert(c2w, source, target)
    check_poses(there)
    close(convert(there, target, source), c2w)
    close(convert(convert(c2w, source, "opengl"), "opengl", target), there)
    close(convert(c2w[:, :3], source, target), there[:, :3], 0)


def test_llff_and_colmap_by_their_own_recipes():
    """LLFF's script takes COLMAP's axes [right, down, forward] and stores [down, right, back]."""
    c2w = random_c2w(1)[0]
    r, d, f = c2w[:3, 0], c2w[:3, 1], c2w[:3, 2]
    close(convert(c2w, "opencv", "llff")[:3, :3], torch.stack([d, r, -f], 1))
    close(convert(c2w, "opencv", "opengl")[:3, :3], torch.stack([r, -d, -f], 1))


def test_pytorch3d_by_numbers():
    """At (0, 0, 2.7), untilted: PyTorch3D documents R = diag(-1, 1, -1), T = (0, 0, 2.7) for it, and R = I from behind."""
    front = torch.eye(4)
    front[2, 3] = 2.7
    behind = camera_to_world(torch.diag(torch.tensor([-1.0, 1, -1])), torch.tensor([0.0, 0, -2.7]))
    p3d = to_pytorch3d(torch.stack([front, behind]), 50.0, (40, 60))
    close(p3d["R"][0], torch.diag(torch.tensor([-1.0, 1, -1])), 0)
    close(p3d["R"][1], torch.eye(3), 0)
    close(p3d["T"], [[0, 0, 2.7], [0, 0, 2.7]], 1e-6)
    assert p3d["focal_length"].tolist() == [[50, 50]] * 2 and p3d["principal_point"].tolist() == [[30, 20]] * 2
    assert p3d["image_size"].tolist() == [[40, 60]] * 2 and p3d["in_ndc"] is False


def test_pytorch3d_sees_what_project_says():
    """Its formulas, from its notes: X R + T, then focal X / Z from the principal point, x to the left and y up."""
    c2w, points = look_at(vectors(*[4.0] * 5)), vectors(*[0.8] * 7, seed=4)
    focal = torch.tensor([50.0, 60, 70, 80, 90], dtype=torch.float64)
    p3d = to_pytorch3d(c2w, focal, (40, 60))
    X = points @ p3d["R"] + p3d["T"][:, None]
    screen = p3d["principal_point"][:, None] - p3d["focal_length"][:, None] * X[..., :2] / X[..., 2:]
    pixels, depth = project(points, c2w, focal, (40, 60))
    close(screen, pixels, 1e-10)
    close(X[..., 2], depth, 1e-12)


def test_pytorch3d_and_back():
    c2w = random_c2w(6)
    p3d = to_pytorch3d(c2w, 10.0, 8)
    close(from_pytorch3d(p3d["R"], p3d["T"]), c2w)
    close(from_pytorch3d(p3d["R"][0], p3d["T"][0]), c2w[0])


def test_agrees_with_pytorch3d_itself():
    renderer = pytest.importorskip("pytorch3d.renderer")
    c2w, points = random_c2w(3, dtype=torch.float32), torch.randn(7, 3)
    points = c2w[:, None, :3, 3] + points - 8 * c2w[:, None, :3, 2]  # before the cameras
    camera = renderer.PerspectiveCameras(**to_pytorch3d(c2w, 50.0, (40, 60)))
    pixels, _ = project(points, c2w, 50.0, (40, 60))
    torch.testing.assert_close(camera.transform_points_screen(points)[..., :2], pixels, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(camera.get_camera_center(), c2w[:, :3, 3], rtol=1e-4, atol=1e-4)
    R, T = renderer.look_at_view_transform(dist=3.0, elev=30.0, azim=50.0, up=((0, 0, 1),))
    c2w = from_pytorch3d(R, T)
    torch.testing.assert_close(c2w, look_at(c2w[:, :3, 3]), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- bad input


def broken(what):
    c2w = random_c2w(6)
    if what == "nan":
        c2w[4, 0, 1] = math.nan
    elif what == "scaled":
        c2w[2:4, :3, :3] *= 1.5
    elif what == "mirrored":
        c2w[1, :3, 0] *= -1
    elif what == "transposed":
        c2w = c2w.mT.contiguous()
    return c2w


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", r"1 of 6 poses \(number 4\) hold NaN"),
        ("scaled", r"2 of 6 poses \(number 2, 3\).*no rotation"),
        ("mirrored", r"number 1\).*mirrored"),
        ("transposed", "transposed"),
    ],
)
def test_bad_poses_are_refused_and_named(what, message):
    c2w = broken(what)
    for use in (
        lambda: check_poses(c2w),
        lambda: rays(c2w, 2, 2, 1.0),
        lambda: project(torch.zeros(3, dtype=torch.float64), c2w, 1.0, 2),
        lambda: convert(c2w, "opengl", "opencv"),
        lambda: to_pytorch3d(c2w, 1.0, 2),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_poses(torch.eye(3)), ValueError, r"c2w must be \(\.\.\., 4, 4\), got \(3, 3\)"),
        (lambda: check_poses(torch.eye(4).int(), "true"), TypeError, "true must be a float tensor, got torch.int32"),
        (lambda: check_poses([[1]]), TypeError, "list"),
        (lambda: convert(torch.eye(4), "opengl", "OpenCv"), ValueError, "target: .*did you mean opencv"),
        (lambda: convert(torch.eye(4), "colmap", "opencv"), ValueError, "source: .*known are opengl, opencv"),
        (lambda: rodrigues(torch.zeros(2, 4)), ValueError, "axis_angle"),
        (lambda: cameras.axis_angle(torch.eye(4)), ValueError, r"\[\.\.\., :3, :3\]"),
        (lambda: rotation_angle(torch.eye(3), torch.eye(4)), ValueError, r"b must be a tensor \(\.\.\., 3, 3\)"),
        (lambda: look_at(torch.zeros(3)), ValueError, "apart"),
        (lambda: look_at(torch.tensor([math.nan, 0, 1])), ValueError, "finite"),
        (lambda: look_at(torch.ones(3), up=(0, 0, 0)), ValueError, "up must be a direction"),
        (lambda: look_at(torch.ones(2)), ValueError, "eye"),
        (lambda: direction(0.0, 30.0), ValueError, "radians, not degrees"),
        (lambda: direction(0.0, math.nan), ValueError, "elevation"),
        (lambda: direction(math.inf, 0.0), ValueError, "azimuth"),
        (lambda: spherical(0.0, 0.0, 0.0), ValueError, "radius must be positive, got 0"),
        (lambda: spherical(0.0, 0.0, -1.0), ValueError, "radius must be positive"),
        (lambda: orbit(0, 1.0), ValueError, "count"),
        (lambda: candidate_directions(7, half_sphere=False), ValueError, "multiple of rows"),
        (lambda: candidate_directions(0, half_sphere=True), ValueError, "n must be"),
        (lambda: candidate_directions(8, half_sphere=True, elevation=(-0.1, 1)), ValueError, "elevation must rise"),
        (lambda: candidate_directions(8, half_sphere=True, elevation=(30, 60)), ValueError, "radians"),
        (lambda: candidate_directions(8, half_sphere=True).at(torch.zeros(8)), ValueError, "offsets must be"),
        (lambda: focal_length(40.0, 64), ValueError, "radians, not degrees"),
        (lambda: field_of_view(0.0, 64), ValueError, "focal"),
        (lambda: rays(torch.eye(4), 0, 4, 1.0), ValueError, "height"),
        (lambda: rays(torch.eye(4), 4, 4, 0.0), ValueError, "focal must be positive"),
        (lambda: rays(torch.eye(4), 4, 4, math.nan), ValueError, "focal must be positive"),
        (lambda: pixel_rays(torch.eye(4), torch.tensor([16]), 4, 4, 1.0), ValueError, r"0 \.\. 15 for 4x4"),
        (lambda: pixel_rays(torch.eye(4), torch.tensor([-1]), 4, 4, 1.0), ValueError, r"0 \.\. 15"),
        (lambda: pixel_rays(torch.eye(4), torch.tensor([0.5]), 4, 4, 1.0), TypeError, "integers"),
        (lambda: project(torch.zeros(2), torch.eye(4), 1.0, 4), ValueError, "points"),
        (lambda: to_pytorch3d(torch.eye(4), 1.0, 4), ValueError, r"\(N, 4, 4\)"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
