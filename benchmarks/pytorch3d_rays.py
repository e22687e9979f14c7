"""Our renderer beside PyTorch3D's implicit renderer: the same field, rays and samples; rays a second, and the same picture.

    python benchmarks/pytorch3d_rays.py --json benchmarks/results/pytorch3d_rays.json     where PyTorch3D is installed
    python benchmarks/pytorch3d_rays.py --golden tests/golden/pytorch3d.npz               what tests/test_cameras.py compares with

The MLP of Mildenhall et al. (2020) (``MLPField``: 8 layers of 256), 64 samples a ray, the same rays at a time. PyTorch3D has its
``NDCMultinomialRaysampler`` draw the rays and ``EmissionAbsorptionRaymarcher`` sum them up, as in its NeRF tutorial. Lines:

    ours                the same samples, all of them asked: what the machinery around the network costs
    ours, skipping      the same samples, asked only where ``SkipEmpty`` found matter. So that there are such places
                        the network was fitted for ``--fit`` steps to the density and colour of the toy car that the course ships

They take turns, and the ratio is formed turn by turn; "training" has a backward pass, and no skipping.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fdlib.cameras import look_at, pixel_rays, spherical, to_pytorch3d
from fdlib.course import asset
from fdlib.files import atomic_write
from fdlib.nerf import GridField, MLPField, SkipEmpty, render_rays
from fdlib.pose import PoseDenoiser

SIZE, FOCAL, NEAR, FAR = 64, 88.0, 2.0, 4.0


def cameras(n: int) -> Tensor:
    """(n, 4, 4) around the origin, at distance 3."""
    k = torch.arange(n)
    return look_at(spherical(2.4 * k + 0.3, 0.2 + 0.8 * k / n, 3.0))


def theirs(field, c2w: Tensor, size: int, focal: float, samples: int, rows: slice = slice(None)) -> Tensor:
    """Colours (N, rows, size, 3) in [0, 1] on white, by PyTorch3D."""
    from pytorch3d.renderer import (
        EmissionAbsorptionRaymarcher,
        ImplicitRenderer,
        NDCMultinomialRaysampler,
        PerspectiveCameras,
        ray_bundle_to_ray_points,
    )

    step = (FAR - NEAR) / samples  # its samples lie at both ends, ours in the middle of each part
    ends = dict(min_depth=NEAR + step / 2, max_depth=FAR - step / 2)
    sampler = NDCMultinomialRaysampler(image_width=size, image_height=size, n_pts_per_ray=samples, **ends)

    def some_rows(**arguments):
        bundle = sampler(**arguments)
        return bundle._replace(**{name: getattr(bundle, name)[:, rows] for name in bundle._fields})

    def opacities(ray_bundle, **_):
        directions = ray_bundle.directions[..., None, :]  # of depth 1, not of length 1
        density, colour = field(ray_bundle_to_ray_points(ray_bundle), directions)
        return (1 - torch.exp(-density * step * directions.norm(dim=-1)))[..., None], colour

    renderer = ImplicitRenderer(some_rows, EmissionAbsorptionRaymarcher())
    made, _ = renderer(cameras=PerspectiveCameras(**to_pytorch3d(c2w, focal, size)), volumetric_function=opacities)
    return made[..., :3] + (1 - made[..., 3:])


def ours(field, c2w: Tensor, size: int, focal: float, samples: int, rows: slice = slice(None)) -> Tensor:
    """The same by our renderer."""
    pixels = torch.arange(size * size).view(size, size)[rows]
    origins, directions = pixel_rays(c2w, pixels.flatten(), size, size, focal, unit=False)
    colour = render_rays(field, origins, directions, NEAR, FAR, samples, keep_weights=False).colour
    return colour.unflatten(1, pixels.shape)


def golden() -> dict[str, np.ndarray]:
    """Cameras, screen points and renderings as PyTorch3D has them."""
    import pytorch3d
    from pytorch3d.renderer import PerspectiveCameras, look_at_view_transform

    c2w, focal, size = cameras(4), 20.0, (12, 16)
    torch.manual_seed(0)
    points = torch.rand(5, 3) - 0.5
    camera = PerspectiveCameras(**to_pytorch3d(c2w, focal, size))
    R, T = look_at_view_transform(dist=3.0, elev=[10.0, 50.0], azim=[20.0, 200.0], up=((0, 0, 1),))
    field = GridField(6, 1.0)
    field.grid.data = 3 * torch.randn(field.grid.shape)
    with torch.no_grad():
        images = theirs(field, c2w, 12, 17.0, 24)
    found = {
        "c2w": c2w,
        "points": points,
        "screen": camera.transform_points_screen(points)[..., :2],
        "centres": camera.get_camera_center(),
        "look_at_R": R,
        "look_at_T": T,
        "grid": field.grid.detach(),
        "images": images,
    }
    return {name: value.numpy() for name, value in found.items()} | {"version": np.array(pytorch3d.__version__)}


def fitted(steps: int, points: int = 1024) -> MLPField:
    """The network with the shipped car in it: density and colour at random points, by gradient descent."""
    torch.manual_seed(0)
    car = PoseDenoiser.from_pretrained(asset("car_poses")).field
    field = MLPField(bound=1.0)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
    for _ in range(steps):
        where, towards = 2 * torch.rand(points, 3) - 1, torch.randn(points, 3)
        with torch.no_grad():
            density, colour = car(where, towards)
        made, seen = field(where, towards)
        error = (torch.log1p(made) - torch.log1p(density)).square().mean()
        error = error + ((seen - colour).square().mean(-1) * density.clamp(max=1)).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return field.eval()


def measure(rounds: int, chunk: int, samples: int, fit: int) -> dict:
    """Rays a second of all ways, in turns."""
    field, c2w = fitted(fit), cameras(1)
    rows = slice((SIZE - chunk // SIZE) // 2, (SIZE + chunk // SIZE) // 2)  # in the middle of the picture
    quick = SkipEmpty(field, resolution=32)
    now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    everywhere = lambda f: lambda points, directions: f(points, directions)  # noqa: E731  without bound: from near to far
    ways = {
        "pytorch3d": lambda: theirs(everywhere(field), c2w, SIZE, FOCAL, samples, rows),
        "ours": lambda: ours(everywhere(field), c2w, SIZE, FOCAL, samples, rows),
        "ours, skipping": lambda: ours(everywhere(quick), c2w, SIZE, FOCAL, samples, rows),
    }
    result: dict = {"occupied": float(quick.occupied.float().mean())}
    for gradient in (False, True):
        names = list(ways)[:2] if gradient else list(ways)

        def seconds(name: str, gradient: bool = gradient) -> float:
            started = now()
            with torch.set_grad_enabled(gradient):
                made = ways[name]()
                if gradient:
                    made.mean().backward()
            return now() - started

        for name in names:  # warm up
            seconds(name)
        turns = [{name: seconds(name) for name in names} for _ in range(rounds)]
        row = {name: chunk / statistics.median(turn[name] for turn in turns) for name in names}
        for name in names[1:]:
            row[f"{name} / pytorch3d"] = statistics.median(turn["pytorch3d"] / turn[name] for turn in turns)
        result["training" if gradient else "rendering"] = row
    with torch.no_grad():
        pictures = {name: way() for name, way in ways.items()}
    for name in list(ways)[1:]:
        result[f"largest difference of a colour: {name}"] = float((pictures[name] - pictures["pytorch3d"]).abs().max())
    result["spread of the picture"] = float(pictures["pytorch3d"].std())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns to time")
    parser.add_argument("--chunk", type=int, default=1024, help="rays at a time, a multiple of 128 up to 4096")
    parser.add_argument("--fit", type=int, default=200, help="steps of fitting the network to the toy car")
    parser.add_argument("--samples", type=int, default=64, help="on each ray")
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--golden", type=Path, help="write PyTorch3D's answers to this .npz and measure nothing")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        import pytorch3d
    except ImportError:
        raise SystemExit("error: PyTorch3D is not installed: conda install -c conda-forge pytorch3d") from None
    if options.golden:
        with atomic_write(options.golden) as path, open(path, "wb") as file:
            np.savez_compressed(file, **golden())
        return
    result = measure(options.rounds, options.chunk, options.samples, options.fit)
    result |= {"chunk": options.chunk, "samples": options.samples, "threads": torch.get_num_threads()}
    result |= {"torch": torch.__version__, "pytorch3d": pytorch3d.__version__}
    print(json.dumps(result, indent=1))
    if options.json:
        with atomic_write(options.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
