"""PyTorch3D's own answers, kept in a small file, are ours: CI has no PyTorch3D, and notebooks 08 and 10 use it where it is.

``golden/pytorch3d.npz`` was written by ``benchmarks/pytorch3d_rays.py --golden`` with the PyTorch3D whose version it names:
screen points and centres of its cameras, cameras of its ``look_at_view_transform``, and pictures by its implicit renderer.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from fdlib.cameras import from_pytorch3d, look_at, pixel_rays, project, to_pytorch3d
from fdlib.nerf import GridField, render_rays


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "pytorch3d.npz", allow_pickle=False) as file:
        assert str(file["version"]) == "0.7.9"
        return {name: torch.from_numpy(file[name]) for name in file.files if name != "version"}


def test_its_cameras_see_points_where_we_project_them(golden):
    pixels, depth = project(golden["points"], golden["c2w"], 20.0, (12, 16))
    assert (depth > 0).all() and pixels.std() > 1
    torch.testing.assert_close(golden["screen"], pixels, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(golden["centres"], golden["c2w"][:, :3, 3], rtol=1e-4, atol=1e-5)


def test_its_look_at_is_ours(golden):
    c2w = from_pytorch3d(golden["look_at_R"], golden["look_at_T"])
    torch.testing.assert_close(c2w[:, :3, 3].norm(dim=1), torch.full((2,), 3.0))
    torch.testing.assert_close(c2w, look_at(c2w[:, :3, 3]), rtol=1e-4, atol=1e-5)
    back = to_pytorch3d(c2w, 20.0, (12, 16))
    torch.testing.assert_close(back["R"], golden["look_at_R"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(back["T"], golden["look_at_T"], rtol=1e-4, atol=1e-5)


def test_its_implicit_renderer_makes_our_pictures(golden):
    field = GridField(6, 1.0)
    field.grid.data = golden["grid"]
    origins, directions = pixel_rays(golden["c2w"], torch.arange(144), 12, 12, 17.0, unit=False)

    def unbounded(points, directions):  # sampled from near to far, as there
        return field(points, directions)

    with torch.no_grad():
        colour = render_rays(unbounded, origins, directions, 2.0, 4.0, 24).colour
    images = golden["images"].flatten(1, 2)
    assert images.std() > 0.05  # there is something to see
    torch.testing.assert_close(colour, images, rtol=0, atol=1e-4)
