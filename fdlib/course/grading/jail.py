"""The walls, from inside: run as `python -I -S jail.py`, with a description of the jail on standard input.

Standard library only, and no import of fdlib: it must start in milliseconds and run before anything is trusted.

With namespaces, in this order: join the cgroups; leave the system's mounts, processes, network, IPC and host name (and, where
we are not root, users); start process 1 of the new process namespace, with whose end everything in it ends; build a root of
read-only mounts of Python and fdlib and of memory file systems for the rest; move into it; become nobody in particular; set
the limits; start the command. Without: limits and, as root, another user.

Standard output is the command's. Standard error is ours alone: what went wrong, or at the end, when every process of the
command's namespace is gone, which of its files it has removed.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
KEPT = {os.ST_NOSUID: NOSUID, os.ST_NODEV: NODEV, os.ST_NOEXEC: NOEXEC}
NO_NEW_PRIVILEGES, PARENT_DEATH_SIGNAL, DROP_BOUNDING = 38, 1, 24
BROKEN = 70  # the exit status if there are no walls
DEVICES = ("null", "zero", "full", "random", "urandom")
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime", "nsswitch.conf", "mime.types")


def call(name: str, *args) -> None:
    if getattr(libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind.encode() if kind else None, flags, data.encode() or None)


def bind(source: str, target: str, read_only: bool = True) -> None:
    """Show a file or folder of the system at a place under the new root."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "a").close()
    mount(source, target, None, BIND | REC)
    if read_only:
        had = os.statvfs(target).f_flag
        kept = sum(flag for bit, flag in KEPT.items() if had & bit)
        mount("none", target, None, BIND | REMOUNT | RDONLY | NOSUID | kept)


def prctl(option: int, value: int) -> None:
    call("prctl", option, value, 0, 0, 0)


def new_root(jail: dict) -> None:
    root, disk = jail["root"], jail["limits"]["disk"]
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "mode=755,size=16m")
    for name in ("usr", "bin", "sbin", "lib", "lib64", "lib32"):
        here = f"/{name}"
        if os.path.islink(here):
            os.symlink(os.readlink(here), root + here)
        elif os.path.isdir(here):
            bind(here, root + here)
    for name in ETC:
        if os.path.exists(f"/etc/{name}"):
            bind(f"/etc/{name}", f"{root}/etc/{name}")
    user = jail["uid"] if jail["uid"] is not None else 1000
    with open(f"{root}/etc/passwd", "w") as file:
        file.write(f"student:x:{user}:{user}:student:{jail['home']}:/bin/sh\n")
    with open(f"{root}/etc/hosts", "w") as file:
        file.write("127.0.0.1 localhost\n")
    # before what is bound, which may lie in /tmp
    for place, size in ((jail["home"], disk), ("/tmp", disk), ("/dev/shm", disk)):
        os.makedirs(root + place, exist_ok=True)
        mount("tmpfs", root + place, "tmpfs", NOSUID | NODEV, f"mode=777,size={size},nr_inodes=20000")
    for folder in jail["read_only"]:
        if not os.path.exists(root + folder):
            bind(folder, root + folder)
    for device in DEVICES:
        bind(f"/dev/{device}", f"{root}/dev/{device}", read_only=False)
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    if os.path.isdir("/sys/devices/system/cpu"):
        bind("/sys/devices/system/cpu", f"{root}/sys/devices/system/cpu")
    bind(jail["channel"], f"{root}/channel")
    os.makedirs(f"{root}/proc", exist_ok=True)
    mount("proc", f"{root}/proc", "proc", NOSUID | NODEV | NOEXEC)
    copy_regular_files(jail["files"], root + jail["home"])
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", 2)  # the old root, which lies over the new one: MNT_DETACH
    os.chdir("/")
    mount("none", "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)


def copy_regular_files(source: str, target: str) -> None:
    """Copy a folder into the student's home: its files and folders, without links, pipes and devices."""
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(folder, name))]
        there = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(there, mode=0o777, exist_ok=True)
        os.chmod(there, 0o777)
        for name in files:
            path = os.path.join(folder, name)
            if is_file(path):
                shutil.copyfile(path, os.path.join(there, name))
                os.chmod(os.path.join(there, name), 0o666)


def is_file(path: str) -> bool:
    """Whether there is a file itself, not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def become_nobody(jail: dict) -> None:
    if jail["uid"] is not None:
        os.setgroups([])
        if jail["namespaces"]:
            for capability in range(64):
                with contextlib.suppress(OSError):
                    prctl(DROP_BOUNDING, capability)
        os.setresgid(jail["uid"], jail["uid"], jail["uid"])
        os.setresuid(jail["uid"], jail["uid"], jail["uid"])
    if sys.platform == "linux":
        prctl(NO_NEW_PRIVILEGES, 1)
        prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)  # after the change of user, which clears it


def limit(limits: dict) -> None:
    kinds = {"cpu": "RLIMIT_CPU", "memory": "RLIMIT_DATA", "processes": "RLIMIT_NPROC", "file": "RLIMIT_FSIZE"}
    wanted = {getattr(resource, name): limits[key] for key, name in kinds.items() if hasattr(resource, name)}
    for kind, value in (wanted | {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 512}).items():
        _, hard = resource.getrlimit(kind)
        value = int(value if hard == resource.RLIM_INFINITY else min(value, hard))
        resource.setrlimit(kind, (value, value))


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # up, running
        fcntl.ioctl(control, 0x8914, request)  # SIOCSIFFLAGS


def run(jail: dict) -> int:
    for file in jail["cgroups"]:
        with open(file, "w") as group:
            group.write("0")
    if jail["namespaces"]:
        outside = os.getuid(), os.getgid()
        call("unshare", NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET | (NEWUSER if jail["user_namespace"] else 0))
        if jail["user_namespace"]:
            for name, text in {
                "setgroups": "deny",
                "uid_map": f"1000 {outside[0]} 1",
                "gid_map": f"1000 {outside[1]} 1",
            }.items():
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
    if sys.platform == "linux":
        prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    names = [
        os.path.relpath(os.path.join(folder, name), jail["files"])
        for folder, _, names in os.walk(jail["files"])
        for name in names
        if is_file(os.path.join(folder, name))
    ]
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)  # its root is by now ours too
        gone = [name for name in names if not is_file(os.path.join(jail["home"], name))]
        if os.waitstatus_to_exitcode(status) != BROKEN:
            print(json.dumps({"gone": [name[:200] for name in gone[:20]], "count": len(gone)}), file=sys.stderr)
        return os.waitstatus_to_exitcode(status)
    complaints = os.fdopen(os.dup(2), "w")  # closed when the command starts
    try:
        if jail["namespaces"]:
            loopback_up()
            socket.sethostname("grading")
            new_root(jail)
        become_nobody(jail)
        limit(jail["limits"])
        os.chdir(jail["home"])
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 2):
            os.dup2(nothing, standard)
        os.umask(0o022)
        os.execve(jail["command"][0], jail["command"], jail["environment"])
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=complaints, flush=True)
        os._exit(BROKEN)


if __name__ == "__main__":
    description = json.load(sys.stdin)
    try:
        code = run(description)
    except OSError as error:
        print(error, file=sys.stderr)
        code = BROKEN
    sys.exit(code if code >= 0 else 128 - code)
