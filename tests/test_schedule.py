"""The noise schedule: published numbers, identities between its tables, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdlib.schedule import CLEAN, NoiseSchedule, check_timesteps, time_grid

SCHEDULES = {
    "linear": NoiseSchedule.linear(),
    "linear, few steps": NoiseSchedule.linear(50, rescale=True),
    "linear, many steps": NoiseSchedule.linear(100_000, rescale=True),
    "cosine": NoiseSchedule.cosine(),
    "cosine, few steps": NoiseSchedule.cosine(10),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def test_linear_has_the_published_numbers():
    schedule = NoiseSchedule.linear(T=1000)
    assert schedule.T == 1000
    torch.testing.assert_close(schedule.betas[[0, -1]], torch.tensor([1e-4, 0.02]).double(), rtol=1e-6, atol=0)
    assert float(schedule.alpha_bars[30]) == pytest.approx(0.98771, abs=5e-6)  # "t = 30" of the thesis is our index 30
    assert float(schedule.alpha_bars[29]) == pytest.approx(0.98840, abs=5e-6)
    assert float(schedule.alpha_bars[999]) == pytest.approx(4.0358e-05, rel=1e-4)


def test_linear_agrees_with_numpy_in_float64():
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(NoiseSchedule.linear().alpha_bars, np.cumprod(1 - betas), rtol=1e-12)


def test_rescaled_betas_end_in_noise_for_any_T():
    assert float(NoiseSchedule.linear(100).alpha_bars[-1]) == pytest.approx(
        0.364, abs=1e-3
    )  # a third of the picture survives
    for T in (50, 100, 4000):
        assert float(NoiseSchedule.linear(T, rescale=True).alpha_bars[-1]) < 1e-4


def test_cosine_follows_its_formula_until_the_cap():
    schedule = NoiseSchedule.cosine(1000)
    f = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    expected = torch.tensor([f[i + 1] / f[0] for i in range(999)], dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha_bars[:-1], expected, rtol=1e-9, atol=0)
    assert float(schedule.betas[-1]) == pytest.approx(0.999)


@every_schedule
def test_the_tables_agree(schedule):
    assert schedule.a.dtype == schedule.s.dtype == schedule.betas.dtype == torch.float64
    torch.testing.assert_close(schedule.a**2 + schedule.s**2, torch.ones(schedule.T).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cumprod(schedule.alphas, 0), schedule.alpha_bars, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.alphas + schedule.betas, torch.ones(schedule.T).double(), rtol=1e-14, atol=0)
    torch.testing.assert_close(schedule.snr, schedule.alpha_bars / (1 - schedule.alpha_bars), rtol=1e-6, atol=0)
    assert (schedule.betas > 0).all() and (torch.diff(schedule.snr) < 0).all()


def test_betas_survive_the_way_through_a_and_s():
    betas = torch.linspace(1e-5, 0.3, 200, dtype=torch.float64)
    torch.testing.assert_close(NoiseSchedule.from_betas(betas).betas, betas, rtol=1e-9, atol=0)


def test_any_other_path_is_a_schedule_too():
    t = torch.arange(1, 100) / 100
    flow = NoiseSchedule(1 - t, t, name="rectified flow")
    assert flow.T == 99 and "rectified flow" in repr(flow)
    a, s = flow.at(torch.tensor([0, 98]), like=torch.zeros(2, 5))
    torch.testing.assert_close(torch.cat([a, s], 1), torch.tensor([[0.99, 0.01], [0.01, 0.99]]))


# ---------------------------------------------------------------------- a_t and s_t for a batch


@given(
    T=st.integers(1, 40),
    batch=st.integers(1, 5),
    rest=st.lists(st.integers(1, 4), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    index_dtype=st.sampled_from([torch.int64, torch.int32, torch.uint8]),
    data=st.data(),
)
def test_at_is_shaped_to_multiply_the_batch(T, batch, rest, dtype, index_dtype, data):
    schedule = NoiseSchedule.cosine(T)
    like = torch.ones(batch, *rest, dtype=dtype)
    t = torch.tensor(data.draw(st.lists(st.integers(0, T - 1), min_size=batch, max_size=batch)), dtype=index_dtype)
    a, s = schedule.at(t, like)
    for table, values in ((schedule.a, a), (schedule.s, s)):
        product = values * like
        assert product.shape == like.shape and product.dtype == dtype
        for row, index in zip(product, t.tolist()):
            assert (row == table[index].to(dtype)).all()


def test_one_index_serves_the_whole_batch():
    schedule, like = NoiseSchedule.linear(), torch.zeros(3, 2, 4, 4)
    for t in (30, torch.tensor(30)):
        a, s = schedule.at(t, like)
        assert a.shape == s.shape == () and a.dtype == torch.float32
        assert float(a) == pytest.approx(math.sqrt(0.98771), abs=1e-5)
    a, s = schedule.at(CLEAN, like)
    assert (float(a), float(s)) == (1, 0)


@pytest.mark.parametrize("t, message", [
    (1000, r"t must lie in 0 \.\. 999.*got 1000"),
    (-2, r"t must lie in 0 \.\. 999"),
    (torch.tensor([0, -1]), r"t must lie in 0 \.\. 999.*got -1 \.\. 0"),  # CLEAN is for grids, not for batches
    (torch.tensor([5, 1000]), r"T = 1000 steps, counted from 0.*got 5 \.\. 1000"),
    (torch.tensor([1, 2, 3]), r"one index an image, shape \(2,\), got \(3,\)"),
    (torch.tensor([[1], [2]]), r"one index an image"),
])  # fmt: skip
def test_indices_out_of_range_or_of_the_wrong_length(t, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.linear().at(t, torch.zeros(2, 3))


@pytest.mark.parametrize("t", [0.5, torch.tensor([0.1, 0.2]), torch.tensor([True, False]), True, "30", None])
def test_times_that_are_no_indices(t):
    with pytest.raises(TypeError, match=r"t must be an integer index or a tensor of integer indices 0 \.\. 9"):
        NoiseSchedule.cosine(10).at(t, torch.zeros(2, 3))


def test_check_timesteps_returns_what_it_was_given():
    t = torch.tensor([0, 9])
    assert check_timesteps(t, T=10, batch=2) is t
    assert check_timesteps(torch.tensor([], dtype=torch.int64), T=10).shape == (0,)


# ---------------------------------------------------------------------- grids


@given(T=st.integers(1, 3000), data=st.data())
def test_grid_falls_evenly_from_noise_to_clean(T, data):
    steps = data.draw(st.integers(1, T))
    grid = time_grid(T, steps)
    gaps = -np.diff(grid)
    assert len(grid) == steps + 1 and grid[0] == T - 1 and grid[-1] == CLEAN
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 2 and abs(gaps - T / steps).max() <= 1


@given(T=st.integers(1, 3000), power=st.floats(1, 4), data=st.data())
def test_denser_grids_still_fall_from_noise_to_clean(T, power, data):
    steps = data.draw(st.integers(1, T))
    grid = time_grid(T, steps, power=power)
    assert len(grid) == steps + 1 and grid[0] == T - 1 and grid[-1] == CLEAN
    assert np.diff(grid).max() <= -1
    formula = T * (1 - np.arange(steps + 1) / steps) ** power - 1
    apart = np.diff(formula) < -2  # where rounding cannot make two times equal, neither here nor below
    first_close = steps if apart.all() else int(np.argmin(apart))
    assert abs(np.array(grid) - formula)[:first_close].max(initial=0) <= max(0.51, steps - first_close)


def test_the_quadratic_grid_by_hand():
    assert time_grid(100, 4, power=2) == [99, 55, 24, 5, -1]  # 100 (3/4)^2 = 56.25, 25, 6.25
    assert time_grid(5, 5, power=3) == [4, 3, 2, 1, 0, -1]  # no room: every time once


@pytest.mark.parametrize("power", [0.5, 0, -1, float("nan")])
def test_grids_that_are_denser_at_the_noisy_end(power):
    with pytest.raises(ValueError, match="power must be >= 1"):
        time_grid(10, 5, power=power)


def test_all_steps_visit_every_time():
    assert time_grid(1000, 1000) == list(range(999, -2, -1))


@pytest.mark.parametrize("steps, message", [
    (11, r"steps=11 is more than the schedule's T=10 times: take steps <= 10"),
    (0, "steps must be a whole number >= 1, got 0"),
    (-3, "steps must be"),
    (2.5, "steps must be a whole number"),
])  # fmt: skip
def test_grids_that_do_not_exist(steps, message):
    with pytest.raises(ValueError, match=message):
        time_grid(10, steps)


# ---------------------------------------------------------------------- what a schedule cannot be


@pytest.mark.parametrize("make, message", [
    (lambda: NoiseSchedule.linear(0), "T must be a whole number of steps >= 1, got 0"),
    (lambda: NoiseSchedule.cosine(10.5), "T must be a whole number"),
    (lambda: NoiseSchedule.linear(10, rescale=True), r"T=10 is too few steps to rescale.*NoiseSchedule\.cosine"),
    (lambda: NoiseSchedule.from_betas([0.1, 1.0]), "betas must lie strictly between 0 and 1"),
    (lambda: NoiseSchedule.from_betas([0.0, 0.1]), "betas must lie strictly between 0 and 1"),
    (lambda: NoiseSchedule([0.9, 0.5], [0.1]), "same length"),
    (lambda: NoiseSchedule([], []), "same length T >= 1"),
    (lambda: NoiseSchedule([0.5, 0.9], [0.9, 0.5]), "must grow with t"),
    (lambda: NoiseSchedule([0.9, float("nan")], [0.1, 0.5]), "finite"),
    (lambda: NoiseSchedule([1.0, 0.5], [0.0, 0.5]), "s > 0"),
])  # fmt: skip
def test_impossible_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()
