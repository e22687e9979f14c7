"""Region editing: singular directions against dense ones, projections, applications, the bottleneck, bad input."""

import math
import warnings

import pytest
import torch
from torch import nn

from fdlib import inversion, samplers
from fdlib.denoiser import Prediction
from fdlib.directions import DirectionCache, box_mask, check_mask, discovered_mask, find_directions
from fdlib.editing import EditedDenoiser, Recomposed, edit, find_path, moved, renoised, shift
from fdlib.factorized import FactorizedUNet
from fdlib.hierarchical import HierarchicalUNet
from fdlib.jacobian import DiffusersDenoiser, Jacobian, Spot, middle_of, top_singular
from fdlib.metrics.editing import FactorRegressor, locality, match_strength
from fdlib.schedule import CLEAN, NoiseSchedule
from fdlib.unet import UNet

S = NoiseSchedule.linear(1000)
SMALL = dict(channels=8, multipliers=(1, 2), blocks=1)


class Toy(nn.Module):
    """Eight-pixel pictures, a middle feature of 12 numbers: small enough to write its Jacobian down."""

    image_size, image_channels = 8, 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3 * 64, 12)
        self.middle = nn.Sequential(nn.Linear(12, 12), nn.Tanh())
        self.decoder = nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 3 * 64))
        self.double()

    def forward(self, x_t, t):
        return Prediction(noise=self.decoder(self.middle(self.encoder(x_t.flatten(1)))).reshape(x_t.shape))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(net, x, h):
    f = lambda h: net.decoder(h)[0]  # noqa: E731
    return torch.autograd.functional.jacobian(f, h)[:, 0]  # (N, 12)


def largest_angle(A, B):
    """Between the spans of two sets of rows, in radians; from the sine, which is exact where the angle is small."""
    A, B = (torch.linalg.qr(rows.T)[0] for rows in (A, B))
    return math.asin(min(1.0, float(torch.linalg.matrix_norm(B - A @ (A.T @ B), 2))))


MASK = box_mask(8, 2, 2, 6, 6)
EXACT = dict(tolerance=1e-9, iterations=2000)


@pytest.fixture(scope="module")
def toy():
    net, x = Toy(), randn(1, 3, 8, 8)
    h = net.middle(net.encoder(x.flatten(1))).detach()
    J = dense(net, x, h).detach()
    M = MASK.expand(3, 8, 8).reshape(-1, 1).double()
    return net, x, J, J * M, J * (1 - M)


# ---------------------------------------------------------------------- against the dense decomposition


def test_products_are_those_of_the_dense_jacobian(toy):
    net, x, J, _, _ = toy
    products = Jacobian(Spot(net, S, x, 300), rows=3)
    v, u = randn(5, 12), randn(5, 192, seed=1)
    torch.testing.assert_close(products.push(v), v @ J.T)
    torch.testing.assert_close(products.pull(u), u @ J)


def test_subspace_iteration_agrees_with_the_dense_svd(toy):
    J_M, J_rest = toy[3:]
    for matrix in (J_M, J_rest):
        found = top_singular(lambda v, A=matrix: v @ A.T, lambda u, A=matrix: u @ A, randn(8, 12), 4, **EXACT)
        _, values, Vh = torch.linalg.svd(matrix)
        torch.testing.assert_close(found.values, values[:4], rtol=1e-6, atol=0)
        assert largest_angle(found.vectors, Vh[:4]) < 1e-3


def test_unprojected_directions_are_singular_vectors(toy):
    net, x, _, J_M, J_rest = toy
    found = find_directions(net, S, x, 300, MASK, k=4, projection="none", **EXACT)
    _, values, Vh = torch.linalg.svd(J_M)
    assert largest_angle(found.vectors[0], Vh[:4]) < 1e-3
    torch.testing.assert_close(found.inside[0], values[:4], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.outside[0], (found.vectors[0] @ J_rest.T).norm(dim=1))


def test_directions_with_support_in_the_region(toy):
    """The leading singular vectors of M J diag(M), which are zero outside; softened ones move the rest less."""
    net, x = toy[:2]
    options = dict(space="x", support="region", **EXACT)
    found = find_directions(net, S, x, 300, MASK, k=3, projection="none", **options)
    J = torch.autograd.functional.jacobian(lambda p: net(p, None).noise.flatten(), x).reshape(192, 192)
    M = MASK.expand(3, 8, 8).flatten().double()
    _, values, Vh = torch.linalg.svd(M[:, None] * J * M)
    assert largest_angle(found.vectors[0].flatten(1), Vh[:3]) < 1e-3
    torch.testing.assert_close(found.inside[0], values[:3], rtol=1e-6, atol=0)
    soft = find_directions(net, S, x, 300, MASK, k=3, projection="soften", rest_rank=6, **options)
    for directions in (found, soft):
        assert (directions.vectors * (1 - MASK)).abs().max() < 1e-12
    assert (soft.outside < found.outside / 2).all()


@pytest.mark.parametrize("projection", ["project", "restrict"])
@pytest.mark.parametrize("rest_rank", [1, 4, 7])
def test_projected_directions_leave_the_rest_alone(toy, projection, rest_rank):
    net, x, _, J_M, J_rest = toy
    found = find_directions(net, S, x, 300, MASK, k=4, projection=projection, rest_rank=rest_rank, **EXACT)
    v, (_, values, Vh) = found.vectors[0], torch.linalg.svd(J_rest)
    assert float((v @ Vh[:rest_rank].T).abs().max()) < 1e-6
    assert float(found.outside.max()) <= float(values[rest_rank]) * (1 + 1e-9)
    torch.testing.assert_close(v.norm(dim=1), torch.ones(4).double())
    if projection == "restrict":  # and of all directions there, those that move the region most
        P = torch.eye(12).double() - Vh[:rest_rank].T @ Vh[:rest_rank]
        assert largest_angle(v, torch.linalg.svd(J_M @ P)[2][:4]) < 1e-3


def test_softened_directions_are_generalised_eigenvectors(toy):
    """With the whole of J_rest known, the best of all directions for |J_M v|^2 / (|J_rest v|^2 + lambda |v|^2)."""
    from scipy.linalg import eigh

    net, x, _, J_M, J_rest = toy
    ridge = 0.05
    found = find_directions(net, S, x, 300, MASK, k=1, projection="soften", rest_rank=11, ridge=ridge, **EXACT)
    values, Vh = torch.linalg.svd(J_rest)[1:]
    least = ridge * values[0] ** 2
    B = Vh[:11].T @ torch.diag(values[:11] ** 2) @ Vh[:11] + least * torch.eye(12).double()
    best = torch.as_tensor(eigh((J_M.T @ J_M).numpy(), B.numpy())[1][:, -1])
    assert largest_angle(found.vectors[0], best[None]) < 1e-3


def test_the_subspace_converges_before_its_vectors():
    """Two equal singular values: any turn of the two vectors is right, and the iteration does not wait for one of them."""
    A = torch.diag(torch.tensor([2.0, 2.0, 1.0, 0.5, 0.1]).double())
    found = top_singular(lambda v: v @ A.T, lambda u: u @ A, randn(3, 5), 2, tolerance=1e-8, iterations=200)
    assert found.residual < 1e-8 and found.iterations < 60
    assert largest_angle(found.vectors, torch.eye(5).double()[:2]) < 1e-6


# ---------------------------------------------------------------------- every denoiser


def randomised(net):
    """No layer left at zero, as an untrained U-Net has some; in double precision."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        if not parameter.any():
            with torch.no_grad():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return net.double().eval()


def diffusers_model(attention=True):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = ("DownBlock2D", "AttnDownBlock2D" if attention else "DownBlock2D")
    ups = ("AttnUpBlock2D" if attention else "UpBlock2D", "UpBlock2D")
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=blocks, up_block_types=ups, norm_num_groups=4, attention_head_dim=4,
    )  # fmt: skip


NETWORKS = {
    "unet": lambda: UNet(8, **SMALL, attention=(8,)),
    "folded": lambda: UNet(8, **SMALL, attention=(4,), fold=2, predicts="velocity"),
    "factorized": lambda: FactorizedUNet(8, **SMALL, attention=(8,), regions=3),
    "concat": lambda: FactorizedUNet(8, **SMALL, attention=(), regions=2, decoding="concat"),
    "hierarchical": lambda: HierarchicalUNet(8, depth=2, regions=2, **SMALL, attention=()),
    "diffusers": lambda: DiffusersDenoiser(diffusers_model()),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return randomised(NETWORKS[request.param]())


def test_products_agree_with_finite_differences_and_each_other(network):
    for space in ("h", "x"):
        spot = Spot(network, S, randn(1, 3, 8, 8), 300, space)
        J = Jacobian(spot, rows=2)
        v, u = randn(3, J.D), randn(3, J.N, seed=1)
        pushed, step = J.push(v), 1e-6
        with torch.no_grad():
            ahead, behind = (spot.value(spot.point + s * step * v[:1].reshape(J.shape)) for s in (1, -1))
        torch.testing.assert_close(pushed[0], ((ahead - behind) / (2 * step)).flatten(), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close((pushed * u).sum(1), (v * J.pull(u)).sum(1), rtol=1e-8, atol=1e-10)
        assert float(pushed.norm()) > 1e-6


def test_directions_of_every_network(network):
    x = randn(2, 3, 8, 8)
    masks = torch.stack([MASK, box_mask(8, 0, 0, 3, 8)])[:, None]
    options = dict(projection="restrict", rest_rank=6, tolerance=1e-4, iterations=200)
    found = find_directions(network, S, x, 300, masks, k=2, **options)
    plain = find_directions(network, S, x, 300, masks, k=2, projection="none", tolerance=1e-4, iterations=200)
    assert found.vectors.shape[:2] == (2, 2)
    assert ((found.inside / found.outside)[:, 0] > (plain.inside / plain.outside)[:, 0]).all()
    alone = find_directions(network, S, x[1:], 300, masks[1:], k=2, **options)  # a batch is its pictures
    torch.testing.assert_close(alone.inside[0], found.inside[1])


def test_what_the_search_changes_is_restored(network):
    asked = [p.requires_grad for p in network.parameters()]
    flash = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    network.train()
    find_directions(network, S, randn(1, 3, 8, 8), 300, MASK, k=1, rest_rank=1, tolerance=1.0)
    assert network.training and [p.requires_grad for p in network.parameters()] == asked
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()) == flash
    assert not middle_of(network)._forward_hooks


def test_a_branch_of_its_own():
    """In branch space nothing moves where that region has no mask, and the masks themselves are held."""
    torch.manual_seed(0)
    net = randomised(FactorizedUNet(8, **SMALL, attention=(), regions=3))
    x = randn(1, 3, 8, 8)
    spot = Spot(net, S, x, 300, "branch", region=1)
    base, t = net(x, torch.tensor([300])), torch.tensor([300])
    torch.testing.assert_close(spot.value(spot.point), base.noise)
    changed = spot.value(spot.point + randn(*spot.point.shape, seed=3)) - base.noise
    per_mask = (changed / net.masks(x, t)[:, 1:2]).abs()
    assert float(per_mask.max()) < 1e3 and float(changed.abs().max()) > 1e-4
    found = find_directions(net, S, x, 300, MASK, k=2, space="branch", region=1, rest_rank=3)
    edited = EditedDenoiser(net, S, found, 0.5)(x, t)
    torch.testing.assert_close(edited.masks, base.masks)
    assert not torch.allclose(edited.noise, base.noise)


def test_diffusers_adapter_predicts_what_the_model_does():
    model = diffusers_model().eval()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([10, 500])
    with torch.no_grad():
        torch.testing.assert_close(DiffusersDenoiser(model)(x, t).noise, model(x, t).sample)
        assert DiffusersDenoiser(model, "velocity")(x, t).kind == "velocity"
    with pytest.raises(TypeError, match="has no mid_block"):
        DiffusersDenoiser(nn.Linear(1, 1))


def test_diffusers_adapter_loads_a_folder(tmp_path):
    model = diffusers_model(attention=False)
    model.save_pretrained(tmp_path)
    loaded = DiffusersDenoiser.from_pretrained(str(tmp_path))
    latent = inversion.invert(loaded, S, torch.zeros(1, 3, 8, 8), steps=3, method="bdia", progress=False)
    found = find_directions(loaded, S, latent.x, 999, MASK, k=1, rest_rank=2, tolerance=0.5)
    assert edit(loaded, S, latent, found, 1.0).images.shape == (1, 3, 8, 8)


# ---------------------------------------------------------------------- applying


@pytest.fixture(scope="module")
def edited():
    torch.manual_seed(0)
    net = randomised(UNet(8, **SMALL, attention=()))
    x = randn(2, 3, 8, 8).clamp(-1, 1)
    latent = inversion.invert(net, S, x, steps=8, method="edict", progress=False)
    found = find_directions(net, S, latent.x, 999, MASK, k=2, rest_rank=5)
    return net, x, latent, found


def test_strength_zero_and_an_empty_window_change_nothing(edited):
    net, x, latent, found = edited
    result = edit(net, S, latent, found, 0.0)
    torch.testing.assert_close(result.images, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(edit(net, S, latent, found, 5.0, window=(1, 2)).images, x, rtol=0, atol=1e-9)
    assert float((edit(net, S, latent, found, 0.5).images - x).abs().max()) > 1e-4


def test_an_edited_denoiser_is_a_denoiser(edited):
    net, x, _, found = edited
    model = EditedDenoiser(net, S, found, 0.5, index=1, window=(100, 900))
    for sampler in (samplers.ddpm, samplers.ddim, samplers.dpm_solver_pp, samplers.ode):
        run = dict(steps=4, progress=False, generator=torch.Generator().manual_seed(0))
        plain = sampler(net, S, x, **{**run, "generator": torch.Generator().manual_seed(0)})
        assert not torch.allclose(sampler(model, S, x, **run), plain)


def test_a_linear_step_is_the_jacobian(edited):
    net, x, _, found = edited
    t = torch.full((2,), 999)
    with torch.no_grad():
        change = EditedDenoiser(net, S, found, 3.0, step=1e-6)(x, t).noise - net(x, t).noise
    for b in range(2):
        spot = Spot(net, S, x[b : b + 1], 999)
        expected = Jacobian(spot).push(3.0 * spot.point.norm() * found.vectors[b : b + 1, 0].flatten(1))
        torch.testing.assert_close(change[b].flatten(), expected[0], rtol=1e-3, atol=1e-6)


def test_strengths_may_differ_from_picture_to_picture(edited):
    net, x, latent, found = edited
    both = edit(net, S, latent, found, torch.tensor([0.0, 0.7])).images
    torch.testing.assert_close(both[:1], x[:1], rtol=0, atol=1e-9)
    torch.testing.assert_close(both[1:], edit(net, S, latent, found, 0.7).images[1:])


def test_transfer(edited):
    net, _, latent, found = edited
    given = edit(net, S, latent, found[1], 0.7).images
    torch.testing.assert_close(given[1], edit(net, S, latent, found, 0.7).images[1])
    three = inversion.from_noise(torch.randn(3, 3, 8, 8).double(), 1000, steps=3)
    with pytest.raises(ValueError, match=r"directions are of 2 pictures, the batch has 3"):
        edit(net, S, three, found, 0.7)
    assert edit(net, S, three, found[-1], 0.7).images.shape == (3, 3, 8, 8)


def test_directions_of_x(edited):
    net, x, _, _ = edited
    latent = inversion.invert(net, S, x, timesteps=[400, 200, CLEAN], method="edict", progress=False)
    found = find_directions(net, S, latent.x, 400, MASK, k=2, space="x", of="x0", rest_rank=4, tolerance=0.5)
    result = edit(net, S, latent, found, 0.3)
    assert float((result.images - x).abs().max()) > 1e-4
    moved_by = (shift(latent, found, 0.3).x - latent.x).flatten(1).norm(dim=1) / latent.x.flatten(1).norm(dim=1)
    torch.testing.assert_close(moved_by, torch.full((2,), 0.3).double())
    with pytest.raises(ValueError, match=r"directions are of t = 400, the latent is at t = 999"):
        shift(inversion.from_noise(x, 1000), found, 1.0)
    with pytest.raises(ValueError, match='"bdia" latent holds two times'):
        shift(inversion.invert(net, S, x, timesteps=[400, 200, CLEAN], method="bdia", progress=False), found, 1.0)
    with pytest.raises(ValueError, match="x_t space are added to a latent once"):
        EditedDenoiser(net, S, found, 1.0)


def test_a_path_keeps_the_sense_of_its_directions(edited):
    net, x, latent, _ = edited
    images, trajectory = inversion.record(net, S, latent, progress=False)
    torch.testing.assert_close(images, x, rtol=0, atol=1e-9)
    path = find_path(net, S, trajectory, (500, 300, 900), MASK, k=2, rest_rank=3, tolerance=0.2)
    assert len(path) == 3 and set(path) <= set(trajectory)
    first, *others = path.values()
    for other in others:
        assert ((first.vectors * other.vectors).flatten(2).sum(-1) > 0).all()
    assert edit(net, S, latent, path, 0.3).images.shape == x.shape


def test_a_strength_that_blows_up_is_reported(edited):
    net, _, latent, found = edited
    with pytest.warns(RuntimeWarning, match="blows up 2 of 2 pictures: take a smaller one"):
        result = edit(net, S, latent, found, 1e6)
    assert result.blown.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not edit(net, S, latent, found, 0.0).blown.any()


# ---------------------------------------------------------------------- the factorized bottleneck


@pytest.fixture(scope="module")
def factorized():
    torch.manual_seed(0)
    net = randomised(FactorizedUNet(8, **SMALL, attention=(), regions=3))
    nn.init.normal_(net.mask_generator.decoder.head.weight, std=2.0, generator=torch.Generator().manual_seed(2))
    x = randn(2, 3, 8, 8).clamp(-1, 1)
    latent = inversion.invert(net, S, x, steps=6, method="ddim", iterations=30, progress=False)
    return net, latent, inversion.record(net, S, latent, progress=False)


def test_a_region_exchanged_for_itself_is_no_change(factorized):
    net, latent, (images, trajectory) = factorized
    same = inversion.sample(Recomposed(net, S, trajectory, 1), S, latent, progress=False)
    torch.testing.assert_close(same, images, rtol=1e-6, atol=1e-6)


def test_swap_move_and_renoise_change_the_picture(factorized):
    net, latent, (images, trajectory) = factorized
    sources = {
        "swap": {t: x_t.flip(0) for t, x_t in trajectory.items()},
        "move": moved(trajectory, 2, -1),
        "renoise": renoised(net, S, images, latent.grid, torch.Generator().manual_seed(0)),
    }
    torch.testing.assert_close(sources["move"][999][:, :, 2, 0], trajectory[999][:, :, 0, 1])
    for name, source in sources.items():
        made = inversion.sample(Recomposed(net, S, source, 1), S, latent, progress=False)
        assert float((made - images).abs().max()) > 1e-3, name
        t = torch.full((2,), 999)
        prediction = Recomposed(net, S, source, 1)(latent.x, t)
        torch.testing.assert_close(prediction.masks.sum(1), torch.ones(2, 8, 8).double())
        torch.testing.assert_close(
            prediction.masks[:, 1], net.masks(source[999].double(), t)[:, 1], rtol=0.02, atol=1e-3
        )


def test_outside_of_its_window_the_denoiser_is_left_alone(factorized):
    net, latent, (images, trajectory) = factorized
    made = inversion.sample(Recomposed(net, S, moved(trajectory, 1, 1), 0, window=(0, 0)), S, latent, progress=False)
    torch.testing.assert_close(made, images)


def test_regions_that_the_model_discovered():
    masks = torch.zeros(2, 3, 8, 8)
    masks[:, 0], masks[:, 2, 3:5, 3:5] = 0.5, 0.9
    found, k = discovered_mask(masks, 4, 4)
    assert k == 2 and found.shape == (2, 1, 8, 8) and found.sum() == 8
    with pytest.raises(ValueError, match=r"row, column = 8, 0 must lie in masks"):
        discovered_mask(masks, 8, 0)


# ---------------------------------------------------------------------- the cache


def test_the_cache_returns_what_it_kept_and_nothing_stale(tmp_path):
    torch.manual_seed(0)
    net = randomised(UNet(8, **SMALL, attention=()))
    cache, x = DirectionCache(tmp_path), randn(1, 3, 8, 8)
    settings = dict(k=2, rest_rank=3, tolerance=0.5, cache=cache)
    first = find_directions(net, S, x, 300, MASK, **settings)
    again = find_directions(net, S, x, 300, MASK, **settings)
    assert torch.equal(first.vectors, again.vectors) and len(list(tmp_path.iterdir())) == 1
    for change in (
        lambda: find_directions(net, S, x + 1e-3, 300, MASK, **settings),
        lambda: find_directions(net, S, x, 301, MASK, **settings),
        lambda: find_directions(net, S, x, 300, box_mask(8, 2, 2, 6, 5), **settings),
        lambda: find_directions(net, S, x, 300, MASK, **{**settings, "rest_rank": 4}),
        lambda: find_directions(net, NoiseSchedule.cosine(1000), x, 300, MASK, of="x0", **settings),
    ):
        count = len(list(tmp_path.iterdir()))
        change()
        assert len(list(tmp_path.iterdir())) == count + 1
    with torch.no_grad():
        next(net.parameters()).add_(1e-3)
    find_directions(net, S, x, 300, MASK, **settings)
    assert len(list(tmp_path.iterdir())) == 7


def test_a_damaged_cache_is_made_again(tmp_path):
    torch.manual_seed(0)
    net = randomised(UNet(8, **SMALL, attention=()))
    cache, x = DirectionCache(tmp_path), randn(1, 3, 8, 8)
    first = find_directions(net, S, x, 300, MASK, k=1, rest_rank=2, cache=cache)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.warns(UserWarning, match="damaged"):
        again = find_directions(net, S, x, 300, MASK, k=1, rest_rank=2, cache=cache)
    torch.testing.assert_close(first.vectors, again.vectors)
    assert torch.equal(find_directions(net, S, x, 300, MASK, k=1, rest_rank=2, cache=cache).vectors, again.vectors)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("mask, message", [
    (torch.ones(4, 4), r"mask must be \(8, 8\) or \(1, 1, 8, 8\), as large as the pictures, got \(1, 1, 4, 4\)"),
    (torch.zeros(8, 8), "mask is empty"),
    (torch.ones(8, 8), "mask is full"),
    (2 * MASK, r"mask must lie in \[0, 1\]"),
    (MASK * float("nan"), r"mask must lie in \[0, 1\]"),
    (MASK.expand(3, 1, 8, 8), "mask must be"),
])  # fmt: skip
def test_bad_masks(mask, message):
    with pytest.raises(ValueError, match=message):
        find_directions(Toy(), S, randn(1, 3, 8, 8), 300, mask)


@pytest.mark.parametrize("options, error, message", [
    (dict(k=13, projection="none"), ValueError, r"k=13 directions .* at most 12 together, the dimension of space='h'"),
    (dict(k=5, rest_rank=8), ValueError, "k=5 directions beside rest_rank=8"),
    (dict(k=0), ValueError, "need k >= 1"),
    (dict(support="region", space="x", k=49, projection="none"), ValueError, "at most 48 .* inside of the mask"),
    (dict(support="region"), ValueError, 'support="region" needs space="x"'),
    (dict(support="mask"), ValueError, "support must be everywhere or region, got 'mask'"),
    (dict(projection="other"), ValueError, "projection must be one of none, project, restrict, soften"),
    (dict(space="z"), ValueError, "space must be one of h, x, branch"),
    (dict(space="branch", region=0), TypeError, 'space="branch" needs a FactorizedUNet with branches, got a Toy'),
    (dict(t=1000), ValueError, r"t must lie in 0 \.\. 999"),
    (dict(rows=0), ValueError, "rows must be at least 1"),
])  # fmt: skip
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        find_directions(
            **{"denoiser": Toy(), "schedule": S, "x_t": randn(1, 3, 8, 8), "t": 300, "mask": MASK, **options}
        )


def test_bad_applications(toy):
    net, x = toy[:2]
    found = find_directions(net, S, x, 300, MASK, k=2, rest_rank=2)
    with pytest.raises(ValueError, match="index must be one of the 2 directions, got 2"):
        EditedDenoiser(net, S, found, 1.0, index=2)
    with pytest.raises(ValueError, match=r"window must be \(low, high\)"):
        EditedDenoiser(net, S, found, 1.0, window=(500, 100))
    with pytest.raises(ValueError, match="step must be > 0"):
        EditedDenoiser(net, S, found, 1.0, step=0.0)
    with pytest.raises(TypeError, match="a Linear has no middle block"):
        find_directions(nn.Linear(1, 1), S, x, 300, MASK)
    with pytest.raises(TypeError, match="denoiser must be a FactorizedUNet"):
        Recomposed(net, S, {300: x}, 0)
    with pytest.raises(ValueError, match=r"area within 0 \.\. 8"):
        box_mask(8, 5, 0, 3, 8)
    with pytest.raises(TypeError, match="mask must be a tensor"):
        check_mask([[1.0]], x)


def test_no_convergence_is_told(toy):
    net, x = toy[:2]
    with pytest.warns(UserWarning, match="have not converged"):
        find_directions(net, S, x, 300, MASK, k=3, rest_rank=3, extra=0, tolerance=1e-9, iterations=1)


# ---------------------------------------------------------------------- metrics


def test_locality_by_hand():
    unedited, edited = torch.zeros(1, 1, 2, 2), torch.tensor([[[[3.0, 1.0], [1.0, 1.0]]]])
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    found = locality(edited, unedited, mask)
    assert found["inside"].item() == 3 and found["outside"].item() == 1
    assert found["energy"].item() == 3 and found["ratio"].item() == 9


def test_match_strength_reaches_the_target():
    mask = box_mask(4, 0, 0, 2, 2)
    slopes = torch.tensor([0.1, 1.0, 7.0])
    apply = lambda s: (slopes * s**1.3)[:, None, None, None] * torch.ones(3, 1, 4, 4)  # noqa: E731
    strengths, images = match_strength(apply, torch.zeros(3, 1, 4, 4), mask, 0.1, rounds=8)
    torch.testing.assert_close(
        locality(images, torch.zeros(3, 1, 4, 4), mask)["inside"], torch.full((3,), 0.1), rtol=0.05, atol=0
    )
    assert strengths[0] > strengths[1] > strengths[2]


@pytest.fixture(scope="module")
def regressor():
    return FactorRegressor.fit(count=3000, test=200)


def test_factors_are_read_smoothly(regressor):
    print(regressor.errors)
    assert all(error < 0.3 for error in regressor.errors.values())


def test_changes_name_the_factor_that_changed(regressor):
    from fdlib.data.shapes3d import Shapes3D, factors_to_index

    base = torch.tensor([[2, 5, 7, 3, 1, 7], [8, 1, 4, 6, 2, 3]])
    other = base.clone()
    other[:, 2] = (other[:, 2] + 4) % 10  # the object's hue, by .4 turns: 1.39 standard deviations
    before, after = (Shapes3D(32, factors_to_index(f), cache=False).images() for f in (base, other))
    changes = regressor.changes(before, after)
    torch.testing.assert_close(changes["object_hue"], torch.full((2,), 0.4 * 12**0.5), rtol=0, atol=0.3)
    for name in ("floor_hue", "wall_hue", "orientation", "scale"):
        assert float(changes[name].max()) < 0.35, name
