"""The training loop: it learns, it is reproducible to the bit, and whatever stops it leaves something usable."""

import errno
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from fdlib import training
from fdlib.denoiser import Denoiser, Model, Prediction
from fdlib.files import DiskFull
from fdlib.oracle import GaussianMixtureOracle
from fdlib.process import DenoisingObjective, LogitNormalT, PowerT, by_row, uniform_t
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, TrainingDiverged, train
from fdlib.unet import UNet

LINEAR = NoiseSchedule.linear()


def config(**options):
    return TrainingConfig(
        **{**dict(steps=12, batch_size=8, learning_rate=1e-3, ema_decay=0.9, log_every=3, save_every=4), **options}
    )


def net(seed=0):
    torch.manual_seed(seed)
    return UNet(image_size=4, channels=4, multipliers=(1, 2), blocks=1, attention=(2,), dropout=0.1)


def pictures(n=40):
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


def run(folder=None, denoiser=None, objective=None, dataset=None, **options):
    """A short run; options of ``train`` and of the configuration together."""
    names = {"callbacks", "callback_every", "resume", "augment", "parameters", "tensorboard"}
    others = {name: options.pop(name) for name in names & options.keys()}
    dataset = pictures() if dataset is None else dataset
    return train(denoiser or net(), objective or DenoisingObjective(LINEAR), dataset, config(**options),
                 folder=folder, progress=False, **others)  # fmt: skip


def assert_same(a, b):
    """The same weights and averages to the bit, and the same log but for the seconds."""
    for one, other in ((a.denoiser, b.denoiser), (a.ema, b.ema)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert [timeless(row) for row in a.history] == [timeless(row) for row in b.history]


def timeless(row):
    return {key: value for key, value in row.items() if key != "seconds"}


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def checkpoints(folder):
    return sorted(int(file.stem.split("-")[1]) for file in folder.glob("checkpoint-*.pt"))


class Point(Model):
    """One vector of weights: what the loop does to it can be computed by hand."""

    def __init__(self, width: int = 3, start: float = 0.0):
        super().__init__()
        self.w = torch.nn.Parameter(torch.full((width,), start, dtype=torch.float64))

    def forward(self, x):
        return x @ self.w


def slope(point, batch, generator):
    """A loss whose gradient is 1 everywhere: each step of Adam is then exactly the learning rate."""
    return point.w.sum() if isinstance(point, Point) else point.module.w.sum(), {}


def regression(point, batch, generator):
    """Without any randomness: y = x . (1, 2, 3)."""
    return ((point(batch) - batch @ torch.tensor([1.0, 2.0, 3.0], dtype=batch.dtype)) ** 2).mean(), {}


def rows(n=24, dtype=torch.float64):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


# ---------------------------------------------------------------------- it learns


def test_it_learns_a_tiny_problem_almost_to_the_optimum():
    """Two flat pictures: the loss must come near that of the exact denoiser, which no network can beat."""
    data = torch.cat([torch.full((64, 1, 4, 4), v) for v in (-0.6, 0.6)])
    torch.manual_seed(0)
    denoiser = UNet(image_size=4, channels=16, multipliers=(1,), blocks=1, attention=(), image_channels=1)
    oracle = GaussianMixtureOracle(LINEAR, torch.tensor([[-0.6] * 16, [0.6] * 16]), 1e-6)

    def loss(model):
        with torch.no_grad():
            return float(
                DenoisingObjective(LINEAR)(model, data.repeat(10, 1, 1, 1), torch.Generator().manual_seed(1))[0]
            )

    state = run(
        denoiser=denoiser, dataset=data, steps=250, batch_size=32, learning_rate=5e-3, ema_decay=0.98, decay="cosine"
    )
    untrained, trained, best = loss(UNet(4, 16, (1,), 1, (), image_channels=1)), loss(state.ema), loss(oracle)
    print(f"loss: untrained {untrained:.3f}, trained {trained:.3f}, exact {best:.3f}")
    assert untrained == pytest.approx(1, abs=0.02)
    assert best < trained < best + 0.05


def test_regression_is_solved():
    state = run(denoiser=Point(), objective=regression, dataset=rows(), steps=600, learning_rate=0.05, decay="cosine")
    torch.testing.assert_close(state.denoiser.w.detach(), torch.tensor([1.0, 2.0, 3.0]).double(), rtol=0, atol=1e-3)
    assert state.history[-1]["loss"] < 1e-5 < state.history[0]["loss"]


# ---------------------------------------------------------------------- numbers that can be computed by hand


def test_rate_by_hand():
    warm = config(steps=100, warmup=4)
    assert [warm.rate(n) for n in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = config(steps=100, decay="cosine")
    assert (
        cosine.rate(0) == 1
        and cosine.rate(50) == pytest.approx(0.5)
        and cosine.rate(25) == pytest.approx(0.853553, abs=1e-6)
    )
    assert 0 < cosine.rate(99) < 3e-4
    both = config(steps=100, warmup=4, decay="cosine")
    assert both.rate(1) == pytest.approx(0.5 * cosine.rate(1))


@pytest.mark.parametrize("options", [{}, dict(warmup=5), dict(warmup=5, decay="cosine")], ids=str)
def test_adam_moves_by_the_rate_of_each_step(options):
    seen = [0.0]
    run(denoiser=Point(), objective=slope, dataset=rows(), learning_rate=0.01, callback_every=1,
        callbacks=[lambda state: seen.append(float(state.denoiser.w[0].detach()))], **options)  # fmt: skip
    expected = config(**options)
    for n in range(12):
        assert seen[n] - seen[n + 1] == pytest.approx(0.01 * expected.rate(n), rel=1e-6)


def test_parameter_groups_keep_their_own_rates():
    class Two(Point):
        def __init__(self):
            super().__init__()
            self.v = torch.nn.Parameter(torch.zeros(2))

    model = Two()
    groups = [{"params": [model.w]}, {"params": [model.v], "lr": 0.5}]
    run(denoiser=model, objective=lambda m, batch, generator: (m.w.sum() + m.v.sum(), {}), dataset=rows(), steps=1,
        learning_rate=0.01, warmup=2, parameters=groups)  # fmt: skip
    assert float(model.w[0].detach()) == pytest.approx(-0.005) and float(model.v[0].detach()) == pytest.approx(-0.25)


def test_average_by_hand():
    """The first step's weights, then d old + (1 - d) new with d = min(decay, (1 + n) / (10 + n)) after n steps."""
    weights, averages = [], []

    def note(state):
        weights.append(state.denoiser.w.detach().clone())
        averages.append(state.ema.w.clone())

    run(denoiser=Point(), objective=regression, dataset=rows(), steps=60, ema_decay=0.8, learning_rate=0.05,
        callbacks=[note], callback_every=1)  # fmt: skip
    expected = weights[0]
    for n in range(60):
        if n:
            d = min(0.8, (1 + n) / (10 + n))
            expected = d * expected + (1 - d) * weights[n]
        torch.testing.assert_close(averages[n], expected, rtol=1e-12, atol=1e-14)
    assert (averages[-1] != weights[-1]).any()


@pytest.mark.parametrize("clip, expected", [(0.5, 0.5), (100.0, math.sqrt(3) * 2)])
def test_long_gradients_are_shortened(tmp_path, clip, expected):
    run(
        tmp_path,
        denoiser=Point(),
        objective=lambda m, b, g: (2 * m.w.sum(), {}),
        dataset=rows(),
        steps=1,
        clip_norm=clip,
    )
    adam = torch.load(tmp_path / "checkpoint-00000001.pt", weights_only=True)["optimizer"]["state"][0]
    assert float(adam["exp_avg"].norm()) == pytest.approx(
        0.1 * expected, rel=1e-5
    )  # Adam keeps a tenth of the first gradient


def test_accumulated_parts_are_one_batch():
    """With an objective without randomness, four quarters give the step of the whole."""
    whole, parts = (
        run(denoiser=Point(), objective=regression, dataset=rows(), accumulate=n, learning_rate=0.05) for n in (1, 4)
    )
    torch.testing.assert_close(parts.denoiser.w, whole.denoiser.w, rtol=1e-9, atol=1e-12)
    assert [r["loss"] for r in parts.history] == pytest.approx([r["loss"] for r in whole.history], rel=1e-9)


@pytest.mark.parametrize(
    "timesteps", [uniform_t, PowerT(2.0), LogitNormalT()], ids=["uniform", "power", "logit-normal"]
)
def test_parts_see_the_noise_of_the_whole(timesteps):
    """Times, noise and an augmentation belong to the image, not to the part that it is in: the curve stays the same."""

    def mirror(batch, generator):
        chosen = by_row(lambda n, g: torch.rand(n, 1, 1, 1, generator=g), len(batch), generator) < 0.5
        return torch.where(chosen, batch.flip(3), batch)

    def curve(parts):
        torch.manual_seed(0)
        plain = UNet(image_size=4, channels=4, multipliers=(1, 2), blocks=1, attention=(2,))
        state = run(denoiser=plain, objective=DenoisingObjective(LINEAR, timesteps), augment=mirror, accumulate=parts,
                    log_every=1)  # fmt: skip
        return [row["loss"] for row in state.history]

    whole = curve(1)
    for parts in (2, 8):
        assert curve(parts) == pytest.approx(whole, abs=1e-5)
    assert max(whole) - min(whole) > 0.05  # the steps differ


def test_other_random_numbers_are_each_part_s_own():
    seen = []

    def objective(point, batch, generator):
        seen.append(
            (
                float(torch.rand(1, generator=generator)),
                float(by_row(lambda n, g: torch.rand(n, generator=g), 4, generator)[0]),
            )
        )
        return slope(point, batch, generator)

    run(denoiser=Point(), objective=objective, dataset=rows(), steps=1, accumulate=2)
    run(denoiser=Point(), objective=objective, dataset=rows(), steps=1, batch_size=4)
    (own, first), (other, second), (alone, _) = seen
    assert own != other and first != second and own == alone


def test_accumulation_starts_afresh_in_every_run():
    """accelerate keeps its settings for the life of the process: runs with other settings in between must not matter."""
    first = run(denoiser=Point(), objective=regression, dataset=rows(), accumulate=2)
    run(denoiser=Point(), objective=regression, dataset=rows(), accumulate=4, steps=3)
    run(denoiser=Point(), objective=regression, dataset=rows(), steps=1)
    assert_same(run(denoiser=Point(), objective=regression, dataset=rows(), accumulate=2), first)


class Recorder(Dataset):
    def __init__(self, n):
        self.n, self.seen = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.seen.append(index)
        return torch.zeros(3).double()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_epoch_is_a_permutation(accumulate):
    data = Recorder(20)
    run(denoiser=Point(), objective=slope, dataset=data, steps=10, batch_size=8, accumulate=accumulate)
    epochs = [data.seen[i : i + 20] for i in range(0, 80, 20)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert len({tuple(epoch) for epoch in epochs}) == 4 and list(range(20)) not in epochs
    again, other = Recorder(20), Recorder(20)
    run(denoiser=Point(), objective=slope, dataset=again, steps=10, batch_size=8)
    run(denoiser=Point(), objective=slope, dataset=other, steps=10, batch_size=8, seed=1)
    assert again.seen == data.seen != other.seen  # whatever the parts; the seed decides


def test_batches_of_any_kind_arrive():
    class Named(Recorder):
        def __getitem__(self, index):
            return {"image": torch.full((3, 4, 4), index / 20), "index": index}

    seen = []

    def objective(point, batch, generator):
        seen.append(batch)
        return slope(point, batch, generator)

    run(denoiser=Point(), objective=objective, dataset=Named(20), steps=2)
    run(denoiser=Point(), objective=objective, dataset=Named(20), steps=2, workers=1)
    for i in (0, 1):
        assert seen[i]["image"].shape == (8, 3, 4, 4) and torch.equal(seen[i]["index"], seen[i + 2]["index"])
        torch.testing.assert_close(seen[i]["image"][:, 0, 0, 0], seen[i]["index"] / 20)


# ---------------------------------------------------------------------- the same run twice


def test_a_seed_is_a_run():
    first = run()
    assert_same(run(), first)
    different = run(seed=1)
    assert any((a != b).any() for a, b in zip(first.denoiser.parameters(), different.denoiser.parameters()))


def test_what_callbacks_draw_does_not_disturb():
    quiet = run()
    noisy = run(callbacks=[lambda state: torch.randn(7)], callback_every=1)
    assert_same(noisy, quiet)


def test_augmentation_draws_from_the_generator():
    def jitter(batch, generator):
        return (batch + 0.1 * torch.randn(batch.shape, generator=generator)).clamp(-1, 1)

    first = run(augment=jitter)
    assert_same(run(augment=jitter), first)
    assert first.history[0]["loss"] != run().history[0]["loss"]


@pytest.mark.parametrize("stop", [4, 8])
@pytest.mark.parametrize(
    "options", [{}, dict(accumulate=2, warmup=5, decay="cosine"), dict(mixed_precision="bf16")], ids=str
)
def test_resumed_from_any_checkpoint_it_is_the_undisturbed_run(tmp_path, stop, options):
    class Killed(Exception):
        pass

    def kill(state):
        if state.step == stop + 2:  # two steps after a checkpoint; one log line is lost, too
            raise Killed

    undisturbed = run(tmp_path / "a", keep=5, **options)
    with pytest.raises(Killed):
        run(tmp_path / "b", keep=5, callbacks=[kill], callback_every=1, **options)
    assert checkpoints(tmp_path / "b")[-1] == stop
    resumed = run(tmp_path / "b", keep=5, denoiser=net(seed=9), **options)  # other initial weights are forgotten
    assert_same(resumed, undisturbed)
    assert [timeless(r) for r in log_of(tmp_path / "b")] == [timeless(r) for r in log_of(tmp_path / "a")]
    assert (tmp_path / "b/model/model.safetensors").read_bytes() == (
        tmp_path / "a/model/model.safetensors"
    ).read_bytes()


def test_a_finished_run_can_be_continued(tmp_path):
    run(tmp_path / "a", steps=8)
    longer = run(tmp_path / "a", steps=12)
    assert_same(longer, run(tmp_path / "b", steps=12))
    finished = run(tmp_path / "a", denoiser=net(seed=5), steps=12)  # nothing left to do
    assert_same(finished, longer)


# ---------------------------------------------------------------------- real processes that are killed or interrupted

SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
import torch
from fdlib.process import DenoisingObjective
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, train
from fdlib.unet import UNet

torch.manual_seed(0)
net = UNet(image_size=4, channels=4, multipliers=(1, 2), blocks=1, attention=(2,), dropout=0.1)
data = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
config = TrainingConfig(steps=150, batch_size=8, learning_rate=1e-3, ema_decay=0.9, log_every=7, save_every=10)
state = train(net, DenoisingObjective(NoiseSchedule.linear()), data, config, folder=sys.argv[1], progress=False,
              callbacks=[lambda state: print("step", state.step, flush=True)], callback_every=1)
print("finished", state.step, state.interrupted, flush=True)
"""  # fmt: skip


def start(folder):
    # a line of output at the start of the interpreter's work, errors among them
    return subprocess.Popen(
        [sys.executable, "-u", "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def until(process, step):
    """Read the process's output until it says that it has done this step; what it said."""
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("step") and int(line.split()[1]) >= step:
            return said
    raise AssertionError(f"the process ended before step {step}:\n{''.join(said)}")


def final(folder):
    return torch.load(folder / "checkpoint-00000150.pt", weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "finished 150 False" in output, output
    return folder


def assert_same_content(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert_same_content(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_same_content(one, other)
    else:
        assert a == b


@pytest.mark.slow
def test_kill_9_at_any_moment(undisturbed, tmp_path):
    """Twice at a random moment, then to the end: weights, averages, optimiser and log are those of the undisturbed run."""
    folder, seed = tmp_path / "run", random.randrange(10**6)
    draw = random.Random(seed)
    print(f"seed of the moments: {seed}")
    for low, high in ((15, 60), (80, 130)):
        process = start(folder)
        until(process, draw.randint(low, high))
        time.sleep(draw.uniform(0, 0.02))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        for row in (folder / "log.jsonl").read_text().splitlines()[:-1]:
            json.loads(row)
        assert UNet.from_pretrained(folder / "model").parameter_count > 0  # usable although nobody said goodbye
    process = start(folder)
    output, _ = process.communicate(timeout=120)
    first_step = int(output.splitlines()[0].split()[1])
    assert process.returncode == 0 and first_step % 10 == 1 and first_step > 70, output
    assert_same_content(final(folder), final(undisturbed))
    assert [timeless(r) for r in log_of(folder)] == [timeless(r) for r in log_of(undisturbed)]
    assert (folder / "model/model.safetensors").read_bytes() == (undisturbed / "model/model.safetensors").read_bytes()


def test_ctrl_c_leaves_a_usable_model_and_says_so(tmp_path):
    folder = tmp_path / "run"
    process = start(folder)
    until(process, 33)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    stopped = int(output.split("Stopped by hand after step ")[1].split()[0])
    assert 33 <= stopped < 150
    assert f"after step {stopped} of 150. The model is usable as it is; run again to continue from {folder}" in output
    assert f"finished {stopped} True" in output
    assert checkpoints(folder)[-1] == stopped == log_of(folder)[-1]["step"]
    UNet.from_pretrained(folder / "model")


def interrupt_at(step, times=1):
    def callback(state):
        if state.step >= step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return callback


def test_a_stopped_cell_returns_the_state(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    state = run(tmp_path, callbacks=[interrupt_at(5)], callback_every=1)
    assert (state.step, state.interrupted) == (5, True) and not state.denoiser.training
    assert "Stopped by hand after step 5 of 12" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    resumed, undisturbed = run(tmp_path), run()
    resumed.history.clear(), undisturbed.history.clear()  # the stop has a line of its own
    assert_same(resumed, undisturbed)


def test_without_a_folder_a_stopped_run_is_usable_too(capsys):
    state = run(callbacks=[interrupt_at(5)], callback_every=1)
    assert state.step == 5 and capsys.readouterr().out.endswith("The model is usable as it is.\n")


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[interrupt_at(6, times=2)], callback_every=1)
    assert checkpoints(tmp_path) == [4] and not list(tmp_path.glob(".*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_trains_in_a_thread():
    """Signals reach the main thread only; a widget may still start a run."""
    result = []
    thread = threading.Thread(target=lambda: result.append(run(steps=2)))
    thread.start()
    thread.join()
    assert result[0].step == 2


# ---------------------------------------------------------------------- the run's folder


def test_what_a_run_leaves(tmp_path):
    state = run(tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["checkpoint-00000008.pt", "checkpoint-00000012.pt", "config.json", "log.jsonl", "model"]
    model = UNet.from_pretrained(tmp_path / "model")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state.ema.state_dict()[name])
    assert log_of(tmp_path) == state.history
    assert [row["step"] for row in state.history] == [3, 4, 6, 8, 9, 12]
    assert all(math.isfinite(row["loss"]) and row["seconds"] >= 0 for row in state.history)


def test_losses_in_the_log_are_means_since_the_line_before():
    losses = []

    def objective(denoiser, batch, generator):
        loss, _ = DenoisingObjective(LINEAR)(denoiser, batch, generator)
        losses.append(float(loss.detach()))
        return loss, {"twice": 2 * float(loss.detach())}

    history = run(objective=objective, log_every=5, save_every=100).history
    for row, part in zip(history, (losses[:5], losses[5:10], losses[10:]), strict=True):
        assert row["loss"] == pytest.approx(sum(part) / len(part), rel=1e-5)
        assert row["twice"] == pytest.approx(2 * row["loss"], rel=1e-5)


def test_the_log_is_valid_after_a_line_was_cut(tmp_path):
    run(tmp_path, steps=4)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(
            '{"step": 6, "loss": 1.0}\n{"step": 9, "lo'
        )  # written after the checkpoint, by a run that was killed
    run(tmp_path)
    assert [row["step"] for row in log_of(tmp_path)] == [3, 4, 6, 8, 9, 12]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(steps=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options, differences", [
    (dict(learning_rate=2e-3), ["training.learning_rate: 0.001 there, 0.002 here"]),
    (dict(batch_size=10, seed=3), ["training.batch_size: 8 there, 10 here", "training.seed: 0 there, 3 here"]),
    (dict(objective=DenoisingObjective(LINEAR, timesteps=PowerT(2.0))), ["objective.timesteps"]),
    (dict(objective=DenoisingObjective(NoiseSchedule.cosine())), ["objective.schedule: NoiseSchedule.linear(T=1000)"]),
    (dict(objective=DenoisingObjective(LINEAR, quantity="x0")), ["objective.quantity: noise there, x0 here"]),
    (dict(denoiser=UNet(4, 8, (1, 2), 1, (2,))), ["model_config.channels: 4 there, 8 here", "model_config.dropout"]),
])  # fmt: skip
def test_a_resume_with_other_settings_is_refused(tmp_path, options, differences):
    run(tmp_path, steps=4)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.*")}
    with pytest.raises(ValueError, match=r"holds a run with other settings; give this run another folder") as caught:
        run(tmp_path, **options)
    for difference in differences:
        assert difference in str(caught.value)
    assert len(str(caught.value).splitlines()) >= 1 + len(differences)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.*")} == before


def test_what_may_change_on_resume(tmp_path):
    run(tmp_path, steps=4)
    state = run(tmp_path, steps=6, log_every=1, save_every=2, keep=1)
    assert state.step == 6 and checkpoints(tmp_path) == [6]
    run(tmp_path / "cosine", steps=4, decay="cosine")
    with pytest.raises(ValueError, match=r"training\.steps: 4 there, 6 here"):  # the rate depends on them
        run(tmp_path / "cosine", steps=6, decay="cosine")


def test_a_folder_in_use_is_refused_without_resume(tmp_path):
    run(tmp_path, steps=4)
    with pytest.raises(FileExistsError, match=r"holds a run already \(checkpoint-00000004\.pt\).*resume=True"):
        run(tmp_path, resume=False)


@pytest.mark.parametrize("damage", [
    lambda file: os.truncate(file, file.stat().st_size // 2),
    lambda file: os.truncate(file, 0),
    lambda file: file.write_bytes(b"x" * 3000),
], ids=["half", "empty", "rubbish"])  # fmt: skip
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    undisturbed = run(tmp_path)
    damage(tmp_path / "checkpoint-00000012.pt")
    with pytest.warns(UserWarning, match=r"checkpoint-00000012\.pt cannot be read .*trying the checkpoint before it"):
        resumed = run(tmp_path)
    assert_same(resumed, undisturbed)
    torch.load(tmp_path / "checkpoint-00000012.pt", weights_only=True)  # written anew


def test_good_checkpoints_are_not_given_up_for_a_damaged_later_one(tmp_path):
    run(tmp_path)
    (tmp_path / "checkpoint-00000012.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="cannot be read"):
        run(tmp_path, steps=10, keep=1)
    assert checkpoints(tmp_path) == [10, 12]
    with pytest.warns(UserWarning, match="cannot be read"):
        assert run(tmp_path, steps=10).step == 10


def test_no_good_checkpoint_at_all(tmp_path):
    run(tmp_path, steps=4)
    (tmp_path / "checkpoint-00000004.pt").write_bytes(b"")
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"no checkpoint in .* can be read: delete the folder"),
    ):
        run(tmp_path)


def test_a_checkpoint_may_not_run_code(tmp_path):
    """A pickle that would call a function on loading is not loaded."""
    run(tmp_path, steps=4)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made by a pickle"),)

    torch.save(Evil(), tmp_path / "checkpoint-00000009.pt")
    with pytest.warns(UserWarning, match="cannot be read"):
        run(tmp_path)
    assert not (tmp_path / "made by a pickle").exists()


# ---------------------------------------------------------------------- what goes wrong


def poisoned(step, what="loss"):
    """The denoising objective, with a loss or a gradient that is not a number from this step on."""
    count = [0]

    def objective(denoiser, batch, generator):
        count[0] += 1
        loss, log = DenoisingObjective(LINEAR)(denoiser, batch, generator)
        if count[0] >= step:
            bad = next(p for p in denoiser.parameters())
            loss = loss * float("nan") if what == "loss" else loss + 0 * torch.sqrt(bad - bad).sum()
        return loss, log

    return objective


@pytest.mark.parametrize("what, step", [("loss", 7), ("gradient", 7), ("gradient", 8)])
def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, what, step):
    """Also where the gradient alone is bad in the very step of a checkpoint: such weights are not saved."""
    healthy = run(steps=4)
    with pytest.raises(
        TrainingDiverged, match=r"not finite at step \d+.*lower learning_rate.*checkpoint-00000004\.pt"
    ) as caught:
        run(tmp_path, objective=poisoned(step, what))
    found = int(str(caught.value).split("at step ")[1].split(".")[0])
    assert found == 7 if what == "loss" else step <= found <= step + 1
    assert checkpoints(tmp_path) == [4]
    content = torch.load(tmp_path / "checkpoint-00000004.pt", weights_only=True)
    for name, tensor in healthy.denoiser.state_dict().items():
        assert torch.equal(content["denoiser"][name], tensor)
    for name, tensor in UNet.from_pretrained(tmp_path / "model").state_dict().items():
        assert torch.equal(tensor, healthy.ema.state_dict()[name])


def test_nan_before_the_first_checkpoint():
    with pytest.raises(TrainingDiverged, match=r"at step 2\..*No checkpoint was written yet"):
        run(objective=poisoned(2))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/1: No space left on device"),
    ],
    ids=["the system's error", "torch's error"],
)
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, error):
    undisturbed = run(tmp_path / "other")
    save = torch.save

    def fail(content, path):
        if content["step"] < 8:
            return save(content, path)
        Path(path).write_bytes(b"half a checkpoint")
        raise error

    folder = tmp_path / "run"
    monkeypatch.setattr(training.torch, "save", fail)
    with pytest.raises(DiskFull, match=r"The disk is full: checkpoint-00000008\.pt") as caught:
        run(folder)
    assert str(folder) in str(caught.value) and checkpoints(folder) == [4] and not list(folder.glob(".*"))
    UNet.from_pretrained(folder / "model")
    monkeypatch.undo()
    assert_same(run(folder), undisturbed)


@pytest.mark.parametrize("options, error, message", [
    (dict(batch_size=41), ValueError, "the data set has 40 examples, fewer than batch_size=41: take a smaller batch_size"),
    (dict(batch_size=8, accumulate=3), ValueError, "batch_size=8 must be a multiple of accumulate=3"),
    (dict(steps=0), ValueError, "steps must be >= 1, got 0"),
    (dict(keep=0), ValueError, "keep must be >= 1"),
    (dict(learning_rate=0.0), ValueError, "learning_rate and clip_norm must be > 0"),
    (dict(warmup=-1), ValueError, "warmup >= 0"),
    (dict(ema_decay=1.0), ValueError, r"ema_decay must lie in \[0, 1\), got 1\.0"),
    (dict(decay="linear"), ValueError, "decay must be one of constant, cosine, got 'linear'"),
    (dict(mixed_precision="fp8"), ValueError, "mixed_precision must be one of no, fp16, bf16"),
    (dict(tensorboard=True), ValueError, "tensorboard=True needs folder"),
    (dict(dataset=torch.full((40, 3, 4, 4), 255.0)), ValueError, r"the batch's images must lie in \[-1, 1\]"),
    (dict(dataset=torch.zeros(40, 3, 4, 4, dtype=torch.uint8)), TypeError, "the batch's images must be a float tensor"),
    (dict(dataset=torch.zeros(40, 3, 8, 8)), ValueError, "x_t must be 4x4 pixels for this model, got 8x8"),
])  # fmt: skip
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


# ---------------------------------------------------------------------- precision, devices, callbacks


def test_bf16_trains_and_leaves_the_network_as_it_was(tmp_path):
    denoiser = net()
    seen = set()

    class Seen(DenoisingObjective):
        def __call__(self, network, batch, generator=None):
            with torch.no_grad():
                seen.add(network(batch, torch.zeros(len(batch), dtype=torch.long)).noise.dtype)
            return super().__call__(network, batch, generator)

    state = run(tmp_path, denoiser=denoiser, objective=Seen(LINEAR), mixed_precision="bf16")
    assert seen == {torch.bfloat16}
    assert (
        denoiser.forward.__func__ is state.ema.forward.__func__ is UNet.forward
    )  # accelerate has taken its autocast off
    assert {p.dtype for p in denoiser.parameters()} == {torch.float32}
    x = torch.randn(2, 3, 4, 4)
    assert denoiser(x, torch.tensor([1, 2])).noise.dtype == torch.float32
    run(denoiser=net(), steps=1)  # and full precision can follow in the same process


@pytest.mark.parametrize("fails", ["refused", "diverged", "callback"])
def test_the_network_is_left_as_it_was_after_a_failure(tmp_path, fails):
    def bad(state):
        raise RuntimeError("a callback's own mistake")

    denoiser = net()
    options = dict(mixed_precision="bf16", denoiser=denoiser)
    if fails == "refused":
        run(tmp_path, mixed_precision="bf16", steps=4)
        with pytest.raises(ValueError, match="other settings"):
            run(tmp_path, learning_rate=0.5, **options)
    elif fails == "diverged":
        with pytest.raises(TrainingDiverged):
            run(objective=poisoned(2), **options)
    else:
        with pytest.raises(RuntimeError, match="own mistake"):
            run(callbacks=[bad], callback_every=2, **options)
    assert denoiser.forward.__func__ is UNet.forward
    assert denoiser(torch.randn(1, 3, 4, 4), torch.tensor([1])).noise.dtype == torch.float32


def test_callbacks_come_every_so_often_and_at_the_end():
    seen = []

    def look(state):
        assert not state.denoiser.training and not state.ema.training
        assert not any(p.requires_grad for p in state.ema.parameters())
        seen.append((state.step, len(state.history)))

    state = run(callbacks=[look, look], callback_every=5)
    assert seen == [(5, 2), (5, 2), (10, 5), (10, 5), (12, 6), (12, 6)]
    assert not state.denoiser.training


def test_callbacks_see_the_end_of_a_run_that_was_over_already(tmp_path):
    seen = []
    run(tmp_path)
    state = run(tmp_path, callbacks=[lambda state: seen.append((state.step, len(state.history)))], callback_every=5)
    assert seen == [(12, 6)] and state.step == 12 and not state.denoiser.training


def test_the_network_trains_in_train_mode():
    modes = []

    def objective(denoiser, batch, generator):
        modes.append(denoiser.training)
        return DenoisingObjective(LINEAR)(denoiser, batch, generator)

    run(objective=objective, callbacks=[lambda state: None], callback_every=2)
    assert modes == [True] * 12


def test_sabotage_leaves_the_weights_untrained(monkeypatch, tmp_path):
    monkeypatch.setenv("FDLIB_SABOTAGE", "untrained")
    state, fresh = run(tmp_path), net()
    for model in (state.denoiser, state.ema, UNet.from_pretrained(tmp_path / "model")):
        for a, b in zip(model.parameters(), fresh.parameters()):
            assert torch.equal(a, b)


def test_tensorboard_logs(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent)).Reload().Scalars("loss")
    assert [(e.step, pytest.approx(e.value, rel=1e-5)) for e in events] == [
        (r["step"], r["loss"]) for r in log_of(tmp_path)
    ]


def test_progress_bar_says_what_matters(capsys):
    train(net(), DenoisingObjective(LINEAR), pictures(), config(), progress=True)
    said = capsys.readouterr().err
    assert "training: 100%" in said and "12/12" in said and "loss=" in said


class Labelled(Denoiser):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(3, 3 * 4 * 4)

    def forward(self, x_t, t, label):
        return Prediction(noise=self.table(label).reshape(-1, 3, 4, 4))


def test_conditions_come_from_the_batch():
    class Data(Recorder):
        def __getitem__(self, index):
            return {"image": torch.zeros(3, 4, 4), "label": index % 3}

    state = run(
        denoiser=Labelled(), objective=DenoisingObjective(LINEAR, condition=("label",)), dataset=Data(20), steps=2
    )
    assert math.isfinite(state.history[-1]["loss"])


# ---------------------------------------------------------------------- several processes


def two_workers(tmp_path, steps, interrupt_at=0):
    """Outputs of two gloo processes that train together; with ``interrupt_at``, Ctrl-C reaches the second one only."""
    file = tmp_path / "worker.py"
    file.write_text(textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
        import torch
        from fdlib.denoiser import Model
        from fdlib.training import TrainingConfig, train

        class Point(Model):
            def __init__(self, width: int = 3):
                super().__init__()
                self.w = torch.nn.Parameter(torch.zeros(width, dtype=torch.float64))
            def forward(self, x):
                return x @ self.w

        calls = 0

        def regression(point, batch, generator):
            global calls
            calls += 1
            if calls == {interrupt_at} and os.environ["RANK"] == "1":
                signal.raise_signal(signal.SIGINT)
            target = batch @ torch.tensor([1.0, 2.0, 3.0], dtype=batch.dtype)
            return ((point(batch) - target) ** 2).mean(), {{}}

        data = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        config = TrainingConfig(steps=int(sys.argv[2]), batch_size=8, learning_rate=0.05, ema_decay=0.9, log_every=3,
                                save_every=4, accumulate=2)
        state = train(Point(), regression, data, config, folder=sys.argv[1], progress=False)
        print("finished", state.step, state.interrupted)
    """))  # fmt: skip
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "1",
    }
    processes = [subprocess.Popen([sys.executable, file, tmp_path / "run", str(steps)], stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.STDOUT, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
                 for rank in (0, 1)]  # fmt: skip
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return outputs


@pytest.mark.slow
def test_ctrl_c_in_one_of_two_processes_stops_both_at_the_same_step(tmp_path):
    outputs = two_workers(tmp_path, steps=500, interrupt_at=25)  # two calls a step
    stopped = [output.split("finished ")[1].split() for output in outputs]
    assert stopped[0] == stopped[1] == ["20", "True"], outputs
    assert checkpoints(tmp_path / "run")[-1] == 20


@pytest.mark.slow
def test_two_processes_make_the_step_of_one(tmp_path):
    """Two gloo processes, half of every batch each, against one process: the same weights up to rounding."""
    for steps in (8, 12):  # the second time it resumes
        two_workers(tmp_path, steps)
    alone = run(denoiser=Point(), objective=regression, dataset=rows(), learning_rate=0.05, accumulate=2)
    found = torch.load(tmp_path / "run/checkpoint-00000012.pt", weights_only=True)
    torch.testing.assert_close(found["denoiser"]["w"], alone.denoiser.w.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["ema"]["module.w"], alone.ema.w, rtol=1e-9, atol=1e-12)
    assert [row["loss"] for row in log_of(tmp_path / "run")] == pytest.approx(
        [r["loss"] for r in alone.history], rel=1e-9
    )
