"""Inversions: exact ones return to rounding, DDIM's does not; one call, one signature."""

import pytest
import torch

from fdlib import inversion, samplers
from fdlib.denoiser import Prediction
from fdlib.oracle import GaussianMixtureOracle
from fdlib.process import convert
from fdlib.schedule import CLEAN, NoiseSchedule, time_grid
from fdlib.unet import UNet

LINEAR = NoiseSchedule.linear(1000)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(dtype=torch.float64):
    means = torch.tensor([[0.6, 0.3], [-0.4, 0.5], [0.1, -0.7]], dtype=dtype)
    return GaussianMixtureOracle(LINEAR, means, torch.tensor([0.02, 0.01, 0.03], dtype=dtype))


def network(dtype):
    torch.manual_seed(0)
    net = UNet(image_size=8, channels=8, multipliers=(1, 2), blocks=1, attention=())
    torch.nn.init.normal_(net.decoder.head.weight, std=0.1)
    return net.to(dtype).eval()


@pytest.mark.parametrize("method, evaluations", [("ddim", 100), ("edict", 200), ("bdia", 99)])
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_round_trip_on_a_mixture(method, evaluations, dtype, bound):
    x0 = mixture().sample(64, torch.Generator().manual_seed(1)).to(dtype)
    found = inversion.round_trip(mixture(dtype), LINEAR, x0, steps=50, method=method)
    print(method, dtype, found)
    assert found["evaluations"] == evaluations
    if method == "ddim":
        assert found["rms"] > 1e-2
    else:
        assert found["largest"] < bound and found["latent_std"] < 3


@pytest.mark.parametrize("method", ["edict", "bdia"])
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_round_trip_of_a_network(method, dtype, bound):
    x0 = randn(2, 3, 8, 8).clamp(-1, 1).to(dtype)
    assert inversion.round_trip(network(dtype), LINEAR, x0, steps=20, method=method)["largest"] < bound


@pytest.mark.parametrize("method", inversion.METHODS)
@pytest.mark.parametrize("timesteps", [[700, 300, 100, CLEAN], [500, CLEAN], [400, 200]])
def test_part_of_the_way(method, timesteps):
    x0 = mixture().sample(8, torch.Generator().manual_seed(1))
    latent = inversion.invert(mixture(), LINEAR, x0, method=method, timesteps=timesteps, progress=False)
    assert latent.grid == tuple(timesteps)
    back = inversion.sample(mixture(), LINEAR, latent, progress=False)
    assert float((back - x0).abs().max()) < (2 if method == "ddim" else 1e-11)


def test_ddim_is_the_samplers_own():
    x0 = mixture().sample(8, torch.Generator().manual_seed(1))
    latent = inversion.invert(mixture(), LINEAR, x0, steps=20, iterations=3, progress=False)
    assert torch.equal(latent.x, samplers.ddim_invert(mixture(), LINEAR, x0, steps=20, iterations=3, progress=False))
    again = samplers.ddim(mixture(), LINEAR, latent.x, steps=20, progress=False)
    assert torch.equal(inversion.sample(mixture(), LINEAR, latent, progress=False), again)


@pytest.mark.parametrize("method", ["edict", "bdia"])
def test_from_noise_they_sample_the_data(method):
    """Near DDIM's own samples, and nearer with more steps: another integration of the same flow."""
    x_T, gaps = randn(200, 2), []
    for steps in (50, 200):
        latent = inversion.from_noise(x_T, LINEAR.T, steps, method)
        found = inversion.sample(mixture(), LINEAR, latent, progress=False)
        exact = samplers.ode(mixture(), LINEAR, x_T, steps=200, progress=False)
        gaps.append(float((found - exact).norm(dim=1).median()))
    assert gaps[1] < gaps[0] < 0.2


def test_a_bdia_step_by_hand():
    """z_next = z_before - DDIM(z -> t_before) + DDIM(z -> t_next), with gamma = 1."""
    oracle, z_before, z = mixture(), randn(4, 2), randn(4, 2, seed=1)
    latent = inversion.Latent(z_before, z, "bdia", (800, 500, 200), {})
    noise = convert(LINEAR, oracle(z, torch.full((4,), 500)), z, 500, "noise")
    x0 = convert(LINEAR, Prediction(noise=noise), z, 500, "x0")
    (a8, s8), (a2, s2) = LINEAR.at(800, z), LINEAR.at(200, z)
    expected = z_before - (a8 * x0 + s8 * noise) + (a2 * x0 + s2 * noise)
    torch.testing.assert_close(inversion.sample(oracle, LINEAR, latent, progress=False), expected)


def test_an_edict_step_by_hand():
    oracle, x, y, p = mixture(), randn(4, 2), randn(4, 2, seed=1), 0.9
    latent = inversion.Latent(x, y, "edict", (800, 500), {"p": p})

    def e(v):
        return convert(LINEAR, oracle(v, torch.full((4,), 800)), v, 800, "noise")

    ab, ab_prev = LINEAR.alpha_bars[800], LINEAR.alpha_bars[500]
    a = (ab_prev / ab).sqrt()
    b = (1 - ab_prev).sqrt() - a * (1 - ab).sqrt()
    x1 = a * x + b * e(y)
    y1 = a * y + b * e(x1)
    expected = p * x1 + (1 - p) * y1
    torch.testing.assert_close(inversion.sample(oracle, LINEAR, latent, progress=False), expected)


@pytest.mark.parametrize("method", inversion.METHODS)
def test_callbacks_go_up_and_down_the_grid(method):
    up, down, x0 = [], [], mixture().sample(3, torch.Generator().manual_seed(1))
    latent = inversion.invert(mixture(), LINEAR, x0, steps=5, method=method, callback=up.append, progress=False)
    inversion.sample(mixture(), LINEAR, latent, callback=down.append, progress=False)
    grid = time_grid(1000, 5)
    assert [(s.t, s.t_next) for s in up] == list(zip(grid[::-1], grid[::-1][1:]))
    first = 1 if method == "bdia" else 0  # the pair spares it the first step
    assert [(s.t, s.t_next) for s in down] == list(zip(grid, grid[1:]))[first:]
    assert latent.evaluations == down[-1].evaluations


def test_a_small_share_makes_huge_latents():
    """Exact on paper, useless in practice: the std of the latent says so."""
    x0 = mixture().sample(16, torch.Generator().manual_seed(1))
    good = inversion.invert(mixture(), LINEAR, x0, method="edict", progress=False)
    bad = inversion.invert(mixture(), LINEAR, x0, method="edict", p=0.5, progress=False)
    assert good.std < 3 and bad.std > 1e3


@pytest.mark.parametrize("options, message", [
    (dict(method="null-text"), "method must be one of ddim, edict, bdia"),
    (dict(method="edict", p=0.0), r"p must lie in \(0, 1\], got 0"),
    (dict(method="bdia", gamma=1.5), r"gamma must lie in \(0, 1\], got 1.5"),
    (dict(method="edict", timesteps=[1, 5]), "strictly decreasing"),
])  # fmt: skip
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        inversion.invert(mixture(), LINEAR, torch.zeros(2, 2).double(), progress=False, **options)
