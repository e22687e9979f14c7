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
from fdlib.metrics.shapes_test import ShapesTest

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
def test_ablations(tmp_path):
    """Two models in short; the score again from the saved regions; what is there is not run a second time."""
    command = ["benchmarks/ablations.py", "--seeds", 1, "--models", "concat", "plain", "--steps", 6, "--count", 200,
               "--test", 40, "--samples", 20, "--tries", 1, "--threads", 1, "--quiet",
               "--folder", tmp_path / "runs", "--json", tmp_path / "out.json"]  # fmt: skip
    done = run(*command)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [r["model"] for r in report["runs"]] == ["concat", "plain"] and report["seeds"] == [1]
    assert "loss_with_other_masks" in report["runs"][0] and "loss_with_other_masks" not in report["runs"][1]
    for result in report["runs"]:
        saved = np.load(tmp_path / "runs" / f"{result['model']}-1.npz")
        test = ShapesTest.render(32, 40)
        again = iou(
            apply_map(torch.from_numpy(saved["regions"]).long(), torch.from_numpy(saved["map"])), test.labels, 3
        )
        assert again.tolist() == pytest.approx(result["per_class_iou"])
        assert saved["samples"].shape == (20, 32, 32, 3) and result["frechet"] > 0
    again = run(*command)
    assert again.returncode == 0 and "seed 1: mIoU" not in again.stdout


@pytest.mark.slow
def test_transfer_to_a_shape_that_training_never_saw(tmp_path):
    command = ["benchmarks/transfer.py", "--seeds", 1, "--held", "sphere", "--steps", 6, "--count", 200, "--test", 40,
               "--tries", 1, "--threads", 1, "--quiet", "--folder", tmp_path / "runs",
               "--json", tmp_path / "out.json"]  # fmt: skip
    done = run(*command)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    transfer, ceiling = report["runs"]
    assert set(transfer["told"]) == {"cube", "cylinder", "capsule"} and "sphere" in ceiling["told"]
    assert transfer["miou"] == transfer["told"]["capsule"] and ceiling["miou"] == ceiling["told"]["sphere"]
    assert transfer["pictures"] + transfer["known_shapes"]["pictures"] == 40 and 0 < transfer["pictures"] < 40
    assert report["baselines"]["sphere"]["chance"]["miou"] < report["baselines"]["sphere"]["k-means on colours"]["miou"]
    again = run(*command)  # both runs are there
    assert (
        again.returncode == 0
        and json.loads((tmp_path / "out.json").read_text())["runs"][0]["seconds"] == transfer["seconds"]
    )


@pytest.mark.slow
def test_editing_keeps_what_other_variants_gave(tmp_path):
    file = tmp_path / "out.json"
    common = ("benchmarks/editing.py", "--count", 1, "--directions", 1, "--factors", 1, "--trips", 0, "--json", file)
    done = run(*common, "--variants", "x_t, unprojected", "--factors-of")
    assert done.returncode == 0, done.stderr
    first = json.loads(file.read_text())["pictures"][0]["x_t, unprojected"]
    done = run(*common, "--variants", "--factors-of", "x_t at 500, in the region")
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["pictures"][0] == {"x_t, unprojected": first}
    (row,) = first["directions"]
    assert row["inside"] == pytest.approx(report["target"], rel=0.3) and row["energy"] > 1
    assert "either_sense" not in report["summary"]["x_t, unprojected"]  # one sense was tried
    edits = report["pictures_factors"][0]["x_t at 500, in the region"]["directions"]
    assert [(edit["index"], edit["sense"]) for edit in edits] == [(i, sense) for i in range(5) for sense in (1, -1)]
    counts = report["factors"]["x_t at 500, in the region"]
    assert 0 <= counts["directions_that_change_an_object_factor_alone"] <= counts["either_sense"] <= 5


FLOWERS = ROOT.parent / "shared" / "data" / "flowers17_64.npz"


@pytest.mark.slow
@pytest.mark.skipif(not FLOWERS.is_file(), reason="the photos of flowers are not here")
def test_flowers(tmp_path):
    command = ["benchmarks/flowers.py", "--data", FLOWERS, "--train", "factorized", "--steps", 4, "--settle", 4, "--channels", 8,
               "--threads", 1, "--quiet", "--folder", tmp_path / "runs", "--json", tmp_path / "out.json"]  # fmt: skip
    # the second time nothing is left to do, and the row replaces the first one
    for expected in ("mask balance: seed 0", "holds a run with seed 0, which goes on"):
        done = run(*command)
        assert done.returncode == 0 and expected in done.stdout, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["pictures"] == {"training": 837, "fit": 323, "test": 323}
    yardsticks = {name: (s["accuracy"], s["iou"], s["dice"]) for name, s in report["baselines"].items()}
    assert yardsticks["all foreground"] == pytest.approx((32, 32, 46), abs=2)
    assert yardsticks["disc of radius 24"] == pytest.approx((81, 59, 71), abs=2)
    assert yardsticks["GrabCut, border of 3"] == pytest.approx((95, 81, 83), abs=3)
    (result,) = report["runs"]
    assert result["oracle"]["iou"] >= result["iou"] and "occupancy" in result["health"]


def test_flowers_says_what_is_missing(tmp_path):
    done = run("benchmarks/flowers.py", "--data", tmp_path / "none.npz")
    assert done.returncode != 0 and "there is no file" in done.stderr
    images = np.zeros((4, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "other.npz", images=images, labels=images[:, :, :, 0], labelled_index=np.arange(4))
    done = run("benchmarks/flowers.py", "--data", tmp_path / "other.npz")
    assert done.returncode != 0 and "holds other pictures" in done.stderr


@pytest.mark.slow
def test_hierarchy(tmp_path):
    done = run("benchmarks/hierarchy.py", "--seeds", 1, "--steps", 4, 2, "--test", 20, "--quiet", "--threads", 1,
               "--json", tmp_path / "out.json", "--save", tmp_path / "leaves")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["model"] for row in report["runs"]] == ["tree", "flat-9", "flat-first"]
    assert report["runs"][0]["steps"] == [4, 2] and 2 < report["cost"]["flop_ratio"] < 5
    per_leaf = [
        mib / int(n) for n, mib in sorted(report["cost"]["mib_by_leaves"].items(), key=lambda pair: int(pair[0]))
    ]
    assert per_leaf == sorted(per_leaf, reverse=True), "memory grows no faster than the leaves"
    saved, row = np.load(tmp_path / "leaves" / "tree-1.npz"), report["runs"][0]["close"]
    fine = torch.from_numpy(saved["close_fine"].astype(np.int64))
    for name, score in (("close_leaves", row["ari"]), ("close_pruned_leaves", row["pruned"]["ari"])):
        leaves = torch.from_numpy(saved[name].astype(np.int64))
        again = torch.tensor([adjusted_rand_index(a, b) for a, b in zip(leaves, fine, strict=True)]).mean()
        assert float(again) == pytest.approx(score)


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


@pytest.mark.parametrize(
    "script",
    [
        "emergence.py",
        "ablations.py",
        "transfer.py",
        "flowers.py",
        "hierarchy.py",
        "poses.py",
        "lego.py",
        "forward_facing.py",
        "pytorch3d_rays.py",
        "factorized_step.py",
    ],
)
def test_help(script):
    done = run(f"benchmarks/{script}", "--help")
    assert done.returncode == 0 and "--json" in done.stdout


def test_an_unknown_field_is_named():
    done = run("benchmarks/poses.py", "--override", "speed=3")
    assert done.returncode != 0 and "speed" in done.stderr and "candidates" in done.stderr
    done = run("benchmarks/emergence.py", "--override", "training.speed=3")
    assert done.returncode != 0 and "training.speed" in done.stderr


@pytest.mark.slow
def test_lego_from_coarse_to_fine(tmp_path):
    """The whole path on a few tiny views: two starts, the better one grown, the supervised figure; then all resumed."""
    from fdlib.data.multiview import MultiView

    arrays = {}
    for split, count, seed in (("train", 34, 0), ("test", 4, 1)):  # a batch is 32 views
        views = MultiView.render("car", views=count, size=64, seed=seed, supersample=1, radius=4.0)
        rgb = (views.images.movedim(1, -1) + 1) / 2
        premultiplied = rgb - (1 - views.masks[..., None])
        rgba = torch.cat([premultiplied, views.masks[..., None]], -1).clamp(0, 1)
        arrays |= {f"{split}_premult_rgba": (255 * rgba).round().byte().numpy(), f"{split}_c2w": views.c2w.numpy()}
    np.savez(tmp_path / "views.npz", **arrays, focal=np.float32(views.focal))
    command = ["benchmarks/lego.py", "--data", tmp_path / "views.npz", "--size", 64, "--steps", 2, "--starts", 2, "--quiet",
               "--threads", 1, "--save", tmp_path / "runs", "--json", tmp_path / "out.json"]  # fmt: skip
    done = run(*command)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    misfits = [start["misfit"] for start in result["starts"]]
    assert result["chosen_start"] == misfits.index(min(misfits)) and result["finished"] and result["size"] == 64
    assert [stage["size"] for stage in result["stages"]] == [64]
    saved = np.load(tmp_path / "runs" / "lego-64-0.npz")
    similarity = align_cameras(saved["train_estimated"], saved["train_true"])
    errors = pose_errors(saved["test_estimated"], saved["test_true"], similarity)
    assert float(errors["rotation_deg"].mean()) == pytest.approx(result["test_rotation_error_deg"], rel=1e-5)
    assert {"psnr", "ssim", "lpips"} <= set(result["test_views"]) and "psnr" in result["supervised_test_views"]
    again = run(*command)
    assert again.returncode == 0, again.stderr
    (resumed,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert resumed["test_views"]["psnr"] == pytest.approx(result["test_views"]["psnr"], abs=1e-4)


@pytest.mark.slow
def test_forward_facing(tmp_path):
    done = run("benchmarks/forward_facing.py", "--seeds", 1, "--steps", 10, "--quiet", "--threads", 1,
               "--json", tmp_path / "out.json", "--save", tmp_path / "poses", "--keep", tmp_path / "model")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [r["method"] for r in report["runs"]] == ["single", "nerf--", "known"]
    for method in ("single", "nerf--"):
        result = next(r for r in report["runs"] if r["method"] == method)
        saved = np.load(tmp_path / "poses" / f"forward-{method}-1.npz")
        similarity = align_cameras(saved["train_estimated"], saved["train_true"])
        errors = pose_errors(saved["heldout_estimated"], saved["heldout_true"], similarity)
        assert float(errors["centre"].mean()) == pytest.approx(result["heldout_centre_error"], rel=1e-4)
    assert report["without_geometry"][0]["most_similar_view_psnr"] > report["without_geometry"][0]["mean_view_psnr"]
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_lego_without_data_says_what_to_name(tmp_path):
    done = run("benchmarks/lego.py", "--data", tmp_path / "none.npz")
    assert done.returncode != 0 and "transforms_train.json" in done.stderr
