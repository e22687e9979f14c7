"""The offline Fréchet distance: against scipy's matrix square root, closed forms, and the shipped feature network."""

import pytest
import torch

from fdlib import course
from fdlib.data.shapes3d import FACTORS, Shapes3D, split_indices
from fdlib.metrics.generation import FactorClassifier, FactorObjective, frechet_distance
from fdlib.training import TrainingConfig, train


def test_one_dimension_by_hand():
    a = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    b = torch.tensor([[0.0], [4.0]])  # mean 2, variance 8
    assert frechet_distance(a, a + 3) == pytest.approx(9)
    assert frechet_distance(a, b) == pytest.approx(1 + 2 + 8 - 2 * 4)


def test_agrees_with_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    a, b = (torch.randn(200, 6, generator=generator, dtype=torch.float64) @ m + i for i, m in enumerate(mix))
    cov_a, cov_b = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + (cov_a + cov_b - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_is_symmetric_zero_on_itself_and_blind_to_rotation():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(50, 4, generator=generator), 2 * torch.randn(60, 4, generator=generator) + 1
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a.double() @ rotation, b.double() @ rotation) == pytest.approx(frechet_distance(a, b))


def test_fewer_examples_than_features_is_finite():
    a = torch.randn(5, 20, generator=torch.Generator().manual_seed(2))
    assert 0 <= frechet_distance(a, a + 1) < 25


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "features_a must be"),
        (torch.zeros(4, 3), torch.zeros(4), "features_b must be"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "same length"),
        (torch.full((4, 3), float("nan")), torch.zeros(4, 3), "NaN"),
    ],
)
def test_bad_features_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


@pytest.fixture(scope="module")
def held_out() -> Shapes3D:
    return Shapes3D(size=32, indices=split_indices(train=0, test=300, seed=0)[1], cache=False)


def test_the_shipped_network_names_the_factors_of_scenes_it_never_saw(held_out):
    network = FactorClassifier.from_pretrained(course.asset("shapes_features"))
    with torch.no_grad():
        logits = network(held_out.images())
    for i, (name, part) in enumerate(zip(FACTORS, logits, strict=True)):
        accuracy = (part.argmax(1) == held_out.factors[:, i]).float().mean()
        assert accuracy > 0.95, f"{name}: {accuracy:.2f}"


def test_distance_grows_with_damage(held_out):
    network = FactorClassifier.from_pretrained(course.asset("shapes_features"))
    images = held_out.images()
    real = network.extract(images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    distances = [frechet_distance(real, network.extract(images + strength * noise)) for strength in (0, 0.2, 0.5, 1.0)]
    assert distances == sorted(distances) and distances[0] == pytest.approx(0, abs=1e-3)
    assert distances[1] < 0.2 * distances[3]


def test_pictures_of_other_sizes_are_judged_too():
    network = FactorClassifier.from_pretrained(course.asset("shapes_features"))
    large = Shapes3D(size=64, indices=split_indices(train=0, test=40, seed=0)[1], cache=False)
    with torch.no_grad():
        wall_hue = network(large.images())[1].argmax(1)
    assert (wall_hue == large.factors[:, 1]).float().mean() > 0.9


def test_the_objective_teaches(held_out):
    torch.manual_seed(0)
    network = FactorClassifier(channels=8, features=32)
    config = TrainingConfig(steps=60, batch_size=32, learning_rate=3e-3, ema_decay=0.5, log_every=20)
    history = train(network, FactorObjective(), held_out, config, progress=False).history
    assert history[-1]["loss"] < 0.85 * history[0]["loss"]
    assert history[-1]["accuracy"] > history[0]["accuracy"]


# ---------------------------------------------------------------------- the usual FID


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """Weights of the right shapes, which nobody has trained, in the file format of the real ones."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import feature_extractor_inceptionv3 as source

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.manual_seed(0)
    load, source.torch.load = torch.load, lambda *args, **options: {}
    strict, torch.nn.Module.load_state_dict = torch.nn.Module.load_state_dict, lambda self, state: None
    try:
        network = source.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path="none")
    finally:
        source.torch.load, torch.nn.Module.load_state_dict = load, strict
    torch.save(network.state_dict(), path)
    return path


def test_fid_by_inception_features(random_inception):
    """The path that real weights take: features of 2048 numbers, and torchmetrics' distance of the same features."""
    from fdlib.metrics.generation import Inception

    inception = Inception(random_inception, check=False)
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = inception.extract(images, batch_size=4)
    assert features.shape == (6, 2048) and torch.isfinite(features).all()
    torch.testing.assert_close(inception.extract(images * 1.0001), features)  # 8 bits, as in files
    assert frechet_distance(features, features) < 1e-3 * float(features.square().mean())
    assert frechet_distance(features, inception.extract(-images)) > frechet_distance(features, features)


def test_missing_or_wrong_inception_weights_are_named(random_inception, tmp_path, monkeypatch):
    from fdlib.metrics.generation import INCEPTION_FILE, INCEPTION_SHA256, Inception

    monkeypatch.setenv("FDLIB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=rf"inception/{INCEPTION_FILE}. Download https://.*SHA-256 {INCEPTION_SHA256}"
    ):
        Inception()
    with pytest.raises(ValueError, match="expected SHA-256"):
        Inception(random_inception)


def test_inception_weights_may_not_run_code(tmp_path):
    import os

    from fdlib.metrics.generation import Inception

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made by a pickle"),)

    torch.save(Evil(), tmp_path / "weights.pth")
    with pytest.raises(Exception, match=r"(?i)weights_only|unsupported|unpickl"):
        Inception(tmp_path / "weights.pth", check=False)
    assert not (tmp_path / "made by a pickle").exists()
