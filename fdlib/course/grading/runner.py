"""Inside the jail: run a notebook's cells in a Jupyter kernel, in order, and tell each cell's outputs on standard output.

    python -I -m fdlib.course.grading.runner NOTEBOOK CELL_SECONDS PATIENCE

A cell that takes too long is interrupted, and the next one runs; one that will not be interrupted ends the notebook. What the
witness in the kernel notes is passed on. This process is the student's neighbour and no more trusted than the student: what it
prints is only ever shown, never graded.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time

from fdlib.course.grading.witness import MAX_SIZE
from fdlib.course.grading.witness import __name__ as WITNESS

MAX_OUTPUT = 200_000  # characters of a cell's outputs that are worth showing
KEPT = ("text/plain", "image/png", "text/markdown", "text/latex")


class Watch(threading.Thread):
    """Interrupts a cell that has used its processor time, ends a kernel that goes on regardless, passes on notes."""

    def __init__(self, client, seconds: float, notes: int):
        super().__init__(daemon=True)
        self.client, self.seconds, self.before = client, seconds, 0.0
        self.told, self.notes, self.passed_on = False, notes, 0

    def cell(self) -> None:
        self.before, self.told = self.used(), False

    def used(self) -> float:
        with contextlib.suppress(OSError, AttributeError, IndexError):
            with open(f"/proc/{self.client.km.provisioner.process.pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def run(self) -> None:
        while True:
            time.sleep(0.2)
            self.pass_on()
            spent = self.used() - self.before
            with contextlib.suppress(OSError, AttributeError):
                pid = self.client.km.provisioner.process.pid
                if spent > self.seconds and not self.told:
                    self.told = True
                    os.kill(pid, signal.SIGINT)
                elif spent > 1.5 * self.seconds + 5:
                    os.kill(pid, signal.SIGKILL)

    def pass_on(self) -> None:
        if text := os.pread(self.notes, MAX_SIZE + 1000 - self.passed_on, self.passed_on):  # it could grow for ever
            self.passed_on += len(text)
            say(event="seen", text=text.decode(errors="replace"))


def main(path: str, cell_seconds: float, patience: float) -> int:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=patience * cell_seconds,
        kernel_name="python3",
        allow_errors=True,
        interrupt_on_timeout=True,
        startup_timeout=600,
        shutdown_kernel="immediate",
        extra_arguments=[f"--IPKernelApp.extra_extensions={WITNESS}"],
        resources={"metadata": {"path": os.getcwd()}},
    )
    index = -1
    notes, os.environ["FDLIB_WITNESS"] = tempfile.mkstemp()
    watch = Watch(client, cell_seconds, notes)
    try:
        with client.setup_kernel():
            os.unlink(os.environ["FDLIB_WITNESS"])  # open in both processes, and nobody else's
            watch.start()
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "code":
                    say(event="start", cell=index)
                    watch.cell()
                    client.execute_cell(cell, index)
                    say(event="cell", cell=index, outputs=shown(cell.outputs))
    except DeadKernelError:
        say(event="died", cell=index)
        return 3
    except Exception as error:
        say(event="failed", cell=index, error=f"{type(error).__name__}: {error}"[:500])
        return 4
    finally:
        watch.pass_on()
    say(event="end")
    return 0


def say(**words) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(words).encode() + b"\n")


def shown(outputs) -> list[dict]:
    """Outputs cut to what a person reads: text and pictures, no HTML and no scripts."""
    kept, room = [], MAX_OUTPUT
    for output in outputs:
        if output.output_type == "stream":
            text = output.text[: min(room, 20_000)]
            kept.append({"output_type": "stream", "name": output.name, "text": text})
            room -= len(text)
        elif output.output_type == "error":
            trace = [line[:2000] for line in output.traceback[-20:]]
            kept.append(
                {
                    "output_type": "error",
                    "ename": output.ename[:200],
                    "evalue": output.evalue[:2000],
                    "traceback": trace,
                }
            )
            room -= 2000
        elif data := {
            kind: value for kind, value in output.get("data", {}).items() if kind in KEPT and len(value) < room
        }:
            room -= sum(map(len, data.values()))
            kept.append({"output_type": "display_data", "data": data, "metadata": {}})
        if room <= 0 or len(kept) >= 100:
            kept.append({"output_type": "stream", "name": "stdout", "text": "\n… and more, not shown\n"})
            break
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
