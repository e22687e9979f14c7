"""pyproject.toml, the lock, environment.yml, the Makefile and the README say the same things."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import fdlib
from fdlib.course import REPOSITORY

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13")
TO_CONDA = {"torch": "pytorch"}  # pip's name -> conda-forge's, where they differ
ONLY_CONDA = {"python", "pip", "pytorch3d"}
IMPORTED_AS = {
    "opencv-python-headless": "cv2",
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "huggingface-hub": "huggingface_hub",
    "pyyaml": "yaml",
}


def requirements(*extras):
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def tracked():
    """The files of the project: git's, with those not yet added."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: no list of the project's files")
    return [ROOT / name for name in names if (ROOT / name).is_file()]


# ------------------------------------------------------------------------------ versions


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == fdlib.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_supported_python_is_allowed(python):
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]


def test_older_pythons_are_not_allowed():
    assert not SpecifierSet(PROJECT["requires-python"]).contains("3.10.14")
    assert not re.search(r"<|!=|~=", PROJECT["requires-python"]), "no upper bound: Colab moves on"


def test_bounds_are_lower_bounds():
    for name, requirement in requirements(*EXTRAS).items():
        assert [part.operator for part in requirement.specifier] == [">="], (
            f"{name}: an upper bound breaks Colab one day"
        )


# ------------------------------------------------------------------------------ the lock


def lock():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return [Requirement(line) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_lock_satisfies_pyproject(python, platform):
    system = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[platform]
    machine = {"linux": "x86_64", "darwin": "arm64", "win32": "AMD64"}[platform]
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "implementation_version": f"{python}.5",
        "sys_platform": platform,
        "platform_system": system,
        "platform_machine": machine,
        "os_name": "nt" if platform == "win32" else "posix",
    }
    locked = {}
    for entry in lock():
        if entry.marker is None or entry.marker.evaluate(environment):
            assert canonicalize_name(entry.name) not in locked, f"{entry.name} twice"
            (pin,) = entry.specifier
            assert pin.operator == "=="
            locked[canonicalize_name(entry.name)] = pin.version
    for name, requirement in requirements(*EXTRAS).items():
        assert name in locked, f"{name} is not locked: `make lock`"
        assert requirement.specifier.contains(locked[name], prereleases=True), f"{name}: `make lock`"


def test_lock_names_no_place():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text and "--" not in text and " @ " not in text, (
        "versions only: where they come from is pip's affair"
    )


# ------------------------------------------------------------------------------ conda


def conda():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "fdlib" and environment["channels"][0] == "conda-forge"
    plain = [line for line in environment["dependencies"] if isinstance(line, str)]
    (nested,) = (entry for entry in environment["dependencies"] if isinstance(entry, dict))
    return {requirement.name: requirement for requirement in map(Requirement, plain)}, nested


def test_environment_and_pyproject_agree():
    packages, nested = conda()
    wanted = {}
    for requirement in requirements(*EXTRAS).values():
        wanted[TO_CONDA.get(requirement.name, requirement.name)] = str(requirement.specifier)
    found = {name: str(entry.specifier) for name, entry in packages.items() if name not in ONLY_CONDA}
    assert found == wanted
    assert str(packages["python"].specifier) == PROJECT["requires-python"]
    assert "pytorch3d" in packages
    assert nested == {"pip": ["-e ."]}, "everything but fdlib itself comes from conda"


def test_environment_leaves_cpu_or_cuda_to_conda():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    code = "\n".join(line.split("#")[0] for line in text.splitlines())
    assert not re.search(r"cuda|cpu|=\*", code, re.I)


# ------------------------------------------------------------------------------ imports


def imports(file):
    """(top-level package, whether the import runs with the module) of each import in a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lazy = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Try)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        else:
            continue
        yield from ((name.split(".")[0], node not in lazy) for name in names)


MODULES = sorted((ROOT / "fdlib").rglob("*.py"))
FOR_NOTEBOOKS = (
    *(f"fdlib/{name}.py" for name in ("viz", "plots", "widgets", "player", "trees")),
    "fdlib/course/notebooks.py",
)


@pytest.mark.parametrize("module", MODULES, ids=[path.relative_to(ROOT).as_posix() for path in MODULES])
def test_imports_are_declared(module):
    """At the top of a module only core dependencies (for notebooks also `course`); in functions any extra's."""

    def known(*extras):
        return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in requirements(*extras)} | {"fdlib"}

    here = module.relative_to(ROOT).as_posix()
    top = known("course") | {"nbformat", "IPython"} if here in FOR_NOTEBOOKS else known()
    anywhere = known(*EXTRAS) | {"google", "pip", "IPython", "requests", "nbformat", "packaging"}
    for name, at_top in imports(module):
        if name not in sys.stdlib_module_names:
            assert name in (top if at_top else anywhere), (
                f"{here} imports {name}: declare it in pyproject.toml, or import it later"
            )


def test_importing_the_course_is_quick():
    code = "import fdlib.course, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", "import json; " + code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "pooch", "jupytext", "requests"} & set(json.loads(done.stdout))


# ------------------------------------------------------------------------------ Makefile, README


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    try:
        shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        bare = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("make is not installed")
    assert bare == shown
    assert set(re.findall(r"^  make ([a-z]+)", shown, re.M)) == targets
    assert {"help", "install", "lab", "test", "notebooks", "sync", "lint", "lock", "clean"} <= targets


def test_make_explains_an_old_python(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.2\nexit 1\n')
    old.chmod(0o755)
    try:
        command = ["make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("make is not installed")
    assert done.returncode != 0 and "needs Python >= 3.11" in done.stderr and "PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_readme_points_to_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (ROOT / target.split("#")[0]).exists(), f"README links to {target}"
    for address in re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", text):
        assert address.removesuffix(".git") == REPOSITORY, "the repository's address lives in fdlib.course.first_cell"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == REPOSITORY
    for target in re.findall(r"^\s*make ([a-z]+)", text, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), (
            f"README: make {target}"
        )


def test_every_notebook_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"notebooks/{notebook.name}" in text


# ------------------------------------------------------------------------------ nothing of one machine

# Written in two parts, so that this file does not name what it looks for.
HOSTS = [
    "py" + "pi.org",
    "python" + "hosted",
    "download.py" + "torch.org",
    "conda.ana" + "conda",
    "registry.np" + "mjs",
]


def test_no_file_names_a_registry_or_a_place_on_this_machine():
    places = {f"{folder}/" for folder in (ROOT.as_posix(), Path.home().as_posix()) if len(folder) > 1}
    for file in tracked():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for word in [*HOSTS, *places]:
            assert word not in text, f"{file.relative_to(ROOT)} names {word}"


def test_no_docstring_holds_raw_html():
    """The reference on the web site is made from docstrings, and there a tag in angle brackets is obeyed, not shown."""
    found = []
    for file in sorted((ROOT / "fdlib").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = re.sub(r"`[^`]*`", "", ast.get_docstring(node) or "")
                found += [
                    f"{file.relative_to(ROOT)}: {tag}" for tag in re.findall(r"</?[a-z][a-z0-9]*\b[^>\n]*>", text)
                ]
    assert not found, "put these in backticks, or say it in words"


def test_no_large_files():
    for file in tracked():
        assert file.stat().st_size <= 4 * 2**20, f"{file.relative_to(ROOT)} is larger than 4 MiB"
