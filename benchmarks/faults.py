"""What can go wrong with a long run, done to it on purpose, through the real command line (``scripts/train.py``).

    python benchmarks/faults.py --kills 20 --json benchmarks/results/faults.json [--save DIR] [--parts kills disk]

- ``processes``: two gloo processes against one, same global batch, 50 steps: how far the loss curves are apart.
- ``kills``: kill -9 at random moments (start-up and writing included), each time started again; log, weights, averages and
  optimiser at the end are compared bit by bit with an undisturbed run's, and both models are kept in ``--save``.
- ``worker``: one of two workers is killed, torchrun restarts both; compared with the undisturbed pair.
- ``disk``: a disk that fills up (a small tmpfs in a private mount namespace); ``data``: a data file cut in half between two
  starts, a damaged picture among good ones; ``nan``: a loss that becomes NaN. Each must stop with a sentence, and the last good
  checkpoint must load and carry on to the very end that the undisturbed run reaches.

The network is tiny: what is tested is the loop, the files and the processes. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fdlib.files import atomic_write, sha256

ROOT = Path(__file__).resolve().parents[1]
TRAIN = str(ROOT / "scripts/train.py")
TINY = "--model.channels 8 --model.multipliers 1 2 --training.batch-size 8 --data.count 200 --training.log-every 1 " \
       "--training.save-every 5 --samples 2 --sample-steps 2 --sample-every 100000"  # fmt: skip
START_UP_S = 600  # a start that takes longer has failed


def command(folder: Path, steps: int, *extra: str, preset: str = "regions32", processes: int = 1) -> list[str]:
    run = [TRAIN, preset, *TINY.split(), "--training.steps", str(steps), "--folder", str(folder), *extra]
    if processes == 1:
        return [sys.executable, *run]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port", port, "--max-restarts=3"]
    return [sys.executable, *launch, *run]


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(arguments: list[str]) -> tuple[int, str]:
    process = start(arguments)
    output, _ = process.communicate(timeout=START_UP_S)
    return process.returncode, output


def must_finish(arguments: list[str]) -> None:
    code, output = finish(arguments)
    if code:
        raise RuntimeError(f"the run ended with {code}:\n{output[-3000:]}")


def log_of(folder: Path) -> list[dict]:
    file = folder / "log.jsonl"
    rows = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        with contextlib.suppress(ValueError):  # the line that is being written
            rows.append(json.loads(line))
    return rows


def step_of(folder: Path) -> int:
    rows = log_of(folder)
    return rows[-1]["step"] if rows else 0


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    deadline = time.monotonic() + START_UP_S
    while step_of(folder) < step and process.poll() is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no step {step} within {START_UP_S} s")
        time.sleep(0.003)


def differences(a: Path, b: Path) -> list[str]:
    """All that differs between two finished runs: log lines (seconds aside), every tensor of the last checkpoint, the model."""
    found = []
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in log_of(folder)] for folder in (a, b)]
    if timeless[0] != timeless[1]:
        found.append("log.jsonl")
    last = [sorted(folder.glob("checkpoint-*.pt"))[-1] for folder in (a, b)]
    if last[0].name != last[1].name:
        return [*found, f"last checkpoints {last[0].name}, {last[1].name}"]
    one, other = (flat(torch.load(path, weights_only=True)) for path in last)
    found += sorted(
        key
        for key in one.keys() | other.keys()
        if not key.startswith((".seconds", ".history")) and not same(one.get(key), other.get(key))
    )
    if sha256(a / "model/model.safetensors") != sha256(b / "model/model.safetensors"):
        found.append("model.safetensors")
    return found


def flat(tree: object, name: str = "") -> dict:
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{name}.{key}").items()}
    return {name: tree}


def same(a: object, b: object) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


# ---------------------------------------------------------------------- the parts: each returns what it saw, with "passed"


def processes(at: Path, options: argparse.Namespace) -> dict:
    one, two = at / "one", at / "two"
    must_finish(command(one, 50))
    must_finish(command(two, 50, processes=2))
    curves = [[row["loss"] for row in log_of(folder)] for folder in (one, two)]
    apart = max(abs(a - b) for a, b in zip(*curves, strict=True))
    four = at / "accumulated"
    must_finish(command(four, 50, "--training.accumulate", "4"))
    parts = max(abs(a - b["loss"]) for a, b in zip(curves[0], log_of(four), strict=True))
    return {
        "steps": 50,
        "loss_first_last": [curves[0][0], curves[0][-1]],
        "two_processes_apart": apart,
        "four_parts_apart": parts,
        "passed": len(curves[0]) == 50 and apart < 1e-5 and parts < 1e-5,
    }


def kills(at: Path, options: argparse.Namespace) -> dict:
    draw = random.Random(options.seed)
    calm, folder, steps = at / "undisturbed", at / "killed", max(60, 8 * options.kills)
    began = time.monotonic()
    process = start(command(calm, steps))
    wait_for_step(process, calm, 1)
    start_up = time.monotonic() - began
    output, _ = process.communicate(timeout=START_UP_S)
    if process.returncode:
        raise RuntimeError(f"the undisturbed run ended with {process.returncode}:\n{output[-3000:]}")
    moments, writing = [], 0
    for i in range(options.kills):
        process = start(command(folder, steps))
        if i % 5 == 4:  # wherever that is: importing, loading the checkpoint, the first steps
            time.sleep(draw.uniform(0, start_up))
        else:
            low = step_of(folder)
            high = max(low + 2, steps * (i + 1) // (options.kills + 1))
            wait_for_step(process, folder, min(steps - 1, draw.randint(low + 1, high)))
            time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.communicate()
        writing += any(folder.glob(".*")) if folder.exists() else 0
        moments.append(step_of(folder))
        if process.returncode != -signal.SIGKILL:
            return {
                "passed": False,
                "kills": i,
                "why": f"ended by itself with {process.returncode} before kill {i + 1}",
            }
        print(f"  kill {i + 1} at step {moments[-1]}", flush=True)
    must_finish(command(folder, steps))
    differing = differences(calm, folder)
    kept = {}
    for name, run in (("undisturbed", calm), ("killed", folder)):
        target = options.save / f"{name}.safetensors"
        with atomic_write(target) as path:
            shutil.copyfile(run / "model/model.safetensors", path)
        kept[name] = {"file": target.name, "sha256": sha256(target)}
    return {
        "kills": options.kills,
        "seed": options.seed,
        "steps": steps,
        "killed_at_steps": moments,
        "killed_while_writing": writing,
        "weights": kept,
        "differences": differing,
        "passed": not differing,
    }


def worker(at: Path, options: argparse.Namespace) -> dict:
    calm, folder = at / "pair", at / "pair-killed"
    must_finish(command(calm, 50, processes=2))
    process = start(command(folder, 50, processes=2))
    wait_for_step(process, folder, 22)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    victims = sorted(int(pid) for pid in children.split())
    os.kill(victims[-1], signal.SIGKILL)
    reached = step_of(folder)
    try:
        output, _ = process.communicate(timeout=START_UP_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        return {
            "workers": len(victims),
            "killed_at_step": reached,
            "passed": False,
            "why": "the restarted workers hang",
        }
    done = process.returncode == 0 and step_of(folder) == 50
    differing = differences(calm, folder) if done else [output[-1500:]]
    return {
        "workers": len(victims),
        "killed_at_step": reached,
        "differences": differing,
        "passed": done and not differing,
    }


def disk(at: Path, options: argparse.Namespace) -> dict:
    calm, folder, tmpfs = at / "calm", at / "full", at / "tmpfs"
    must_finish(command(calm, 30))
    checkpoint = (calm / "checkpoint-00000030.pt").stat().st_size
    model = sum(file.stat().st_size for file in (calm / "model").iterdir())
    room = 5 * checkpoint // 2 + 2 * model  # two checkpoints and half of a third
    tmpfs.mkdir()
    script = f'mount -t tmpfs -o size={room} none "{tmpfs}" || exit 99; "$@"; code=$?; cp -r "{tmpfs}/run" "{folder}"; exit $code'
    code, output = finish(
        ["unshare", "--map-root-user", "--mount", "bash", "-c", script, "-", *command(tmpfs / "run", 30)]
    )
    if code == 99 or not folder.exists():
        return {"passed": False, "why": f"no private tmpfs can be mounted here: {output[-300:]}"}
    last = step_of(folder)
    names = sorted(path.name for path in folder.glob("checkpoint-*.pt"))
    said = message(output)
    left = [path.name for path in folder.glob(".*")]
    must_finish(command(folder, 30))  # on a disk with room
    differing = differences(calm, folder)
    return {
        "bytes": room,
        "exit": code,
        "said": said,
        "stopped_after_step": last,
        "checkpoints": names,
        "left_half_written": left,
        "differences_after_resume": differing,
        "passed": code == 1 and "The disk is full" in said and bool(names) and not left and not differing,
    }


def data(at: Path, options: argparse.Namespace) -> dict:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    file, calm, folder = at / "pictures.npy", at / "calm-data", at / "cut"
    np.save(file, pixels)
    extra = ("--data.source", "photos", "--data.layout", "plain", "--data.path", str(file))
    must_finish(command(calm, 20, *extra))
    must_finish(command(folder, 10, *extra))
    os.truncate(file, file.stat().st_size // 2)
    code, output = finish(command(folder, 20, *extra))
    said, kept = message(output), sorted(path.name for path in folder.glob("checkpoint-*.pt"))
    np.save(file, pixels)
    must_finish(command(folder, 20, *extra))
    differing = differences(calm, folder)
    pictures = at / "pictures"
    pictures.mkdir()
    for i, picture in enumerate(pixels[:12]):
        Image.fromarray(picture).save(pictures / f"{i:02}.png")
    os.truncate(pictures / "03.png", 500)
    skipped_code, skipped = finish(command(at / "skipping", 3, *extra[:-1], str(pictures)))
    return {
        "exit": code,
        "said": said,
        "checkpoints": kept,
        "differences_after_repair": differing,
        "damaged_picture_is_named_and_skipped": skipped_code == 0 and "03.png" in skipped,
        "passed": code == 1
        and "pictures.npy" in said
        and kept[-1] == "checkpoint-00000010.pt"
        and not differing
        and skipped_code == 0
        and "03.png" in skipped,
    }


def nan(at: Path, options: argparse.Namespace) -> dict:
    from fdlib.process import DenoisingObjective
    from fdlib.schedule import NoiseSchedule
    from fdlib.training import TrainingConfig, TrainingDiverged, train
    from fdlib.unet import UNet

    def network() -> UNet:
        torch.manual_seed(0)
        return UNet(8, 8, (1, 2), 1, ())

    plain, count = DenoisingObjective(NoiseSchedule.linear()), [0]

    class Sick(DenoisingObjective):
        def __call__(self, denoiser, batch, generator=None):
            count[0] += 1
            loss, log = super().__call__(denoiser, batch, generator)
            return (loss * float("nan") if count[0] == 13 else loss), log

    pictures = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = TrainingConfig(steps=20, batch_size=8, log_every=1, save_every=5)
    folder, said = at / "nan", ""
    try:
        train(network(), Sick(plain.schedule), pictures, config, folder=folder, progress=False)
    except TrainingDiverged as error:
        said = str(error)
    kept = sorted(path.name for path in folder.glob("checkpoint-*.pt"))
    settings = json.loads(
        (folder / "config.json").read_text()
    )  # a well objective takes over from the sick one's checkpoint
    settings["objective"]["class"] = "DenoisingObjective"
    (folder / "config.json").write_text(json.dumps(settings))
    train(network(), plain, pictures, config, folder=folder, progress=False)
    train(network(), plain, pictures, config, folder=at / "well", progress=False)
    differing = differences(at / "well", folder)
    good = "not finite at step 13" in said and kept[-1] == "checkpoint-00000010.pt" and not differing
    return {"said": said, "checkpoints": kept, "differences_after_resume": differing, "passed": good}


def message(output: str) -> str:
    """The sentence that a stopped run ends with; a stack trace would not begin with "error:"."""
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1][-500:] if lines and lines[-1].startswith("error: ") else output[-500:]


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict]] = {
    part.__name__: part for part in (processes, kills, worker, disk, data, nan)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill (20)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to do (everything)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments (another each time)")
    parser.add_argument(
        "--save", type=Path, default=ROOT / "build/faults", help="where both models of `kills` are kept"
    )
    parser.add_argument("--json", type=Path, help="also write what was seen to this file")
    options = parser.parse_args()
    report = {
        "command": f"python benchmarks/faults.py --kills {options.kills} --seed {options.seed} --parts {' '.join(options.parts)}",
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "parts": {},
    }
    for name in options.parts:
        with tempfile.TemporaryDirectory(prefix="fdlib-faults-") as folder:
            began = time.monotonic()
            seen = PARTS[name](Path(folder), options)
        report["parts"][name] = {
            **json.loads(json.dumps(seen).replace(folder, "…")),
            "seconds": round(time.monotonic() - began),
        }
        print(f"{name}: {'passed' if seen['passed'] else 'FAILED'} {json.dumps(report['parts'][name])}", flush=True)
        report["passed"] = all(part["passed"] for part in report["parts"].values())
        if options.json:
            with atomic_write(options.json) as path:
                path.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(0 if report["passed"] else 1)


if __name__ == "__main__":
    main()
