"""What the training loop costs beside the network: images a second, as ratios within one run.

    python benchmarks/throughput.py [--rounds 7] [--steps 20] [--json benchmarks/results/throughput.json]

- a factorized step through ``train`` (what ``scripts/train.py`` calls) against a bare loop that does the same work (noise,
  forward, backward, clipped gradient, Adam, averaged weights) and against one without clipping and averaging;
- how fast pictures are loaded from a prepared array, against how fast a step takes them;
- the same plain U-Net, batch and pictures through ``train`` and through the loop of diffusers' ``train_unconditional`` recipe
  (accelerate, AdamW, DDPMScheduler, EMAModel, a data set of PIL pictures with torchvision's transforms), written out below.

Competitors take turns, in changing order, and ratios are formed round by round, so that a drifting machine cancels out. Beside
wall time the process's own CPU time is given, which other programs do not disturb. On a GPU the same script measures the GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fdlib.data.photos import ArrayImages
from fdlib.files import atomic_write
from fdlib.presets import PRESETS
from fdlib.process import DenoisingObjective, add_noise
from fdlib.schedule import NoiseSchedule
from fdlib.training import TrainingConfig, train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCHEDULE = NoiseSchedule.linear()
WARM = 3  # steps before the clock starts


def clock() -> tuple[float, float]:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


class Stopwatch:
    """Wall and CPU seconds from step WARM to the last one."""

    def __init__(self, steps: int):
        self.last, self.times = WARM + steps, {}

    def __call__(self, step: int) -> None:
        if step in (WARM, self.last):
            self.times[step] = clock()

    @property
    def seconds(self) -> tuple[float, float]:
        return tuple(b - a for a, b in zip(self.times[WARM], self.times[self.last]))


def through_train(model, data, batch: int, steps: int) -> tuple[float, float]:
    watch = Stopwatch(steps)
    config = TrainingConfig(steps=WARM + steps, batch_size=batch, learning_rate=1e-4, log_every=50)
    train(model, DenoisingObjective(SCHEDULE), data, config, progress=False,
          callbacks=[lambda state: watch(state.step)], callback_every=WARM)  # fmt: skip
    return watch.seconds


def bare(model, data, batch: int, steps: int, everything: bool = True) -> tuple[float, float]:
    """The same work without a loop's conveniences; without ``everything`` no clipping and no averages."""
    model.to(DEVICE).train()
    optimizer, watch = torch.optim.Adam(model.parameters(), lr=1e-4), Stopwatch(steps)
    averages = [p.detach().clone() for p in model.parameters()]
    for step in range(1, WARM + steps + 1):
        x0 = data.batch(torch.randint(len(data), (batch,)))["image"].to(DEVICE)
        t, noise = torch.randint(1000, (batch,), device=DEVICE), torch.randn_like(x0)
        loss = F.mse_loss(model(add_noise(SCHEDULE, x0, t, noise), t).noise, noise)
        loss.backward()
        if everything:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if everything:
            torch._foreach_lerp_(averages, [p.detach() for p in model.parameters()], 1e-4)
        watch(step)
    return watch.seconds


class Pictures(torch.utils.data.Dataset):
    """PIL pictures and the recipe's transforms, one at a time."""

    def __init__(self, pixels: np.ndarray):
        from torchvision import transforms

        size = pixels.shape[1]
        self.pictures = [Image.fromarray(x) for x in pixels]
        self.transform = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        return {"input": self.transform(self.pictures[index].convert("RGB"))}


def diffusers_recipe(model, pictures: Pictures, batch: int, steps: int) -> tuple[float, float]:
    """The steps of diffusers' examples/unconditional_image_generation, in its order, around our network."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    from tqdm.auto import tqdm

    accelerator, watch = Accelerator(gradient_accumulation_steps=1), Stopwatch(steps)
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    loader = torch.utils.data.DataLoader(pictures, batch_size=batch, shuffle=True, drop_last=True)
    rate = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=10_000)
    model, optimizer, loader, rate = accelerator.prepare(model, optimizer, loader, rate)
    ema.to(accelerator.device)
    step, bar = 0, tqdm(total=WARM + steps, disable=True)
    while step < WARM + steps:
        model.train()
        for rows in loader:
            clean = rows["input"]
            noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
            times = torch.randint(
                0, noise_scheduler.config.num_train_timesteps, (len(clean),), device=clean.device
            ).long()
            noisy = noise_scheduler.add_noise(clean, noise, times)
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(noisy, times).noise.float(), noise.float())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                ema.step(model.parameters())
                bar.update(1)
                step += 1
            logs = {
                "loss": loss.detach().item(),
                "lr": rate.get_last_lr()[0],
                "step": step,
                "ema_decay": ema.cur_decay_value,
            }
            bar.set_postfix(**logs)
            watch(step)
            if step == WARM + steps:
                break
    return watch.seconds


def compete(ways: dict[str, Callable[[], tuple[float, float]]], rounds: int, images: int) -> dict:
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for i in range(rounds):
        for name in list(ways) if i % 2 == 0 else list(ways)[::-1]:
            seconds[name].append(ways[name]())
    first, *others = ways
    ratio = lambda other, k: statistics.median(b[k] / a[k] for a, b in zip(seconds[first], seconds[other]))  # noqa: E731
    return {
        "images_per_second": {name: images / statistics.median(w for w, _ in s) for name, s in seconds.items()},
        "ratio_wall": {other: ratio(other, 0) for other in others},
        "ratio_cpu": {other: ratio(other, 1) for other in others},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (7)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps a turn (20)")
    parser.add_argument("--batch", type=int, default=16, help="pictures a step (16)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    o = parser.parse_args()
    if o.threads:
        torch.set_num_threads(o.threads)
    pixels = np.random.default_rng(0).integers(0, 256, (4096, 32, 32, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/pictures.npy", pixels)
        data = ArrayImages.from_file(f"{folder}/pictures.npy")
        factorized = replace(PRESETS["flower64-laptop"][1].model, image_size=32)
        plain = PRESETS["shapes32"][1].model
        images = o.steps * o.batch
        report = {
            "command": f"python benchmarks/throughput.py --rounds {o.rounds} --steps {o.steps} --batch {o.batch}",
            "commit": subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
            ).stdout.strip(),
            "device": torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        }
        args = (data, o.batch, o.steps)
        report["factorized"] = compete(
            {
                "train": lambda: through_train(factorized.build(), *args),
                "bare loop, same work": lambda: bare(factorized.build(), *args),
                "bare loop, no clipping or averages": lambda: bare(factorized.build(), *args, everything=False),
            },
            o.rounds,
            images,
        )
        pictures = Pictures(pixels)
        report["plain"] = compete(
            {
                "train": lambda: through_train(plain.build(), *args),
                "diffusers' train_unconditional": lambda: diffusers_recipe(plain.build(), pictures, o.batch, o.steps),
            },
            o.rounds,
            images,
        )
        order = torch.randperm(len(data)).split(o.batch)
        loading = []
        for _ in range(o.rounds):
            began = clock()[0]
            for rows in order:
                torch.utils.data.default_collate(data.__getitems__(rows.tolist()))
            loading.append(len(data) / (clock()[0] - began))
        report["loading"] = {
            "images_per_second": statistics.median(loading),
            "share_of_a_step": report["plain"]["images_per_second"]["train"] / statistics.median(loading),
        }
    print(json.dumps(report, indent=1))
    if o.json:
        with atomic_write(o.json) as path:
            path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
