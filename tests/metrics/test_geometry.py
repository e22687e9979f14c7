"""Poses after alignment: known similarities undone, what is refused, wrong axes named, and a real golden."""

import math
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fdlib.cameras import CONVENTIONS, camera_to_world, convert, look_at, orbit, rodrigues, spherical
from fdlib.metrics.geometry import (
    Similarity,
    align_cameras,
    axes_hint,
    lpips,
    pose_errors,
    psnr,
    relative_rotation_accuracy,
    shuffled_baseline,
    ssim,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "lego_colmap_poses.npz"


@pytest.fixture(autouse=True)
def _no_hint_unasked():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def close(a, b, atol=1e-9):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=atol)


def scene(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    azimuth, height = torch.rand(2, n, generator=generator, dtype=torch.float64)
    return look_at(spherical(2 * math.pi * azimuth, 0.1 + height, 4.0))


def elsewhere(c2w, scale=0.4, seed=3):
    """The same cameras in a world turned, moved and scaled, and the similarity that leads there, by scipy."""
    Q = torch.as_tensor(Rotation.random(random_state=seed).as_matrix())
    t = torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64)
    return camera_to_world(Q @ c2w[:, :3, :3], scale * c2w[:, :3, 3] @ Q.T + t), (scale, Q, t)


# ---------------------------------------------------------------------- alignment


@pytest.mark.parametrize("seed", range(5))
def test_a_similarity_is_found_exactly(seed):
    estimated = scene(seed=seed)
    true, (scale, Q, t) = elsewhere(estimated, scale=2.5, seed=seed)
    found = align_cameras(estimated, true)
    assert isinstance(found, Similarity) and found.scale == pytest.approx(scale)
    close(found.rotation, Q)
    close(found.translation, t)
    close(found.apply(estimated), true)
    errors = pose_errors(estimated, true)
    assert errors["rotation_deg"].shape == errors["centre"].shape == (20,) and errors["scale"] == pytest.approx(2.5)
    assert errors["rotation_deg"].max() < 1e-5 and errors["centre"].max() < 1e-9


def test_the_rotation_is_scipys_for_noisy_centres():
    estimated = scene()
    true, _ = elsewhere(estimated)
    true[:, :3, 3] += 0.2 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = (c[:, :3, 3].numpy() - c[:, :3, 3].numpy().mean(0) for c in (estimated, true))
    by_scipy, _ = Rotation.align_vectors(y, x)
    found = align_cameras(estimated, true)
    close(found.rotation, by_scipy.as_matrix(), 1e-8)
    # given the rotation, the best scale is a regression through the origin
    assert found.scale == pytest.approx((y * by_scipy.apply(x)).sum() / (x**2).sum())


def test_no_other_similarity_is_better():
    estimated = scene(seed=1)
    true = scene(seed=2)  # nothing to do with each other: the minimum is nothing special
    best = align_cameras(estimated, true)

    def loss(s, R, t):
        return float((s * estimated[:, :3, 3] @ R.T + t - true[:, :3, 3]).square().sum())

    least = loss(best.scale, best.rotation, best.translation)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        step = 0.03 * torch.randn(7, generator=generator, dtype=torch.float64)
        other = loss(best.scale * math.exp(step[0]), rodrigues(step[1:4]) @ best.rotation, best.translation + step[4:])
        assert other > least


def test_mirrored_cameras_are_not_matched_by_a_mirror():
    true = scene()
    mirror = true.clone()
    mirror[:, 1, 3] *= -1  # centres mirrored; the rotations stay proper
    found = align_cameras(mirror, true)
    assert torch.linalg.det(found.rotation) == pytest.approx(1)
    x, y = (c[:, :3, 3] - c[:, :3, 3].mean(0) for c in (mirror, true))
    assert found.scale == pytest.approx(float((y * (x @ found.rotation.T)).sum() / x.square().sum()))
    assert pose_errors(mirror, true)["centre"].mean() > 0.3


def test_cameras_in_a_plane_are_enough_and_three_are():
    flat = orbit(12, 4.0, 0.3).double()
    true, (_, Q, _) = elsewhere(flat)
    close(align_cameras(flat, true).rotation, Q, 1e-6)
    close(align_cameras(flat[:3], true[:3]).rotation, Q, 1e-6)


def test_held_out_views_use_the_similarity_of_the_training_views():
    estimated = scene()
    true, _ = elsewhere(estimated, scale=2.0)
    bent = estimated.clone()
    bent[15:, :3, 3] *= 1.1  # the held-out cameras are too far out
    fitted = align_cameras(bent[:15], true[:15])
    errors = pose_errors(bent[15:], true[15:], similarity=fitted)
    close(errors["centre"], 2.0 * 0.1 * estimated[15:, :3, 3].norm(dim=1))
    assert errors["scale"] == pytest.approx(2.0)
    assert pose_errors(bent[15:16], true[15:16], similarity=fitted)["rotation_deg"].shape == (1,)
    assert pose_errors(bent[15:], true[15:])["centre"].mean() < errors["centre"].mean()  # its own fit would flatter


def test_rotation_errors_are_those_put_in():
    true = scene()
    degrees = torch.linspace(0, 50, 20, dtype=torch.float64)
    v = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = v / v.norm(dim=1, keepdim=True) * torch.deg2rad(degrees)[:, None]
    estimated, _ = elsewhere(camera_to_world(true[:, :3, :3] @ rodrigues(v), true[:, :3, 3]))
    close(pose_errors(estimated, true)["rotation_deg"], degrees, 1e-5)


def test_arrays_float32_and_3_by_4_matrices_will_do():
    estimated = scene()
    true, _ = elsewhere(estimated)
    errors = pose_errors(estimated.float().numpy(), true[:, :3].numpy())
    assert errors["rotation_deg"].dtype == torch.float64 and errors["rotation_deg"].max() < 1e-3
    found = align_cameras(estimated, true)
    assert found.apply(estimated.float()).dtype == torch.float32
    close(found.apply(estimated[:, :3]), true[:, :3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:2], "holds 2 camera"),
        (lambda c: c[:1], "at least 3.*similarity="),
        (lambda c: c[:0], "empty"),
        (lambda c: c[0], r"must be \(N, 4, 4\)"),
        (lambda c: torch.cat([c[:, :, :3], 0 * c[:, :, 3:] + torch.tensor([1.0, 2, 3, 1])[:, None]], 2), "coincide"),
        (lambda c: torch.cat([c[:, :, :3], 0 * c[:, :, 3:] + torch.tensor([0.0, 0, 0, 1])[:, None]], 2), "coincide"),
    ],
)
def test_too_little_to_align_is_refused(change, message):
    poses = scene()
    bad = change(poses)
    other = poses[: len(bad)] if bad.ndim == 3 else poses
    with pytest.raises(ValueError, match=message):
        align_cameras(bad, other)
    with pytest.raises(ValueError, match=message):
        align_cameras(other, bad)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-5])
@pytest.mark.parametrize("which", ["estimated_c2w", "true_c2w"])
def test_centres_on_a_line_are_refused(noise, which):
    poses, line = scene(), scene()
    line[:, :3, 3] = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2, -1])
    line[:, :3, 3] += noise * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    pair = (line, poses) if which == "estimated_c2w" else (poses, line)
    with pytest.raises(ValueError, match=f"{which} .*lie on a line"):
        align_cameras(*pair)


def test_nearly_coinciding_centres_far_from_the_origin_are_refused():
    poses = scene()
    together = poses.clone()
    together[:, :3, 3] = torch.tensor([100.0, 0, 0]) + 1e-6 * poses[:, :3, 3]
    with pytest.raises(ValueError, match="coincide"):
        align_cameras(together, poses)


def test_bad_poses_are_refused_by_name_and_number():
    poses, nan, flipped = scene(), scene(), scene()
    nan[7, 2, 3] = math.nan
    flipped[:, :3, 0] *= -1
    for call in (align_cameras, pose_errors, shuffled_baseline, relative_rotation_accuracy, axes_hint):
        with pytest.raises(ValueError, match=r"estimated_c2w: 1 of 20 poses \(number 7\) hold NaN"):
            call(nan, poses)
        with pytest.raises(ValueError, match=r"true_c2w: 20 of 20 poses .*mirrored"):
            call(poses, flipped)
        with pytest.raises(ValueError, match="as many, got 20 and 19"):
            call(poses, poses[:19])


# ---------------------------------------------------------------------- baselines and relative rotations


def test_the_shuffled_baseline_shuffles_everything_and_repeats():
    true = scene(40)
    estimated, _ = elsewhere(true)
    baseline = shuffled_baseline(estimated, true, seed=1)
    assert baseline["centre"].mean() > 2 and baseline["rotation_deg"].mean() > 20
    again, other = shuffled_baseline(estimated, true, seed=1), shuffled_baseline(estimated, true, seed=2)
    assert torch.equal(baseline["centre"], again["centre"]) and not torch.equal(baseline["centre"], other["centre"])
    exact = Similarity(1.0, torch.eye(3), torch.zeros(3))
    for seed in range(20):  # without a new fit: nobody stands where it should
        assert shuffled_baseline(true[:4], true[:4], seed, similarity=exact)["centre"].min() > 1e-3


def test_relative_rotations_by_a_naive_loop():
    true, estimated = scene(9, seed=1), scene(9, seed=1)
    v = 0.25 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimated = camera_to_world(estimated[:, :3, :3] @ rodrigues(v), estimated[:, :3, 3])
    errors = []
    for i in range(9):
        for j in range(i):
            a, b = (Rotation.from_matrix(c[[i, j], :3, :3].numpy()) for c in (estimated, true))
            errors.append(np.degrees(((a[0].inv() * a[1]).inv() * (b[0].inv() * b[1])).magnitude()))
    shares = relative_rotation_accuracy(estimated, true)
    assert list(shares) == [5, 15, 30]
    for threshold, share in shares.items():
        assert share == pytest.approx(np.mean(np.array(errors) <= threshold))
    assert 0 < shares[15] < shares[30] < 1
    turned, _ = elsewhere(estimated)
    assert relative_rotation_accuracy(turned, true) == shares  # blind to the world's frame
    with pytest.raises(ValueError, match="at least 2"):
        relative_rotation_accuracy(true[:1], true[:1])


# ---------------------------------------------------------------------- wrong camera axes


@pytest.mark.parametrize("estimated_in", CONVENTIONS)
@pytest.mark.parametrize("true_in", CONVENTIONS)
def test_wrong_axes_are_recognised_and_the_conversion_mends_them(estimated_in, true_in):
    true = scene()
    generator = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(20, 3, generator=generator, dtype=torch.float64)  # a few degrees
    estimated = camera_to_world(true[:, :3, :3] @ rodrigues(noise), true[:, :3, 3])
    estimated, _ = elsewhere(convert(estimated, "opengl", estimated_in))
    true = convert(true, "opengl", true_in)
    if estimated_in == true_in:
        assert axes_hint(estimated, true) is None
        pose_errors(estimated, true)
        return
    hint = axes_hint(estimated, true)
    assert (estimated_in, true_in) in hint.conversions and hint.after < 10 and hint.before > 80
    with pytest.warns(UserWarning, match=f'convert\\(estimated, "{estimated_in}", "{true_in}"\\)'):
        pose_errors(estimated, true)
    for source, target in hint.conversions:
        mended = convert(estimated, source, target)
        assert pose_errors(mended, true)["rotation_deg"].max() < 12
    turned = camera_to_world(estimated[:, :3, :3] @ hint.axes, estimated[:, :3, 3])
    close(turned, mended)


def test_axes_that_no_convention_has_are_still_spelt_out():
    true = scene()
    cyclic = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    estimated = camera_to_world(true[:, :3, :3] @ cyclic.T, true[:, :3, 3])
    hint = axes_hint(estimated, true)
    assert hint.conversions == () and hint.before == pytest.approx(120)
    close(hint.axes, cyclic)
    assert "[[0, 0, 1], [1, 0, 0], [0, 1, 0]]" in str(hint) and "convert" not in str(hint)


def test_no_hint_for_cameras_that_are_simply_wrong():
    true = scene(60)
    for seed in range(5):
        wrong = camera_to_world(torch.as_tensor(Rotation.random(60, random_state=seed).as_matrix()), true[:, :3, 3])
        assert axes_hint(wrong, true) is None
        shuffled_baseline(true, true, seed)


# ---------------------------------------------------------------------- the real golden


@pytest.mark.skipif(not GOLDEN.exists(), reason="the COLMAP poses of Lego are not here")
def test_colmaps_cameras_of_lego():
    with np.load(GOLDEN, allow_pickle=False) as file:
        true, estimated = file["gt_c2w_opencv"], file["colmap_c2w_llff"]
    assert np.linalg.norm(true[:, :3, 3], axis=1).mean() == pytest.approx(4.03, abs=0.005)
    with pytest.warns(UserWarning, match=r"\[\[0, 1, 0\], \[-1, 0, 0\], \[0, 0, 1\]\]"):
        errors = pose_errors(estimated, true)
    assert errors["centre"].mean() == pytest.approx(0.0057, abs=5e-5)
    assert errors["scale"] == pytest.approx(0.893, abs=5e-4)
    assert errors["rotation_deg"].mean() == pytest.approx(90.04, abs=5e-3)
    hint = axes_hint(estimated, true)
    mended = estimated.copy()
    mended[:, :3, :3] = mended[:, :3, :3] @ hint.axes.numpy()
    assert pose_errors(mended, true)["rotation_deg"].mean() == pytest.approx(0.12, abs=0.005)
    assert pose_errors(mended, true)["centre"].mean() == pytest.approx(0.0057, abs=5e-5)
    close(convert(torch.as_tensor(estimated), *hint.conversions[0]), mended)
    shuffled = [shuffled_baseline(mended, true, seed) for seed in range(8)]
    assert np.mean([s["centre"].mean() for s in shuffled]) == pytest.approx(3.17, abs=0.03)
    assert all(80 < s["rotation_deg"].mean() < 160 for s in shuffled)
    assert relative_rotation_accuracy(mended, true) == {5: 1.0, 15: 1.0, 30: 1.0}


# ---------------------------------------------------------------------- pictures


def test_psnr_by_hand_and_for_each_image():
    target = torch.zeros(2, 3, 4, 5)
    image = torch.full((2, 3, 4, 5), 0.1)
    image[1] = 1.0
    close(psnr(image, target, 1.0), [20.0, 0.0], 1e-4)
    close(psnr(image, target, 2.0), [20 + 20 * math.log10(2), 20 * math.log10(2)], 1e-4)
    assert psnr(image[0], target[0], 1.0).shape == () and psnr(target, target, 1.0).tolist() == [math.inf] * 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: psnr(a, a[:1], 1), ValueError, "one shape"),
        (lambda a: psnr(a.byte(), a.byte(), 255), TypeError, "float"),
        (lambda a: psnr(a, 2 * a - 1, 1.0), ValueError, r"data_range=1.0: pass 2 for images in \[-1, 1\]"),
        (lambda a: psnr(a, a, 0), ValueError, "data_range must be positive"),
        (lambda a: psnr(a / 0, a, 1), ValueError, "NaN"),
        (lambda a: psnr(a[:0], a[:0], 1), ValueError, "not empty"),
        (lambda a: ssim(a[0], a[0], 1), ValueError, r"\(B, C, H, W\)"),
        (lambda a: lpips(a, a, 255), ValueError, "data_range must be 1"),
        (lambda a: lpips(a, a, 1, "resnet"), ValueError, "alex, vgg or squeeze"),
    ],
)
def test_bad_pictures_are_refused(call, error, message):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(error, match=message):
        call(images)


def test_without_torchmetrics_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    images = torch.rand(2, 3, 8, 8)
    assert psnr(images, images, 1).isinf().all()
    for measure in (ssim, lpips):
        with pytest.raises(ImportError, match=r"pip install 'torchmetrics"):
            measure(images, images, 1)


def stand_in(monkeypatch, **functions):
    for name in ("torchmetrics", "torchmetrics.functional", "torchvision"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.ModuleType("torchmetrics.functional.image")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", module)


def test_lpips_without_weights_says_what_to_do(monkeypatch):
    def measure(*_, **__):
        raise OSError("<urlopen error: no network>")

    stand_in(monkeypatch, learned_perceptual_image_patch_similarity=measure)
    with pytest.raises(RuntimeError, match=r"could not be downloaded .*no network.*PSNR and SSIM"):
        lpips(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), 1)


def test_lpips_clips_what_overshoots_and_says_which_range(monkeypatch):
    seen = {}

    def measure(image, target, net_type, normalize):
        seen.update(low=float(image.min()), high=float(image.max()), net=net_type, normalize=normalize)
        return torch.tensor(0.25)

    stand_in(monkeypatch, learned_perceptual_image_patch_similarity=measure)
    image = torch.linspace(-1.5, 1.5, 2 * 3 * 64).reshape(2, 3, 8, 8)
    assert lpips(image, image.clamp(-1, 1), 2, "vgg") == 0.25
    assert seen == dict(low=-1, high=1, net="vgg", normalize=False)
    lpips(image, image.clamp(0, 1), 1)
    assert seen == dict(low=0, high=1, net="alex", normalize=True)


def test_ssim_against_torchmetrics_itself():
    pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 3, 16, 16, generator=generator)
    noisy = (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    assert ssim(image, noisy, 1).shape == (3,) and (ssim(image, noisy, 1) < 1).all()
    close(ssim(image, image, 1), torch.ones(3), 1e-5)


def test_lpips_against_torchmetrics_itself(tmp_path, monkeypatch):
    """The real network; only its trunk's weights, which would be downloaded, are drawn at random and put where they belong."""
    pytest.importorskip("torchmetrics")
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    name = Path(models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url).name
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "hub" / "checkpoints" / name)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    clean, little, much = (lpips((image + s * noise).clamp(0, 1), image, 1, "squeeze") for s in (0, 0.05, 0.3))
    assert clean == pytest.approx(0, abs=1e-6) and 0 < little < much
    other_range = lpips((image + 0.3 * noise).clamp(0, 1) * 2 - 1, image * 2 - 1, 2, "squeeze")
    assert other_range == pytest.approx(much, rel=1e-4)
