"""Getting a notebook going: on Colab, on a laptop, on a GPU machine.

The rule on Colab: what is installed stays as it is. torch, torchvision, numpy and IPython are Colab's own, fitted to
its driver and already imported by the running kernel, so replacing one of them breaks the session. Only packages that
are missing altogether are installed, with every installed version pinned by a constraints file. Elsewhere nothing is
ever installed: what is missing is named, with the command that brings it.
"""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fdlib.course.profiles import Profile, profile

if TYPE_CHECKING:
    import torch

# Colab is a front end of its own: it neither needs these nor survives their dependencies.
FRONT_END = frozenset({"jupyterlab", "jupytext", "nbconvert", "ipykernel", "ipython", "notebook"})
DRIVE = Path("/content/drive")


def bootstrap(drive: bool = False) -> Profile:
    """Make this session ready for a notebook, say in one line what it runs on, and return the profile.

    Args:
        drive: on Colab, mount Google Drive first, so that `run_folder` keeps checkpoints there and training survives a
            disconnect. Without effect elsewhere.

    Raises:
        RuntimeError: outside Colab, packages are missing (the message holds the command that installs them).
        ValueError: `FDLIB_PROFILE` names no profile.
    """
    colab = on_colab()
    missing = missing_requirements("course", skip=FRONT_END if colab else frozenset())
    if missing and colab:
        install(missing)
    elif missing:
        raise RuntimeError(
            f"fdlib needs packages that this Python lacks: {', '.join(missing)}. Install them with\n"
            f"    {_quote(sys.executable)} -m pip install {' '.join(_quote(name) for name in missing)}\n"
            "or, in a checkout, `make install`; then choose that environment's kernel."
        )
    if drive:
        mount_drive()

    chosen = profile()
    _set_up_torch()
    from fdlib import __version__

    print(f"fdlib {__version__} · profile {chosen} · {_describe_device()}")
    return chosen


def on_colab() -> bool:
    """Whether this is a Google Colab session: the module `google.colab` is there."""
    if "google.colab" in sys.modules:
        return True
    try:
        return importlib.util.find_spec("google.colab") is not None
    except (ImportError, ValueError):  # no `google` at all, or a namespace without a spec
        return False


# ---------------------------------------------------------------------------------------------- packages


def missing_requirements(extra: str = "course", skip: frozenset[str] = frozenset()) -> list[str]:
    """The requirements of fdlib, with those of `extra`, that are not installed in any version, as pip would read them.

    An installed package that is older than we ask for is not missing: a notebook may well run with it, and replacing
    it is the owner's decision.
    """
    Requirement, _ = _packaging()
    missing = []
    for line in _requirements():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if _normalise(requirement.name) in skip or _installed_version(requirement.name) is not None:
            continue
        missing.append(f"{requirement.name}{requirement.specifier}")
    return missing


def _requirements() -> list[str]:
    """What pyproject.toml asks for: from the installed metadata, or from the file of a checkout on the path."""
    try:
        return metadata.requires("fdlib") or []
    except metadata.PackageNotFoundError:
        root = checkout()
    if root is None:
        return []
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return project["dependencies"] + [f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines]


def install(requirements: list[str], run: Callable[..., object] = subprocess.run) -> None:
    """Install `requirements` with pip; every package that is installed now keeps its version exactly."""
    print(f"Installing {', '.join(requirements)} …")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "installed.txt"
        constraints.write_text("".join(f"{line}\n" for line in _pins()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *requirements]
        try:
            run(command, check=True)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(
                f"pip could not install {', '.join(requirements)} beside the versions that are already here. "
                "Its own message is above. Restart the session (Runtime > Disconnect and delete runtime) and try "
                "again; if that does not help, please report it with the output of `!pip list`."
            ) from error
    importlib.invalidate_caches()


def _pins() -> list[str]:
    """`name==version` for each installed distribution that pip can compare."""
    _, Version = _packaging()
    pins = {}
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if not name or _normalise(name) == "fdlib":
            continue
        try:
            Version(version)
        except (TypeError, ValueError):  # InvalidVersion is a ValueError: a vendor's own numbering, left to pip
            continue
        pins.setdefault(_normalise(name), f"{name}=={version}")  # the first on sys.path is the one that is imported
    return sorted(pins.values())


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _packaging():
    """`Requirement` and `Version`, from packaging or, where that is missing too, from pip's own copy."""
    try:
        from packaging.requirements import Requirement
        from packaging.version import Version
    except ImportError:
        from pip._vendor.packaging.requirements import Requirement
        from pip._vendor.packaging.version import Version
    return Requirement, Version


def _quote(text: str) -> str:
    """Quotes that both POSIX shells and Windows understand, where they are needed."""
    return f'"{text}"' if re.search(r"[^\w./:\\-]", text) else text


# ---------------------------------------------------------------------------------------------- folders


def mount_drive() -> Path | None:
    """Mount Google Drive and return its folder; outside Colab do nothing and return None."""
    if not on_colab():
        return None
    from google.colab import drive

    if not (DRIVE / "MyDrive").is_dir():
        drive.mount(str(DRIVE))
    return DRIVE / "MyDrive"


def run_folder(name: str) -> Path:
    """The folder of a training run, made if missing: checkpoints and logs written there outlive the session.

    It is `FDLIB_RUNS`/name where that variable is set, else `fdlib/runs/name` on Google Drive where that is mounted,
    else `runs/name` in the checkout, or beside the notebook where there is none.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise ValueError(f"name: {name!r} must be a relative folder name such as '02_unet'")
    folder = _runs() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"cannot make the run folder ({error.strerror}); point FDLIB_RUNS at one you can write",
            str(folder),
        ) from error
    return folder


def _runs() -> Path:
    chosen = os.environ.get("FDLIB_RUNS")
    if chosen:
        return Path(chosen).expanduser()
    if on_colab() and (DRIVE / "MyDrive").is_dir():
        return DRIVE / "MyDrive" / "fdlib" / "runs"
    return (checkout() or Path.cwd()) / "runs"


def checkout() -> Path | None:
    """The root of the source checkout this fdlib is imported from, or None for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "data").is_dir() else None


# ---------------------------------------------------------------------------------------------- the machine


def device() -> torch.device:
    """CUDA where it is there, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> str:
    """Mixed precision that this machine computes natively, in accelerate's words: "bf16", "fp16" or "no".

    bf16 needs compute capability 8 (Ampere). A T4 has 7.5 and emulates bf16, slowly: `torch.cuda.is_bf16_supported()`
    says True there, so the capability is asked instead.
    """
    import torch

    if not torch.cuda.is_available():
        return "no"
    major, _ = torch.cuda.get_device_capability()
    return "bf16" if major >= 8 else "fp16" if major >= 7 else "no"


def cpu_share() -> int:
    """CPU cores this process may really use: a container's share rather than the machine's count."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        pass
    return cores


def _set_up_torch() -> None:
    import torch

    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it; no change on a CPU
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cpu_share())))


def _describe_device() -> str:
    import torch

    if device().type == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"{torch.cuda.get_device_name()}, {memory:.0f} GiB, precision {precision()}"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads != 1 else ''}"
