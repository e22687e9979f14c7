"""A class graded: each submission in a jail of its own, several at a time, and never twice.

Each submission's judge is a process of its own, forked from one that has torch loaded already. It writes one file when it is
done, so a run that was killed goes on where it stopped: a submission whose file is there, and whose notebook, checks and limits
are the same as then, is not graded again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from fdlib.course.grading import witness
from fdlib.course.grading.sandbox import Limits, Sandbox, choose, end_containers
from fdlib.course.grading.submissions import Assignment, Prepared, Refused, Submission, find, prepare, strays
from fdlib.files import atomic_write

MAX_SAID = 32 * 2**20  # bytes that a runner may print in all
JUDGE_MEMORY = 6 * 2**30
GRACE = 20.0  # seconds for what belongs to no cell: starting, ending


# ------------------------------------------------------------------------------ one submission


@dataclass
class Task:
    """All that one judge must know; it crosses to its process by pickle."""

    assignment: Assignment
    submission: Submission
    kind: str
    limits: Limits
    together: frozenset[str] = frozenset()
    slot: int = 0
    scratch: str | None = None


@dataclass
class Run:
    """What became of one notebook."""

    verdicts: dict[str, tuple[bool, str]]  # grade id -> passed, message
    status: str = "graded"
    reason: str = ""
    outputs: list[list[dict]] = dataclasses.field(default_factory=list)  # of each cell
    seen: list[str] = dataclasses.field(default_factory=list)  # what it tried beyond its own folder, for the instructor


class Listener(threading.Thread):
    """Reads what a runner prints, one JSON object a line, and forgets what is too much or no JSON."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.events, self.size = stream, [], 0
        self.start()

    def run(self) -> None:
        rest = b""
        with contextlib.suppress(OSError, ValueError):
            while part := os.read(self.stream.fileno(), 2**16):
                self.size += len(part)
                if self.size > MAX_SAID:
                    continue  # keep reading, so that nobody blocks
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    with contextlib.suppress(ValueError, RecursionError):
                        event = json.loads(line)
                        if isinstance(event, dict) and len(self.events) < 2000:
                            self.events.append(event)

    def last(self, *kinds: str) -> dict | None:
        return next((event for event in reversed(self.events) if event.get("event") in kinds), None)


def grade_one(task: Task) -> dict:
    """Run one submission behind walls and judge it; everything that can be known about it, as JSON."""
    start = time.monotonic()
    submission, assignment = task.submission, task.assignment
    try:
        if submission.problem:
            raise Refused(submission.problem)
        prepared = prepare(submission.notebook, assignment)
    except Refused as error:
        return _result(task, None, Run({}, "refused", str(error)), start)
    run = _run(task, prepared)
    prepared.notes += _raised(run.outputs)
    return _result(task, prepared, run, start)


def _run(task: Task, prepared: Prepared) -> Run:
    import nbformat

    run, limits = Run({}), task.limits
    place = Path(tempfile.mkdtemp(prefix="s", dir=task.scratch))
    files, channel = place / "files", place / "channel"
    for folder, mode in ((place, 0o711), (channel, 0o755)):
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
    if task.submission.folder is None:
        files.mkdir()
    else:
        files = task.submission.folder  # copied from there by the jail, without links
    (channel / "notebook.ipynb").write_text(nbformat.writes(prepared.notebook), encoding="utf-8")
    (channel / "notebook.ipynb").chmod(0o644)
    command = [sys.executable, "-I", "-m", "fdlib.course.grading.runner", "{channel}/notebook.ipynb"]
    command += [str(limits.cell_seconds), str(limits.patience)]
    deadline = time.monotonic() + limits.patience * limits.seconds
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(str(channel / "socket"))
        (channel / "socket").chmod(0o777)
        server.listen(1)
        with Sandbox(task.kind, files, channel, command, limits, task.slot) as sandbox:
            listener = Listener(sandbox.process.stdout)
            _converse(task, run, server, sandbox, deadline)
            with contextlib.suppress(Exception):  # the runner has a moment to say how it ended
                sandbox.process.wait(timeout=0 if run.reason else min(GRACE, max(0.1, deadline - time.monotonic())))
            listener.join(timeout=1)
            hit, code = sandbox.hit(), sandbox.process.poll()
            server.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                run.seen.append("spoke to the judge over a connection of its own (only the first is heard)")
    finally:
        server.close()
        shutil.rmtree(place, ignore_errors=True)
    if not listener.events and code is not None and not hit:  # the first is said before any student's code can run
        complaint = "" if sandbox.account.startswith("{") else sandbox.account[:500]
        raise RuntimeError(
            f"nothing could be started behind the walls: {complaint or f'exit status {code}, perhaps for lack of memory'}"
        )
    run.reason = hit or run.reason or _how_it_ended(listener, code)
    if run.reason:
        run.status = "stopped"
        run.reason += _where(listener)
    run.outputs = _outputs(listener, prepared)
    run.seen += _seen(listener, sandbox)
    return run


def _converse(task: Task, run: Run, server: socket.socket, sandbox: Sandbox, deadline: float) -> None:
    """Judge each check as the notebook arrives at it, until its process ends or must be ended, for ``run.reason``."""
    from fdlib.course.grading.judge import Judge, Link
    from fdlib.course.grading.wire import Channel, WireError

    judge, limits, link = Judge(task.assignment.notebook), task.limits, None
    with contextlib.ExitStack() as stack:
        try:
            while time.monotonic() < deadline:
                if hit := sandbox.hit():
                    run.reason = hit
                    return
                if not select.select([link.channel.connection if link else server], [], [], 0.1)[0]:
                    if sandbox.process.poll() is not None:
                        return
                    continue
                if link is None:
                    link = Link(Channel(stack.enter_context(server.accept()[0])))
                    continue
                link.channel.deadline = min(deadline, time.monotonic() + 6 * GRACE)
                words, _ = link.channel.receive()
                name = words.get("check")
                if words.get("op") == "ready" and name in judge.sources and name not in run.verdicts:
                    seconds = min(limits.patience * limits.cell_seconds + GRACE, deadline - time.monotonic())
                    run.verdicts[name] = (False, "the notebook's process was lost during this check")
                    verdict = judge.check(name, link, seconds, name in task.together)
                    run.verdicts[name] = (verdict.passed, verdict.message)
                link.channel.deadline = time.monotonic() + GRACE
                link.channel.send({"op": "done"})
            run.reason = f"time is up: more than {limits.patience * limits.seconds:.0f} s by the clock"
        except WireError as error:
            if str(error) == "no answer in time":
                run.reason = "the notebook's process did not answer the judge in time"
            elif str(error) != "closed":
                run.reason = f"the notebook's process answered the judge with {error}"


def _how_it_ended(listener: Listener, code: int | None) -> str:
    """Why a runner did not reach the last cell; nothing if it did."""
    said = listener.last("end", "died", "failed") or {}
    if said.get("event") == "end":
        return ""
    if said.get("event") == "failed":
        return f"the notebook could not be run: {str(said.get('error'))[:300]}"
    if said:
        return "the notebook's process ended"
    return f"the process that runs the notebook was killed (exit status {code})"


def _where(listener: Listener) -> str:
    started = listener.last("start", "end") or {}
    return f" in cell {started['cell'] + 1}" if type(started.get("cell")) is int else ""


def _seen(listener: Listener, sandbox: Sandbox) -> list[str]:
    """What the walls found afterwards, and what the witness in the kernel noted."""
    said = []
    with contextlib.suppress(ValueError, KeyError, TypeError):
        account = json.loads(sandbox.account)
        if more := account["count"] - len(account["gone"][:4]):
            account["gone"][4:] = [f"and {more} more"]
        if account["gone"]:
            said.append(f"removed files of its own folder: {', '.join(account['gone'])}")
    if listener.size > MAX_SAID:
        said.append(f"printed more than {MAX_SAID / 2**20:.0f} MiB (the rest was not kept)")
    noted = "".join(str(event.get("text")) for event in listener.events if event.get("event") == "seen")
    return said + witness.in_words(noted[: 4 * witness.MAX_SIZE], sandbox.kind in ("namespaces", "docker"))


def _outputs(listener: Listener, prepared: Prepared) -> list[list[dict]]:
    """For each cell its outputs, as far as they look like outputs."""
    outputs: list[list[dict]] = [[] for _ in prepared.notebook.cells]
    for event in listener.events:
        index, said = event.get("cell"), event.get("outputs")
        if event.get("event") == "cell" and type(index) is int and 0 <= index < len(outputs) and isinstance(said, list):
            outputs[index] = [part for part in said[:200] if isinstance(part, dict)]
    return outputs


def _raised(outputs: list[list[dict]]) -> list[str]:
    """Which cells ended with an error, for instructor and student; blanks that were left blank are no news."""
    said = []
    for number, cell in enumerate(outputs, start=1):
        for part in cell:
            name = str(part.get("ename"))[:60]
            if part.get("output_type") == "error" and name != "NotImplementedError":
                long = " (it took longer than a cell may)" if name == "KeyboardInterrupt" else ""
                said.append(f"cell {number} ended with {name}{long}")
    return said[:10]


def _result(task: Task, prepared: Prepared | None, run: Run, start: float) -> dict:
    exercises = []
    for exercise in task.assignment.exercises:
        for name in task.assignment.parts(exercise):
            meta = task.assignment.cells[name].metadata["nbgrader"]
            by_hand = bool(meta["solution"])
            passed, message = run.verdicts.get(name, (False, run.reason or "this check was not reached"))
            problem = prepared.problems.get(name) if prepared else run.reason
            if problem:
                passed, message = False, problem
            elif by_hand:
                passed, message = False, ""
            exercises.append(
                {
                    "exercise": f"{exercise.chapter}.{exercise.number}",
                    "title": exercise.title,
                    "grade_id": name,
                    "max": meta["points"],
                    "points": None if by_hand and not problem else (meta["points"] if passed else 0),
                    "by_hand": by_hand,
                    "passed": passed,
                    "judged": "by hand" if by_hand else ("together" if name in task.together else "apart"),
                    "message": message[:2000],
                }
            )
    usage = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    cells = []
    if prepared:
        for cell, said in zip(prepared.notebook.cells, run.outputs):
            cells.append(
                {"type": cell.cell_type, "source": cell.source, "id": cell.metadata.get("fdlib"), "outputs": said}
            )
    return {
        "student": task.submission.student,
        "file": task.submission.notebook.name if task.submission.notebook else "",
        "status": run.status,
        "reason": run.reason,
        "notes": prepared.notes if prepared else [],
        "seen": run.seen,
        "exercises": exercises,
        "seconds": round(time.monotonic() - start, 2),
        "cpu_seconds": round(sum(part.ru_utime + part.ru_stime for part in usage), 2),
        "cells": cells,
    }


# ------------------------------------------------------------------------------ a class


def _judge_process(task: Task, target: str, fingerprint: str, lifeline) -> None:
    """The body of a judge's process: grade, write, end; and end at once, with the jail, when the run that started it ends."""
    os.setpgid(0, 0)

    def watch():
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        if task.kind == "docker":
            end_containers(os.getpid())
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    sys.stdout = sys.stderr = io.StringIO()  # a check may print
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    ceiling = JUDGE_MEMORY if hard == resource.RLIM_INFINITY else min(hard, JUDGE_MEMORY)
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))
    try:
        result = grade_one(task)
    except Exception as error:
        said = f"the judge could not finish: {type(error).__name__}: {error}"
        result = _result(task, None, Run({}, "failed", said[:500]), time.monotonic())
    _write(Path(target), result | {"fingerprint": fingerprint})


def _write(path: Path, value: dict) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8", errors="replace")


def calibrate(assignment: Assignment, path: Path, kind: str, limits: Limits, say=print) -> frozenset[str]:
    """Grade the instructor's own solution; the checks that only work beside the student's objects.

    Raises:
        ValueError: the solution does not pass its own checks here, so nobody's answer can be graded.
    """
    together: frozenset[str] = frozenset()
    for attempt in range(2):
        result = grade_one(Task(assignment, Submission("solution", path), kind, limits, together, slot=98))
        failed = {e["grade_id"]: e["message"] for e in result["exercises"] if not e["by_hand"] and not e["passed"]}
        if not failed:
            return together
        if attempt == 0:
            together = frozenset(failed)
    reasons = "; ".join(f"{name}: {message}" for name, message in failed.items())
    raise ValueError(
        f"the solution of {assignment.name} does not pass here ({result['reason'] or reasons}): nothing was graded"
    )


def grade(
    folder: Path,
    solutions: Path,
    exercise: str,
    out: Path,
    *,
    containment: str = "auto",
    limits: Limits | None = None,
    jobs: int | None = None,
    say=print,
) -> list[dict]:
    """Grade all submissions in ``folder``; one result for each, also in ``out``/results.

    Raises:
        ValueError, RuntimeError: nothing can be graded; the message says what to do.
    """
    limits, jobs = limits or Limits(), jobs or os.cpu_count() or 1
    assignment = Assignment.load(solutions, exercise)
    submissions = find(folder, assignment)
    if beside := strays(folder):
        say(f"not looked at, neither a folder nor a notebook: {', '.join(beside[:10])}")
    kind, tried = choose(containment)
    for line in tried:
        say(f"not available here: {line}")
    say(f"{assignment.name}: {len(submissions)} submissions, {jobs} at a time, containment: {kind}")
    old = _read(out / "run.json")
    shutil.rmtree(old.get("scratch") or "/nonexistent", ignore_errors=True)  # of a run that was killed
    state = hashlib.sha256()
    for source in sorted((Path(__file__).parents[1] / "checks").glob("*.py")):
        state.update(source.read_bytes())
    state.update(json.dumps([assignment.notebook, dataclasses.asdict(limits), kind], sort_keys=True).encode())
    state = state.hexdigest()
    if old.get("state") == state:
        together = frozenset(old["together"])
    else:
        say("grading the solution first, as a test of the grader …")
        together = calibrate(assignment, solutions / f"{assignment.name}.ipynb", kind, limits, say)
    if together:
        say(f"judged beside the student's code, so less safe: {', '.join(sorted(together))}")
    scratch = tempfile.mkdtemp(prefix="fdlib-grading-")
    os.chmod(scratch, 0o711)
    run = {"exercise": assignment.name, "containment": kind, "tried": tried, "limits": dataclasses.asdict(limits)}
    _write(out / "run.json", run | {"state": state, "together": sorted(together), "scratch": scratch})
    wanted = {}
    for submission in submissions:
        fingerprint = hashlib.sha256(f"{state} {submission.fingerprint()} {submission.problem}".encode()).hexdigest()
        wanted[submission.key] = (submission, fingerprint)
    for path in (out / "results").glob("*.json"):
        if path.stem not in wanted:
            path.unlink()  # a submission that is gone
    old = {key: _read(out / "results" / f"{key}.json") for key in wanted}
    todo = [
        key
        for key, (_, fresh) in wanted.items()
        if old[key].get("fingerprint") != fresh or old[key]["status"] == "failed"
    ]
    if len(todo) < len(wanted):
        say(f"{len(wanted) - len(todo)} are graded already")
    try:
        _all(todo, wanted, assignment, kind, limits, together, scratch, jobs, out, say)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [_read(out / "results" / f"{key}.json") for key in wanted]


def _all(todo, wanted, assignment, kind, limits, together, scratch, jobs, out, say) -> None:
    """The pool: at most ``jobs`` judges at a time, each with a slot, that is a user id, of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "nbformat", "fdlib.course.checks", "fdlib.course.grading.judge", __name__])
    running: dict[int, tuple] = {}
    queue, done = list(todo), 0
    mine, theirs = context.Pipe()  # its end, however it comes, tells the judges to end
    try:
        while queue or running:
            while queue and len(running) < jobs:
                key = queue.pop(0)
                submission, fingerprint = wanted[key]
                slot = next(i for i in range(jobs) if i not in {entry[3] for entry in running.values()})
                task = Task(assignment, submission, kind, limits, together, slot, scratch)
                target = out / "results" / f"{key}.json"
                process = context.Process(
                    target=_judge_process, args=(task, str(target), fingerprint, theirs), daemon=True
                )
                process.start()
                running[process.sentinel] = (process, key, task, slot, time.monotonic())
            for sentinel in multiprocessing.connection.wait(list(running), timeout=1.0):
                process, key, task, _, _ = running.pop(sentinel)
                process.join()
                target, (submission, fingerprint) = out / "results" / f"{key}.json", wanted[key]
                if _read(target).get("fingerprint") != fingerprint:
                    reason = f"the judge's process ended with {process.exitcode}"
                    failed = _result(task, None, Run({}, "failed", reason), time.monotonic())
                    _write(target, failed | {"fingerprint": fingerprint})
                done += 1
                say(f"[{done}/{len(todo)}] {line(_read(target))}")
            for process, _, _, _, start in running.values():
                if time.monotonic() - start > limits.patience * limits.seconds + 20 * GRACE:
                    process.kill()
    finally:
        mine.close()
        theirs.close()
        for process, *_ in running.values():
            process.join(GRACE)
            process.kill()


def line(result: dict) -> str:
    """A result in one line."""
    points = sum(e["points"] or 0 for e in result["exercises"])
    most = sum(e["max"] for e in result["exercises"])
    open_ = sum(e["max"] for e in result["exercises"] if e["points"] is None)
    text = f"{result['student']}: {points} of {most} points" + (f", {open_} still by hand" if open_ else "")
    return text + (f" ({result['status']}: {result['reason']})" if result["reason"] else "")


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
