"""Assets: found in the checkout, else downloaded and checked; damaged ones are told apart and never kept."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fdlib.course import AssetError, asset, assets, results

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = bytes(range(256)) * 100


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on the loopback; `tamper(path, body)` may change what is sent, `requests` counts."""

    def __init__(self, folder):
        self.folder, self.tamper, self.requests, self.promise = folder, lambda path, body: body, [], None
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/data/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.removeprefix("/data/")
        self.server.requests.append(path)
        file = self.server.folder / path
        if not file.is_file():
            return self.send_error(404)
        body = self.server.tamper(path, file.read_bytes())
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.promise or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "checkpoints" / "tiny_unet").mkdir(parents=True)
    (folder / "checkpoints" / "tiny_unet" / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "checkpoints" / "tiny_unet" / "config.json").write_text("{}")
    (folder / "fixtures").mkdir()
    (folder / "fixtures" / "poses.npz").write_bytes(b"poses")
    (folder / "README.md").write_text("not an asset")
    assets.update_registry(folder)
    return folder


@pytest.fixture
def server(data):
    with Server(data) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def outside(data, server, tmp_path, monkeypatch):
    """As in an installed wheel: no checkout, an empty cache, the server's URL in the registry."""
    registry = json.loads((data / "registry.json").read_text()) | {"base_url": server.url}
    monkeypatch.setattr(assets, "checkout", lambda: None)
    monkeypatch.setattr(assets, "read_registry", lambda: registry)
    monkeypatch.setenv("FDLIB_CACHE", str(tmp_path / "cache"))
    for name in ("FDLIB_CHECKPOINTS", "FDLIB_ASSETS_URL", "FDLIB_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_downloads_a_folder_once(outside, server):
    folder = asset("tiny_unet")
    assert folder.is_relative_to(outside)
    assert files_below(folder) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert sorted(server.requests) == ["checkpoints/tiny_unet/config.json", "checkpoints/tiny_unet/model.safetensors"]
    assert asset("checkpoints/tiny_unet") == folder and len(server.requests) == 2


@pytest.mark.parametrize(
    "name", ["poses.npz", "fixtures/poses.npz", "tiny_unet/config.json", "checkpoints/tiny_unet/config.json"]
)
def test_downloads_a_single_file(outside, server, name):
    assert asset(name).is_file() and asset(name).name == Path(name).name
    assert len(server.requests) == 1


def test_a_damaged_cache_is_downloaded_again(outside, server):
    weights = asset("tiny_unet") / "model.safetensors"
    for damage in (WEIGHTS[:1000], WEIGHTS[:-1] + b"x", b""):
        weights.write_bytes(damage)
        assert (asset("tiny_unet") / "model.safetensors").read_bytes() == WEIGHTS
    assert server.requests.count("checkpoints/tiny_unet/model.safetensors") == 4


def test_a_wrong_file_is_refused_and_not_kept(outside, server):
    server.tamper = lambda path, body: body[:-1] + b"x" if path.endswith("safetensors") else body
    wrong = hashlib.sha256(WEIGHTS[:-1] + b"x").hexdigest()
    with pytest.raises(AssetError) as caught:
        asset("tiny_unet")
    message = str(caught.value)
    assert "'tiny_unet'" in message and hashlib.sha256(WEIGHTS).hexdigest() in message and wrong in message
    assert "run the cell again" in message
    assert "checkpoints/tiny_unet/model.safetensors" not in files_below(outside / "assets")
    assert not [name for name in files_below(outside) if "partial" in name]


@pytest.mark.parametrize("promise", [None, len(WEIGHTS)], ids=["length says so too", "length promised more"])
def test_a_truncated_download_is_refused_and_not_kept(outside, server, promise):
    server.tamper = lambda path, body: body[:1000]
    server.promise = promise
    with pytest.raises(AssetError, match=r"tiny_unet.*model\.safetensors"):
        asset("tiny_unet/model.safetensors")
    assert files_below(outside) == []


def test_no_connection_is_told_as_such(outside, server, monkeypatch):
    monkeypatch.setenv("FDLIB_ASSETS_URL", "http://127.0.0.1:1/data")  # port 1: nobody listens
    with pytest.raises(AssetError, match=r"tiny_unet.*could not be downloaded.*FDLIB_ASSETS_URL"):
        asset("tiny_unet")
    assert files_below(outside) == []


def test_a_full_disk_is_told_as_such(outside, monkeypatch):
    from fdlib import files

    monkeypatch.setattr(files, "free_bytes", lambda folder: 10)
    with pytest.raises(files.DiskFull, match="FDLIB_CACHE"):
        asset("tiny_unet/model.safetensors")
    assert files_below(outside) == []


def test_another_base_url(outside, server, monkeypatch):
    registry = assets.read_registry() | {"base_url": "http://127.0.0.1:1/"}
    monkeypatch.setattr(assets, "read_registry", lambda: registry)
    monkeypatch.setenv("FDLIB_ASSETS_URL", server.url.rstrip("/"))
    assert asset("poses.npz").read_bytes() == b"poses"


def test_a_file_with_a_url_of_its_own(outside, server, monkeypatch):
    registry = json.loads(json.dumps(assets.read_registry())) | {"base_url": "http://127.0.0.1:1/"}
    registry["files"]["fixtures/poses.npz"]["url"] = server.url + "fixtures/poses.npz"
    monkeypatch.setattr(assets, "read_registry", lambda: registry)
    assert asset("poses.npz").read_bytes() == b"poses"


@pytest.mark.parametrize(
    ("name", "near"), [("tiny_unt", "tiny_unet"), ("checkpoints/tiny", "tiny_unet"), ("xyz", "tiny_unet")]
)
def test_an_unknown_name_offers_the_nearest(outside, name, near):
    with pytest.raises(AssetError, match=f"no asset '{name}'.*{near}"):
        asset(name)


@pytest.mark.parametrize("name", ["", "..", "../secrets", "/etc/passwd", "tiny_unet/../../x"])
def test_nothing_outside_the_data_folder(outside, name):
    with pytest.raises(AssetError, match="name:"):
        asset(name)


def test_your_own_checkpoints_come_first(outside, server, tmp_path, monkeypatch):
    own = tmp_path / "mine" / "tiny_unet"
    own.mkdir(parents=True)
    monkeypatch.setenv("FDLIB_CHECKPOINTS", str(tmp_path / "mine"))
    assert asset("tiny_unet") == asset("checkpoints/tiny_unet") == own
    assert asset("poses.npz").is_relative_to(outside)  # what is not there is found as ever


def test_a_checkout_comes_before_the_network(data, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "checkout", lambda: tmp_path)
    monkeypatch.delenv("FDLIB_CHECKPOINTS", raising=False)
    monkeypatch.setenv("FDLIB_ASSETS_URL", "http://127.0.0.1:1/")
    assert asset("tiny_unet") == data / "checkpoints" / "tiny_unet"
    assert asset("fixtures/poses.npz") == asset("poses.npz") == data / "fixtures" / "poses.npz"


def test_the_registry_is_that_of_the_files():
    """Changed a checkpoint? `make registry`."""
    assert json.loads((ROOT / "data" / "registry.json").read_text()) == assets.make_registry(ROOT / "data")


def test_updating_keeps_foreign_entries(data):
    registry = json.loads((data / "registry.json").read_text())
    registry["files"]["big.bin"] = {"size": 1, "sha256": "0" * 64, "url": "http://127.0.0.1:1/big.bin"}
    (data / "registry.json").write_text(json.dumps(registry))
    (data / "fixtures" / "new.txt").write_text("new")
    assert assets.update_registry(data) and not assets.update_registry(data)
    files = json.loads((data / "registry.json").read_text())["files"]
    assert {"big.bin", "fixtures/new.txt"} <= set(files) and "README.md" not in files


def test_from_an_installed_wheel_outside_any_checkout(server, data, tmp_path):
    """Build the wheel, install it alone, and download an asset from a folder that knows nothing of the checkout."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "fdlib", source / "fdlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    (source / "data").mkdir()
    shutil.copy(data / "registry.json", source / "data" / "registry.json")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels, target = tmp_path / "wheels", tmp_path / "installed"
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("fdlib-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    shutil.rmtree(source)

    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FDLIB_", "PYTHON"))}
    environment |= {"PYTHONPATH": str(target), "FDLIB_CACHE": str(tmp_path / "cache"), "FDLIB_ASSETS_URL": server.url}
    code = "import fdlib; from fdlib import course; print(fdlib.__file__); print(course.asset('tiny_unet'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    module, folder = done.stdout.split()
    assert Path(module).is_relative_to(target)
    assert Path(folder).is_relative_to(tmp_path / "cache")
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS


def test_results_come_from_a_checkout_or_are_said_to_be_missing(tmp_path, monkeypatch, capsys):
    assert results("convergence") == json.loads((ROOT / "benchmarks/results/convergence.json").read_text())

    monkeypatch.setattr(assets, "checkout", lambda: None)  # as in an installed package
    monkeypatch.delenv("FDLIB_SOURCE", raising=False)
    assert results("convergence") is None
    assert "benchmarks/results/convergence.json of the source checkout" in capsys.readouterr().out

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "convergence.json").write_text('{"here": 1}')
    monkeypatch.setenv("FDLIB_SOURCE", str(tmp_path))
    assert results("convergence") == {"here": 1}
