"""The exact denoisers: against numerical integration, autograd, Monte Carlo and each other."""

import math

import pytest
import torch

from fdlib.oracle import GaussianMixtureOracle, GaussianOracle
from fdlib.process import add_noise
from fdlib.schedule import CLEAN, NoiseSchedule

LINEAR = NoiseSchedule.linear()
TIMES = (0, 30, 300, 700, 999)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def mixture(D=2, K=3, seed=0):
    """Correlated components with unequal weights."""
    roots = randn(K, D, D, seed=seed) * 0.3
    covariances = roots @ roots.mT + 0.02 * torch.eye(D).double()
    return GaussianMixtureOracle(LINEAR, randn(K, D, seed=seed + 1), covariances, torch.tensor([0.5, 0.2, 0.3])[:K])


def components(oracle):
    """Weights, means and full covariances, put together again from what the oracle keeps."""
    covariances = oracle.axes @ torch.diag_embed(oracle.variances) @ oracle.axes.mT
    return oracle.log_weights.exp(), oracle.means, covariances


@pytest.mark.parametrize("t", TIMES)
def test_denoiser_is_the_integral_of_bayes_rule(t):
    """E[x0 | x_t], Var[x0 | x_t] and p_t(x_t) in one dimension, by summing over a fine grid of x0."""
    oracle = GaussianMixtureOracle(LINEAR, torch.tensor([[-1.0], [0.3], [2.0]]).double(), torch.tensor([0.05, 0.01, 0.2]),
                                   torch.tensor([1.0, 2.0, 3.0]))  # fmt: skip
    a, s = float(LINEAR.a[t]), float(LINEAR.s[t])
    x0 = torch.linspace(-6, 8, 200_001, dtype=torch.float64)
    prior = sum(w * torch.exp(-((x0 - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v)
                for w, m, v in ((1 / 6, -1.0, 0.05), (2 / 6, 0.3, 0.01), (3 / 6, 2.0, 0.2)))  # fmt: skip
    for x in (-1.5, 0.0, 0.4, 1.2, 3.0):
        x_t = torch.tensor([[a * x]]).double()
        joint = prior * torch.exp(-((float(x_t) - a * x0) ** 2) / (2 * s**2)) / math.sqrt(2 * math.pi * s**2)
        evidence = joint.sum() * (x0[1] - x0[0])
        mean = float((joint * x0).sum() / joint.sum())
        variance = float((joint * (x0 - mean) ** 2).sum() / joint.sum())
        found_mean, found_variance = oracle.posterior(x_t, t)
        assert float(found_mean) == pytest.approx(mean, abs=1e-6)
        assert float(found_variance) == pytest.approx(variance, rel=1e-5, abs=1e-9)
        assert float(oracle.log_density(x_t, t)) == pytest.approx(float(evidence.log()), abs=1e-5)
        assert float(oracle(x_t, t).noise) == pytest.approx((float(x_t) - a * mean) / s, abs=1e-6 * a / s + 1e-9)


@pytest.mark.parametrize("t", TIMES)
def test_score_is_the_gradient_of_the_log_density_and_minus_noise_over_s(t):
    oracle, x = mixture(), (2 * randn(20, 2, seed=5)).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
    score = oracle.score(x, t).detach()
    torch.testing.assert_close(score, gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(score, -oracle(x, t).noise.detach() / LINEAR.s[t], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [CLEAN, 0, 300, 999])
def test_log_density_is_that_of_torch_distributions(t):
    oracle, x = mixture(D=3), randn(10, 3, seed=4)
    weights, means, covariances = components(oracle)
    a, s = (1.0, 0.0) if t == CLEAN else (LINEAR.a[t], LINEAR.s[t])
    noised = torch.distributions.MultivariateNormal(a * means, a**2 * covariances + s**2 * torch.eye(3).double())
    expected = torch.logsumexp(weights.log() + noised.log_prob(x[:, None]), dim=1)
    torch.testing.assert_close(oracle.log_density(x, t), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(oracle.responsibilities(x, t).sum(1), torch.ones(10).double())


@pytest.mark.parametrize("t", [200, 600])
def test_posterior_by_monte_carlo(t):
    """Weigh 400 000 samples of the data by how well they explain x_t."""
    oracle = mixture()
    x0 = oracle.sample(400_000, generator(1))
    a, s = LINEAR.a[t], LINEAR.s[t]
    x_t = add_noise(LINEAR, oracle.sample(4, generator(2)), t, randn(4, 2, seed=3))
    mean, covariance = oracle.posterior(x_t, t)
    for i in range(4):
        weights = torch.softmax(-((x_t[i] - a * x0) ** 2).sum(1) / (2 * s**2), dim=0)
        effective = 1 / float((weights**2).sum())
        assert effective > 5_000
        estimate = weights @ x0
        centred = x0 - estimate
        spread = float(covariance[i].diagonal().max())
        torch.testing.assert_close(mean[i], estimate, rtol=0, atol=5 * math.sqrt(spread / effective))
        estimate = centred.mT @ (weights[:, None] * centred)
        torch.testing.assert_close(covariance[i], estimate, rtol=0, atol=10 * spread / math.sqrt(effective))


def test_samples_have_the_moments_of_the_mixture():
    oracle, n = mixture(), 200_000
    weights, means, covariances = components(oracle)
    mean = weights @ means
    centred = means - mean
    covariance = torch.einsum("k,kde->de", weights, covariances + centred[:, :, None] * centred[:, None])
    x = oracle.sample(n, generator())
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=5 * math.sqrt(float(covariance.max()) / n))
    torch.testing.assert_close(torch.cov(x.mT), covariance, rtol=0, atol=10 * float(covariance.max()) / math.sqrt(n))
    assert torch.equal(x, oracle.sample(n, generator()))  # the generator decides


def test_a_batch_of_times_is_each_time_by_itself():
    oracle, x, t = mixture(), randn(5, 2), torch.tensor(TIMES)
    together = oracle(x, t).noise, oracle.score(x, t), oracle.log_density(x, t)[:, None], *oracle.posterior(x, t)
    for i, one in enumerate(TIMES):
        row = x[i : i + 1]
        alone = (
            oracle(row, one).noise,
            oracle.score(row, one),
            oracle.log_density(row, one)[:, None],
            *oracle.posterior(row, one),
        )
        for a, b in zip(together, alone):
            torch.testing.assert_close(a[i], b[0], rtol=1e-10, atol=1e-10)


def test_images_are_vectors_in_another_shape():
    oracle, x = mixture(D=12), randn(4, 3, 2, 2)
    for method in (lambda v: oracle(v, 300).noise, lambda v: oracle.score(v, 300)):
        assert method(x).shape == x.shape
        torch.testing.assert_close(method(x).flatten(1), method(x.flatten(1)))


def test_covariances_in_every_form_are_the_same_mixture():
    means, x = randn(2, 3), randn(5, 3, seed=1)
    forms = (0.3, torch.tensor([0.3, 0.3]), 0.3 * torch.eye(3).double().expand(2, 3, 3))
    results = [GaussianMixtureOracle(LINEAR, means, form).log_density(x, 100) for form in forms]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-6, atol=1e-6)
    one = GaussianOracle(LINEAR, means[0], 0.3)
    assert float(one.variances[0, 0]) == pytest.approx(0.3, rel=1e-15)  # not the float32 next to it
    torch.testing.assert_close(
        one.log_density(x, 100), GaussianMixtureOracle(LINEAR, means[:1], 0.3).log_density(x, 100)
    )


# ---------------------------------------------------------------------- one Gaussian


def gaussian():
    return GaussianOracle(LINEAR, torch.tensor([0.5, -0.2]).double(), torch.tensor([[0.3, 0.1], [0.1, 0.2]]).double())


def test_denoiser_of_a_gaussian_is_the_wiener_filter():
    oracle, x, t = gaussian(), randn(6, 2), 400
    mean, covariance = oracle.means[0], torch.tensor([[0.3, 0.1], [0.1, 0.2]]).double()
    a, s = LINEAR.a[t], LINEAR.s[t]
    gain = a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * torch.eye(2).double())
    torch.testing.assert_close(oracle.posterior(x, t)[0], mean + (x - a * mean) @ gain.mT)
    expected = covariance - a * gain @ covariance
    torch.testing.assert_close(oracle.posterior(x, t)[1], expected.expand(6, 2, 2), rtol=1e-9, atol=1e-12)


def test_flow_solves_the_probability_flow_ode():
    """d(x/a)/d(s/a) = noise: its slope, by finite differences along the flow, is the oracle's prediction."""
    schedule = NoiseSchedule.linear(200_000, rescale=True)
    oracle = GaussianOracle(schedule, gaussian().means[0], torch.tensor([[0.3, 0.1], [0.1, 0.2]]).double())
    x, t = randn(6, 2), 80_000
    before, after = (oracle.flow(x, t, u) / schedule.a[u] for u in (t - 20, t + 20))
    ratio = schedule.s / schedule.a
    torch.testing.assert_close(
        (after - before) / (ratio[t + 20] - ratio[t - 20]), oracle(x, t).noise, rtol=1e-6, atol=1e-6
    )


def test_flow_goes_back_and_composes():
    oracle, x = gaussian(), randn(6, 2)
    torch.testing.assert_close(oracle.flow(oracle.flow(x, 999, 200), 200, 999), x)
    torch.testing.assert_close(oracle.flow(oracle.flow(x, 999, 200), 200, CLEAN), oracle.flow(x, 999, CLEAN))
    # noise ends as data: the transported moments are those of the Gaussian
    end = oracle.flow(add_noise(LINEAR, oracle.sample(100_000, generator()), 999, randn(100_000, 2)), 999, CLEAN)
    torch.testing.assert_close(torch.cov(end.mT), torch.tensor([[0.3, 0.1], [0.1, 0.2]]).double(), rtol=0, atol=0.005)


@pytest.mark.parametrize("arguments, message", [
    ((torch.zeros(3), 1.0), r"means must be a float tensor \(K, D\)"),
    ((torch.zeros(3, 2, dtype=torch.long), 1.0), "means must be a float tensor"),
    ((torch.zeros(3, 2), torch.ones(3, 2, 3)), r"covariances must be \(K, D, D\).*K=3, D=2; got \(3, 2, 3\)"),
    ((torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])), "positive definite: the smallest eigenvalue is -1"),
    ((torch.zeros(1, 2), torch.tensor([[[1.0, 0.9], [0.0, 1.0]]])), "covariances must be symmetric"),
    ((torch.zeros(3, 2), 1.0, torch.tensor([1.0, 0.0, 1.0])), "weights must be 3 positive numbers"),
    ((torch.zeros(3, 2), 1.0, torch.ones(2)), "weights must be 3 positive numbers"),
])  # fmt: skip
def test_impossible_mixtures(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureOracle(LINEAR, *arguments)
