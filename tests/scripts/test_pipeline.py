"""From a data set on the disk to a figure and a table, by the real command lines: every laptop preset, tiny."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdlib.data.multiview import MultiView
from fdlib.metrics.tables import TABLES, VOC_TO_IMAGENET, show
from fdlib.presets import PRESETS, SCENES

pytest.importorskip("tyro")
ROOT = Path(__file__).resolve().parents[2]
TINY = ["--training.steps", "2", "--training.batch-size", "2", "--samples", "2", "--sample-steps", "2"]
SMALL = ["--model.channels", "8", "--model.multipliers", "1", "2"]
SCENE_TINY = [
    "--model.resolution",
    "8",
    "--model.samples",
    "4",
    "--loss.score-pixels",
    "4",
    "--loss.render-pixels",
    "8",
]


def makers():
    spec = importlib.util.spec_from_file_location("makers", ROOT / "tests/data/test_benchmarks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MAKERS


def pixels(images):
    return [Image.fromarray(x) for x in ((images.movedim(1, -1) + 1) * 127.5).round().to(torch.uint8).numpy()]


def make_blender(root, size=80):
    for split, seed in {"train": 0, "test": 1}.items():
        views = MultiView.render("tower", views=6, size=size, seed=seed)
        (root / split).mkdir(parents=True)
        frames = []
        for i, picture in enumerate(pixels(views.images)):
            picture.convert("RGBA").save(root / split / f"r_{i}.png")
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": views.c2w[i].tolist()})
        angle = 2 * np.arctan(size / 2 / views.focal)
        (root / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": float(angle), "frames": frames}))


def make_llff(root):
    views = MultiView.render("desk", views=9, size=54, seed=0)
    (root / "images_8").mkdir(parents=True)
    for i, picture in enumerate(pixels(views.images)):
        wide = Image.new("RGB", (72, 54))
        wide.paste(picture, (9, 0))
        wide.save(root / f"images_8/image{i:03}.png")
    hwf = torch.tensor([54.0 * 8, 72.0 * 8, views.focal * 8]).expand(9, 3)[..., None]
    R, t = views.c2w[:, :3, :3], views.c2w[:, :3, 3:]
    axes = torch.stack([-R[:, :, 1], R[:, :, 0], R[:, :, 2]], dim=-1)  # LLFF: down, right, backwards
    rows = torch.cat([torch.cat([axes, t, hwf], -1).flatten(1), torch.tensor([[views.near, views.far]] * 9)], 1)
    np.save(root / "poses_bounds.npy", rows.double().numpy())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data sets in their own formats, prepared by the command line; and a folder for runs."""
    from fdlib.data.__main__ import main

    root = tmp_path_factory.mktemp("world")
    os.environ["FDLIB_DATA"] = str(root / "data")
    for name, make in makers().items():
        (root / "data" / name).mkdir(parents=True)
        make(root / "data" / name)
    splits = {"flowers102": ("train", "test"), "cub200": ("train", "test"), "ffhq": ("all",), "imagenet": ("train",)}
    splits |= {
        "celebamask": ("train", "test"),
        "voc2012": ("train", "val"),
        "imagenets": ("validation",),
        "davis2017": ("val",),
    }
    for name, parts in splits.items():
        for part in parts:
            for size in (32, 64) if name in ("flowers102", "cub200", "ffhq") else (32,):
                assert main(["prepare", name, "--split", part, "--size", str(size)]) == 0
    make_blender(root / "lego"), make_llff(root / "llff")
    (root / "data/nerf_synthetic").mkdir()
    (root / "data/nerf_synthetic/drums").symlink_to(root / "lego")  # where the registry says: found without a path
    yield root
    del os.environ["FDLIB_DATA"]


def run(name, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, ROOT / f"scripts/{name}.py", *map(str, arguments)], capture_output=True, text=True,
                          env=environment, timeout=300)  # fmt: skip


@pytest.fixture
def here(monkeypatch, capsys):
    """A script as ``__main__`` of this process: output, errors, exit code."""

    def go(name, *arguments):
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"scripts/{name}.py"), *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = 1 if isinstance(stop.code, str) else stop.code or 0
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)

    return go


OPTIONS = {
    "shapes3d-laptop": ["--data.count", 20],
    "llff-laptop": ["--views.path", "{}/llff", *SCENE_TINY],
    "car-laptop": ["--views.count", 6, *SCENE_TINY],
    "lego-laptop": ["--views.path", "{}/lego", *SCENE_TINY],
    "drums-laptop": SCENE_TINY,
}


def trained(world, name):
    """The folder of a run, which is made if no test has made it before."""
    folder = world / "runs" / name
    if not (folder / "model").exists():
        extra = [str(x).format(world) for x in OPTIONS.get(name, [])]
        done = run("train", name, *TINY, *([] if name in SCENES else SMALL), *extra, "--folder", folder)
        assert done.returncode == 0, done.stderr
    return folder


LAPTOPS = [name for name in {**PRESETS, **SCENES} if name.endswith("-laptop")]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAPTOPS)
def test_a_laptop_preset_from_its_command_to_a_figure(world, name):
    folder = trained(world, name)
    with Image.open(folder / ("views.png" if name in SCENES else "samples.png")) as picture:
        assert picture.width > 60 and len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    settings = json.loads((folder / "experiment.json").read_text())
    assert settings["training"]["steps"] == 2 and settings["folder"] == str(folder)
    assert settings.keys() >= {"model", "training", "resume", "tensorboard"}


def test_every_experiment_of_the_thesis_has_both_presets():
    names = set(PRESETS) | set(SCENES)
    thesis = {f"{d}{s}" for d in ("flower", "cub", "ffhq") for s in (64, 128)} | {
        "imagenet64",
        "shapes3d",
        "lego",
        "drums",
    }
    thesis |= {f"car{k}" for k in range(1, 6)}
    thesis |= {f"llff-{s}" for s in ("fern", "flower", "fortress", "horns", "leaves", "orchids", "room", "trex")}
    assert thesis <= names
    for name in thesis:
        family = {"car": "car", "llf": "llff"}.get(name[:3], name)
        assert f"{family}-laptop" in names
        text, experiment = {**PRESETS, **SCENES}[name]
        assert "silent" in text or "text gives no" in text
        assert experiment.training.steps in (50_000, 500_000, 200_000)


# ---------------------------------------------------------------------- segment, sample, render


@pytest.mark.slow
def test_segment(world, tmp_path, here):
    folder = trained(world, "flower64-laptop")
    for source, count in (
        ("data/flowers102/jpg", 9),
        ("data/prepared/flowers102-test-32.npy", 2),
        ("data/flowers102/jpg/image_00001.jpg", 1),
    ):
        done = here("segment", folder, "--images", world / source, "--to", tmp_path)
        assert done.returncode == 0, done.stderr
        regions = np.load(tmp_path / "regions.npy")
        assert regions.shape == (count, 32, 32) and regions.dtype == np.uint8 and regions.max() < 3
        assert (tmp_path / "segments.png").is_file()
    car = trained(world, "car-laptop")
    done = here("segment", car, "--images", world / "data/flowers102/jpg", "--to", tmp_path)
    assert done.returncode == 1 and "a PoseDenoiser, which has no regions" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddpm", "dpm_solver_pp"])
def test_sample(world, tmp_path, here, sampler):
    for name, extra in (("flower64-laptop", []), ("imagenet64-laptop", ["--label", 1])):
        arguments = ["--count", 3, "--batch-size", 2, "--steps", 2, "--sampler", sampler, "--to", tmp_path, *extra]
        done = here("sample", trained(world, name), *arguments)
        assert done.returncode == 0, done.stderr
        assert np.load(tmp_path / "samples.npy").shape == (3, 32, 32, 3)
        assert np.load(tmp_path / "regions.npy").shape == (3, 32, 32) and (tmp_path / "samples.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lego-laptop", "llff-laptop"])
def test_render(world, tmp_path, here, name):
    done = here("render", trained(world, name), "--views", 3, "--size", 16, "--points", "1e-9", "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames in (2, 3) and film.size == (16, 16)
    assert (tmp_path / "film.png").is_file() and (tmp_path / "scene.ply").read_bytes().startswith(b"ply")
    done = here("render", trained(world, "flower64-laptop"), "--to", tmp_path)
    assert done.returncode == 1 and "no scene" in done.stderr


# ---------------------------------------------------------------------- tables


def test_the_thesis_s_figures():
    """Some of each table, looked up in the text once more."""
    assert TABLES["2.1"].rows["Ours"] == (90.1, 79.7, 87.2) and TABLES["2.2"].rows["PerturbGAN"] == ("-", 38.0, "-")
    assert TABLES["2.3"].rows["Ours"] == (87.9, 80.3) and TABLES["2.4"].rows["DatasetDDPM-unsup."] == (74.1, 60.4)
    assert TABLES["2.5"].rows["cub128"] == (14.01, 10.28, None, None) and TABLES["2.6"].rows["unshared"] == (
        50.5,
        17.21,
    )
    voc = [row for name, row in TABLES["2.7"].rows.items() if name != "Average"]
    assert len(voc) == len(VOC_TO_IMAGENET) == 20 and TABLES["2.7"].rows["sheep"] == (0.84, 0.64)
    assert np.mean(voc, axis=0).round(2).tolist() == list(TABLES["2.7"].rows["Average"])  # the printed average agrees
    assert TABLES["3.1"].rows["lego"][0::3] == (25.44, 0.92, 0.09)
    assert all(cell is None for row in TABLES["3.2"].rows.values() for cell in row)


def test_what_is_not_in_the_source_is_said_and_never_guessed():
    text = show(TABLES["3.2"], {"lambda 0.1": (0.5, "missing: a file")})
    assert text.count("not in source") == 14 and "0.50" in text and "[1] missing: a file" in text
    assert show(TABLES["2.5"], {}).count("not in source") == 14


@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_runs_names_what_is_missing(tmp_path, here, table):
    done = here("evaluate", table, "--runs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"missing: {tmp_path}/" in done.stdout and "python scripts/train.py" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("table, presets", [
    ("2.1", ["flower64"]), ("2.2", ["cub64"]), ("2.3", ["ffhq64"]), ("2.7", ["imagenet64"]), ("3.1", ["lego", "car"]),
])  # fmt: skip
def test_a_table_from_runs(world, tmp_path, here, table, presets):
    for name in presets:
        trained(world, f"{name}-laptop")
    done = here("evaluate", table, "--runs", world / "runs", "--suffix=-laptop", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    (measured,) = json.loads((tmp_path / "out.json").read_text()).values()
    row = {"2.7": "bicycle", "3.1": "lego"}.get(table, "Ours")
    cells = measured[row]
    numbers = cells[:2]  # of 3.1 LPIPS needs larger views
    assert all(isinstance(cell, float) and 0 <= cell <= 100 for cell in numbers), cells
    assert f"{numbers[0]:.{TABLES[table].digits}f}" in done.stdout
    if table == "2.7":
        assert "no picture of the class" in measured["cow"][0]


@pytest.mark.slow
def test_a_table_from_a_checkpoint_and_a_data_folder(world, tmp_path, here):
    model = trained(world, "flower64-laptop") / "model"
    done = here("evaluate", "2.1", "--checkpoint", model, "--data", world / "data", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert all(isinstance(x, float) for x in json.loads((tmp_path / "out.json").read_text())["2.1"]["Ours"])
    done = here("evaluate", "2.2", "--checkpoint", model, "--data", tmp_path)
    assert f"missing: {tmp_path}/prepared/cub200-train-32.npy (python -m fdlib.data prepare cub200" in done.stdout
    done = here("evaluate", "2.1", "--checkpoint", trained(world, "car-laptop"), "--data", world / "data")
    assert done.returncode == 1 and "PoseDenoiser" in done.stderr


@pytest.mark.slow
def test_table_3_2_from_runs(world, tmp_path, here):
    run_ = trained(world, "car-laptop")
    (tmp_path / "car-laptop-lambda0.1").symlink_to(run_)
    done = here("evaluate", "3.2", "--runs", tmp_path, "--suffix=-laptop", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "out.json").read_text())["3.2"]
    right, decibels = measured["lambda 0.1"]
    assert 0 <= right <= 1 and 0 < decibels < 40 and "missing" in measured["lambda 1"][0]


@pytest.mark.slow
def test_table_2_4_knows_imagenet_s_classes(world, tmp_path, here):
    trained(world, "imagenet64-laptop")
    done = here("evaluate", "2.4", "--runs", world / "runs", "--suffix=-laptop")
    assert (
        "imagenets-train-semi-32.npy (python -m fdlib.data prepare imagenets --split train-semi --size 32)"
        in done.stdout
    )


@pytest.mark.slow
def test_davis(world, tmp_path, here):
    folder = ["--runs", world / "runs", "--suffix=-laptop", "--to", tmp_path / "davis.png"]
    trained(world, "imagenet64-laptop")
    assert "label is missing" in here("evaluate", "davis", *folder).stderr
    done = here("evaluate", "davis", *folder, "--label", 1, "--videos", "bear")
    assert done.returncode == 0, done.stderr
    assert "bear: accuracy" in done.stdout and "not in source" in done.stdout and (tmp_path / "davis.png").is_file()


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("arguments, message", [
    (("flowr64",), "there is no preset 'flowr64': did you mean flower64"),
    (("flower64-laptop", "--training.steps", "many"), "invalid"),
    (("flower64-laptop", "--data.split", "dev"), "flowers102-dev-32.npy: make it with `python -m fdlib.data prepare"),
    (("imagenet64-laptop", "--data.source", "photos", "--data.path", "x.npy"), "model.classes needs --data.source prepared"),
    (("lego-laptop",), "views.path is missing: pass --views.path with the blender scene"),
])  # fmt: skip
def test_what_the_user_can_mend_is_said(tmp_path, here, arguments, message):
    done = here("train", *arguments, "--folder", tmp_path)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert message in (done.stdout + done.stderr).replace("│", "").lower() or message in done.stderr


@pytest.mark.slow
def test_a_resume_with_other_data_lists_what_differs(world, here):
    folder = trained(world, "flower64-laptop")
    common = ["train", "flower64-laptop", *TINY, *SMALL, "--folder", folder, "--training.steps", 3]
    done = here(*common, "--data.split", "test", "--schedule.power", 1)
    assert done.returncode == 1
    assert "data.split: None there, test here" in done.stderr and "schedule.power: 1.5 there, 1.0 here" in done.stderr
    done = here(*common, "--model.blocks", 2, "--training.learning-rate", 0.5)
    assert "model.blocks: 1 there, 2 here" in done.stderr and "training.learning_rate" in done.stderr
    assert json.loads((folder / "experiment.json").read_text())["model"]["blocks"] == 1  # a refused run changes nothing


@pytest.mark.parametrize("name", ["segment", "sample", "render", "evaluate", "train"])
def test_help(here, name):
    done = here(name, *(["flower64"] if name == "train" else []), "--help")
    assert done.returncode == 0
    fields = [line for line in done.stdout.splitlines() if line.strip().startswith(("│ --", "--"))]
    assert len(fields) > 5


# ---------------------------------------------------------------------- when things go wrong, and what things cost


@pytest.mark.slow
def test_faults(tmp_path):
    """The short form of ``benchmarks/faults.py --kills 20``, whose long form is in benchmarks/results."""
    command = [sys.executable, ROOT / "benchmarks/faults.py", "--kills", "2", "--parts", "kills", "worker"]
    done = subprocess.run(
        [*command, "--save", tmp_path, "--json", tmp_path / "out.json"], capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((tmp_path / "out.json").read_text())
    assert (
        report["passed"] and report["parts"]["kills"]["differences"] == [] == report["parts"]["worker"]["differences"]
    )
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "undisturbed.safetensors").read_bytes()


@pytest.mark.slow
def test_costs_and_throughput(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/costs.py", "--presets", "flower64", "lego"], capture_output=True, text=True
    )
    assert "| flower64 | 174.4 M | 734 | 128 | 50,000 |" in done.stdout and "| lego |" in done.stdout, done.stderr
    command = [
        sys.executable,
        ROOT / "benchmarks/throughput.py",
        "--rounds",
        "1",
        "--steps",
        "3",
        "--batch",
        "2",
        "--threads",
        "1",
    ]
    subprocess.run([*command, "--json", tmp_path / "out.json"], check=True, capture_output=True, timeout=300)
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["factorized"]["ratio_wall"]) == {"bare loop, same work", "bare loop, no clipping or averages"}
    assert report["loading"]["share_of_a_step"] < 0.5


def test_the_page_s_table_is_what_is_computed():
    """docs/from_laptop_to_cluster.md quotes ``benchmarks/costs.py``."""
    page = (ROOT / "docs/from_laptop_to_cluster.md").read_text()
    for name in PRESETS:
        if name in page and not name.endswith(("32", "-small")):
            assert f"| {name} | " in page, name
            steps = PRESETS[name][1].training.steps
            (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
            assert f"| {steps:,} |" in row


CONFIGURED = ["fdlib/experiments.py", "fdlib/training.py", "fdlib/metrics/evaluation.py",
              *(f"scripts/{name}.py" for name in ("train", "segment", "sample", "render", "evaluate"))]  # fmt: skip


@pytest.mark.parametrize("file", CONFIGURED)
def test_every_setting_is_documented(file):
    """Each field of each configuration has its sentence below it, which --help shows."""
    import ast

    checked = 0
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name != "TrainingState" and node.name[0] != "_":
            for field, after in zip(node.body, [*node.body[1:], None]):
                if isinstance(field, ast.AnnAssign) and "field(default_factory" not in ast.unparse(field):
                    documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    assert documented, f"{file}: {node.name}.{field.target.id}"
                    checked += 1
    assert checked > 3
