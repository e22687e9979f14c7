"""Rendered views against independent geometry, and each reader on tiny data written in its real format on the spot."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch.utils.data import DataLoader

from fdlib.cameras import convert, direction, focal_length, look_at, project, rays, spherical
from fdlib.data.multiview import MultiView
from fdlib.data.multiview_renderer import AMBIENT, DIRECT, FACES, SCENES, SKY, SUN, Scene, Solid, render_views, trace

LEGO = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "lego_128.npz"


@pytest.fixture(scope="module")
def car():
    return MultiView.render("car", views=6, size=24, seed=0)


def poses(n=3, radius=4.0):
    return look_at(spherical(torch.arange(n) * 1.3, torch.full((n,), 0.4), radius))


def random_images(n=3, size=8, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---------------------------------------------------------------------- rays and solids


@pytest.mark.parametrize("kind", ["box", "ellipsoid", "cylinder"])
def test_a_ray_meets_a_solid_where_marching_along_it_says(kind):
    solid = Solid(kind, (0.1, -0.2, 0.05), (0.5, 0.3, 0.4), (1.0, 1.0, 1.0), (30, 20, -40))
    generator = torch.Generator().manual_seed(0)
    origins = 2 * torch.nn.functional.normalize(torch.randn(60, 3, generator=generator), dim=-1)
    directions = -origins + 0.4 * torch.randn(60, 3, generator=generator)
    depth, _ = trace((solid,), origins, directions)
    yaw, pitch, roll = solid.turn
    turn = torch.tensor(Rotation.from_euler("ZYX", [yaw, pitch, roll], degrees=True).as_matrix(), dtype=torch.float32)
    t = torch.linspace(0, 2, 20_001)
    points = origins[:, None] + t[:, None] * directions[:, None]
    local = (points - torch.tensor(solid.centre)) @ turn / torch.tensor(solid.half)
    inside = {
        "box": local.abs().amax(-1) <= 1,
        "ellipsoid": local.norm(dim=-1) <= 1,
        "cylinder": (local[..., :2].norm(dim=-1) <= 1) & (local[..., 2].abs() <= 1),
    }[kind]
    hit = inside.any(-1)
    assert 10 < hit.sum() < 60
    first = t[inside.float().argmax(-1)]
    assert torch.equal(depth[hit].isfinite(), torch.ones(int(hit.sum()), dtype=torch.bool))
    torch.testing.assert_close(depth[hit], first[hit], atol=2e-4, rtol=0)
    grazing = depth[~hit].isfinite().sum()  # thinner than a step of the march
    assert grazing <= 1


def test_a_box_has_its_colours_where_they_belong():
    colours = {face: (0.1 * (k + 1), 0.0, 0.0) for k, face in enumerate(FACES)}
    box = Solid("box", (0, 0, 0), (0.5, 0.4, 0.3), colours)
    axes = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    depth, colour = trace((box,), 3 * axes, -axes)
    torch.testing.assert_close(depth, 3 - torch.tensor([0.5, 0.5, 0.4, 0.4, 0.3, 0.3]))
    light = colour[:, 0] / torch.tensor([0.1 * (k + 1) for k in range(6)])
    assert (light >= 0.5).all() and (light <= 1).all() and light.argmax() == 4  # the top is the brightest


def test_the_light_on_a_turned_ellipsoid_follows_the_gradient_of_its_equation():
    solid = Solid("ellipsoid", (0.1, 0, -0.1), (0.6, 0.2, 0.4), (0.5, 0.5, 0.5), (50, 20, 10))
    generator = torch.Generator().manual_seed(0)
    origins = 3 * torch.nn.functional.normalize(torch.randn(200, 3, generator=generator, dtype=torch.float64), dim=-1)
    directions = torch.tensor(solid.centre) - origins
    depth, colour = trace((solid,), origins, directions)
    points = (origins + depth[:, None] * directions).requires_grad_()
    turn = torch.tensor(Rotation.from_euler("ZYX", solid.turn, degrees=True).as_matrix())
    local = (points - torch.tensor(solid.centre)) @ turn / torch.tensor(solid.half)
    local.square().sum().backward()
    normal = torch.nn.functional.normalize(points.grad, dim=-1)
    sun = torch.nn.functional.normalize(torch.tensor(SUN, dtype=torch.float64), dim=0)
    expected = AMBIENT + DIRECT * (normal @ sun).clamp(min=0) + SKY * normal[:, 2].clamp(min=0)
    torch.testing.assert_close(colour[:, 1], 0.5 * expected, atol=1e-6, rtol=0)


def test_the_nearest_of_two_solids_is_seen_whatever_their_order():
    near, far = (
        Solid("ellipsoid", (1, 0, 0), (0.3,) * 3, (1.0, 0, 0)),
        Solid("box", (-1, 0, 0), (0.5,) * 3, (0, 1.0, 0)),
    )
    origin, direction = torch.tensor([[4.0, 0, 0]]), torch.tensor([[-1.0, 0, 0]])
    for solids in ((near, far), (far, near)):
        depth, colour = trace(solids, origin, direction)
        assert float(depth) == pytest.approx(2.7) and colour[0, 0] > 0.5 and colour[0, 1] == 0


def test_a_ball_covers_the_area_and_has_the_depth_of_geometry():
    scene = Scene((Solid("ellipsoid", (0, 0, 0), (0.5,) * 3),))
    c2w, focal = look_at(spherical(torch.tensor([0.3]), torch.tensor([0.5]), 3.0)), 60.0
    _, cover, depth = render_views(scene, c2w, 63, focal, supersample=5)
    radius = focal * 0.5 / math.sqrt(9 - 0.25)  # of the disk in the picture, in pixels
    assert float(cover.sum()) == pytest.approx(math.pi * radius**2, rel=0.01)
    assert float(depth[0, 31, 31]) == pytest.approx(2.5, abs=1e-5)


# ---------------------------------------------------------------------- the scenes


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_lies_where_it_says(scene):
    data = MultiView.render(scene, views=30, size=64, seed=1, supersample=1)
    origins, directions = rays(data.c2w, 64, 64, data.focal)
    met = data.depth.isfinite()
    points = (origins + directions * torch.where(met, data.depth, 0.0)[..., None])[met]
    assert points.abs().max() <= data.bound + 1e-5
    assert data.depth[met].min() > data.near and data.depth[met].max() < data.far
    if SCENES[scene].forward_facing:
        assert (data.masks == 1).all()
    else:
        assert points.norm(dim=-1).max() <= 1
        border = torch.cat([data.masks[:, 0], data.masks[:, -1], data.masks[:, :, 0], data.masks[:, :, -1]], -1)
        assert (border == 0).all() and 0.05 < data.masks.mean() < 0.6
        corner = data.images[:, :, 0, 0]
        torch.testing.assert_close(corner, torch.ones_like(corner))


def test_forward_facing_cameras_look_in_nearly_one_direction_from_a_patch():
    data = MultiView.render("desk", views=40, size=8, seed=2, supersample=1)
    ahead = -data.c2w[:, :3, 2]
    angle = torch.rad2deg(torch.acos((ahead @ ahead.mean(0) / ahead.mean(0).norm()).clamp(max=1)))
    assert angle.max() < 6 and angle.mean() > 0.5
    eye = data.c2w[:, :3, 3]
    toward = torch.rad2deg(torch.acos((eye / eye.norm(dim=1, keepdim=True) @ direction(0.0, 0.19)).clamp(max=1)))
    assert toward.max() > 9  # the places spread wider than the directions: this is no ring of cameras around a point


@pytest.mark.parametrize("scene", SCENES)
def test_points_of_one_view_are_seen_in_another_with_the_same_colour(scene):
    """Unproject the pixels of a view by its depth, project them into its neighbour: poses, depth and axes agree."""
    world = SCENES[scene]
    middle = sum(world.azimuth) / 2
    data = MultiView.render(scene, views=2, size=64, seed=3, azimuth=(middle, middle + 0.15), elevation=(0.2, 0.3))
    origins, directions = rays(data.c2w, 64, 64, data.focal)
    solid = data.masks[0] == 1
    points = (origins[0] + directions[0] * data.depth[0, ..., None])[solid]
    colours = data.images[0].movedim(0, -1)[solid]
    pixels, _ = project(points, data.c2w[1], data.focal, 64)
    column, row = pixels.floor().long().unbind(-1)
    inside = (column >= 0) & (column < 64) & (row >= 0) & (row < 64)
    column, row, points, colours = column[inside], row[inside], points[inside], colours[inside]
    distance = (points - data.c2w[1, :3, 3]).norm(dim=-1)
    seen = (data.depth[1, row, column] - distance).abs() < 0.05  # else something is in between
    error = (data.images[1, :, row, column].T - colours).abs().mean(-1)[seen]
    assert seen.float().mean() > 0.7 and error.median() < 0.05


def test_the_car_shows_another_colour_on_every_side():
    sides = {}
    for name, azimuth in (("front", 0.0), ("left", math.pi / 2), ("back", math.pi), ("right", -math.pi / 2)):
        data = MultiView.render("car", views=2, size=32, azimuth=(azimuth, azimuth), elevation=(0.1, 0.1))
        sides[name] = (data.images[0] * data.masks[0]).sum((1, 2)) / data.masks[0].sum()
    for a in sides:
        for b in sides:
            assert a == b or (sides[a] - sides[b]).abs().max() > 0.15, (a, b)
    assert sides["left"][2] > sides["left"][1] and sides["right"][1] > sides["right"][2]  # blue left, green right


def test_no_turn_and_no_mirror_image_brings_the_car_back():
    turns = torch.arange(12) * math.pi / 6
    c2w = look_at(spherical(turns, torch.full((12,), 0.5), 3.0))
    colour, cover, _ = render_views(SCENES["car"], c2w, 32, focal_length(0.7, 32))
    image = colour + (1 - cover)[..., None]
    for a in range(12):
        for b in range(12):
            if a != b:
                assert (image[a] - image[b]).square().mean() > 0.005
            assert (image[a] - image[b].flip(1)).square().mean() > 0.005


def test_supersampling_is_the_mean_of_a_finer_picture():
    c2w, focal = poses(2, 3.0), 20.0
    coarse, cover, depth = render_views(SCENES["car"], c2w, 16, focal, supersample=3)
    fine, fine_cover, fine_depth = render_views(SCENES["car"], c2w, 48, 3 * focal, supersample=1)
    torch.testing.assert_close(coarse, fine.view(2, 16, 3, 16, 3, 3).mean((2, 4)))
    torch.testing.assert_close(cover, fine_cover.view(2, 16, 3, 16, 3).mean((2, 4)))
    assert torch.equal(depth, fine_depth[:, 1::3, 1::3])


def test_cameras_are_drawn_from_the_ranges_and_look_at_the_origin():
    data = MultiView.render("cup", views=200, size=8, seed=0, azimuth=(0, 1.5), elevation=(0.2, 0.6), radius=(2.5, 3.5))
    eye = data.c2w[:, :3, 3]
    radius, azimuth = eye.norm(dim=-1), torch.atan2(eye[:, 1], eye[:, 0])
    elevation = torch.asin(eye[:, 2] / radius)
    for values, low, high in ((azimuth, 0, 1.5), (elevation, 0.2, 0.6), (radius, 2.5, 3.5)):
        assert (
            low - 1e-5 <= values.min() < low + 0.05 * (high - low)
            and high - 0.05 * (high - low) < values.max() <= high + 1e-5
        )
    pixels, _ = project(torch.zeros(3), data.c2w, data.focal, 8)
    torch.testing.assert_close(pixels, torch.full((200, 2), 4.0), atol=1e-3, rtol=0)
    assert (data.near, data.far) == (1.5, 4.5)


def test_the_seed_decides_the_views_and_other_seeds_hold_them_out(car):
    again, other = MultiView.render("car", views=6, size=24, seed=0), MultiView.render("car", views=6, size=24, seed=1)
    assert torch.equal(car.images, again.images) and torch.equal(car.c2w, again.c2w)
    assert (torch.cdist(car.c2w[:, :3, 3], other.c2w[:, :3, 3]) > 1e-3).all()
    longer = MultiView.render("car", views=9, size=24, seed=0)
    assert torch.equal(longer.images[:6], car.images)


# ---------------------------------------------------------------------- the data set


def test_items_and_batches(car):
    item = car[-1]
    assert item["index"] == 5 and item["image"].shape == (3, 24, 24) and item["c2w"].shape == (4, 4)
    batch = next(iter(DataLoader(car, batch_size=4)))
    assert torch.equal(batch["image"], car.images[:4]) and torch.equal(batch["c2w"], car.c2w[:4])
    assert batch["index"].tolist() == [0, 1, 2, 3] and len(car) == 6 and "6 views, 24x24" in repr(car)
    with pytest.raises(IndexError):
        car[6]


def test_a_subset_keeps_everything_together(car):
    part = car.subset([4, 1])
    for name in ("images", "c2w", "masks", "depth"):
        assert torch.equal(getattr(part, name), getattr(car, name)[[4, 1]])
    assert (part.near, part.far, part.focal, part.bound) == (car.near, car.far, car.focal, car.bound)


def test_resizing_averages_boxes_and_scales_the_focal_length(car):
    small = car.resize(8)
    assert small.focal == pytest.approx(car.focal / 3)
    torch.testing.assert_close(small.images, car.images.view(6, 3, 8, 3, 8, 3).mean((3, 5)))
    torch.testing.assert_close(small.masks, car.masks.view(6, 8, 3, 8, 3).mean((2, 4)))
    box = car.depth.view(6, 8, 3, 8, 3).movedim(2, 3).flatten(3)
    expected = torch.where(box.isfinite(), box, torch.nan).nanmean(-1).nan_to_num(torch.inf)
    torch.testing.assert_close(small.depth, expected)
    direct = MultiView.render("car", views=6, size=8, seed=0, supersample=9)  # the same rays
    torch.testing.assert_close(small.images, direct.images, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"size must divide 24.*\[4, 6, 8, 12, 24\]; got 7"):
        car.resize(7)


# ---------------------------------------------------------------------- Blender


def write_blender(folder, n=3, size=8, split="train", mode="RGBA", seed=0, **extra):
    """A synthetic scene as NeRF's authors ship theirs. Returns straight RGBA pixels (n, size, size, 4) and the poses."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, size, size, 4), np.uint8)
    (folder / split).mkdir(parents=True, exist_ok=True)
    c2w, frames = poses(n), []
    for k in range(n):
        Image.fromarray(pixels[k]).convert(mode).save(folder / split / f"r_{k}.png")
        frames.append({"file_path": f"./{split}/r_{k}", "rotation": 0.01, "transform_matrix": c2w[k].tolist()})
    described = {"camera_angle_x": 0.6911112070083618, "frames": frames, **extra}
    (folder / f"transforms_{split}.json").write_text(json.dumps(described))
    return pixels, c2w


def edit(folder, change, split="train"):
    file = folder / f"transforms_{split}.json"
    described = json.loads(file.read_text())
    change(described)
    file.write_text(json.dumps(described))


def test_blender_pictures_are_laid_on_white_and_keep_their_poses(tmp_path):
    pixels, c2w = write_blender(tmp_path)
    data = MultiView.from_blender(tmp_path)
    alpha = pixels[..., 3:] / 255
    expected = (pixels[..., :3] / 255 * alpha + 1 - alpha) * 2 - 1
    np.testing.assert_allclose(data.images.movedim(1, -1).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(data.masks.numpy(), alpha[..., 0], atol=1e-6)
    torch.testing.assert_close(data.c2w, c2w)
    assert data.focal == pytest.approx(0.5 * 8 / math.tan(0.5 * 0.6911112070083618))
    assert (data.near, data.far) == (2, 6) and data.names == ["./train/r_0", "./train/r_1", "./train/r_2"]
    black = MultiView.from_blender(tmp_path, background=0.0)
    np.testing.assert_allclose(black.images.movedim(1, -1).numpy(), pixels[..., :3] / 255 * alpha * 2 - 1, atol=1e-6)


def test_blender_pictures_are_reduced_on_reading_as_they_are_by_resize(tmp_path):
    write_blender(tmp_path)
    small, later = MultiView.from_blender(tmp_path, size=4), MultiView.from_blender(tmp_path).resize(4)
    torch.testing.assert_close(small.images, later.images)
    torch.testing.assert_close(small.masks, later.masks)
    assert small.focal == pytest.approx(later.focal)
    with pytest.raises(ValueError, match=r"size must divide 8, the size of r_0.png, got 3"):
        MultiView.from_blender(tmp_path, size=3)


def test_blender_pictures_without_alpha_have_no_masks(tmp_path):
    pixels, _ = write_blender(tmp_path, mode="RGB", split="test")
    data = MultiView.from_blender(tmp_path, "test")
    np.testing.assert_allclose(data.images.movedim(1, -1).numpy(), pixels[..., :3] / 127.5 - 1, atol=1e-5)
    assert data.masks is None and data.depth is None


def test_a_focal_length_in_pixels_will_do(tmp_path):
    write_blender(tmp_path, fl_x=20.0, w=16)
    edit(tmp_path, lambda d: d.pop("camera_angle_x"))
    assert MultiView.from_blender(tmp_path).focal == 10
    edit(tmp_path, lambda d: d.pop("fl_x"))
    with pytest.raises(ValueError, match="neither camera_angle_x"):
        MultiView.from_blender(tmp_path)


def test_missing_frames_are_counted_and_named(tmp_path):
    write_blender(tmp_path, n=9)
    for k in range(1, 8):
        (tmp_path / "train" / f"r_{k}.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"9 files, of which 7 are missing: train/r_1.png.*train/r_5.png and 2 more"
    ):
        MultiView.from_blender(tmp_path)


def test_a_missing_split_names_those_that_are_there(tmp_path):
    write_blender(tmp_path, split="train")
    write_blender(tmp_path, split="val")
    with pytest.raises(FileNotFoundError, match=r"no split 'test'.*it has the splits train, val"):
        MultiView.from_blender(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="no transforms"):
        MultiView.from_blender(tmp_path / "train")


def _set(path, value):
    def change(described):
        target = described
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["frames"][1].pop("transform_matrix"), r"images without poses.*\./train/r_1"),
        (_set(["frames", 2, "transform_matrix", 0, 3], math.nan), r"1 of 3 poses \(number 2\) hold NaN"),
        (_set(["frames", 2, "transform_matrix", 0], [9.0, 0, 0, 0]), "no rotation"),
        (_set(["frames", 1, "transform_matrix"], [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]), "transform_matrix"),
        (_set(["frames", 1, "transform_matrix", 0, 0], "x"), "transform_matrix"),
        (_set(["frames"], 3), "no list of frames"),
        (lambda d: d.pop("frames"), "no list of frames"),
        (_set(["camera_angle_x"], 40.0), "radians"),
        (lambda d: d["frames"].__delitem__(slice(1, None)), "a single view"),
    ],
)
def test_blender_files_that_make_no_sense_are_refused(change, message, tmp_path):
    write_blender(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        MultiView.from_blender(tmp_path)


def test_pictures_of_the_wrong_shape_are_named(tmp_path):
    write_blender(tmp_path)
    Image.new("RGB", (8, 6)).save(tmp_path / "train" / "r_1.png")
    with pytest.raises(ValueError, match=r"r_1.png is 8x6 pixels, the first view 8x8"):
        MultiView.from_blender(tmp_path)
    Image.new("RGB", (8, 6)).save(tmp_path / "train" / "r_0.png")
    with pytest.raises(ValueError, match=r"r_0.png is 8x6 pixels: images must be square"):
        MultiView.from_blender(tmp_path)
    (tmp_path / "train" / "r_0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"r_0.png cannot be read"):
        MultiView.from_blender(tmp_path)


# ---------------------------------------------------------------------- LLFF


def write_llff(folder, n=4, height=12, width=16, focal=30.0, stored=(24, 32)):
    """poses_bounds.npy for pictures of size ``stored``, beside reduced pictures. Returns pixels and OpenGL poses."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, height, width, 3), np.uint8)
    c2w = poses(n).double()
    right, up, back, centre = (c2w[:, :3, k] for k in range(4))
    rows = np.zeros((n, 17))
    for k in range(n):
        hwf = torch.tensor([*stored, focal], dtype=torch.float64)
        rows[k, :15] = (
            torch.stack([-up[k], right[k], back[k], centre[k], hwf], 1).reshape(-1).numpy()
        )  # down, right, back
        rows[k, 15:] = 1.0 + 0.1 * k, 8.0 + k
    np.save(folder / "poses_bounds.npy", rows)
    (folder / "images").mkdir()
    for k in range(n):
        Image.fromarray(pixels[k]).save(folder / "images" / f"IMG_{k:03}.png")
    return pixels, c2w.float(), rows


def test_llff_scenes_are_cut_to_squares_in_opengl_axes(tmp_path):
    pixels, c2w, _ = write_llff(tmp_path)
    data = MultiView.from_llff(tmp_path)
    torch.testing.assert_close(data.c2w, c2w)
    np.testing.assert_allclose(data.images.movedim(1, -1).numpy(), pixels[:, :, 2:14] / 127.5 - 1, atol=1e-5)
    assert data.focal == pytest.approx(15)  # pictures of half the size
    assert (data.near, data.far) == pytest.approx((0.9, 1.1 * 11)) and data.names[3] == "IMG_003.png"
    assert MultiView.from_llff(tmp_path, size=6).focal == pytest.approx(7.5)


def test_a_cut_llff_picture_has_the_rays_of_the_whole_one(tmp_path):
    _, c2w, _ = write_llff(tmp_path)
    data = MultiView.from_llff(tmp_path)
    whole = rays(c2w, 12, 16, 15.0)[1]
    torch.testing.assert_close(rays(data.c2w, 12, 12, data.focal)[1], whole[:, :, 2:14])


def _rows(change):
    def apply(folder):
        rows = np.load(folder / "poses_bounds.npy")
        np.save(folder / "poses_bounds.npy", change(rows))

    return apply


def _put(at, value):
    def change(rows):
        rows[at] = value
        return rows

    return _rows(change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "poses_bounds.npy").unlink(), FileNotFoundError, "no poses_bounds.npy: images without poses"),
        (lambda f: (f / "images" / "IMG_001.png").unlink(), ValueError, "4 poses and 3 images"),
        (lambda f: (f / "images").rename(f / "elsewhere"), FileNotFoundError, "no folder .*images"),
        (_rows(lambda rows: rows[:, :16]), ValueError, r"\(N, 17\), got \(4, 16\)"),
        (_put((2, 3), np.nan), ValueError, r"number 2\) hold NaN"),
        (_put((2, 14), 31.0), ValueError, "one size and focal length"),
        (_put((slice(None), 16), 0.5), ValueError, "near < far"),
        (_rows(lambda rows: rows.astype(object)), ValueError, "cannot be read"),
    ],
)
def test_llff_folders_that_make_no_sense_are_refused(change, error, message, tmp_path):
    write_llff(tmp_path)
    change(tmp_path)
    with pytest.raises(error, match=message):
        MultiView.from_llff(tmp_path)


# ---------------------------------------------------------------------- SRN


def write_srn(folder, n=3, size=8, mode="RGBA"):
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 4), np.uint8)
    pixels[..., 3] = 255
    c2w = poses(n, 1.3)
    for part in ("rgb", "pose"):
        (folder / part).mkdir()
    (folder / "intrinsics.txt").write_text("131.250000 64.000000 64.000000 0.\n0. 0. 0.\n1.\n128 128\n")
    for k in range(n):
        Image.fromarray(pixels[k]).convert(mode).save(folder / "rgb" / f"{k:06}.png")
        opencv = c2w[k] * torch.tensor([1.0, -1, -1, 1])
        (folder / "pose" / f"{k:06}.txt").write_text(" ".join(f"{x:.9f}" for x in opencv.flatten().tolist()))
    return pixels, c2w


def test_srn_objects_are_read_in_opengl_axes(tmp_path):
    pixels, c2w = write_srn(tmp_path)
    data = MultiView.from_srn(tmp_path)
    torch.testing.assert_close(data.c2w, c2w)
    np.testing.assert_allclose(data.images.movedim(1, -1).numpy(), pixels[..., :3] / 127.5 - 1, atol=1e-5)
    assert data.focal == pytest.approx(131.25 * 8 / 128) and (data.near, data.far) == (0.8, 1.8)
    assert MultiView.from_srn(tmp_path, size=4).focal == pytest.approx(131.25 * 4 / 128)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda f: (f / "pose" / "000001.txt").unlink(),
            FileNotFoundError,
            "3 files, of which 1 are missing: pose/000001.txt",
        ),
        (lambda f: (f / "intrinsics.txt").unlink(), FileNotFoundError, "has no intrinsics.txt"),
        (lambda f: (f / "intrinsics.txt").write_text("131.25 64 64 0\n"), ValueError, "must hold 'focal cx cy 0'"),
        (
            lambda f: (f / "intrinsics.txt").write_text("9 9 4 0\n0\n1\n8 8\n"),
            ValueError,
            "principal point in its middle",
        ),
        (lambda f: (f / "pose" / "000001.txt").write_text("1 2 3"), ValueError, "pose"),
        (lambda f: (f / "pose" / "000001.txt").write_text("one two"), ValueError, "000001.txt must hold 16 numbers"),
        (lambda f: (f / "pose" / "000002.txt").write_text("nan " * 16), ValueError, r"number 2\) hold NaN"),
        (lambda f: [p.unlink() for p in (f / "rgb").iterdir()], FileNotFoundError, "rgb holds no pictures"),
    ],
)
def test_srn_folders_that_make_no_sense_are_refused(change, error, message, tmp_path):
    write_srn(tmp_path)
    change(tmp_path)
    with pytest.raises(error, match=message):
        MultiView.from_srn(tmp_path)


# ---------------------------------------------------------------------- arrays


def write_npz(path, n=3, size=8, leave_out=(), **other):
    rng = np.random.default_rng(0)
    alpha = rng.integers(0, 256, (n, size, size, 1), np.uint8)
    rgba = np.concatenate([(rng.random((n, size, size, 3)) * alpha).astype(np.uint8), alpha], -1)
    arrays = {"train_premult_rgba": rgba, "train_c2w": poses(n).numpy(), "focal": np.float32(11.0), **other}
    np.savez(path, **{name: array for name, array in arrays.items() if name not in leave_out})
    return rgba


def test_premultiplied_arrays_on_white_are_rgb_plus_255_minus_alpha(tmp_path):
    rgba = write_npz(tmp_path / "scene.npz").astype(np.int64)
    data = MultiView.from_npz(tmp_path / "scene.npz")
    expected = (rgba[..., :3] + 255 - rgba[..., 3:]) / 127.5 - 1
    np.testing.assert_allclose(data.images.movedim(1, -1).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(data.masks.numpy(), rgba[..., 3] / 255, atol=1e-6)
    torch.testing.assert_close(data.c2w, poses(3))
    assert data.focal == 11


def test_the_angle_of_view_will_do_for_the_focal_length(tmp_path):
    write_npz(tmp_path / "scene.npz", leave_out=["focal"], camera_angle_x=0.8)
    assert MultiView.from_npz(tmp_path / "scene.npz").focal == pytest.approx(4 / math.tan(0.4))


@pytest.mark.parametrize(
    ("options", "split", "error", "message"),
    [
        (dict(), "test", KeyError, "no array test_premult_rgba: it has the splits train"),
        (dict(leave_out=["train_c2w"]), "train", KeyError, "no array train_c2w"),
        (dict(leave_out=["focal"]), "train", KeyError, "neither focal nor camera_angle_x"),
        (dict(train_c2w=poses(2).numpy()), "train", ValueError, "3 images and 2 poses"),
        (dict(train_c2w=np.full((3, 4, 4), np.nan)), "train", ValueError, "NaN"),
        (dict(train_c2w=np.zeros((3, 3, 4))), "train", ValueError, r"\(N, 4, 4\), got \(3, 3, 4\)"),
        (dict(train_premult_rgba=np.zeros((3, 8, 8, 3), np.uint8)), "train", ValueError, r"\(N, S, S, 4\)"),
        (dict(train_premult_rgba=np.zeros((3, 8, 6, 4), np.uint8)), "train", ValueError, r"\(N, S, S, 4\)"),
        (dict(train_premult_rgba=np.zeros((3, 8, 8, 4))), "train", ValueError, "uint8"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(options, split, error, message, tmp_path):
    write_npz(tmp_path / "scene.npz", **options)
    with pytest.raises(error, match=message):
        MultiView.from_npz(tmp_path / "scene.npz", split)


@pytest.mark.skipif(not LEGO.exists(), reason="needs the Lego views of the evaluation data")
def test_the_real_lego_views_agree_with_each_other():
    """The object's masks, carried over the cameras: a visual hull that is empty would mean wrong axes."""
    data, held = MultiView.from_npz(LEGO).resize(32), MultiView.from_npz(LEGO, "test").resize(32)
    assert (len(data), len(held)) == (100, 50) and data.focal == pytest.approx(177.7778 / 4, rel=1e-5)
    axis = torch.linspace(-1.5, 1.5, 25)
    points = torch.cartesian_prod(axis, axis, axis)

    def hull(views):
        pixels, depth = project(points, views.c2w, views.focal, 32)
        column, row = pixels.floor().long().clamp(0, 31).unbind(-1)
        inside = (pixels > 0).all(-1) & (pixels < 32).all(-1) & (depth > 0)
        covered = views.masks[torch.arange(len(views))[:, None], row, column] > 0
        return (covered | ~inside).all(0)

    kept, again = hull(data), hull(held)
    assert 200 < kept.sum() < 3000 and (kept & again).sum() > 0.6 * kept.sum()
    mirrored = MultiView(data.images, convert(data.c2w, "opencv", "opengl"), data.focal, 2, 6, masks=data.masks)
    assert hull(mirrored).sum() < 50 or hull(mirrored).sum() > 10_000  # wrong axes: nothing fits, or nothing is in view


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(images=torch.zeros(3, 3, 8, 6)), ValueError, "square, got 8x6"),
        (dict(images=torch.zeros(3, 1, 8, 8)), ValueError, "3 channels"),
        (dict(images=torch.full((3, 3, 8, 8), 200.0)), ValueError, r"\[-1, 1\]"),
        (dict(images=torch.zeros(3, 3, 8, 8, dtype=torch.uint8)), TypeError, "float"),
        (dict(c2w=None), ValueError, "images without poses"),
        (dict(c2w=poses(2)), ValueError, r"\(3, 4, 4\), one matrix an image, got \(2, 4, 4\)"),
        (dict(c2w=poses(3) * math.nan), ValueError, "NaN"),
        (dict(c2w=poses(3) * torch.tensor([1.0, -1, 1, 1])), ValueError, "mirrored"),
        (dict(c2w=poses(3).mT), ValueError, "transposed"),
        (dict(images=random_images(1), c2w=poses(1)), ValueError, "a single view"),
        (dict(focal=0.0), ValueError, "focal must be a positive"),
        (dict(near=6.0), ValueError, "near < far"),
        (dict(masks=torch.zeros(3, 4, 4)), ValueError, r"masks must have the shape \(3, 8, 8\)"),
        (dict(depth=torch.zeros(3, 1, 8, 8)), ValueError, r"depth must have the shape \(3, 8, 8\)"),
        (dict(names=["a"]), ValueError, "names must be 3"),
    ],
)
def test_views_that_make_no_sense_are_refused(change, error, message):
    options = {**dict(images=random_images(), c2w=poses(), focal=10.0, near=2.0, far=6.0), **change}
    with pytest.raises(error, match=message):
        MultiView(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scene="cat"), "scene must be one of car, tower, cup, plane, desk, got 'cat'"),
        (dict(views=1), "views must be a whole number >= 2, got 1"),
        (dict(size=0), "size must be a whole number >= 4"),
        (dict(supersample=2), "supersample must be odd"),
        (dict(azimuth=(0, 360)), r"azimuth must be a range .*radians \(not degrees\)"),
        (dict(elevation=(10, 60)), "elevation must be a range .*radians"),
        (dict(elevation=(0.5, 0.1)), "elevation must be a range"),
        (dict(radius=0.5), "radius must be more than 1"),
        (dict(field_of_view=40), "radians"),
        (dict(background=255), r"background must be a grey level in \[0, 1\]"),
    ],
)
def test_renderings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiView.render(**{**dict(views=2, size=8), **options})
