"""A student's process from outside: which walls this system has, a jail with them, and the end of all that lives in it.

    kind, why = choose("auto")
    with Sandbox(kind, files, channel, command, limits, slot=0) as sandbox: …

From the best to the least:

- ``namespaces``: own mounts, processes, network (loopback only), IPC; as root also another user. Needs Linux.
- ``docker``: the same walls, built by Docker's daemon around this machine's own Python. On request. Needs Linux.
- ``user``: limits, and an unprivileged user of its own for each of the runs in parallel. Needs root. The network is open, and
  what everybody on this machine may read can be read.
- ``limits``: limits only. A submission can do whatever you can do. Never chosen by itself.

Control groups add limits on the *sum* over a submission's processes wherever they can be made; the others are for each process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fdlib.course.grading import jail

KINDS = ("namespaces", "docker", "user", "limits")
HOME, JAIL = "/home/student", Path(__file__).with_name("jail.py")
FIRST_USER = 61_000  # user ids that no system gives to people
WORKS = "fdlib-walls-work"
IMAGE = "fdlib-empty"
RUNNER = 256 * 2**20  # bytes that the sum may be larger: so one process that wants too much is told so, not killed


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Time is processor time, so that a busy machine, or a neighbour who makes it busy, changes nobody's grade: ``seconds`` for
    each process, ``cell_seconds`` for a cell, which is then interrupted. On the clock both may take ``patience`` times as long.
    """

    seconds: float = 300.0
    cell_seconds: float = 60.0
    patience: float = 5.0
    memory: int = 3 * 2**30  # bytes
    processes: int = 128  # with threads
    file: int = 256 * 2**20  # bytes, each
    disk: int = 512 * 2**20  # bytes, all together

    @property
    def cpu(self) -> int:
        """The system's own limit on a process's seconds."""
        return int(self.seconds) + 5

    def as_numbers(self) -> dict:
        """For jail.py."""
        return dataclasses.asdict(self) | {"cpu": self.cpu}


def choose(wanted: str = "auto") -> tuple[str, list[str]]:
    """The walls to use, and for each that was tried in vain, why.

    Raises:
        RuntimeError: what was asked for does not work here; or, for "auto", nothing does that deserves the name.
    """
    tried = []
    for kind in ("namespaces", "user") if wanted == "auto" else (wanted,):
        problem = _problem(kind)
        if problem is None:
            return kind, tried
        tried.append(f"{kind}: {problem}")
    raise RuntimeError(
        f"no walls to grade behind ({'; '.join(tried)}). Submissions are programs of strangers. Grade on Linux, as root or "
        "where unprivileged user namespaces are allowed; or, if you trust them as you trust yourself, say --containment limits."
    )


def _problem(kind: str) -> str | None:
    """Why walls of this kind cannot be built here, found out by building them."""
    if kind == "limits":
        return None if os.name == "posix" else "needs Linux or macOS"
    if sys.platform != "linux":
        return "needs Linux"
    if kind == "user" and os.getuid() != 0:
        return "needs root"
    if kind == "docker":
        if shutil.which("docker") is None or _docker("info").returncode:
            return "Docker's daemon does not answer"
        end_containers()
    with tempfile.TemporaryDirectory(prefix="fdlib-") as folder:
        files, channel = Path(folder) / "files", Path(folder) / "channel"
        files.mkdir(), channel.mkdir()
        command = [sys.executable, "-c", f"import torch.version, fdlib; print('{WORKS}')"]
        with Sandbox(kind, files, channel, command, Limits(), slot=99) as sandbox:
            try:
                said = b"".join(sandbox.process.communicate(timeout=300)).decode(errors="replace")
            except subprocess.TimeoutExpired:
                return "does not start within five minutes"
        return None if WORKS in said else (said.strip() or "does not start")[-300:]


class Sandbox:
    """A running command behind walls; leaving the context ends it and everything it started.

    Args:
        kind: one of KINDS.
        files: a folder whose regular files the command finds in its home; it works on a copy.
        channel: a folder with the judge's socket, visible inside, not writable.
        command: what to run. Its standard output is ``process.stdout``; its standard error is thrown away.
        slot: a number that no other sandbox of this process has at this time.

    Attributes:
        account: after the end, what the walls themselves have to say, out of the command's reach: JSON, or a complaint.
    """

    def __init__(self, kind: str, files: Path, channel: Path, command: list[str], limits: Limits, slot: int):
        self.kind, self.limits, self.slot = kind, limits, slot
        self.files, self.channel, self.command = files, channel, command
        self.cgroup: Cgroup | None = None
        self.user_namespace = os.getuid() != 0
        self.name, self.account, self.look_again = f"fdlib-{os.getpid()}-{slot}", "", 0.0

    def __enter__(self) -> Sandbox:
        self.place = Path(tempfile.mkdtemp(prefix="fdlib-jail-"))
        os.chmod(self.place, 0o755)
        root = not self.user_namespace
        inside = self.kind in ("namespaces", "docker")
        uid, self.lock = None, None
        if root and self.kind != "limits":
            uid, self.lock = free_user()
        home = HOME if inside else str(self.place / "home")
        if self.kind != "namespaces":
            jail.copy_regular_files(str(self.files), str(self.place / "home"))
        if not inside:
            for top in (home, str(self.channel)):
                _give(top, uid)
        self.home, self.uid = home, uid
        (self.place / "root").mkdir()
        channel = "/channel" if inside else str(self.channel)
        environment = _environment(home, f"{channel}/socket", str(self.channel))
        if self.kind == "docker":
            words, said = self.docker(environment), b""
        else:
            self.cgroup = Cgroup.make(self.name, self.limits)
            words = [sys.executable, "-I", "-S", str(JAIL)]
            description = {
                "command": [part.replace("{channel}", channel) for part in self.command],
                "environment": environment,
                "namespaces": self.kind == "namespaces",
                "user_namespace": self.user_namespace,
                "uid": uid,
                "home": home,
                "root": str(self.place / "root"),
                "files": str(self.files),
                "channel": str(self.channel),
                "read_only": visible(),
                "cgroups": self.cgroup.doors if self.cgroup else [],
                "limits": self.limits.as_numbers(),
            }
            said = json.dumps(description).encode()
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(said)
            self.process.stdin.flush()
            self.process.stdin.close()
        self.process.stdin = None
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.kind == "docker":
            _docker("rm", "--force", self.name)
            self.cgroup = None  # was Docker's
        if self.cgroup:
            self.cgroup.kill()
        if self.kind == "user":
            end_all_of(self.uid)
        elif self.kind == "limits":
            end_all_marked(str(self.channel))
        self.process.wait()
        self.process.stdout.close()
        if not self.process.stderr.closed:
            self.account = self.process.stderr.read().decode(errors="replace").strip()
            self.process.stderr.close()
        if self.cgroup:
            self.cgroup.remove()
        shutil.rmtree(self.place, ignore_errors=True)
        if self.lock is not None:
            os.close(self.lock)

    def hit(self) -> str | None:
        """The limit on the sum over all processes that was reached, in words."""
        if self.kind == "docker" and self.process.poll() is not None:
            return out_of_memory(self.limits) if self._inspect("{{.State.OOMKilled}}") == "true" else None
        if self.kind == "docker" and self.cgroup is None and time.monotonic() > self.look_again:
            self.look_again = time.monotonic() + 1.0
            self.cgroup = Cgroup.of(self._inspect("{{.State.Pid}}"), self.limits)
        return self.cgroup.hit() if self.cgroup else None

    def _inspect(self, what: str) -> str:
        return _docker("inspect", f"--format={what}", self.name).stdout.decode().strip()

    def docker(self, environment: dict) -> list[str]:
        """Docker's walls around this machine's own Python: an empty image, and read-only views of /usr and Python."""
        if _docker("image", "inspect", IMAGE).returncode:
            _docker("import", "-", IMAGE, input=bytes(10240))  # an empty tar
        limits, user = self.limits, self.uid or os.getuid()
        passwd = self.place / "passwd"
        passwd.write_text(f"student:x:{user}:{user}:student:{HOME}:/bin/sh\n")
        options = ["--read-only", f"--name={self.name}", f"--label=fdlib={os.getpid()}", f"--user={user}:{user}"]
        options += ["--network=none", "--ipc=private", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        options += [f"--memory={limits.memory + RUNNER}", f"--memory-swap={limits.memory + RUNNER}"]
        options += [f"--pids-limit={limits.processes}", "--log-driver=none"]
        each = {"cpu": limits.cpu, "data": limits.memory, "fsize": limits.file, "core": 0, "nofile": 512}
        options += [f"--ulimit={kind}={value}" for kind, value in each.items()]
        options += [f"--tmpfs={place}:rw,exec,mode=777,size={limits.disk}" for place in (HOME, "/tmp", "/dev/shm")]
        views = {place: place for place in ("/usr", "/bin", "/sbin", "/lib", "/lib64", *visible())}
        views |= {f"/etc/{name}": f"/etc/{name}" for name in jail.ETC}
        passwd.chmod(0o644)
        views |= {"/etc/passwd": passwd, "/files": self.place / "home", "/channel": self.channel}
        for inside, here in views.items():
            if os.path.exists(here):
                options.append(f"--mount=type=bind,readonly,source={os.path.realpath(here)},target={inside}")
        options += [f"--env={name}={value}" for name, value in environment.items()]
        command = [part.replace("{channel}", "/channel") for part in self.command]
        script = f'cd {HOME} && cp -r /files/. . && exec "$@" 2>/dev/null'  # Docker's own --workdir would be root's
        return ["docker", "run", *options, IMAGE, "/bin/sh", "-c", script, "sh", *command]


def _docker(*words: str, input: bytes | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(["docker", *words], input=input, capture_output=True)


def end_containers(pid: int | None = None) -> None:
    """Remove the containers that one process made, or those of all that have ended: Docker keeps what its maker leaves."""
    said = _docker("ps", "--all", "--filter=label=fdlib", '--format={{.ID}} {{.Label "fdlib"}}').stdout.decode()
    for line in said.splitlines():
        container, owner = line.split()
        if owner == str(pid) if pid else not Path("/proc", owner).exists():
            _docker("rm", "--force", container)


def free_user() -> tuple[int, int]:
    """A user id that no other sandbox on this machine has, and the locked file that says so until it is closed."""
    import fcntl

    folder = "/run" if os.access("/run", os.W_OK) else tempfile.gettempdir()
    for uid in range(FIRST_USER, FIRST_USER + 1000):
        file = os.open(f"{folder}/fdlib-user-{uid}.lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return uid, file
        except OSError:
            os.close(file)
    raise RuntimeError("a thousand submissions are running on this machine already")


def _give(top: str, uid: int | None) -> None:
    """Make a folder the property of one user, and nobody else's business."""
    for folder, _, names in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.chmod(path, 0o700)
            if uid is not None:
                os.chown(path, uid, uid)


def _environment(home: str, socket: str, mark: str) -> dict[str, str]:
    return {
        "HOME": home,
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "FDLIB_CHANNEL": socket,
        "FDLIB_MARK": mark,
        "FDLIB_PROFILE": "ci",
        "FDLIB_CACHE": f"{home}/.cache",
        "FDLIB_RUNS": f"{home}/runs",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONDONTWRITEBYTECODE": "1",
        "IPYTHONDIR": f"{home}/.ipython",
        "JUPYTER_RUNTIME_DIR": f"{home}/.jupyter",
    }


def visible() -> list[str]:
    """The folders that a submission may read: Python, its packages, fdlib with its data; neither solutions nor tests."""
    import fdlib
    from fdlib.course.session import checkout

    places = [sys.base_prefix, sys.prefix, sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    places += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    places.append(str(Path(fdlib.__file__).resolve().parent))
    if root := checkout():
        places += [str(root / "data"), str(root / "pyproject.toml")]
    places = [place for place in dict.fromkeys(places) if os.path.exists(place)]
    return [place for place in places if not any(place.startswith(f"{other}/") for other in ("/usr", *places))]


def out_of_memory(limits: Limits) -> str:
    return f"out of memory: more than {limits.memory / 2**20:.0f} MiB"


# ------------------------------------------------------------------------------ control groups


@dataclass
class Cgroup:
    """A control group, of either version. ``doors``: files into which a process writes 0 to enter."""

    folders: dict[str, Path]
    limits: Limits
    version: int

    @classmethod
    def make(cls, name: str, limits: Limits) -> Cgroup | None:
        """A new group with limits on memory and processes, or None where this system does not let us."""
        return cls._second(name, limits) or cls._first(name, limits)

    @classmethod
    def of(cls, pid: str, limits: Limits) -> Cgroup | None:
        """The group of a process that Docker has put there, as far as it can be seen from here."""
        with contextlib.suppress(OSError, KeyError):
            own = _groups(pid)
            if "pids" in own:
                return cls({kind: Path("/sys/fs/cgroup", kind, own[kind]) for kind in ("memory", "pids")}, limits, 1)
            return cls(dict.fromkeys(("memory", "pids"), Path("/sys/fs/cgroup", own[""])), limits, 2)
        return None

    @classmethod
    def _second(cls, name: str, limits: Limits) -> Cgroup | None:
        with contextlib.suppress(OSError, KeyError):
            for parent in (Path("/sys/fs/cgroup", _groups()[""]), Path("/sys/fs/cgroup")):
                with contextlib.suppress(OSError):
                    if not {"memory", "pids"} <= set((parent / "cgroup.controllers").read_text().split()):
                        continue
                    (parent / "cgroup.subtree_control").write_text("+memory +pids +cpu")
                    folder = parent / name
                    _tidy(parent)
                    folder.mkdir()
                    (folder / "memory.max").write_text(str(limits.memory + RUNNER))
                    (folder / "pids.max").write_text(str(limits.processes))
                    with contextlib.suppress(OSError):
                        (folder / "memory.swap.max").write_text("0")
                    return cls({"memory": folder, "pids": folder}, limits, 2)
        return None

    @classmethod
    def _first(cls, name: str, limits: Limits) -> Cgroup | None:
        made: dict[str, Path] = {}
        try:
            own = _groups()
            for kind, file, value in (
                ("memory", "limit_in_bytes", limits.memory + RUNNER),
                ("pids", "max", limits.processes),
            ):
                folder = Path("/sys/fs/cgroup", kind, own[kind], name)
                _tidy(folder.parent)
                folder.mkdir()
                made[kind] = folder
                (folder / f"{kind}.{file}").write_text(str(value))
            with contextlib.suppress(OSError, KeyError):  # a bomb of processes then gets one share of the processor
                folder = Path("/sys/fs/cgroup/cpu", own["cpu"], name)
                _tidy(folder.parent)
                folder.mkdir()
                made["cpu"] = folder
                share = max(2, round(1024 * 1.25 ** -os.nice(0)))  # as polite as we are
                (folder / "cpu.shares").write_text(str(share))
            return cls(made, limits, 1)
        except (OSError, KeyError):
            for folder in made.values():
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return None

    @property
    def doors(self) -> list[str]:
        return [str(folder / "cgroup.procs") for folder in dict.fromkeys(self.folders.values())]

    def hit(self) -> str | None:
        memory = {1: "memory.oom_control", 2: "memory.events"}[self.version]
        for kind, file, key, words in (
            ("pids", "pids.events", "max", f"too many processes: more than {self.limits.processes}"),
            ("memory", memory, "oom_kill", out_of_memory(self.limits)),
        ):
            with contextlib.suppress(OSError, ValueError):
                counts = dict(line.split() for line in (self.folders[kind] / file).read_text().splitlines())
                if int(counts.get(key, 0)):
                    return words
        return None

    def kill(self) -> None:
        for _ in range(200):
            alive = [
                int(pid) for folder in self.folders.values() for pid in (folder / "cgroup.procs").read_text().split()
            ]
            if not alive:
                return
            for pid in set(alive):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def remove(self) -> None:
        for folder in dict.fromkeys(self.folders.values()):
            for _ in range(50):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # its last process is still being buried
                    time.sleep(0.05)


def _groups(pid: str = "self") -> dict[str, str]:
    """The path of a process's group for each controller; that of version 2 has no name."""
    found: dict[str, str] = {}
    for line in Path("/proc", pid, "cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        found |= dict.fromkeys(kinds.split(","), path.strip("/"))
    return found


def _tidy(parent: Path) -> None:
    """Remove the empty groups of judges that were killed; the names hold their process ids."""
    for old in parent.glob("fdlib-*-*"):
        if not Path("/proc", old.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                old.rmdir()


# ------------------------------------------------------------------------------ the end, where no namespace brings it


def _processes():
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name), entry


def _end_all(matches: Callable[[os.DirEntry], bool]) -> None:
    """Kill processes of which this is true, again and again until none is left."""
    for _ in range(200):
        alive = []
        for pid, entry in _processes():
            with contextlib.suppress(OSError):
                if matches(entry):
                    alive.append(pid)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not alive:
            return
        time.sleep(0.02)


def end_all_of(uid: int) -> None:
    """Kill every process of a user, those that left their group and session too, until none is left."""

    def runs(entry: os.DirEntry) -> bool:
        return (
            entry.stat().st_uid == uid and (Path(entry.path) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        )

    _end_all(runs)


def end_all_marked(mark: str) -> None:
    """Kill our own processes whose environment carries the mark; one that wiped its environment escapes."""
    if not os.path.isdir("/proc/self"):
        return
    needle = f"FDLIB_MARK={mark}".encode()
    _end_all(lambda entry: needle in (Path(entry.path) / "environ").read_bytes().split(b"\0"))
