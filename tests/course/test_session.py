"""The bootstrap on a laptop, on a GPU, on Colab; and the first cell in an environment that has no fdlib yet."""

import base64
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import types
import zipfile
from pathlib import Path

import pytest
import torch

from fdlib import __version__
from fdlib.course import (
    FIRST_CELL,
    REPOSITORY,
    bootstrap,
    device,
    mount_drive,
    on_colab,
    precision,
    run_folder,
    session,
)

ROOT = Path(__file__).resolve().parents[2]


# ------------------------------------------------------------------------------ the machine


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), "no")]
)
def test_precision_is_what_the_gpu_computes_natively(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)  # says so of a T4 too, by emulation
    assert precision() == expected
    assert device() == torch.device("cuda")


def test_a_cpu_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision() == "no" and device() == torch.device("cpu")


def test_threads_are_those_we_may_use(monkeypatch):
    assert 1 <= session.cpu_share() <= (os.cpu_count() or 1)
    asked = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(session, "cpu_share", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    session._set_up_torch()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # somebody has decided already
    session._set_up_torch()
    assert asked == [2]


def test_one_line_says_it_all(capsys, monkeypatch):
    monkeypatch.setenv("FDLIB_PROFILE", "laptop")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(session, "_set_up_torch", lambda: None)
    assert bootstrap().name == "laptop"
    assert capsys.readouterr().out == f"fdlib {__version__} · profile laptop · CPU, 2 threads\n"


# ------------------------------------------------------------------------------ folders


def test_runs_live_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLIB_RUNS", str(tmp_path / "runs"))
    folder = run_folder("02_unet/seed-1")
    assert folder == tmp_path / "runs" / "02_unet" / "seed-1" and folder.is_dir()


def test_runs_live_on_the_mounted_drive(tmp_path, monkeypatch):
    monkeypatch.delenv("FDLIB_RUNS", raising=False)
    mounted = []
    drive = types.SimpleNamespace(
        mount=lambda path: mounted.append(path) or (Path(path) / "MyDrive").mkdir(parents=True)
    )
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(drive=drive))
    monkeypatch.setattr(session, "DRIVE", tmp_path / "drive")
    assert on_colab()
    assert mount_drive() == mount_drive() == tmp_path / "drive" / "MyDrive"
    assert mounted == [str(tmp_path / "drive")]  # once
    assert run_folder("a") == tmp_path / "drive" / "MyDrive" / "fdlib" / "runs" / "a"


def test_runs_live_beside_the_notebook_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("FDLIB_RUNS", raising=False)
    monkeypatch.setattr(session, "on_colab", lambda: False)
    monkeypatch.setattr(session, "checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert mount_drive() is None
    assert run_folder("a") == tmp_path / "runs" / "a"


@pytest.mark.parametrize("name", ["", "..", "../a", "/a", "a/../../b"])
def test_a_run_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="name"):
        run_folder(name)


def test_a_folder_that_cannot_be_made_is_explained(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FDLIB_RUNS", str(tmp_path / "file"))
    with pytest.raises(OSError, match="FDLIB_RUNS"):
        run_folder("a")


# ------------------------------------------------------------------------------ packages


def test_nothing_is_missing_here():
    assert session.missing_requirements("course") == []


def test_requirements_can_be_read_from_a_bare_checkout(monkeypatch):
    installed = session._requirements()

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(session.metadata, "requires", absent)
    names = {line.split(">")[0].replace("_", "-") for line in session._requirements()}
    assert names == {line.split(">")[0].replace("_", "-") for line in installed}


def test_a_laptop_is_told_what_is_missing_and_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(session, "on_colab", lambda: False)
    monkeypatch.setattr(session, "install", lambda requirements: pytest.fail("installed something"))
    monkeypatch.setattr(session, "_requirements", lambda: ["numpy>=1", "no-such-thing>=2", 'other; extra == "scale"'])
    with pytest.raises(RuntimeError, match=r'(?s)lacks: no-such-thing>=2.*pip install "no-such-thing>=2"') as caught:
        bootstrap()
    assert "other" not in str(caught.value)


def test_an_old_version_is_kept_on_colab(monkeypatch):
    monkeypatch.setattr(
        session, "_requirements", lambda: ["numpy>=999", "jupyterlab>=4", 'no-such-thing; extra == "course"']
    )
    assert session.missing_requirements("course", skip=session.FRONT_END) == ["no-such-thing"]


# ------------------------------------------------------------------------------ the first cell


def test_the_first_cell_is_short_and_names_one_source():
    assert len(FIRST_CELL.splitlines()) <= 12
    assert FIRST_CELL.count(REPOSITORY) == 1 and "FDLIB_SOURCE" in FIRST_CELL and "--no-deps" in FIRST_CELL


def wheel(folder, name, version, requires=()):
    """A stand-in distribution: one module that says its version."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {line}\n" for line in requires
    )
    files = {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


COLAB_OWNS = ("torch", "torchvision", "numpy", "ipython", "ipykernel")


@pytest.fixture
def fresh(tmp_path):
    """A virtual environment that sees all packages but fdlib and pooch: (python, site folder, environment)."""
    colab = tmp_path / "colab"  # what Colab comes with
    colab.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().lstrip("_").startswith(("fdlib", "pooch")):
            (colab / entry.name).symlink_to(entry)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"), venv / "Lib" / "site-packages")
    (site / "colab.pth").write_text(f"{colab}\n")

    index = tmp_path / "index"  # all that pip may install from
    index.mkdir()
    # The newest pooch wants a numpy that Colab does not have: pip must take the older one rather than touch numpy.
    wheel(index, "pooch", "98.0", ["numpy", "torch", "ipython"])
    wheel(index, "pooch", "99.0", ["numpy>=99", "torch>=99", "ipython>=99"])
    for name in COLAB_OWNS:
        wheel(index, name, "99.0")

    stand_in = tmp_path / "stand_in" / "google" / "colab"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text("")

    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FDLIB_", "PYTHON", "PIP_"))}
    environment |= {
        "PYTHONPATH": str(tmp_path / "stand_in"),
        "FDLIB_SOURCE": str(ROOT),
        "FDLIB_PROFILE": "ci",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it inverted: no isolation, because hatchling is here already
    }
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    return python, site, environment


def look(fresh, code, **changes):
    python, _, environment = fresh
    return subprocess.run(
        [python, "-c", code],
        cwd=Path(python).parent,
        env={name: value for name, value in (environment | changes).items() if value is not None},
        capture_output=True,
        text=True,
    )


VERSIONS = f"""
import importlib.metadata, importlib.util, json
names = {COLAB_OWNS}
distributions = {{name: importlib.metadata.distribution(name) for name in names}}
print(json.dumps({{name: [d.version, str(d._path), d._path.joinpath("RECORD").stat().st_mtime_ns]
                  for name, d in distributions.items()}}))
"""


def test_the_first_cell_in_a_fresh_colab(fresh):
    _, site, _ = fresh
    absent = look(fresh, "import importlib.util as u; print(u.find_spec('fdlib'), u.find_spec('pooch'))")
    assert absent.stdout.split() == ["None", "None"], "the fresh environment is not fresh"
    before = look(fresh, VERSIONS)

    done = look(fresh, FIRST_CELL + "\nimport fdlib, pooch; print(fdlib.__file__); print(pooch.__version__)")
    assert done.returncode == 0, done.stderr
    *_, line, module, pooch = done.stdout.splitlines()
    assert line.startswith(f"fdlib {__version__} · profile ci · ")
    assert Path(module).is_relative_to(site), "fdlib was not imported from the fresh environment"
    assert pooch == "98.0"
    assert {path.name for path in site.glob("*.dist-info")} == {
        f"fdlib-{__version__}.dist-info",
        "pooch-98.0.dist-info",
    }
    assert json.loads(look(fresh, VERSIONS).stdout) == json.loads(before.stdout)

    again = look(fresh, FIRST_CELL, FDLIB_SOURCE="/nowhere")  # the second run installs nothing
    assert again.returncode == 0 and "Installing" not in again.stdout, again.stderr


def test_the_first_cell_elsewhere_installs_fdlib_alone(fresh):
    """Without Colab's module the cell brings fdlib and says what else is missing."""
    done = look(fresh, FIRST_CELL, PYTHONPATH=None)
    assert done.returncode != 0
    assert "fdlib needs packages that this Python lacks: pooch" in done.stderr
    assert {path.name for path in fresh[1].glob("*.dist-info")} == {f"fdlib-{__version__}.dist-info"}


def test_a_failing_pip_is_explained(fresh):
    done = look(fresh, FIRST_CELL, PIP_FIND_LINKS=str(fresh[1]))
    assert (
        done.returncode != 0 and "pip could not install pooch" in done.stderr and "Restart the session" in done.stderr
    )


def test_a_mere_folder_of_that_name_is_not_fdlib(fresh, tmp_path):
    """`git clone` on Colab leaves /content/fdlib in the notebook's own folder: a namespace package, not ours."""
    (Path(fresh[0]).parent / "fdlib").mkdir()
    done = look(fresh, FIRST_CELL + "\nimport fdlib; print(fdlib.__file__)")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(fresh[1])
