"""NeRF inside diffusion: who receives which gradient, who learns from which view, and what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F

from fdlib import samplers
from fdlib.cameras import check_poses, direction
from fdlib.nerf import render_image
from fdlib.pose import PoseDenoiser, PoseEncoder, PoseObjective, balance, parameter_groups
from fdlib.process import add_noise
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, train

SMALL = dict(
    image_size=16, focal=20.0, near=1.5, far=4.5, radius=3.0, resolution=8, samples=8, channels=8, multipliers=(1, 2)
)
SCHEDULE = NoiseSchedule.cosine(100)


def make(seed=0, **options):
    """A small model whose scene is not empty."""
    torch.manual_seed(seed)
    model = PoseDenoiser(**{**SMALL, **options})
    if not model.views:
        torch.nn.init.normal_(model.encoder.out.weight, std=0.3)
    if hasattr(model.field, "grid"):
        torch.nn.init.normal_(model.field.grid, std=2.0)
    return model


def views(n=4, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def objective(**options):
    return PoseObjective(SCHEDULE, **{"steps": 10, "score_pixels": 16, "render_pixels": 32, **options})


# ---------------------------------------------------------------------- the model


@pytest.mark.parametrize("cameras", ["sphere", "free"])
@pytest.mark.parametrize("candidates", [1, 8])
def test_a_view_becomes_cameras_scores_and_a_rendering(cameras, candidates):
    model = make(cameras=cameras, candidates=candidates, rows=1)
    x_t, t = views(), torch.tensor([0, 5, 50, 99])
    prediction = model(x_t, t)
    assert prediction.x0.shape == x_t.shape and prediction.x0.abs().max() <= 1
    assert prediction.poses.shape == (4, candidates, 4, 4) and prediction.pose_logits.shape == (4, candidates)
    check_poses(prediction.poses)


def test_the_rendering_is_of_the_candidate_with_the_highest_score():
    model = make(candidates=6)
    prediction = model(views(), torch.full((4,), 10))
    best = prediction.poses[torch.arange(4), prediction.pose_logits.argmax(1)]
    seen = render_image(model.field, best, model.focal, 16, model.near, model.far, model.samples)
    torch.testing.assert_close(prediction.x0, seen.images)


def test_one_candidate_is_the_single_pose_model_of_algorithm_3():
    model = make(candidates=1)
    x_t, t = views(), torch.full((4,), 10)
    offsets = 1.3 * torch.tanh(model.encoder(x_t, t)[:, :2])
    azimuth = math.pi * (1 + offsets[:, 0])
    low, high = model.lowest, model.highest
    elevation = (low + high) / 2 + (high - low) / 2 * offsets[:, 1]
    prediction = model(x_t, t)
    eye = prediction.poses[:, 0, :3, 3]
    torch.testing.assert_close(
        eye, model.radius * direction(azimuth, elevation.clamp(-1.55, 1.55)), rtol=1e-4, atol=1e-5
    )
    error = objective()(model, x_t, torch.Generator().manual_seed(0))[0]
    assert error.ndim == 0 and torch.isfinite(error)


def test_sampling_needs_nothing_new():
    model = make()
    x_T = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for sampler in (samplers.ddpm, samplers.ddim, samplers.dpm_solver_pp):
        x = sampler(model, SCHEDULE, x_T, steps=4, generator=torch.Generator().manual_seed(0), progress=False)
        assert x.shape == x_T.shape and torch.isfinite(x).all()


@pytest.mark.parametrize("size", [16, 24, 40])
def test_the_encoder_takes_any_size_that_can_be_halved(size):
    out = PoseEncoder(size, 5, channels=8, multipliers=(1, 2, 2))(torch.randn(2, 3, size, size), torch.tensor([0, 9]))
    assert out.shape == (2, 5)


def test_localise_repeats_itself_and_is_the_best_candidate():
    model = make()
    images = views(5)
    found = model.localise(images, SCHEDULE, t=5, batch_size=2)
    torch.testing.assert_close(found, model.localise(images, SCHEDULE, t=5, batch_size=2))
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prediction = model.eval()(add_noise(SCHEDULE, images[:2], 5, noise), torch.tensor([5, 5]))
    best = prediction.poses[torch.arange(2), prediction.pose_logits.argmax(1)]
    torch.testing.assert_close(found[:2], best)


@pytest.mark.parametrize("options", [{}, {"resolution": 0}, {"cameras": "free", "candidates": 1}])
def test_a_saved_model_comes_back(options, tmp_path):
    model = make(**options)
    model.save_pretrained(tmp_path / "model")
    again = PoseDenoiser.from_pretrained(tmp_path / "model")
    x_t, t = views(2), torch.tensor([3, 60])
    torch.testing.assert_close(again(x_t, t).x0, model.eval()(x_t, t).x0)


# ---------------------------------------------------------------------- gradients


def test_the_rendering_teaches_one_candidate_and_the_scores_teach_all():
    model = make(candidates=5)
    x0 = views(1)
    poses, logits = model.predict(x0, torch.tensor([5]))
    poses.retain_grad()
    logits.retain_grad()
    chosen = 3
    error = F.mse_loss(model.render(poses[:, chosen]), x0)
    error.backward(retain_graph=True)
    reached = poses.grad.flatten(2).abs().sum(-1)[0] > 0
    assert reached.tolist() == [False, False, False, True, False] and logits.grad is None
    F.cross_entropy(logits, torch.tensor([chosen])).backward()
    assert (logits.grad != 0).all()


def test_choosing_costs_no_gradient():
    model = make(candidates=4)
    loss, log = objective(weight=0.0)(model, views(), torch.Generator().manual_seed(0))
    loss.backward()
    out = model.encoder.out.weight.grad.unflatten(0, (4, 3))
    assert (out[:, 2] == 0).all(), "without the cross-entropy nothing reaches the scores"
    assert (out[:, :2] != 0).any()
    assert set(log) == {"error", "cross_entropy", "most_used", "score_is_right"}


# ---------------------------------------------------------------------- the assignment


@pytest.mark.parametrize("shape", [(32, 8), (30, 12), (5, 1)])
def test_a_balanced_plan_has_the_marginals_it_promises(shape):
    errors = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    errors[:, 0] -= 0.5  # one candidate is better for all
    plan = balance(errors, temperature=0.5, iterations=300)
    B, N = shape
    torch.testing.assert_close(plan.sum(1), torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((N,), B / N, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_balancing_keeps_every_candidate_alive():
    errors = torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    errors[:, 2] -= 2
    assert errors.argmin(1).unique().tolist() == [2]
    use = torch.bincount(balance(errors, 0.2).argmax(1), minlength=8)
    assert use.min() >= 2 and use.max() <= 20


def test_the_plan_follows_the_errors_and_not_their_scale():
    errors = torch.eye(6) * -1.0
    assert balance(errors).argmax(1).tolist() == list(range(6))
    torch.testing.assert_close(balance(errors), balance(1000 * errors + 7))


def test_balancing_ends_and_the_minimum_takes_over():
    model, images = make(candidates=4), views(8)
    torch.nn.init.zeros_(model.encoder.out.weight)  # the same cameras for every view: a tie that only balancing breaks
    shared = objective(steps=2, balanced_share=0.4)
    use = [float(shared(model, images, torch.Generator().manual_seed(i))[1]["most_used"]) for i in range(2)]
    assert float(model.progress) == 1
    always = objective(steps=2, assignment="minimum")
    model.progress.zero_()
    plain = [float(always(model, images, torch.Generator().manual_seed(i))[1]["most_used"]) for i in range(2)]
    assert use[0] < plain[0] and use[1] == plain[1]


# ---------------------------------------------------------------------- in training


def test_progress_and_blur_belong_to_the_model_so_a_resumed_run_goes_on_where_it_was(tmp_path):
    def run(steps, folder):
        model = make()
        config = TrainingConfig(steps=4, batch_size=4, learning_rate=1e-2, save_every=2, log_every=1)
        config.steps = 4
        stop = (lambda state: setattr(state, "interrupted", state.step >= steps)) if steps < 4 else (lambda state: None)
        state = train(model, objective(steps=4), views(8), config, folder=folder, parameters=parameter_groups(model, 1e-2, 1e-3),
                      callbacks=[stop], callback_every=1, progress=False)  # fmt: skip
        return model, state

    whole, state = run(4, tmp_path / "whole")
    run(2, tmp_path / "cut")
    resumed, _ = run(4, tmp_path / "cut")
    assert float(whole.progress) == pytest.approx(1)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert float(state.ema.progress) == pytest.approx(1)


def test_averaged_weights_render_with_the_blur_of_their_time():
    model = make()
    state = train(
        model,
        objective(steps=4, blur=2.0, blur_share=1.0),
        views(8),
        TrainingConfig(steps=1, batch_size=4),
        progress=False,
    )
    state.ema.eval().localise(views(2), SCHEDULE)
    state.ema(views(2), torch.tensor([1, 1]))
    assert state.ema.field.blur == pytest.approx(2.0)


def test_two_learning_rates():
    model = make()
    groups = parameter_groups(model)
    assert [group["lr"] for group in groups] == [1e-4, 2e-5]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_scene_and_cameras_are_learned_together():
    truth, model = make(seed=5, candidates=4, resolution=12), PoseDenoiser(**SMALL | {"resolution": 12}, candidates=4)
    with torch.no_grad():
        truth.field.grid.fill_(-8)  # a cube whose quarters have different colours, in empty space
        truth.field.grid[0, 3:9, 3:9, 3:9] = 8
        truth.field.grid[1, :, 6:] = truth.field.grid[2, :, :, 6:] = truth.field.grid[3, 6:] = 8
        images = truth.render(truth.predict(views(40), torch.arange(40))[0][:, 0]).clamp(-1, 1)
    config = TrainingConfig(steps=40, batch_size=8, ema_decay=0.9, log_every=10)
    groups = parameter_groups(model, 5e-2, 1e-3)
    state = train(model, objective(steps=40, render_pixels=128), images, config, parameters=groups, progress=False)
    assert state.history[-1]["error"] < 0.7 * state.history[0]["error"]


def test_nerf_minus_minus_has_cameras_for_its_own_views_only():
    model = make(views=6, candidates=1)
    rows = [{"image": image, "index": i} for i, image in enumerate(views(6))]
    before = model.encoder.weight.detach().clone()
    state = train(
        model, objective(steps=3), rows, TrainingConfig(steps=3, batch_size=3, learning_rate=1e-2), progress=False
    )
    assert state.step == 3 and not torch.equal(before, model.encoder.weight)
    assert model.predict(views(2), torch.tensor([0, 0]), torch.tensor([4, 1]))[0].shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match="cannot localise"):
        model.localise(views(2), SCHEDULE)
    with pytest.raises(ValueError, match="index is missing"):
        model(views(2), torch.tensor([0, 0]))


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(candidates=0), "candidates must be at least 1"),
        (dict(cameras="orbit"), "cameras must be sphere or free"),
        (dict(near=5.0, far=4.0), "0 <= near < far"),
        (dict(radius=-1.0), "radius and focal must be positive"),
        (dict(image_size=17), "image_size=17"),
        (dict(candidates=7, rows=2), "multiple of rows"),
    ],
)
def test_what_it_cannot_build_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        PoseDenoiser(**{**SMALL, **options})


def test_a_schedule_that_does_not_end_in_noise_is_refused():
    unscaled = NoiseSchedule.linear(100)
    assert float(unscaled.alpha_bars[-1]) == pytest.approx(0.364, abs=1e-3)
    with pytest.raises(ValueError, match=r"alpha_bar = 0.364.*cosine"):
        PoseObjective(unscaled, steps=10)
    PoseObjective(unscaled, steps=10, clean=True)  # an autoencoder adds no noise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(assignment="greedy"), "balanced or minimum"),
        (dict(steps=0), "at least 1"),
        (dict(score_pixels=0), "at least 1"),
    ],
)
def test_objectives_name_their_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        objective(**options)


def test_views_must_be_pictures_of_the_right_size():
    with pytest.raises(ValueError, match="16x16"):
        objective()(make(), views(2, size=32), torch.Generator())
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        make().localise(views(2) * 3, SCHEDULE)
    with pytest.raises(ValueError, match="temperature > 0"):
        balance(torch.zeros(3, 4), temperature=0)


# ---------------------------------------------------------------------- free cameras


def test_free_cameras_begin_in_one_place_before_the_scene_and_cannot_fly_off():
    model = make(cameras="free", candidates=1)
    start = model.camera(torch.zeros(1, 6))[0]
    torch.testing.assert_close(start, torch.eye(4) + torch.tensor([0.0, 0.0, 3.0, 0.0])[:, None] * torch.eye(4)[3])
    far = model.camera(100 * torch.tensor([[1.0, -1, 1, 1, -1, 1]]))[0]
    torch.testing.assert_close(far[:3, 3], torch.tensor([1.5, -1.5, 4.5]))  # half a radius
    angle = torch.acos((far[:3, :3].trace() - 1) / 2)
    assert float(angle) == pytest.approx(0.5 * 3**0.5, abs=1e-4)  # half a radian about each axis
    check_poses(model.camera(torch.randn(50, 1, 6)))
    small = 1e-3 * torch.tensor([[1.0, 0, 0, 0, 1, 0]])
    torch.testing.assert_close(model.camera(small)[0, :3, 3], torch.tensor([0.0, 3e-3, 3.0]))


def test_with_free_cameras_the_radius_is_only_the_unit_of_length():
    model = make(cameras="free", candidates=1).eval()
    twice = make(cameras="free", candidates=1, radius=6.0, near=3.0, far=9.0, bound=2.0).eval()
    twice.load_state_dict(model.state_dict())
    x_t, t = views(3), torch.tensor([0, 40, 90])
    here, there = model(x_t, t), twice(x_t, t)
    torch.testing.assert_close(here.x0, there.x0, rtol=0, atol=1e-4)
    torch.testing.assert_close(2 * here.poses[..., :3, 3], there.poses[..., :3, 3])


# ---------------------------------------------------------------------- larger views


def test_a_grown_model_finds_the_same_cameras_and_renders_the_same_scene():
    small = make(seed=1, candidates=3, rows=1).eval()
    small.progress.fill_(0.7)
    large = small.grown(32, resolution=15).eval()
    x_t, t = views(3, size=32), torch.tensor([0, 40, 99])
    poses, logits = small.predict(F.avg_pool2d(x_t, 2), t)
    for found, known in zip(large.predict(x_t, t), (poses, logits), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)
    fine = dict(samples=64)  # 15 voxels hold the 8 and the middles between them: the same densities up to interpolation
    same = small.grown(16, resolution=15).eval()
    torch.testing.assert_close(same.render(poses[0], **fine), small.render(poses[0], **fine), rtol=0, atol=0.1)
    assert large.focal == 2 * small.focal and large.progress == 0 and small.progress > 0.6
    assert same.render(poses[0]).shape[-1] == 16 and large.render(poses[0]).shape[-1] == 32


def test_growing_refuses_other_sizes_and_nerfmm():
    with pytest.raises(ValueError, match="multiple of 16"):
        make().grown(24)
    with pytest.raises(ValueError, match="have an encoder"):
        make(views=5).grown(32)
