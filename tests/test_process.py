"""The forward process, the three quantities, the posterior and the loss: against simulation and hand-written formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdlib import samplers
from fdlib.denoiser import QUANTITIES, Prediction
from fdlib.oracle import GaussianMixtureOracle
from fdlib.process import (
    DenoisingObjective,
    LogitNormalT,
    PowerT,
    add_noise,
    convert,
    posterior,
    to_noise,
    to_velocity,
    to_x0,
    uniform_t,
)
from fdlib.schedule import CLEAN, NoiseSchedule

LINEAR = NoiseSchedule.linear()
U = torch.arange(1, 100, dtype=torch.float64) / 100
RECTIFIED = NoiseSchedule(1 - U, U, name="rectified flow")  # a^2 + s^2 is not 1


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---------------------------------------------------------------------- q(x_t | x_0)


@pytest.mark.parametrize("schedule, t", [(LINEAR, 0), (LINEAR, 30), (LINEAR, 500), (LINEAR, 999), (RECTIFIED, 40)])
def test_moments_of_the_noised_image(schedule, t):
    n, x0 = 200_000, 0.7
    x_t = add_noise(schedule, torch.full((n, 1), x0).double(), t, randn(n, 1))
    mean, std = float(schedule.a[t]) * x0, float(schedule.s[t])
    assert float(x_t.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(n))
    assert float(x_t.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * n))


def test_one_step_after_the_other_gives_the_same_distribution():
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise, 31 times, has the mean and variance of the jump to t = 30."""
    x = torch.ones(100_000, 1, dtype=torch.float64)
    for t in range(31):
        x = LINEAR.alphas[t].sqrt() * x + LINEAR.betas[t].sqrt() * randn(*x.shape, seed=t)
    assert float(x.mean()) == pytest.approx(math.sqrt(0.98771), abs=2e-3)
    assert float(x.var()) == pytest.approx(1 - 0.98771, rel=0.02)


def test_each_image_has_its_own_time():
    x0, noise, t = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1), torch.tensor([0, 500, 999])
    x_t = add_noise(LINEAR, x0, t, noise)
    for i in range(3):
        alone = math.sqrt(LINEAR.alpha_bars[t[i]]) * x0[i] + math.sqrt(1 - LINEAR.alpha_bars[t[i]]) * noise[i]
        torch.testing.assert_close(x_t[i], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("x0, noise, t, error, message", [
    (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 3, 4, 4), 3, TypeError,
     r"x0 must be a float tensor, got torch\.uint8.*/ 127\.5 - 1"),
    ([0.5], torch.zeros(1), 3, TypeError, "x0 must be a float tensor, got list"),
    (torch.zeros(2, 3), torch.zeros(2, 4), 3, ValueError, r"noise must have the shape of x0, \(2, 3\), got \(2, 4\)"),
    (torch.zeros(2, 3), torch.zeros(2, 3), 1000, ValueError, r"t must lie in 0 \.\. 999"),
    (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0.1, 0.2]), TypeError, "t must be an integer"),
])  # fmt: skip
def test_what_cannot_be_noised(x0, noise, t, error, message):
    with pytest.raises(error, match=message):
        add_noise(LINEAR, x0, t, noise)


# ---------------------------------------------------------------------- noise <-> x0 <-> velocity


@pytest.mark.parametrize("schedule", [LINEAR, NoiseSchedule.linear(100_000, rescale=True), RECTIFIED], ids=repr)
@pytest.mark.parametrize("first", QUANTITIES)
@pytest.mark.parametrize("second", QUANTITIES)
def test_conversions_round_trip(schedule, first, second):
    """There and back is the identity to 1e-12, up to the factor s / a by which noise and x0 amplify each other's rounding."""
    for t in (0, schedule.T // 30, schedule.T // 2, schedule.T - 1):
        x_t, value = randn(4, 3, 8, 8), randn(4, 3, 8, 8, seed=1)
        there = convert(schedule, Prediction(**{first: value}), x_t, t, second)
        back = convert(schedule, Prediction(**{second: there}), x_t, t, first)
        scale = max(1.0, float(there.abs().max()))
        assert float((back - value).abs().max()) <= 1e-12 * scale, (t, scale)


@pytest.mark.parametrize("schedule", [LINEAR, RECTIFIED], ids=repr)
def test_each_conversion_finds_the_truth(schedule):
    x0, noise = randn(5, 7), randn(5, 7, seed=1)
    for t in (0, schedule.T // 2, schedule.T - 1):
        a, s = float(schedule.a[t]), float(schedule.s[t])
        truth = {"noise": noise, "x0": x0, "velocity": a * noise - s * x0}
        x_t = add_noise(schedule, x0, t, noise)
        for given_, value in truth.items():
            for to, convert_to in (("noise", to_noise), ("x0", to_x0), ("velocity", to_velocity)):
                found = convert_to(schedule, Prediction(**{given_: value}), x_t, t)
                error = float((found - truth[to]).abs().max())
                assert error <= 1e-13 * max(1, s / a, a / s), (t, given_, to, error)


@given(
    rest=st.sampled_from([(1,), (5,), (3, 4, 4), (1, 2, 6)]),
    batch=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    first=st.sampled_from(QUANTITIES),
    second=st.sampled_from(QUANTITIES),
    one_t=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_shapes_and_dtypes_stay(rest, batch, dtype, first, second, one_t, seed):
    x0, noise = randn(batch, *rest, seed=seed, dtype=dtype), randn(batch, *rest, seed=seed + 1, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    t = 700 if one_t else torch.randint(50, 950, (batch,), generator=generator)
    x_t = add_noise(LINEAR, x0, t, noise)
    truth = {"noise": noise, "x0": x0, "velocity": convert(LINEAR, Prediction(noise=noise), x_t, t, "velocity")}
    found = convert(LINEAR, Prediction(**{first: truth[first]}), x_t, t, second)
    assert x_t.dtype == found.dtype == dtype and x_t.shape == found.shape == (batch, *rest)
    error = float((found - truth[second]).abs().max())
    assert error <= (2e-3 if dtype == torch.float32 else 1e-11)  # s / a reaches 76 at t = 950


def test_convert_names_the_choices():
    with pytest.raises(ValueError, match="to must be one of noise, x0, velocity, got 'score'"):
        convert(LINEAR, Prediction(noise=torch.zeros(1, 1)), torch.zeros(1, 1), 3, "score")


# ---------------------------------------------------------------------- q(x_next | x_t, x_0)


@pytest.mark.parametrize("schedule, t, t_next", [
    (LINEAR, 1, 0), (LINEAR, 500, 499), (LINEAR, 999, 998), (LINEAR, 800, 300), (LINEAR, 999, 0), (RECTIFIED, 60, 20),
])  # fmt: skip
def test_posterior_is_gaussian_conditioning(schedule, t, t_next):
    """Against the textbook formula for a joint Gaussian (x_next, x_t) given x_0: another derivation of the same thing."""
    a, s, a1, s1 = (float(v) for v in (schedule.a[t], schedule.s[t], schedule.a[t_next], schedule.s[t_next]))
    x0, x_t = randn(6, 2), randn(6, 2, seed=1)
    covariance = (a / a1) * s1**2  # cov(x_next, x_t | x_0): x_t = (a / a1) x_next + independent noise
    expected_mean = a1 * x0 + covariance / s**2 * (x_t - a * x0)
    expected_variance = s1**2 - covariance**2 / s**2
    mean, variance = posterior(schedule, x0, x_t, t, t_next)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-10, atol=1e-12)
    assert float(variance) == pytest.approx(expected_variance, rel=1e-9)


def test_posterior_by_simulation():
    """Run the chain forward from one x_0, keep the paths that pass near a given x_t, look where they came from."""
    t, t_next, n, x0 = 120, 119, 2_000_000, 0.4
    x_next = add_noise(LINEAR, torch.full((n, 1), x0).double(), t_next, randn(n, 1))
    x_t = LINEAR.alphas[t].sqrt() * x_next + LINEAR.betas[t].sqrt() * randn(n, 1, seed=1)
    target = 0.6
    kept = x_next[(x_t - target).abs() < 0.005]
    assert len(kept) > 5_000
    mean, variance = posterior(LINEAR, torch.tensor([[x0]]).double(), torch.tensor([[target]]).double(), t, t_next)
    std = float(variance.sqrt())
    assert float(kept.mean()) == pytest.approx(float(mean), abs=4 * std / math.sqrt(len(kept)))
    assert float(kept.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * len(kept)))


def test_posterior_ends_on_the_clean_image():
    x0, x_t = randn(3, 2), randn(3, 2, seed=1)
    mean, variance = posterior(LINEAR, x0, x_t, 0, CLEAN)
    torch.testing.assert_close(mean, x0)
    assert float(variance) == 0


def test_posterior_has_the_published_variance():
    """Ho et al. 2020, equation 7: (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t."""
    for t in (1, 10, 999):
        _, variance = posterior(LINEAR, randn(1, 1), randn(1, 1), t, t - 1)
        bars = LINEAR.alpha_bars
        assert float(variance) == pytest.approx(float((1 - bars[t - 1]) / (1 - bars[t]) * LINEAR.betas[t]), rel=1e-9)


@pytest.mark.parametrize("sigma", ["beta", "posterior"])
def test_ddpm_is_equation_2_9_to_the_letter(sigma):
    """x_{t-1} = 1 / sqrt(alpha_t) (x_t - (1 - alpha_t) / sqrt(1 - alpha_bar_t) noise) + sigma_t z, written out."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas = 1 - betas
    bars = torch.cumprod(alphas, 0)
    noise = randn(2, 3)
    for t in (0, 1, 30, 999):
        x_t = randn(2, 3, seed=1)
        z = randn(2, 3, seed=2) if t > 0 else torch.zeros(2, 3)
        variance = betas[t] if sigma == "beta" else betas[t] * (1 - bars[t - 1]) / (1 - bars[t]) if t else betas[t]
        expected = 1 / alphas[t].sqrt() * (x_t - (1 - alphas[t]) / (1 - bars[t]).sqrt() * noise) + variance.sqrt() * z
        found = samplers.ddpm(lambda x, t: Prediction(noise=noise), LINEAR, x_t, timesteps=[t, t - 1], sigma=sigma,
                              generator=torch.Generator().manual_seed(2), progress=False)  # fmt: skip
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


# ---------------------------------------------------------------------- which t to train on


def test_uniform_t_is_uniform():
    t = uniform_t(200_000, 10, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    torch.testing.assert_close(torch.bincount(t, minlength=10) / 200_000, torch.full((10,), 0.1), rtol=0.03, atol=0)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_power_t_has_its_distribution(power):
    t = PowerT(power)(200_000, 1000, torch.Generator().manual_seed(0))
    for level in (100, 250, 700):  # P(T u^p < level) = (level / T)^(1/p)
        assert float((t < level).double().mean()) == pytest.approx((level / 1000) ** (1 / power), abs=0.005)


def test_power_t_below_a_share_of_the_schedule():
    t = PowerT(2.0, below=0.12)(200_000, 1000, torch.Generator().manual_seed(0))
    assert int(t.max()) == 119 and float((t < 30).double().mean()) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("below", [0, -0.1, 1.5, 120])
def test_power_t_below_what_is_no_share(below):
    with pytest.raises(ValueError, match="below must be a share of the schedule"):
        PowerT(2.0, below=below)


def test_logit_normal_t_is_symmetric_about_the_middle():
    t = LogitNormalT()(200_000, 1000, torch.Generator().manual_seed(0)).double()
    assert float(t.mean()) == pytest.approx(500, abs=3)
    inside = float(((t >= 1000 / (1 + math.e)) & (t < 1000 / (1 + 1 / math.e))).double().mean())  # |z| < 1
    assert inside == pytest.approx(0.6827, abs=0.005)


@given(T=st.integers(1, 2000), seed=st.integers(0, 10_000), n=st.integers(0, 50))
def test_every_distribution_stays_in_range(T, seed, n):
    for distribution in (uniform_t, PowerT(2.0), PowerT(0.3), PowerT(1.0, below=0.1), LogitNormalT(1.0, 3.0)):
        t = distribution(n, T, torch.Generator().manual_seed(seed), torch.device("cpu"))
        assert t.shape == (n,) and t.dtype == torch.int64
        assert n == 0 or (0 <= int(t.min()) and int(t.max()) < T)


# ---------------------------------------------------------------------- the loss


class Recorder(torch.nn.Module):
    """A denoiser that predicts a constant and remembers what it was asked."""

    def __init__(self, kind="noise", value=0.0):
        super().__init__()
        self.kind, self.value = kind, value

    def forward(self, x_t, t, **condition):
        self.x_t, self.t, self.condition = x_t, t, condition
        return Prediction(**{self.kind: torch.full_like(x_t, self.value)})


def images(n=8, dtype=torch.float32):
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=dtype) * 2 - 1


def test_the_loss_is_the_mean_squared_error_of_the_noise():
    denoiser, x0 = Recorder(value=0.25), images(dtype=torch.float64)
    loss, log = DenoisingObjective(LINEAR)(denoiser, x0, torch.Generator().manual_seed(0))
    noise = to_noise(LINEAR, Prediction(x0=x0), denoiser.x_t, denoiser.t)
    assert float(loss) == pytest.approx(float(((noise - 0.25) ** 2).mean()), rel=1e-6)
    assert log == {}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("kind", QUANTITIES)
def test_the_error_is_measured_in_the_chosen_quantity(quantity, kind):
    denoiser, x0 = Recorder(kind, 0.1), images(dtype=torch.float64)
    loss, _ = DenoisingObjective(LINEAR, quantity=quantity)(denoiser, x0, torch.Generator().manual_seed(0))
    x_t, t = denoiser.x_t, denoiser.t
    estimate = convert(LINEAR, Prediction(**{kind: torch.full_like(x_t, 0.1)}), x_t, t, quantity)
    truth = convert(LINEAR, Prediction(x0=x0), x_t, t, quantity)
    assert float(loss) == pytest.approx(float(((estimate - truth) ** 2).mean()), rel=1e-5)


def test_the_draws_follow_the_generator_and_the_chosen_times():
    objective, denoiser = DenoisingObjective(LINEAR, timesteps=PowerT(2.0)), Recorder()
    first = [float(objective(denoiser, images(), torch.Generator().manual_seed(3))[0]) for _ in range(2)]
    t = PowerT(2.0)(8, 1000, torch.Generator().manual_seed(3))
    assert first[0] == first[1] and torch.equal(denoiser.t, t)
    assert first[0] != float(objective(denoiser, images(), torch.Generator().manual_seed(4))[0])


def test_labels_reach_the_denoiser_only_when_asked_for():
    batch, denoiser = {"image": images(), "label": torch.arange(8)}, Recorder()
    DenoisingObjective(LINEAR)(denoiser, batch)
    assert denoiser.condition == {}
    DenoisingObjective(LINEAR, condition=("label",))(denoiser, batch)
    assert list(denoiser.condition) == ["label"] and torch.equal(denoiser.condition["label"], torch.arange(8))


def test_half_precision_predictions_are_compared_in_float32():
    denoiser = Recorder(value=0.25)
    forward = denoiser.forward
    denoiser.forward = lambda x_t, t: Prediction(noise=forward(x_t, t).noise.bfloat16())
    assert DenoisingObjective(LINEAR)(denoiser, images())[0].dtype == torch.float32


@pytest.mark.parametrize("batch, error, message", [
    ((images() + 1) * 127.5, ValueError, r"the batch's images must lie in \[-1, 1\], got .*images \* 2 - 1"),
    (((images() + 1) * 127.5).byte(), TypeError, r"the batch's images must be a float tensor.*/ 127\.5 - 1"),
    (images()[0], ValueError, r"must have the shape \(B, C, H, W\), got \(3, 4, 4\)"),
    (images() * float("nan"), ValueError, r"must lie in \[-1, 1\], got nan"),
])  # fmt: skip
def test_batches_that_are_no_images(batch, error, message):
    with pytest.raises(error, match=message):
        DenoisingObjective(LINEAR)(Recorder(), batch)


def test_the_exact_denoiser_has_the_smallest_loss():
    """Any perturbation of the oracle raises the loss, on the same draws of t and noise: it is the minimiser."""
    means = torch.tensor([[-0.5], [0.4]])
    oracle = GaussianMixtureOracle(LINEAR, means, torch.tensor([0.01, 0.02]))
    x0 = oracle.sample(20_000, torch.Generator().manual_seed(0)).clamp(-1, 1).reshape(-1, 1, 1, 1)

    def loss(change):
        def denoiser(x_t, t):
            exact = oracle(x_t, t).noise
            return Prediction(noise=exact + change(x_t, t.reshape(-1, 1, 1, 1) / 1000, exact))

        return float(DenoisingObjective(LINEAR)(denoiser, x0, torch.Generator().manual_seed(1))[0])

    exact = loss(lambda x, t, e: 0 * e)
    assert 0.05 < exact < 0.9
    for change in (
        lambda x, t, e: 0.1 * e,
        lambda x, t, e: -0.1 * e,
        lambda x, t, e: 0.05 + 0 * e,
        lambda x, t, e: -0.05 + 0 * e,
        lambda x, t, e: 0.1 * t,
        lambda x, t, e: 0.1 * torch.sin(3 * x),
        lambda x, t, e: -0.1 * x * (1 - t),
    ):
        assert loss(change) > exact
