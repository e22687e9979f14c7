"""The studies, as a reader runs them: short runs from the command line, scores computed again from what they saved."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fdlib.metrics.geometry import align_cameras, pose_errors
from fdlib.metrics.segmentation import adjusted_rand_index, apply_map, iou

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_emergence(tmp_path):
    done = run("benchmarks/emergence.py", "--seeds", 1, "--profile", "ci", "--test", 60, "--quiet",
               "--json", tmp_path / "out.json", "--save", tmp_path / "masks", "--override", "data.count=200")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    (result,) = report["runs"]
    assert {"seed", "miou", "per_class_iou", "per_image_miou", "occupancy", "seconds"} <= set(result)
    assert sum(result["occupancy"]) == pytest.approx(1, abs=1e-4)
    assert report["baselines"]["chance"]["miou"] < report["baselines"]["k-means on colours"]["miou"]
    saved = np.load(tmp_path / "masks" / "recipe-1.npz")
    regions, labels, mapping = (torch.from_numpy(saved[name].astype(np.int64)) for name in ("regions", "labels", "map"))
    again = iou(apply_map(regions, mapping), labels, 3)
    assert again.tolist() == pytest.approx(result["per_class_iou"])
    assert "median mIoU" in done.stdout


@pytest.mark.slow
def test_hierarchy(tmp_path):
    done = run("benchmarks/hierarchy.py", "--seeds", 1, "--profile", "ci", "--test", 20, "--quiet", "--threads", 1,
               "--json", tmp_path / "out.json", "--save", tmp_path / "leaves")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["model"] for row in report["runs"]] == ["hierarchy 3 x 3", "flat K = 9", "flat K = 3"]
    assert 2 < report["cost"]["flop_ratio"] < 5
    saved = np.load(tmp_path / "leaves" / "hierarchy3x3-1.npz")
    leaves, fine = (torch.from_numpy(saved[f"close_{name}"].astype(np.int64)) for name in ("leaves", "fine"))
    again = torch.tensor([adjusted_rand_index(a, b) for a, b in zip(leaves, fine, strict=True)]).mean()
    assert float(again) == pytest.approx(report["runs"][0]["close"]["ari"])


@pytest.mark.slow
def test_poses(tmp_path):
    done = run("benchmarks/poses.py", "--seeds", 3, "--profile", "ci", "--quiet", "--assignment", "minimum",
               "--json", tmp_path / "out.json", "--save", tmp_path / "poses", "--keep", tmp_path / "model")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    (result,) = report["runs"]
    assert {"seed", "rotation_error_deg", "heldout_rotation_error_deg", "heldout_psnr", "shuffled_rotation_error_deg",
            "candidate_use", "seconds"} <= set(result)  # fmt: skip
    assert sum(result["candidate_use"]) == pytest.approx(1)
    saved = np.load(tmp_path / "poses" / "minimum-3.npz")
    similarity = align_cameras(saved["train_estimated"], saved["train_true"])
    for name, key in (("train", "rotation_error_deg"), ("heldout", "heldout_rotation_error_deg")):
        errors = pose_errors(saved[f"{name}_estimated"], saved[f"{name}_true"], similarity)
        assert float(errors["rotation_deg"].mean()) == pytest.approx(result[key], rel=1e-5)
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("script", ["emergence.py", "hierarchy.py", "poses.py", "factorized_step.py"])
def test_help(script):
    done = run(f"benchmarks/{script}", "--help")
    assert done.returncode == 0 and "--json" in done.stdout


def test_an_unknown_field_is_named():
    done = run("benchmarks/poses.py", "--override", "speed=3")
    assert done.returncode != 0 and "speed" in done.stderr and "candidates" in done.stderr
    done = run("benchmarks/emergence.py", "--override", "training.speed=3")
    assert done.returncode != 0 and "training.speed" in done.stderr
