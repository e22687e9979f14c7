"""Downloads from a real (local) server: resumed, checked, refused, unpacked."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import pytest

from fdlib.data.download import DownloadError, download, verify
from fdlib.data.registry import SOURCES, File, Source, source


@pytest.fixture
def server():
    """A server of files in memory that can continue (Range), break off after so many bytes, and keeps what it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body, start = state["files"].get(self.path.lstrip("/")), 0
            asked = self.headers.get("Range")
            state["asked"].append(asked)
            if body is None:
                return self.send_error(404)
            if asked and state["ranges"]:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    return self.end_headers()
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = state["cut"].pop(0) if state["cut"] else None
            self.wfile.write(body[start:][:cut])

        def log_message(self, *arguments):
            pass

    state = {"files": {}, "asked": [], "cut": [], "ranges": True}
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    state["url"] = f"http://127.0.0.1:{running.server_address[1]}"
    yield state
    running.shutdown()


def archive(kind):
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("inside/a.txt", "hello")
    else:
        with tarfile.open(fileobj=stream, mode="w:gz") as file:
            info = tarfile.TarInfo("inside/a.txt")
            info.size = 5
            file.addfile(info, io.BytesIO(b"hello"))
    return stream.getvalue()


def entry(server, name="data.bin", body=b"x" * 3_000_000, known=True, **options):
    server["files"][name] = body
    digest = hashlib.sha256(body).hexdigest() if known else None
    return Source(
        "Test set",
        "its page",
        "none",
        "anything",
        (File(f"{server['url']}/{name}", name, len(body), digest, **options),),
    )


def test_download_and_do_nothing_the_second_time(server, tmp_path):
    (path,) = download(entry(server), tmp_path)
    assert path.read_bytes() == b"x" * 3_000_000 and [p.name for p in tmp_path.iterdir()] == ["data.bin"]
    download(entry(server), tmp_path)
    assert len(server["asked"]) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(server, tmp_path, ranges):
    body = bytes(i * 7 % 251 for i in range(3_000_000))
    wanted, server["cut"], server["ranges"] = entry(server, body=body), [1_200_000], ranges
    with pytest.raises(DownloadError, match="Run the same command again: it goes on where it stopped"):
        download(wanted, tmp_path)
    part = (tmp_path / "data.bin.part").stat().st_size
    assert 0 < part <= 1_200_000 and not (tmp_path / "data.bin").exists()
    (path,) = download(wanted, tmp_path)
    assert path.read_bytes() == body and server["asked"][1] == f"bytes={part}-"
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


def test_a_part_that_is_whole_already(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"x" * 3_000_000)
    (path,) = download(entry(server), tmp_path)
    assert path.stat().st_size == 3_000_000


def test_a_wrong_checksum_is_refused_and_nothing_kept(server, tmp_path):
    wanted = entry(server)
    server["files"]["data.bin"] = b"a page that asks you to log in"
    with pytest.raises(DownloadError, match=r"what came from .* is not data\.bin"):
        download(wanted, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_on_the_disk_is_named(server, tmp_path):
    wanted = entry(server)
    (tmp_path / "data.bin").write_bytes(b"x" * 2_999_999 + b"y")
    with pytest.raises(DownloadError, match=r"expected sha256 .* Delete it to download it again"):
        download(wanted, tmp_path)
    assert next(verify(wanted, tmp_path))[1].startswith("expected sha256")


def test_verify_says_what_it_knows(server, tmp_path):
    known, unknown = entry(server, body=b"abc"), entry(server, "other.bin", body=b"abc", known=False)
    assert list(verify(known, tmp_path)) == [("data.bin", "missing")]
    download(known, tmp_path), download(unknown, tmp_path)
    assert list(verify(known, tmp_path)) == [("data.bin", "ok")]
    assert list(verify(unknown, tmp_path)) == [("other.bin", "there; no checksum is known")]


@pytest.mark.parametrize("name", ["set.zip", "set.tgz"])
def test_archives_are_unpacked_once(server, tmp_path, name):
    wanted = entry(server, name, archive(name.split(".")[1]))
    download(wanted, tmp_path)
    assert (tmp_path / "inside/a.txt").read_text() == "hello"
    (tmp_path / "inside/a.txt").write_text("mine")
    download(wanted, tmp_path)
    assert (tmp_path / "inside/a.txt").read_text() == "mine"


def test_an_archive_cannot_leave_its_folder(server, tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("../outside.txt"))
    with pytest.raises(tarfile.TarError):
        download(entry(server, "bad.tgz", stream.getvalue()), tmp_path / "in")
    assert not (tmp_path / "outside.txt").exists()


def test_a_server_that_does_not_answer(server, tmp_path):
    wanted = entry(server)
    server["files"].clear()
    with pytest.raises(DownloadError, match=r"could not be downloaded .*404"):
        download(wanted, tmp_path)


def test_the_registry_invents_nothing():
    for name, about in SOURCES.items():
        assert (
            source(name) is about and about.title and about.licence and about.layout and about.page.startswith("http")
        )
        assert about.files or about.manual
        for file in about.files:
            assert file.sha256 is None or len(file.sha256) == 64
            assert file.md5 is None or len(file.md5) == 32
            assert file.url or about.manual
    with pytest.raises(ValueError, match="no data set 'cub': did you mean cub200"):
        source("cub")
