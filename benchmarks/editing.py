"""Region editing, measured: how local an edit is, what it changes, how exact inversions are, what directions cost.

    python benchmarks/editing.py --json benchmarks/results/editing.json            # 100 held-out pictures
    python benchmarks/editing.py --count 4 --json FILE                             # a look

Locality: the shipped plain denoiser, held-out pictures of 3D Shapes, the object with a rim of one pixel as the region (drawn: the
renderer's label; or discovered: the mask of ``shapes32_regions`` around the picture's middle). For each picture and direction the
strength is set so that the RMS change inside is ``--target``; where four rounds do not reach within 30 % of it, the edit counts
as "not reached" and still enters. "energy" is summed squared change inside over outside, "ratio" the same of mean squares.

Factors: 5 directions of each picture, at a larger change. How far do the object's hue, scale and shape move, how far floor, wall
and orientation? A direction counts where it moves one of the former by more than 1 standard deviation and all of the latter by
less than .2: in the sense in which it came out, and (``either_sense``) in one of its two.

Settings (times, windows, ranks, sizes) were chosen on 3 to 8 training pictures. Results are written after every picture, so that
an interrupted run keeps what it has; those of other variants in the file are kept too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from emergence import commit
from torch import Tensor

from fdlib import course, inversion
from fdlib.data.shapes3d import LABELS, Shapes3D, split_indices
from fdlib.directions import discovered_mask, find_directions
from fdlib.editing import edit, find_path
from fdlib.factorized import FactorizedUNet
from fdlib.files import atomic_write
from fdlib.metrics.editing import FactorRegressor, locality, match_strength
from fdlib.schedule import NoiseSchedule, time_grid
from fdlib.unet import UNet

SCHEDULE = NoiseSchedule.linear()
GRID = time_grid(1000, 25)
PARTIAL = [t for t in GRID if t <= 440]  # what windows below 440 need
QUICK = dict(extra=4, tolerance=0.01)
SOFT = dict(projection="soften", rest_rank=40, iterations=2, **QUICK)
NONE, PROJECT = (dict(projection=name, iterations=n, **QUICK) for name, n in (("none", 5), ("project", 3)))


@dataclass(frozen=True)
class Variant:
    """A way to edit: inversion, times at which directions are found and how, when they are applied, whose region."""

    method: str
    grid: list[int]
    times: list[int]
    options: dict
    window: tuple[int, int] | None = None
    discovered: bool = False
    start: float = 0.3
    """The strength with which the search for the wanted change begins."""


def of_x_t(t: int, **options) -> Variant:
    """Directions of the noisy picture at time t, added to it once."""
    return Variant("ddim", time_grid(t + 1, 20), [t], dict(space="x", of="x0") | options, start=0.06)


VARIANTS = {
    "unprojected, all steps": Variant("ddim", GRID, [300], NONE, start=0.06),
    "projected, all steps": Variant("ddim", GRID, [300], PROJECT, start=0.06),
    "unprojected": Variant("ddim", PARTIAL, [300], NONE, (200, 400)),
    "projected": Variant("ddim", PARTIAL, [300], PROJECT, (200, 400)),
    "best": Variant("edict", PARTIAL, [350, 300, 250, 150], SOFT, (100, 400)),
    "best, discovered region": Variant("edict", PARTIAL, [350, 300, 250, 150], SOFT, (100, 400), True),
    "x_t, unprojected": of_x_t(300, **NONE),
    "x_t, projected": of_x_t(300, **PROJECT),
    "x_t, in the region": of_x_t(300, **SOFT, support="region"),
    "x_t, in the discovered region": replace(of_x_t(300, **SOFT, support="region"), discovered=True),
}
FACTORS = {  # and the RMS change inside
    "best": (VARIANTS["best"], 0.4),
    "early": (Variant("ddim", GRID, [750, 600, 450], SOFT | dict(rest_rank=20), (400, 800)), 0.4),
    "x_t at 500": (of_x_t(500, **SOFT), 0.8),
    "x_t at 500, in the region": (of_x_t(500, **SOFT, support="region"), 0.8),
}
OBJECT_FACTORS, OTHERS = ("object_hue", "scale", "shape"), ("floor_hue", "wall_hue", "orientation")


@dataclass
class Trial:
    """One variant on one picture, inverted, its directions found: ready for edits of any direction and size."""

    variant: Variant
    denoiser: UNet
    x: Tensor
    mask: Tensor
    directions: int

    def __post_init__(self):
        v, started = self.variant, time.thread_time()
        self.latent = inversion.invert(
            self.denoiser, SCHEDULE, self.x, method=v.method, timesteps=v.grid, progress=False
        )
        self.unedited, trajectory = inversion.record(self.denoiser, SCHEDULE, self.latent, progress=False)
        self.path = find_path(self.denoiser, SCHEDULE, trajectory, v.times, self.mask, self.directions, **v.options)
        self.seconds = time.thread_time() - started

    def edits(self, regressor: FactorRegressor, target: float, senses: tuple[int, ...] = (1,)) -> list[dict]:
        rows = []
        for index, sense in itertools.product(range(self.directions), senses):
            strength, images = match_strength(
                lambda s, index=index: self.apply(s, index), self.unedited, self.mask, target,
                start=sense * self.variant.start,
            )  # fmt: skip
            found = {key: float(value[0]) for key, value in locality(images, self.unedited, self.mask).items()}
            changes = {key: float(value[0]) for key, value in regressor.changes(self.unedited, images).items()}
            rows.append({"index": index, "sense": sense, "strength": float(strength[0]), **found, "changes": changes})
        return rows

    def apply(self, strength: Tensor, index: int) -> Tensor:
        options = dict(window=self.variant.window, unedited=self.unedited)
        return edit(self.denoiser, SCHEDULE, self.latent, self.path, strength, index, **options).images

    def result(self, rows: list[dict]) -> dict:
        error = float((self.unedited - self.x).square().mean().sqrt())
        return {"inversion_rms": error, "cpu_s": self.seconds, "directions": rows}


def alone(row: dict) -> bool:
    """Whether an edit changed a factor of the object, and nothing else."""
    own, others = (max(row["changes"][key] for key in keys) for keys in (OBJECT_FACTORS, OTHERS))
    return own > 1 and others < 0.2


def summary(pictures: list[dict], targets: dict[str, float]) -> dict:
    table = {}
    for name, target in targets.items():
        done = [p[name] for p in pictures if p.get(name)]
        rows = [row for p in done for row in p["directions"]]
        if not rows:
            continue
        columns = {
            key: torch.tensor([row[key] for row in rows])
            for key in ("energy", "ratio", "inside", "outside", "strength")
        }
        table[name] = {
            key: [float(v) for v in values.quantile(torch.tensor([0.25, 0.5, 0.75]))] for key, values in columns.items()
        }
        table[name]["pictures"], table[name]["edits"] = len(done), len(rows)
        first = torch.tensor([p["directions"][0]["energy"] for p in done])
        table[name]["energy_first_direction"] = float(first.median())
        table[name]["not_reached"] = float(((columns["inside"] / target).log().abs() > 0.26).float().mean())
        table[name]["inversion_rms"] = float(torch.tensor([p["inversion_rms"] for p in done]).median())
        table[name]["changes"] = {
            key: float(torch.tensor([row["changes"][key] for row in rows]).median()) for key in rows[0]["changes"]
        }
        tried = {row.get("sense", 1) for row in rows}
        for key, senses in (("directions_that_change_an_object_factor_alone", {1}), ("either_sense", {1, -1})):
            if senses <= tried:
                good = [{r["index"] for r in p["directions"] if r.get("sense", 1) in senses and alone(r)} for p in done]
                table[name][key] = sum(map(len, good)) / len(done)
    return table


def short(value):
    """The same numbers to five digits, so that the file stays small."""
    if isinstance(value, dict):
        return {key: short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [short(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def round_trips(denoiser, images: Tensor, steps: int = 50) -> list[dict]:
    rows = []
    for dtype in (torch.float32, torch.float64):
        few = images if dtype == torch.float32 else images[: max(1, len(images) // 4)]
        for method, options in (("ddim", {}), ("ddim", dict(iterations=5)), ("edict", {}), ("bdia", {})):
            started = time.thread_time()
            found = inversion.round_trip(denoiser.to(dtype), SCHEDULE, few.to(dtype), steps, method=method, **options)
            seconds = (time.thread_time() - started) / len(few)
            rows.append(
                {
                    "method": method,
                    **options,
                    "dtype": str(dtype),
                    "pictures": len(few),
                    **found,
                    "cpu_s_a_picture": seconds,
                }
            )
            print(f"  {method} {options or ''} {dtype}: RMS {found['rms']:.2g}, largest {found['largest']:.2g}, latent std "
                  f"{found['latent_std']:.2f}", flush=True)  # fmt: skip
    denoiser.float()
    return rows


def cost(denoiser, x: Tensor, mask: Tensor) -> dict:
    """5 directions at one time, as the issue of speed: seconds of the CPU's thread, of the clock, and peak memory."""
    x_t = 0.6 * x + 0.8 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def peak(work) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            work()
        level = highest = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                level += event.nbytes()
                highest = max(highest, level)
        return highest

    t = torch.tensor([300])
    activations: list[int] = []
    leaves = [module for module in denoiser.modules() if not list(module.children())]
    handles = [
        leaf.register_forward_hook(lambda _m, _i, out: activations.append(out.numel() * out.element_size()))
        for leaf in leaves
    ]
    with torch.no_grad():
        denoiser(x_t, t)
    for handle in handles:
        handle.remove()
    options = dict(k=5, rest_rank=20, **QUICK)
    cpu, clock = time.thread_time(), time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find_directions(denoiser, SCHEDULE, x_t, 300, mask, iterations=10, **options)
        cpu, clock = time.thread_time() - cpu, time.perf_counter() - clock
        rows = 29
        bytes_ = peak(lambda: find_directions(denoiser, SCHEDULE, x_t, 300, mask, iterations=1, **options))
    return {
        "cpu_s": cpu, "clock_s": clock, "residual": found.residual, "peak_bytes": bytes_,
        "activations_of_one_pass": sum(activations), "vectors_a_pass": rows,
        "peak_over_vectors_times_activations": bytes_ / (rows * sum(activations)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="held-out pictures")
    parser.add_argument("--directions", type=int, default=2, help="directions of each picture")
    parser.add_argument("--target", type=float, default=0.1, help="RMS change inside of the region")
    parser.add_argument(
        "--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS), help="of the table of locality"
    )
    parser.add_argument("--factors", type=int, default=20, help="pictures of the table of factors: 5 directions each")
    parser.add_argument("--factors-of", nargs="*", choices=FACTORS, default=list(FACTORS), help="variants in it")
    parser.add_argument("--trips", type=int, default=8, help="pictures of the table of round trips; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", UserWarning)  # few iterations are a choice here: the outcome is what is measured
    warnings.simplefilter("ignore", RuntimeWarning)
    denoiser = UNet.from_pretrained(course.asset("shapes32_unet")).float().eval()
    finder = FactorizedUNet.from_pretrained(course.asset("shapes32_regions")).float().eval()
    regressor = FactorRegressor.fit()
    _, test = split_indices(train=0, test=10_000, seed=0)
    data = Shapes3D(32, test[: options.count])
    images = data.images()
    drawn = (data.labels() == LABELS.index("object")).float()[:, None]
    found, region = discovered_mask(finder.segment(images), 17, 16)
    masks = {False: F.max_pool2d(drawn, 3, 1, 1), True: F.max_pool2d(found, 3, 1, 1)}
    old = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    report = {
        "command": "python benchmarks/editing.py",
        "commits": old.get("commits", {}),
        "seeds": "pictures: split_indices(test=10000, seed=0); subspace iteration: 0",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads of a busy machine, torch {torch.__version__}",
        "target": options.target,
        "regressor_errors": regressor.errors,
        "discovered_region": region,
        "cost": cost(denoiser, images[:1], masks[False][:1]),
    }
    print(
        "5 directions: {cpu_s:.1f} s of CPU, peak {peak_over_vectors_times_activations:.1f} x vectors x activations".format(
            **report["cost"]
        )
    )
    if options.trips:
        report["round_trips"] = round_trips(denoiser, images[: options.trips])
    elif "round_trips" in old:
        report["round_trips"] = old["round_trips"]

    def kept(key: str, names: list[str]) -> list[dict]:
        """What the file says of other variants, picture by picture."""
        rows = [{n: v for n, v in row.items() if n not in names} for row in old.get(key, [])]
        return rows + [{} for _ in range(options.count - len(rows))]

    pictures, strong = kept("pictures", options.variants), kept("pictures_factors", options.factors_of)
    report["commits"] |= dict.fromkeys([*options.variants, *options.factors_of], commit())
    for b in range(options.count):
        x = images[b : b + 1]
        for name in options.variants:
            mask = masks[VARIANTS[name].discovered][b : b + 1]
            if 0 < float(mask.mean()) < 1:  # else the model found nothing there
                trial = Trial(VARIANTS[name], denoiser, x, mask, options.directions)
                pictures[b][name] = trial.result(trial.edits(regressor, options.target))
        for name in options.factors_of if b < options.factors else ():
            variant, target = FACTORS[name]
            trial = Trial(variant, denoiser, x, masks[False][b : b + 1], 5)
            strong[b][name] = trial.result(trial.edits(regressor, target, senses=(1, -1)))
        report["summary"] = summary(pictures, dict.fromkeys(VARIANTS, options.target))
        report["factors"] = summary(strong, {name: target for name, (_, target) in FACTORS.items()})
        report["pictures"], report["pictures_factors"] = pictures, strong
        if options.json:
            with atomic_write(options.json) as path:
                path.write_text(json.dumps(short(report)) + "\n")
        energies = {name: round(report["summary"][name]["energy"][1], 1) for name in options.variants}
        counts = {name: report["factors"][name]["either_sense"] for name in options.factors_of}
        print(b + 1, "energy:", energies, "directions of 5:", counts, flush=True)


if __name__ == "__main__":
    main()
