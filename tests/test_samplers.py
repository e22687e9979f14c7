"""The samplers: against diffusers, against exact solutions, and what they promise their callers."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from fdlib import samplers
from fdlib.denoiser import Prediction
from fdlib.oracle import GaussianMixtureOracle, GaussianOracle
from fdlib.process import add_noise, convert
from fdlib.schedule import CLEAN, NoiseSchedule, time_grid
from fdlib.unet import UNet

LINEAR = NoiseSchedule.linear()
ALL = (samplers.ddpm, samplers.ddim, samplers.dpm_solver_pp, samplers.ode)
every_sampler = pytest.mark.parametrize("sampler", ALL, ids=lambda f: f.__name__)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def mixture(schedule=LINEAR, dtype=torch.float64):
    means = torch.tensor([[-0.8, -0.5], [0.9, -0.3], [0.0, 0.9]], dtype=dtype)
    return GaussianMixtureOracle(schedule, means, torch.tensor([0.02, 0.04, 0.03]), torch.tensor([0.3, 0.5, 0.2]))


# ---------------------------------------------------------------------- against diffusers


class RandomDenoiser:
    """A random two-layer network in float64 whose x0 lies in [-2, 2], said as noise or as velocity."""

    def __init__(self, kind, shape=(3, 4, 4)):
        n = math.prod(shape)
        self.kind, self.inner, self.outer = kind, randn(64, n, seed=1) / n**0.5, randn(n, 64, seed=2) / 8

    def __call__(self, x_t, t):
        hidden = torch.tanh(x_t.flatten(1) @ self.inner.T + torch.sin(t[:, None] / torch.arange(1, 65)))
        x0 = 2 * torch.tanh(2 * hidden @ self.outer.T).reshape(x_t.shape)
        return Prediction(**{self.kind: convert(LINEAR, Prediction(x0=x0), x_t, t, self.kind)})


DIFFUSERS = {
    "ddpm, sigma beta": ("DDPMScheduler", dict(variance_type="fixed_large"), samplers.ddpm, dict(sigma="beta"), {}),
    "ddpm, sigma posterior": ("DDPMScheduler", dict(variance_type="fixed_small"), samplers.ddpm, dict(sigma="posterior"), {}),
    "ddpm, clipped": ("DDPMScheduler", dict(variance_type="fixed_small", clip_sample=True), samplers.ddpm,
                      dict(sigma="posterior", clip_x0=True), {}),
    "ddim": ("DDIMScheduler", {}, samplers.ddim, {}, dict(eta=0.0)),
    "ddim, eta 1": ("DDIMScheduler", {}, samplers.ddim, dict(eta=1.0), dict(eta=1.0)),
    "ddim, eta .4": ("DDIMScheduler", {}, samplers.ddim, dict(eta=0.4), dict(eta=0.4)),
    "ddim, clipped": ("DDIMScheduler", dict(clip_sample=True), samplers.ddim, dict(clip_x0=True),
                      dict(use_clipped_model_output=True)),
    "dpm_solver_pp": ("DPMSolverMultistepScheduler",
                      dict(algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"),
                      samplers.dpm_solver_pp, {}, {}),
    "ddim_invert": ("DDIMInverseScheduler", {}, samplers.ddim_invert, {}, {}),
}  # fmt: skip


# diffusers' inversion reads a velocity with the a and s of the time before, ours with those of the time it was predicted for
CASES = [(name, steps, kind) for name in DIFFUSERS for steps in (20, 50, 1000) for kind in ("noise", "velocity")
         if (name, kind) != ("ddim_invert", "velocity")]  # fmt: skip


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers
@pytest.mark.parametrize("name, steps, kind", CASES)
def test_agrees_with_diffusers(name, steps, kind):
    """The same betas, x_T, network and random numbers: at every step the difference is at most 1e-5."""
    diffusers = pytest.importorskip("diffusers")
    scheduler_name, options, sampler, ours, theirs = DIFFUSERS[name]
    random = scheduler_name in ("DDPMScheduler", "DDIMScheduler")
    if scheduler_name != "DPMSolverMultistepScheduler":
        options = {"clip_sample": False, **options}
    scheduler = getattr(diffusers, scheduler_name)(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing",
        prediction_type={"noise": "epsilon", "velocity": "v_prediction"}[kind], **options)  # fmt: skip
    scheduler.alphas_cumprod = torch.cumprod(
        1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0
    )  # not float32
    scheduler.set_timesteps(steps)
    denoiser, x, noise, theirs_x = RandomDenoiser(kind), randn(2, 3, 4, 4), generator(7), []
    for t in scheduler.timesteps:
        step = scheduler.step(
            denoiser(x, t.repeat(2)).value, t, x, **theirs, **({"generator": noise} if random else {})
        )
        x = step.prev_sample
        theirs_x.append(x)
    if (
        scheduler_name == "DDPMScheduler"
    ):  # where the grid's last time is not 0, it adds noise to the clean image; 2.10 does not
        theirs_x[-1] = step.pred_original_sample

    ours_x = []
    sampler(denoiser, LINEAR, randn(2, 3, 4, 4), steps=steps, generator=generator(7), progress=False,
            callback=lambda step: ours_x.append(step.x), **ours)  # fmt: skip
    difference = max(float((a - b).abs().max()) for a, b in zip(ours_x, theirs_x, strict=True))
    print(f"{name}, {steps} steps, {kind}: {difference:.1e} at size {max(float(x.abs().max()) for x in ours_x):.1f}")
    assert difference <= 1e-5
    assert float((ours_x[-1] - ours_x[0]).abs().max()) > 0.1  # and it went somewhere


def test_ddpm_agrees_with_diffusers_over_all_1000_steps():
    """Its default sampling, every time in turn, with the exact denoiser, in float32."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large", clip_sample=False)
    oracle, x_T = mixture(dtype=torch.float32), randn(16, 2, dtype=torch.float32)
    x, noise = x_T, generator(3)
    for t in range(999, -1, -1):
        x = scheduler.step(oracle(x, t).noise, t, x, generator=noise).prev_sample
    found = samplers.ddpm(oracle, LINEAR, x_T, generator=generator(3), progress=False)
    assert float((found - x).abs().max()) <= 1e-4  # two float32 computations of a thousand steps


def test_float32_is_enough():
    exact = samplers.dpm_solver_pp(mixture(), LINEAR, randn(64, 2), steps=100, progress=False)
    found = samplers.dpm_solver_pp(
        mixture(dtype=torch.float32), LINEAR, randn(64, 2).float(), steps=100, progress=False
    )
    assert found.dtype == torch.float32
    assert float((found - exact).abs().median()) < 1e-5


# ---------------------------------------------------------------------- orders of convergence


@pytest.fixture(scope="module")
def convergence():
    file = Path(__file__).resolve().parents[1] / "benchmarks" / "convergence.py"
    spec = importlib.util.spec_from_file_location("convergence", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name, expected", [("ddim", 1), ("dpm_solver_pp", 2), ("ode", 2)])
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_order_of_convergence(convergence, kind, name, expected):
    errors = convergence.median_errors(kind, convergence.SOLVERS[name][0])
    order = convergence.order(errors)
    print(f"{kind}: order of {name} = {order:.3f}, median errors {[f'{e:.2e}' for e in errors]}")
    assert abs(order - expected) <= 0.2
    assert errors[-1] < 0.02


def test_euler_is_ddim():
    """``ode`` without its correction, and ``dpm_solver_pp`` on its first step, are DDIM steps: one step shows it."""
    x = randn(4, 2)
    ddim, dpm = (
        f(mixture(), LINEAR, x, timesteps=[800, 500], progress=False) for f in (samplers.ddim, samplers.dpm_solver_pp)
    )
    torch.testing.assert_close(ddim, dpm, rtol=1e-12, atol=1e-12)
    ddim, heun = (
        f(mixture(), LINEAR, x, timesteps=[800, CLEAN], progress=False) for f in (samplers.ddim, samplers.ode)
    )
    torch.testing.assert_close(ddim, heun, rtol=1e-12, atol=1e-12)


def test_eta_one_is_ddpm_with_the_posterior_variance():
    x = randn(8, 2)
    a = samplers.ddim(mixture(), LINEAR, x, steps=25, eta=1.0, generator=generator(1), progress=False)
    b = samplers.ddpm(mixture(), LINEAR, x, steps=25, sigma="posterior", generator=generator(1), progress=False)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- the samples are the data


def energy_distance(x, y):
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


@pytest.mark.parametrize("sampler, options", [
    (samplers.ddpm, dict(steps=250)),
    (samplers.ddpm, dict(steps=250, sigma="posterior")),
    (samplers.ddim, dict(steps=100)),
    (samplers.ddim, dict(steps=100, eta=1.0)),
    (samplers.dpm_solver_pp, dict(steps=25)),
    (samplers.ode, dict(steps=25)),
], ids=lambda v: v.__name__ if callable(v) else str(v))  # fmt: skip
def test_the_oracle_sampled_gives_the_mixture(sampler, options):
    """As close to the truth as another set of true samples is, nearly; pure noise is a hundred times farther."""
    n, oracle = 2000, mixture()
    truth, again = oracle.sample(n, generator(1)), [oracle.sample(n, generator(s)) for s in range(2, 8)]
    natural = max(energy_distance(truth, other) for other in again)
    noise = randn(n, 2)
    samples = sampler(oracle, LINEAR, noise, generator=generator(9), progress=False, **options)
    found = energy_distance(truth, samples)
    far = energy_distance(truth, noise)
    print(f"{sampler.__name__} {options}: {found:.5f}; between true samples {natural:.5f}; noise {far:.5f}")
    assert found < 4 * natural < 0.1 * far


# ---------------------------------------------------------------------- inversion


def test_inversion_and_sampling_return_to_the_image():
    oracle = mixture()
    x0 = oracle.sample(64, generator(1))
    errors = {}
    for steps in (50, 100, 200):
        x_T = samplers.ddim_invert(oracle, LINEAR, x0, steps=steps, progress=False)
        back = samplers.ddim(oracle, LINEAR, x_T, steps=steps, progress=False)
        errors[steps] = float((back - x0).norm(dim=1).median())
    assert errors[200] < errors[100] < errors[50] < 0.3
    assert errors[100] / errors[200] == pytest.approx(2, abs=0.6)  # first order


def test_fixed_point_iterations_make_the_inversion_exact():
    schedule = NoiseSchedule.linear(1000)
    oracle = GaussianOracle(schedule, torch.tensor([0.2, -0.1]).double(), 0.3)
    x0 = oracle.sample(16, generator(1))
    x_T = samplers.ddim_invert(oracle, schedule, x0, steps=50, iterations=40, progress=False)
    back = samplers.ddim(oracle, schedule, x_T, steps=50, progress=False)
    plain = samplers.ddim_invert(oracle, schedule, x0, steps=50, progress=False)
    assert float((back - x0).abs().max()) < 1e-9 < float((plain - x_T).abs().max())


# ---------------------------------------------------------------------- what every sampler promises


class Counter:
    """A denoiser that predicts in the given quantity, counts evaluations and remembers what else it was handed."""

    def __init__(self, kind="noise"):
        self.oracle, self.kind, self.calls, self.conditions = mixture(), kind, [], []

    def __call__(self, x_t, t, **condition):
        assert t.shape == (len(x_t),) and t.dtype == torch.int64 and not torch.is_grad_enabled()
        self.calls.append(int(t[0]))
        self.conditions.append(condition)
        return Prediction(
            **{self.kind: convert(LINEAR, self.oracle(x_t, t), x_t, t, self.kind)}, masks=torch.ones(len(x_t), 2)
        )


@every_sampler
def test_callbacks_see_each_step(sampler):
    steps, denoiser, x_T = [], Counter(), randn(3, 2)
    x = sampler(denoiser, LINEAR, x_T, steps=10, callback=steps.append, generator=generator(), progress=False)
    assert [(s.t, s.t_next) for s in steps] == list(zip(time_grid(1000, 10), time_grid(1000, 10)[1:]))
    assert [s.i for s in steps] == list(range(10))
    assert torch.equal(steps[0].x_t, x_T) and torch.equal(steps[-1].x, x)
    for before, after in zip(steps, steps[1:]):
        assert torch.equal(before.x, after.x_t)
    for step in steps:
        torch.testing.assert_close(step.x0, mixture().posterior(step.x_t, step.t)[0])
        assert step.prediction.masks.shape == (3, 2)
    per_step = 2 if sampler is samplers.ode else 1
    assert [s.evaluations for s in steps] == [*range(per_step, 10 * per_step, per_step), 10 * per_step - (per_step - 1)]
    assert len(denoiser.calls) == steps[-1].evaluations


@every_sampler
def test_what_the_denoiser_predicts_does_not_matter(sampler):
    noise, x0, velocity = (
        sampler(Counter(kind), LINEAR, randn(3, 2), steps=8, generator=generator(), progress=False)
        for kind in ("noise", "x0", "velocity")
    )
    torch.testing.assert_close(x0, noise, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(velocity, noise, rtol=1e-9, atol=1e-9)


@every_sampler
def test_condition_reaches_the_denoiser(sampler):
    denoiser = Counter()
    sampler(denoiser, LINEAR, randn(3, 2), steps=2, condition={"label": 4}, progress=False)
    assert denoiser.conditions == [{"label": 4}] * len(denoiser.calls)


@every_sampler
def test_generator_decides_and_the_start_is_left_alone(sampler):
    x_T = randn(3, 2)
    kept = x_T.clone()
    first, second, other = (
        sampler(mixture(), LINEAR, x_T, steps=5, generator=generator(s), progress=False) for s in (1, 1, 2)
    )
    assert torch.equal(first, second) and torch.equal(x_T, kept)
    assert torch.equal(first, other) == (sampler is not samplers.ddpm)


@every_sampler
def test_an_explicit_grid_equals_the_even_one(sampler):
    a = sampler(mixture(), LINEAR, randn(3, 2), steps=7, generator=generator(), progress=False)
    b = sampler(mixture(), LINEAR, randn(3, 2), timesteps=time_grid(1000, 7), generator=generator(), progress=False)
    assert torch.equal(a, b)


@every_sampler
@pytest.mark.parametrize("shape", [(2, 12), (2, 3, 2, 2), (1, 1, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes_stay(sampler, shape, dtype):
    oracle = GaussianOracle(LINEAR, torch.zeros(12, dtype=dtype), 0.5)
    x = sampler(oracle, LINEAR, randn(*shape, dtype=dtype), steps=3, progress=False)
    assert x.shape == shape and x.dtype == dtype and x.isfinite().all()


@every_sampler
def test_clipping_keeps_the_predicted_image_in_range(sampler):
    seen = []
    sampler(lambda x, t: Prediction(x0=3 * torch.ones_like(x)), LINEAR, randn(3, 2), steps=4, clip_x0=True,
            callback=lambda step: seen.append(step.x0.abs().max()), progress=False)  # fmt: skip
    assert max(seen) == 1
    x = sampler(lambda x, t: Prediction(x0=3 * torch.ones_like(x)), LINEAR, randn(3, 2), steps=4, progress=False)
    torch.testing.assert_close(x, torch.full((3, 2), 3.0).double())


@every_sampler
def test_another_path_than_the_variance_preserving_one(sampler):
    """Rectified flow, x_t = (1 - u) x0 + u noise, is only another schedule; the samplers bring its noise to the data."""
    u = torch.arange(1, 1000, dtype=torch.float64) / 1000
    flow = NoiseSchedule(1 - u, u)
    oracle = mixture(flow)
    truth = oracle.sample(2000, generator(1))
    x_T = add_noise(flow, truth, 998, randn(2000, 2))
    x = sampler(oracle, flow, x_T, steps=100, generator=generator(2), progress=False)
    assert energy_distance(x, oracle.sample(2000, generator(5))) < 0.01


@every_sampler
@pytest.mark.parametrize("options, error, message", [
    (dict(steps=1001), ValueError, r"steps=1001 is more than the schedule's T=1000"),
    (dict(steps=0), ValueError, "steps must be a whole number >= 1"),
    (dict(timesteps=[5]), ValueError, "timesteps must be two or more strictly decreasing times"),
    (dict(timesteps=[5, 5, 1]), ValueError, "strictly decreasing"),
    (dict(timesteps=[1, 5]), ValueError, "strictly decreasing"),
    (dict(timesteps=[1000, 5]), ValueError, r"timesteps must lie in 999 \.\. 0, or end with -1"),
    (dict(timesteps=[10, -2]), ValueError, "timesteps must lie in"),
    (dict(x_T=torch.zeros(2, 2, dtype=torch.int64)), TypeError, r"x_T must be a float tensor, got torch\.int64"),
    (dict(x_T=[0.0]), TypeError, "x_T must be a float tensor, got list"),
])  # fmt: skip
def test_bad_input(sampler, options, error, message):
    arguments = {"x_T": randn(2, 2), "progress": False, **options}
    with pytest.raises(error, match=message):
        sampler(mixture(), LINEAR, **arguments)


@pytest.mark.parametrize("call, message", [
    (lambda x: samplers.ddpm(mixture(), LINEAR, x, sigma="large"), 'sigma must be "beta" or "posterior"'),
    (lambda x: samplers.ddim(mixture(), LINEAR, x, eta=1.5), r"eta must lie in \[0, 1\], got 1.5"),
    (lambda x: samplers.ddim_invert(mixture(), LINEAR, x, iterations=0), "iterations must be >= 1"),
])  # fmt: skip
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call(randn(2, 2))


def test_a_network_refuses_images_of_another_size():
    net = UNet(image_size=8, channels=8, multipliers=(1, 2), blocks=1)
    assert samplers.ddim(net, LINEAR, torch.randn(1, 3, 8, 8), steps=2, progress=False).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="x_t must be 8x8 pixels for this model, got 16x16: resize them"):
        samplers.ddim(net, LINEAR, torch.randn(1, 3, 16, 16), steps=2)
