"""Radiance fields: rendering against closed forms and naive loops, gradients, grids, files, and what is refused."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from fdlib.cameras import look_at, orbit, rays
from fdlib.nerf import (
    GridField,
    MLPField,
    Rendering,
    SkipEmpty,
    disparity,
    inside_cube,
    point_cloud,
    positional_encoding,
    render_image,
    render_path,
    render_rays,
    sample_along,
    volume_render,
    write_ply,
)

RED, BLUE = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])


class Ball:
    """Constant density inside a ball around the origin, and one colour everywhere."""

    def __init__(self, density=2.0, radius=0.5, colour=RED):
        self.density, self.radius, self.colour = density, radius, colour

    def inside(self, points):
        return points.norm(dim=-1) <= self.radius

    def __call__(self, points, directions):
        return self.density * self.inside(points).to(points), self.colour.to(points).expand_as(points)


class Box(Ball):
    def inside(self, points):
        return points.abs().amax(-1) <= self.radius


def smooth(points, directions):
    """A field with all derivatives: a Gaussian cloud, its colour by place and side."""
    density = 3 * torch.exp(-2 * points.square().sum(-1))
    return density, torch.sigmoid(points * 1.5 + directions)


def grid_field(resolution=6, seed=0, **options):
    field = GridField(resolution, **options)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(field.grid, std=2, generator=generator)
    return field


def some_rays(n=7, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    origins = 3 * F.normalize(torch.randn(n, 3, generator=generator, dtype=dtype), dim=-1)
    directions = F.normalize(-origins + 0.5 * torch.randn(n, 3, generator=generator, dtype=dtype), dim=-1)
    return origins, directions


# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.45])
def test_a_ball_of_constant_density_is_as_opaque_as_its_chord_is_long(offset):
    density, radius = 2.0, 0.5
    half = math.sqrt(radius**2 - offset**2)
    seen = render_rays(
        Ball(density, radius), torch.tensor([[offset, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]), 2.0, 4.0, 4000
    )
    opacity = 1 - math.exp(-density * 2 * half)
    assert float(seen.opacity) == pytest.approx(opacity, abs=1e-3)
    # the mean of an exponential distribution cut off at the chord's length
    length = 2 * half
    depth = 3 - half + 1 / density - length * math.exp(-density * length) / opacity
    assert float(seen.depth) == pytest.approx(depth, abs=1e-3)
    expected = opacity * RED + (1 - opacity)  # on white
    torch.testing.assert_close(seen.colour[0], expected, atol=1e-3, rtol=0)


def test_a_slanting_ray_through_a_box_measures_length_not_depth():
    slope = 0.25
    origin, direction = torch.tensor([[-slope * 2, 0.0, 2.0]]), torch.tensor([[slope, 0.0, -1.0]])
    length = 2 * 0.5 * math.sqrt(1 + slope**2)
    for scale in (1.0, 2.0):  # a direction's length is a unit of depth and changes nothing that is seen
        seen = render_rays(Box(1.5), origin, scale * direction, 1.0 / scale, 3.0 / scale, 4000)
        assert float(seen.opacity) == pytest.approx(1 - math.exp(-1.5 * length), abs=1e-3)
        assert 1.5 / scale < float(seen.depth) < 2 / scale


def test_two_slabs_are_seen_in_order():
    """A red slab of optical depth a before a blue one of b, on green: red (1 - e^-a), blue e^-a (1 - e^-b), the rest green."""
    depths = torch.linspace(0.005, 1.995, 200)[None]
    density = torch.where(depths < 1, 0.7, 1.3)
    colour = torch.where((depths < 1)[..., None], RED, BLUE)
    seen = volume_render(density, colour, depths, torch.tensor(0.01), background=[0.0, 1.0, 0.0])
    a, b = math.exp(-0.7), math.exp(-1.3)
    expected = torch.tensor([[1 - a, a * b, a * (1 - b)]])
    torch.testing.assert_close(seen.colour, expected, atol=1e-5, rtol=0)


def test_equation_3_in_a_loop():
    torch.manual_seed(0)
    density, colour = torch.rand(5, 9, dtype=torch.float64) * 4, torch.rand(5, 9, 3, dtype=torch.float64)
    depths = torch.rand(5, 9, dtype=torch.float64).cumsum(-1)
    seen = volume_render(density, colour, depths, background=0.25)
    for ray in range(5):
        passed, pixel, opacity, depth = 1.0, torch.zeros(3, dtype=torch.float64), 0.0, 0.0
        for i in range(9):
            delta = float(depths[ray, i + 1] - depths[ray, i]) if i < 8 else float(depths[ray, 8] - depths[ray, 7])
            weight = passed * (1 - math.exp(-float(density[ray, i]) * delta))
            assert float(seen.weights[ray, i]) == pytest.approx(weight, rel=1e-12)
            pixel, opacity, depth = pixel + weight * colour[ray, i], opacity + weight, depth + weight * depths[ray, i]
            passed *= math.exp(-float(density[ray, i]) * delta)
        torch.testing.assert_close(seen.colour[ray], pixel + passed * 0.25)
        assert float(seen.opacity[ray]) == pytest.approx(1 - passed, rel=1e-12)
        assert float(seen.depth[ray]) == pytest.approx(float(depth / opacity), rel=1e-8)


def test_weights_sum_to_the_opacity_and_never_beyond_one():
    torch.manual_seed(0)
    density = torch.rand(100, 30) * 10 ** torch.linspace(-6, 4, 100)[:, None]
    seen = volume_render(density, torch.rand(100, 30, 3), torch.rand(100, 30).cumsum(-1))
    assert torch.equal(seen.weights.sum(-1), seen.opacity)
    assert seen.weights.min() >= 0 and seen.opacity.max() <= 1 + 1e-6
    assert seen.colour.min() >= 0 and seen.colour.max() <= 1 + 1e-6


@pytest.mark.parametrize("background", [1.0, 0.0, (0.2, 0.4, 0.6)])
def test_where_nothing_is_there_is_the_background(background):
    origins, directions = some_rays()
    seen = render_rays(Ball(0.0), origins, directions, 2.0, 4.0, 8, background=background)
    torch.testing.assert_close(seen.colour, torch.tensor(background).expand(7, 3))
    assert (seen.opacity == 0).all() and (seen.depth > 3.8).all() and (disparity(seen) == 0).all()


def test_disparity_of_an_opaque_wall_is_one_over_its_depth():
    seen = render_rays(Box(1e4, 0.5), torch.tensor([[0.0, 0.0, 2.5]]), torch.tensor([[0.0, 0.0, -1.0]]), 1.0, 3.0, 2000)
    assert float(disparity(seen)) == pytest.approx(1 / 2, abs=2e-3)


# ---------------------------------------------------------------------- samples


def test_without_a_generator_samples_are_the_middles_of_equal_parts():
    depths, widths = sample_along(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.4]), 4)
    torch.testing.assert_close(depths, torch.tensor([[1.25, 1.75, 2.25, 2.75], [2.05, 2.15, 2.25, 2.35]]))
    torch.testing.assert_close(widths, torch.tensor([[0.5], [0.1]]))


def test_random_samples_stay_in_their_parts_and_fill_them():
    near, far = torch.zeros(4000), torch.ones(4000)
    depths, _ = sample_along(near, far, 5, torch.Generator().manual_seed(0))
    place = depths * 5 - torch.arange(5)
    assert place.min() >= 0 and place.max() <= 1
    assert (place.mean(0) - 0.5).abs().max() < 0.03 and (place.var(0) - 1 / 12).abs().max() < 0.005
    again, _ = sample_along(near, far, 5, torch.Generator().manual_seed(0))
    assert torch.equal(depths, again)


def test_random_depths_leave_the_optical_depth_unbiased():
    """Four samples a ray are far too few for this ball, but their mean over many rays is right."""
    n, density = 20_000, 2.0
    origins, directions = torch.tensor([[0.2, 0.0, 3.0]]).expand(n, 3), torch.tensor([[0.0, 0.0, -1.0]]).expand(n, 3)
    seen = render_rays(Ball(density), origins, directions, 2.0, 4.0, 4, generator=torch.Generator().manual_seed(0))
    optical = -torch.log1p(-seen.opacity)
    assert float(optical.mean()) == pytest.approx(density * 2 * math.sqrt(0.25 - 0.04), rel=0.02)


def test_a_bounded_field_is_sampled_inside_its_cube_only():
    origins, directions = some_rays(200)
    near, far = inside_cube(origins, directions, torch.full((200,), 0.1), torch.full((200,), 9.0), 0.8)
    missed = near == far
    assert 0 < missed.sum() < 200
    fine = torch.linspace(0.1, 9, 20_000)
    points = origins[:, None] + fine[:, None] * directions[:, None]
    inside = points.abs().amax(-1) <= 0.8
    for ray in range(200):
        hits = fine[inside[ray]]
        if len(hits):
            assert float(near[ray]) == pytest.approx(float(hits[0]), abs=1e-3)
            assert float(far[ray]) == pytest.approx(float(hits[-1]), abs=1e-3)
        else:
            assert float(far[ray] - near[ray]) < 1e-3


def test_rays_along_a_face_or_inside_the_cube_are_no_exception():
    origins = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 2.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0]]).expand(3, 3)
    near, far = inside_cube(origins, directions, torch.zeros(3), torch.full((3,), 9.0), 1.0)
    assert near.tolist()[:2] == [1, 0] and far.tolist()[:2] == [3, 1] and float(near[2]) == float(far[2])


def test_sampling_inside_the_cube_sees_what_sampling_the_whole_ray_sees():
    field, (origins, directions) = grid_field(), some_rays(50)
    seen = render_rays(field, origins, directions, 0.5, 6.0, 400)
    whole = render_rays(lambda p, d: field(p, d), origins, directions, 0.5, 6.0, 4000)  # hides the field's bound
    torch.testing.assert_close(seen.colour, whole.colour, atol=0.01, rtol=0)
    assert (seen.opacity > 0.1).any()


# ---------------------------------------------------------------------- gradients and memory


def test_rendering_has_the_right_gradient_for_density_colour_and_depth():
    torch.manual_seed(0)
    density = (torch.rand(2, 5, dtype=torch.float64) * 2).requires_grad_()
    colour = torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True)
    depths = torch.rand(2, 5, dtype=torch.float64).cumsum(-1).requires_grad_()

    def everything(*inputs):
        seen = volume_render(*inputs)
        return seen.colour, seen.depth, seen.opacity, seen.weights

    assert torch.autograd.gradcheck(everything, (density, colour, depths))


def test_rendering_has_the_right_gradient_for_the_rays():
    origins, directions = (x.requires_grad_() for x in some_rays(3, dtype=torch.float64))

    def colour(o, d):
        return render_rays(smooth, o, d, 1.0, 5.0, 6).colour

    assert torch.autograd.gradcheck(colour, (origins, directions))


@pytest.mark.parametrize("view_dependent", [False, True])
def test_a_grid_has_the_right_gradient_for_voxels_and_points(view_dependent):
    field = grid_field(3, view_dependent=view_dependent, blur=0.7).double()
    points = (torch.rand(5, 3, dtype=torch.float64) * 1.6 - 0.8).requires_grad_()
    directions = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def both(grid, p, d):
        return torch.func.functional_call(field, {"grid": grid}, (p, d))

    assert torch.autograd.gradcheck(both, (field.grid, points, directions))


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_chunks_change_neither_the_picture_nor_the_gradients(chunk, seed):
    results = []
    for size in (None, chunk):
        field, generator = grid_field(), None if seed is None else torch.Generator().manual_seed(seed)
        origins, directions = some_rays(12)
        origins = origins.view(3, 4, 3).requires_grad_()
        seen = render_rays(
            field, origins, directions.view(3, 4, 3), 2.0, 4.0, 8, generator=generator, chunk=size, background=RED
        )
        seen.colour.square().sum().backward()
        results.append([seen.colour, seen.depth, seen.opacity, seen.weights, field.grid.grad, origins.grad])
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other)


def test_with_chunks_the_field_never_sees_more_points_than_asked_for():
    seen = []

    def field(points, directions):
        seen.append(points.shape[:-1].numel())
        return smooth(points, directions)

    origins, directions = some_rays(50)
    render_rays(field, origins.requires_grad_(), directions, 2.0, 4.0, 10, chunk=16).colour.sum().backward()
    assert max(seen) == 160 and len(seen) == 8  # four parts, forward and once more for the gradient


# ---------------------------------------------------------------------- fields


@pytest.mark.parametrize("frequencies", [1, 4])
def test_positional_encoding_in_a_loop(frequencies):
    x = torch.rand(2, 3, 3, dtype=torch.float64) * 2 - 1
    encoded = positional_encoding(x, frequencies)
    assert encoded.shape == (2, 3, 6 * frequencies)
    for at in np.ndindex(2, 3):
        expected = []
        for d in range(3):
            for k in range(frequencies):
                expected += [math.sin(2**k * math.pi * float(x[at][d])), math.cos(2**k * math.pi * float(x[at][d]))]
        torch.testing.assert_close(encoded[at], torch.tensor(expected, dtype=torch.float64))


def test_the_papers_network_has_the_papers_layers():
    """Figure 7: 60 -> 256, seven more of 256 with 60 joining at the fifth, density, 256, (256 + 24) -> 128 -> 3."""
    layers = [(60, 256)] + 3 * [(256, 256)] + [(316, 256)] + 3 * [(256, 256)]
    layers += [(256, 1), (256, 256), (280, 128), (128, 3)]
    assert MLPField().parameter_count == sum(n * m + m for n, m in layers)


@pytest.mark.parametrize(
    "field",
    [GridField(5, bound=0.7), GridField(5, view_dependent=True), MLPField(0.7, 3, 16, 1), MLPField(1, 2, 8, None)],
)
def test_density_is_not_negative_and_colour_a_colour_wherever_one_looks(field):
    torch.manual_seed(0)
    for parameter in field.parameters():
        nn.init.normal_(parameter, std=3)
    points, directions = torch.randn(4, 6, 3), torch.randn(4, 1, 3)
    density, colour = field(points, directions)
    assert density.shape == (4, 6) and colour.shape == (4, 6, 3)
    assert density.min() >= 0 and colour.min() >= 0 and colour.max() <= 1
    outside = points.abs().amax(-1) > field.bound
    assert outside.any() and (density[outside] == 0).all() and (density[~outside] > 0).any()


def test_the_direction_changes_the_colour_and_never_the_density():
    torch.manual_seed(0)
    points = torch.rand(6, 3) - 0.5
    for field, depends in ((MLPField(1, 3, 16), True), (grid_field(view_dependent=True), True), (grid_field(), False)):
        (density, colour), (again, other) = field(points, torch.randn(6, 3)), field(points, torch.randn(6, 3))
        assert torch.equal(density, again) and (not torch.allclose(colour, other)) == depends


def test_a_view_dependent_grid_is_linear_in_the_direction():
    field, points = grid_field(view_dependent=True), torch.rand(5, 3) - 0.5
    directions = F.normalize(torch.randn(5, 3), dim=-1)
    raw = [
        F.grid_sample(field.grid[None], points.view(1, -1, 1, 1, 3), align_corners=True)[0, :, k, 0, 0]
        for k in range(5)
    ]
    for k, values in enumerate(raw):
        expected = values[1:4] + sum(directions[k, j] * values[4 + 3 * j : 7 + 3 * j] for j in range(3))
        torch.testing.assert_close(field(points, 7 * directions)[1][k], torch.sigmoid(expected))


def test_a_grid_holds_at_each_voxel_centre_what_was_put_there():
    """Axes (channel, z, y, x), the first and last centre at -bound and bound; and trilinear between them."""
    field = GridField(5, bound=2.0)
    nn.init.normal_(field.grid)
    x, y, z = 4, 1, 2
    point = torch.tensor([[2.0, -1.0, 0.0], [1.5, -1.0, 0.0]])
    density, colour = field(point, torch.zeros(2, 3))
    torch.testing.assert_close(colour[0], torch.sigmoid(field.grid[1:, z, y, x]))
    expected = F.softplus(field.grid[0, z, y, x] + field.offset) / 1.0  # voxels have the length 1
    torch.testing.assert_close(density[0], expected)
    between = (field.grid[1:, z, y, x] + field.grid[1:, z, y, x - 1]) / 2
    torch.testing.assert_close(colour[1], torch.sigmoid(between))


def test_an_untrained_grid_is_the_fog_that_was_asked_for():
    for resolution in (8, 33):
        density, colour = GridField(resolution, bound=2.0, fog=0.05)(torch.rand(4, 3), torch.rand(4, 3))
        torch.testing.assert_close(density * 4 / (resolution - 1), torch.full((4,), 0.05))
        torch.testing.assert_close(colour, torch.full((4, 3), 0.5))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(threads, monkeypatch):
    field, points = grid_field(), torch.rand(12, 3) * 2 - 1
    expected = [field(points[k : k + 1], points[k : k + 1]) for k in range(12)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    density, colour = field(points, points)
    torch.testing.assert_close(density, torch.cat([one[0] for one in expected]))
    torch.testing.assert_close(colour, torch.cat([one[1] for one in expected]))


@pytest.mark.parametrize("blur", [0.4, 1.0, 3.0])
def test_blur_is_a_gaussian_that_keeps_the_sum(blur):
    field = grid_field(9)
    sharp = field.smoothed().detach().clone()
    field.set_blur(blur)
    blurred = field.smoothed().detach()
    torch.testing.assert_close(blurred.sum((1, 2, 3)), sharp.sum((1, 2, 3)), rtol=1e-4, atol=1e-3)
    for channel in range(4):
        expected = gaussian_filter(sharp[channel].double().numpy(), blur, mode="reflect")
        np.testing.assert_allclose(blurred[channel].numpy(), expected, atol=1e-5)
    assert blurred.var() < sharp.var()
    field.set_blur(0)
    assert torch.equal(field.smoothed(), sharp)


@pytest.mark.parametrize(
    "make", [lambda: grid_field(5, blur=1.5, bound=0.7, view_dependent=True), lambda: MLPField(1.2, 3, 16)]
)
def test_a_saved_field_comes_back(make, tmp_path):
    field = make()
    field.save_pretrained(tmp_path / "field")
    again = type(field).from_pretrained(tmp_path / "field")
    points = torch.rand(20, 3) - 0.5
    for one, other in zip(field(points, points), again(points, points), strict=True):
        assert torch.equal(one, other)


def test_a_saved_grid_remembers_how_blurred_it_was_at_last(tmp_path):
    field = grid_field(blur=2.0)
    field.set_blur(0.5)
    field.save_pretrained(tmp_path / "field")
    again = GridField.from_pretrained(tmp_path / "field")
    assert float(again.blur) == 0.5 and torch.equal(again.smoothed(), field.smoothed())


def test_both_fields_learn_a_coloured_ball_from_pictures():
    torch.manual_seed(0)
    c2w, focal = orbit(6, 3.0), 20.0
    with torch.no_grad():
        target = render_image(Ball(20.0), c2w, focal, 16, 2.0, 4.0, 64).colour
    origins, directions = rays(c2w, 16, 16, focal)
    for field, rate in ((GridField(12), 0.3), (MLPField(1.0, 2, 32, None, 3, 1), 0.02)):
        optimizer, losses = torch.optim.Adam(field.parameters(), rate), []
        for _ in range(40):
            loss = (render_rays(field, origins, directions, 2.0, 4.0, 16).colour - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.1 * losses[0], (type(field).__name__, losses[0], losses[-1])


# ---------------------------------------------------------------------- empty space


class CountingBall(nn.Module):
    """Density 30 within .4 of (.2, 0, 0); counts the points that it is asked about."""

    bound, asked = 1.0, 0

    def forward(self, points, directions):
        self.asked += points[..., 0].numel()
        inside = (points - points.new_tensor([0.2, 0, 0])).norm(dim=-1) < 0.4
        return 30.0 * inside, torch.sigmoid(points + 0 * directions)


def test_skipping_empty_space_changes_no_pixel_and_asks_less():
    ball = CountingBall()
    c2w = look_at(torch.tensor([[0.3, -2.5, 1.0], [2.0, 1.0, -1.5]]))
    whole = render_image(ball, c2w, 20.0, 16, 1.0, 4.5, 64)
    every, ball.asked = ball.asked, 0
    quick = SkipEmpty(ball, resolution=32)
    assert ball.asked == 33**3
    ball.asked = 0
    made = render_image(quick, c2w, 20.0, 16, 1.0, 4.5, 64)
    torch.testing.assert_close(made.colour, whole.colour)
    torch.testing.assert_close(made.opacity, whole.opacity)
    assert 0 < ball.asked < 0.25 * every


def test_gradients_pass_through_what_was_asked():
    torch.manual_seed(0)
    field = GridField(4, 1.0)
    nn.init.normal_(field.grid, std=3.0)
    quick, points = SkipEmpty(field, 8, threshold=0.0), torch.rand(50, 3) - 0.5
    for f in (field, quick):
        field.zero_grad()
        density, colour = f(points, torch.tensor([0.0, 0.0, 1.0]))
        (density.sum() + colour.sum()).backward()
        if f is field:
            expected = density.detach(), field.grid.grad.clone()
    torch.testing.assert_close((density.detach(), field.grid.grad), expected)


def test_a_field_without_an_end_has_no_empty_space():
    with pytest.raises(ValueError, match="bound is missing"):
        SkipEmpty(lambda points, directions: (points[..., 0], points))


# ---------------------------------------------------------------------- pictures, paths, points


def test_a_picture_shows_the_ball_where_the_camera_looks():
    c2w = look_at(torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.5, 1.0]]))
    seen = render_image(Ball(50.0), c2w, 30.0, (11, 15), 1.5, 4.0, 128)
    assert seen.colour.shape == (2, 11, 15, 3) and seen.depth.shape == seen.opacity.shape == (2, 11, 15)
    assert seen.weights is None and seen.images.shape == (2, 3, 11, 15)
    torch.testing.assert_close(
        seen.images[:, :, 5, 7], torch.tensor([[1.0, -1.0, -1.0]]).expand(2, 3), atol=1e-2, rtol=0
    )
    torch.testing.assert_close(seen.images[:, :, 0, 0], torch.ones(2, 3))
    # half a grain of density behind the surface
    torch.testing.assert_close(seen.depth[:, 5, 7], c2w[:, :3, 3].norm(dim=-1) - 0.5 + 1 / 50, atol=0.02, rtol=0)
    alone = render_image(Ball(50.0), c2w[0], 30.0, (11, 15), 1.5, 4.0, 128, chunk=None)
    torch.testing.assert_close(alone.colour, seen.colour[0])


def test_gradients_of_a_picture_reach_the_camera():
    c2w = look_at(torch.tensor([[3.0, 0.5, 0.2]])).requires_grad_()
    render_image(grid_field(), c2w, 10.0, 6, 2.0, 4.0, 8, chunk=10).colour.square().sum().backward()
    assert c2w.grad[0, :3].abs().min() > 0 and c2w.grad.isfinite().all()


def test_a_path_is_its_pictures_without_gradients():
    field, path = grid_field(), orbit(3, 3.0)
    film = render_path(field, path, 10.0, 6, 2.0, 4.0, 8, progress=False)
    assert film.images.shape == (3, 3, 6, 6) and not film.colour.requires_grad
    torch.testing.assert_close(film.colour, render_image(field, path, 10.0, 6, 2.0, 4.0, 8).colour.detach())
    assert isinstance(film, Rendering) and film.depth.shape == (3, 6, 6)


@pytest.mark.parametrize("chunk", [100, 1 << 16])
def test_a_point_cloud_is_where_the_matter_is(chunk):
    points, colours = point_cloud(Ball(5.0, 0.52), 1.0, 21, bound=1.0, chunk=chunk)
    axis = np.linspace(-1, 1, 21)
    grid = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    assert len(points) == (np.linalg.norm(grid, axis=-1) <= 0.52).sum()
    assert points.norm(dim=-1).max() <= 0.52 and torch.equal(colours, RED.expand(len(points), 3))


def read_ply(path):
    """Header lines and an array (M, 6), by the format's description."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    if "format ascii 1.0" in lines:
        return lines, np.array([[float(x) for x in row.split()] for row in body.decode().splitlines()])
    kinds = {"float": "<f4", "uchar": "u1"}
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    rows = np.frombuffer(body, [(name, kinds[kind]) for kind, name in properties])
    return lines, np.stack([rows[name] for _, name in properties], -1)


@pytest.mark.parametrize("binary", [True, False])
def test_a_ply_file_holds_the_points_and_their_colours(binary, tmp_path):
    torch.manual_seed(0)
    points, colours = torch.randn(10, 3), torch.rand(10, 3)
    write_ply(tmp_path / "a" / "cloud.ply", points, colours, binary)
    lines, rows = read_ply(tmp_path / "a" / "cloud.ply")
    assert lines[0] == "ply" and "element vertex 10" in lines
    np.testing.assert_allclose(rows[:, :3], points.numpy(), rtol=1e-5)
    np.testing.assert_allclose(rows[:, 3:], (colours * 255).round().numpy())
    write_ply(tmp_path / "bare.ply", points, binary=binary)
    np.testing.assert_allclose(read_ply(tmp_path / "bare.ply")[1], points.numpy(), rtol=1e-5)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(near=4.0, far=2.0), ValueError, "near < far"),
        (dict(near=2.0, far=2.0), ValueError, "near < far"),
        (dict(near=-1.0), ValueError, "0 <= near"),
        (dict(near=math.nan), ValueError, "near"),
        (dict(samples=0), ValueError, "samples must be a whole number >= 1, got 0"),
        (dict(samples=2.5), ValueError, "samples"),
        (dict(chunk=0), ValueError, "chunk must be a whole number of rays >= 1, got 0"),
        (dict(origins=torch.full((7, 3), math.nan)), ValueError, "origins contain NaN"),
        (dict(directions=torch.full((7, 3), math.inf)), ValueError, "directions contain NaN or infinity"),
        (dict(directions=torch.zeros(6, 3)), ValueError, r"one shape \(..., 3\), got \(7, 3\) and \(6, 3\)"),
        (dict(origins=torch.zeros(7, 2)), ValueError, "one shape"),
        (dict(origins=torch.zeros(7, 3, dtype=torch.int64)), TypeError, "origins must be a float tensor"),
    ],
)
def test_rays_that_cannot_be_rendered_are_refused(change, error, message):
    origins, directions = some_rays()
    options = {**dict(origins=origins, directions=directions, near=2.0, far=4.0, samples=4), **change}
    with pytest.raises(error, match=message):
        render_rays(Ball(), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GridField(1), "resolution must be a whole number >= 2, got 1"),
        (lambda: GridField(8, bound=0), "bound must be positive"),
        (lambda: GridField(8, blur=-1), "blur must be 0 or more"),
        (lambda: GridField(8, fog=0), "fog must be positive"),
        (lambda: GridField(8).set_blur(math.nan), "blur"),
        (lambda: MLPField(layers=0), "layers must be a whole number >= 1"),
        (lambda: MLPField(skip=0), "skip must be None or the number of a layer from 1 on, got 0"),
        (lambda: MLPField(bound=-1), "bound must be positive"),
        (lambda: positional_encoding(torch.zeros(2, 3), 0), "frequencies"),
        (lambda: sample_along(torch.zeros(1), torch.ones(1), 0), "samples"),
        (lambda: volume_render(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)), r"\(..., S, 3\)"),
        (lambda: volume_render(torch.zeros(2, 1), torch.zeros(2, 1, 3), torch.zeros(2, 1)), "widths must be given"),
        (lambda: render_path(Ball(), torch.eye(4), 10.0, 4, 1.0, 2.0), r"path must be .* \(N, 4, 4\)"),
        (lambda: render_image(Ball(), torch.eye(3), 10.0, 4, 1.0, 2.0), r"\(..., 4, 4\)"),
        (lambda: point_cloud(Ball(5.0), 9.0, bound=1.0), "threshold=9 is too high: the field's density reaches 5"),
        (lambda: point_cloud(Ball(5.0), 1.0), "bound is missing"),
        (lambda: write_ply("x.ply", torch.zeros(2, 2)), r"points must have the shape \(M, 3\)"),
        (lambda: write_ply("x.ply", torch.full((2, 3), math.nan)), "points contain NaN"),
        (lambda: write_ply("x.ply", torch.zeros(2, 3), torch.zeros(3, 3)), "colours must have the shape of points"),
        (lambda: write_ply("x.ply", torch.zeros(2, 3), torch.full((2, 3), -1.0)), r"colours must lie in \[0, 1\]"),
    ],
)
def test_what_makes_no_sense_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
