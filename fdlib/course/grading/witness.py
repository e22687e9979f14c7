"""Inside the kernel: notes what reaches beyond the submission's own folder, for the instructor to read.

Python's audit hooks see what code does through Python's own functions, before it happens and whether or not the walls then let it
happen. They do not see what other programs do, and a student's code, which lives in this very process, can silence or deceive
them. So these notes inform a person, and no grade depends on them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import sys
import tempfile
from collections.abc import Iterator

MAX_SIZE, MAX_DEEDS = 32_000, 300  # bytes, different deeds
PUBLIC = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev", "/var/lib")  # harmless to read
WRITABLE = ("/tmp", "/dev/shm", "/dev/null", "/dev/tty")
HARMLESS = ("/sbin/ldconfig -p",)  # ctypes looks for a library
CHANGES = {  # audit event: what is done to the path, its first argument
    **dict.fromkeys(("os.remove", "os.rmdir", "shutil.rmtree"), "remove"),
    **dict.fromkeys(("os.mkdir", "os.rename", "os.truncate", "os.chmod", "os.chown"), "change"),
    **dict.fromkeys(("os.listdir", "os.scandir"), "look into"),
}
ALONE = ("os.truncate", "os.listdir", "os.scandir")  # of these, the ones without a folder that the path is relative to
WORDS = {  # deed: in words, and what an instructor wants to know about walls that shut everything out
    "connect": ("tried to open a connection to", "no network"),
    "look up": ("tried to look up the address of", "no network"),
    "signal": ("tried to signal", "it reaches no process but its own"),
    "remove": ("tried to remove, outside its folder:", "read-only or not there"),
    "change": ("tried to write, outside its folder:", "read-only or not there"),
    "read": ("tried to read, outside its folder:", "read-only or not there"),
    "look into": ("looked into folders outside its own:", "only what everybody may see is there"),
    "start": ("started other programs:", ""),
    "fork": ("made copies of its process", ""),
}


class Witness:
    """An audit hook that appends its notes to a file: JSON, ``[deed, object, how often]`` a line.

    Args:
        file: a descriptor. Each deed is written down the first, tenth, hundredth … time.
        own: folders that the submission may write.
        readable: and those that it may read.
    """

    def __init__(self, file: int, own: list[str], readable: list[str]):
        self.file, self.own, self.readable = file, tuple(own), (*own, *readable)
        self.counts: dict[tuple[str, str], int] = {}

    def __call__(self, event: str, args: tuple) -> None:
        with contextlib.suppress(Exception):  # not KeyboardInterrupt: that is for the cell
            for deed, thing in self.deeds(event, args):
                self.note(deed, thing)

    def deeds(self, event: str, args: tuple) -> Iterator[tuple[str, str]]:
        if event == "open":
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            yield from self.path("change" if writes else "read", args[0])
        elif event in CHANGES:
            if event in ALONE or args[-1] in (-1, None):  # not relative to an open folder
                for path in args[: 2 if event == "os.rename" else 1]:
                    yield from self.path(CHANGES[event], path)
        elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
            if not local(args[1][0]):
                yield "connect", f"{args[1][0]}:{args[1][1]}"
        elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not local(args[0]):
            with contextlib.suppress(ValueError):
                ipaddress.ip_address(args[0])
                return  # needs no looking up
            yield "look up", str(args[0])
        elif event == "os.kill" and args[1] and args[0] != os.getpid() and not is_child(args[0]):
            yield (
                "signal",
                f"process {args[0]}" if args[0] > 0 else "all processes it can" if args[0] == -1 else "a group",
            )
        elif event == "os.killpg" and args[0] != os.getpgrp():
            yield "signal", f"process group {args[0]}"
        elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
            words = args[1] if isinstance(args[1], list | tuple) else [args[1]]
            if (line := " ".join(map(os.fsdecode, words))) not in HARMLESS:
                yield "start", line
        elif event == "os.system":
            yield "start", os.fsdecode(args[0])
        elif event in ("os.fork", "os.forkpty"):
            yield "fork", ""

    def path(self, deed: str, path) -> Iterator[tuple[str, str]]:
        if isinstance(path, int):
            return  # a descriptor, of something opened before
        place = os.path.abspath(os.fsdecode("." if path is None else path))
        free = self.readable if deed in ("read", "look into") else self.own
        if not any(place == folder or place.startswith(f"{folder}/") for folder in free):
            yield deed, place

    def note(self, deed: str, thing: str) -> None:
        key = deed, thing[:200]
        if key not in self.counts and len(self.counts) >= MAX_DEEDS:
            return
        times = self.counts[key] = self.counts.get(key, 0) + 1
        if str(times).strip("0") == "1" and os.fstat(self.file).st_size < MAX_SIZE:
            os.write(self.file, json.dumps([*key, times]).encode() + b"\n")


def local(host) -> bool:
    """Whether a host is the machine itself: a submission has a loopback of its own."""
    return host in (None, "", b"", "localhost", b"localhost", "::1") or str(host).startswith("127.")


def is_child(pid: int) -> bool:
    with contextlib.suppress(OSError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return False


def load_ipython_extension(shell) -> None:
    """Start watching: the runner asks each kernel to load this module as an extension."""
    import fdlib.course.grading.worker  # noqa: F401  with torch, which looks around and starts programs
    from fdlib.course.grading.sandbox import visible

    file = os.open(os.environ["FDLIB_WITNESS"], os.O_WRONLY | os.O_APPEND)
    own = [os.getcwd(), os.environ["HOME"], tempfile.gettempdir(), *WRITABLE]
    sys.addaudithook(Witness(file, own, [*visible(), *PUBLIC]))


def in_words(text: str, shut: bool) -> list[str]:
    """The notes of a witness, for a person; whatever is not a note is left out.

    Args:
        text: what was in the file. Nobody vouches for it.
        shut: whether the walls shut out everything that is not the submission's.
    """
    most: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            deed, thing, times = json.loads(line)
            if deed in WORDS and type(thing) is str and type(times) is int:
                things = most.setdefault(deed, {})
                things[thing[:200]] = max(times, things.get(thing[:200], 0))
    said = []
    for deed, things in most.items():
        words, outcome = WORDS[deed]
        named = [f"{thing} {often(times)}".strip() for thing, times in list(things.items())[:4]]
        more = f" and {len(things) - 4} more" if len(things) > 4 else ""
        outcome = outcome if shut else outcome and "these walls may have let it"
        said.append(" ".join(f"{words} {', '.join(named)}{more}".split()) + f" ({outcome})" * bool(outcome))
    return said


def often(times: int) -> str:
    return f"({times} times or more)" if times > 1 else ""
