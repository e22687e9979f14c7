"""What each preset costs, computed before anybody pays: parameters, FLOPs, memory, and hours at an assumed speed.

    python benchmarks/costs.py                                  # a Markdown table, as in docs/from_laptop_to_cluster.md
    python benchmarks/costs.py --teraflops 312 --share 0.3

FLOPs of forward and backward are counted by torch on the meta device, where nothing is computed; so are the bytes that backward
keeps (in single precision; half of them under bf16). Hours are FLOPs divided by an *assumed* share of a GPU's peak: nothing here
was measured on a GPU.
"""

from __future__ import annotations

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from fdlib import nerf
from fdlib.experiments import Experiment, SceneExperiment
from fdlib.pose import PoseEncoder
from fdlib.presets import PRESETS, SCENES

OPTIMISER_BYTES = 24  # a parameter: weight, gradient, DDP's copy of it, Adam's two moments, the average; 4 bytes each


def counted(run) -> tuple[int, int]:
    """FLOPs of ``run()``'s forward and backward, and the bytes that backward keeps."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            alive.append(tensor)  # so that no other storage gets the same address
        return tensor

    alive: list[torch.Tensor] = []
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run().sum().backward()
    return counter.get_total_flops(), sum(kept.values())


def picture(experiment: Experiment) -> dict:
    """Of one picture."""
    size = experiment.model.image_size
    with torch.device("meta"):
        model, x, t = experiment.model.build(), torch.empty(1, 3, size, size), torch.empty(1, dtype=torch.long)
        label = {"label": torch.empty(1, dtype=torch.long)} if experiment.model.classes else {}
        flops, kept = counted(lambda: model(x, t, **label).value)
    return {"parameters": model.parameter_count, "flops": flops, "kept": kept}


def scene(experiment: SceneExperiment) -> dict:
    """Of one view: the encoder, candidates compared without gradient, pixels rendered with it (three times a forward pass)."""
    m, loss, size = experiment.model, experiment.loss, experiment.views.size
    outputs = m.candidates * (3 if m.cameras == "sphere" else 7)
    with torch.device("meta"):
        encoder = PoseEncoder(size, outputs, m.channels, m.multipliers, m.blocks, m.fold)
        x, t = torch.empty(1, 3, size, size), torch.empty(1, dtype=torch.long)
        flops, kept = counted(lambda: encoder(x, t))
        field = nerf.GridField(m.resolution) if m.resolution else nerf.MLPField()
    parameters = sum(p.numel() for part in (encoder, field) for p in part.parameters())
    points = 0 if m.resolution else 1000
    per_point, kept_point = 0, 40  # a voxel is looked up, not computed
    if points:
        with torch.device("meta"):
            at = torch.empty(points, 3)
            total, bytes_kept = counted(lambda: torch.cat([part.flatten() for part in field(at, at)]))
        per_point, kept_point = total / points / 3, bytes_kept / points
    compared = m.candidates * loss.score_pixels * loss.score_samples if m.candidates > 1 else 0
    rendered = loss.render_pixels * m.samples
    return {
        "parameters": parameters,
        "flops": flops + per_point * (compared + 3 * rendered),
        "kept": kept + kept_point * rendered,
    }


def cost(experiment: Experiment | SceneExperiment, teraflops: float, share: float, gpus: int = 8) -> dict:
    """The row of the table for one preset."""
    one = scene(experiment) if isinstance(experiment, SceneExperiment) else picture(experiment)
    training = experiment.training
    total = one["flops"] * training.batch_size * training.steps
    each = training.batch_size / min(gpus, training.batch_size)
    return {
        **one,
        "batch": training.batch_size,
        "steps": training.steps,
        "gib": (one["parameters"] * OPTIMISER_BYTES + one["kept"] / 2 * each) / 2**30,
        "hours": total / (teraflops * 1e12 * share) / 3600,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teraflops", type=float, default=312.0, help="a GPU's peak in bf16 (312: an A100)")
    parser.add_argument("--share", type=float, default=0.3, help="of the peak that is assumed to be reached (0.3)")
    parser.add_argument("--gpus", type=int, default=8, help="among which a batch is shared out, for the memory (8)")
    parser.add_argument("--presets", nargs="+", help="only these")
    parser.add_argument("--laptop", action="store_true", help="the small presets, on a machine that does .07 TFLOP/s")
    options = parser.parse_args()
    print(
        "| preset | parameters | GFLOPs an image | batch | steps | GiB a GPU | hours |\n|---|---|---|---|---|---|---|"
    )
    for name, (_, experiment) in {**PRESETS, **SCENES}.items():
        small = name.endswith(("-laptop", "32", "-small"))
        if name not in (options.presets or [name]) or small != options.laptop:
            continue
        alone = isinstance(experiment, SceneExperiment) or options.laptop
        speed = (0.07, 1.0) if options.laptop else (options.teraflops, options.share)
        c = cost(experiment, *speed, gpus=1 if alone else options.gpus)
        minutes = 60 * c["hours"]
        hours = f"{minutes:.0f} min" if minutes < 90 else f"{c['hours']:,.0f}"
        if isinstance(experiment, SceneExperiment) and experiment.model.resolution:
            hours = "not counted"  # voxels are looked up: hardly a FLOP
        print(
            f"| {name} | {c['parameters'] / 1e6:,.1f} M | {c['flops'] / 1e9:,.3g} | {c['batch']} | {c['steps']:,} | "
            f"{c['gib']:.1f} | {hours} |"
        )


if __name__ == "__main__":
    main()
