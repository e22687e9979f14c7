"""The judge's side of the wall: the instructor's checks, run on objects that stay in the student's process.

    judge = Judge(instructor_notebook)
    with Link(connection) as link: verdict = judge.check("check-jump", link)

A check such as ``check.jump(jump)`` is executed here, in a process that no student's code ever enters, with the imports of the
instructor's notebook. The name ``jump`` becomes a ``Remote``: calling it sends the arguments into the jail and brings data
back. What the student's function did to a network among them is done to it here too; gradients flow through it, by asking for
them; and functions that a check hands over are called here.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fdlib.course.checks import CheckFailed
from fdlib.course.grading.wire import Channel, Outgoing, WireError, decode

DECOYS = ("lambda *a, **k: None", "lambda *a, **k: torch.full((1,), 12345.0)", "12345.0")


class StudentError(Exception):
    """The student's code raised something that is not one of Python's own exceptions."""


class Remote:
    """A function or object in the student's process."""

    __slots__ = ("_handle", "_link", "_type")

    def __init__(self, link: Link, said: dict):
        handle, kind = said["handle"], said["type"]
        if type(handle) is not int or type(kind) is not str:
            raise ValueError("not a handle")
        self._link, self._handle, self._type = link, handle, kind[:60]

    def __call__(self, *args, **kwargs):
        return self._link.call(self._handle, args, kwargs)

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        return self._link.ask("getattr", handle=self._handle, name=name)

    def __repr__(self) -> str:
        return f"<the student's {self._type}>"


class _Gradient(torch.autograd.Function):
    """Joins the judge's graph to the one that the student's process keeps."""

    @staticmethod
    def forward(ctx, link, graph, outputs, *inputs):
        ctx.link, ctx.graph = link, graph
        return tuple(output.clone() for output in outputs)

    @staticmethod
    def backward(ctx, *grads):
        return None, None, None, *ctx.link.backward(ctx.graph, grads, ctx.needs_input_grad[3:])


class Link:
    """The conversation with one student's process."""

    def __init__(self, channel: Channel):
        self.channel, self.last = channel, 0
        self.locals: list[object] = []
        self.raised: BaseException | None = None  # by the judge's own function, under the student's

    def ask(self, op: str, blob: bytes = b"", **words):
        said, data = self._request(op, blob, words)
        return self._decode(said.get("said"), data)

    def call(self, handle: int, args: tuple, kwargs: dict):
        words, blob, packed = self._pack((args, kwargs))
        grad = torch.is_grad_enabled()
        said, data = self._request("call", blob, words | {"handle": handle, "grad": grad})
        differentiable: dict[int, Tensor] = {}

        def keep(tensor, said):
            differentiable[int(said["graph"])] = tensor
            return tensor

        result, changes = self._pair(self._decode(said.get("said"), data, packed, keep))
        inputs = [tensor for tensor in packed.tensors if tensor.requires_grad]
        if grad and inputs and differentiable:
            order = sorted(differentiable)
            joined = _Gradient.apply(self, said.get("graph"), [differentiable[i] for i in order], *inputs)
            swap = {id(differentiable[i]): tensor for i, tensor in zip(order, joined)}
            result = _replace(result, swap)
        self._apply(changes, packed)
        return result

    def backward(self, graph: int, grads: tuple, needed: tuple) -> list:
        words, blob, _ = self._pack([None if grad is None else grad.detach() for grad in grads])
        found = self.ask("backward", blob, graph=graph, **words)
        if not isinstance(found, list) or len(found) != len(needed):
            raise WireError("gradients that do not fit")
        return found

    def _apply(self, changes: dict, packed: Outgoing) -> None:
        """Do to the judge's own networks what the call did to its copies.

        To networks only, that is, modules with parameters: other tensors, and exact denoisers, are what the check will compare
        with, and no student may change those.
        """
        try:
            networks = [module for module in packed.modules if next(module.parameters(), None) is not None]
            inside = {id(tensor) for module in networks for tensor in (*module.parameters(), *module.buffers())}
            with torch.no_grad():
                for index, value in changes["tensors"].items():
                    mine = packed.tensors[index]
                    if id(mine) not in inside:
                        mine.touched_by_answer = True  # for `checks.touched`
                        continue
                    if value.shape == mine.shape and value.dtype == mine.dtype:
                        mine.copy_(value)
                    else:
                        mine.data = value
                for index, other in changes["alias"].items():
                    mine, theirs = packed.tensors[index], packed.tensors[other]
                    if id(mine) in inside and mine.untyped_storage().data_ptr() != theirs.untyped_storage().data_ptr():
                        mine.data = theirs.data
            for index, attributes in changes["attributes"].items():
                module = packed.modules[index]
                for name, value in attributes.items() if any(module is network for network in networks) else ():
                    if not str(name).isidentifier() or name.startswith("_"):
                        raise ValueError("not an attribute")
                    for group in (module._parameters, module._buffers, module._modules):
                        group.pop(name, None)
                    if isinstance(value, nn.Module):
                        module.add_module(name, value)
                    else:
                        vars(module)[name] = value
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError):
            raise WireError("changes of arguments that cannot be read") from None

    def _request(self, op: str, blob: bytes, words: dict) -> tuple[dict, bytes]:
        self.last += 1
        self.channel.send({"op": op, "id": self.last, **words}, blob)
        while True:
            said, data = self.channel.receive()
            if said.get("op") == "callback":
                self._call_local(said, data)
            elif said.get("op") == "answer" and said.get("id") == self.last:
                break
        if "error" not in said:
            return said, data
        raised, self.raised = self.raised, None
        if raised is not None:  # the judge's own complaint, made from within the student's call
            raise raised
        name, message = str(said["error"])[:80], str(said.get("message", ""))[:2000]
        if name == "KeyboardInterrupt":
            raise TimeoutError("it took longer than a cell may")
        known = getattr(builtins, name, None)
        if (
            isinstance(known, type)
            and issubclass(known, Exception)
            and known not in (UnicodeDecodeError, UnicodeEncodeError)
        ):
            with contextlib.suppress(TypeError):
                raise known(message)
        raise StudentError(f"{name}: {message}")

    def _call_local(self, said: dict, data: bytes) -> None:
        words: dict = {}
        blob = b""
        try:
            target = self.locals[said["local"]]
            args, kwargs = self._pair(self._decode(said.get("said"), data))
            if said.get("what") == "getattr":
                name = str(args[0])
                if name.startswith("_"):
                    raise AttributeError(name)
                value = getattr(target, name)
            else:
                value = target(*args, **kwargs)
            drawn = [given.get_state() for given in (*args, *kwargs.values()) if isinstance(given, torch.Generator)]
            words, blob, _ = self._pack([value, drawn])
        except WireError:
            raise
        except Exception as error:
            self.raised = error if isinstance(error, CheckFailed) else None
            words = {"error": f"{type(error).__name__}: {error}"}
        self.channel.send({"op": "returned", "id": self.last, **words}, blob)

    def _pack(self, value) -> tuple[dict, bytes, Outgoing]:
        def local(value) -> int:
            self.locals.append(value)
            return len(self.locals) - 1

        return Outgoing.pack(value, local, lambda value: value._handle if type(value) is Remote else None)

    def _decode(self, said, data: bytes, packed: Outgoing | None = None, keep=lambda tensor, said: tensor):
        def other(said):
            if said["is"] == "module" and packed is not None:
                return packed.modules[said["index"]]
            if said["is"] == "handle":
                return Remote(self, said)
            raise ValueError("neither data nor a handle")

        return decode(said, data, other, keep)

    @staticmethod
    def _pair(value) -> tuple:
        if not isinstance(value, list) or len(value) != 2:
            raise WireError("an answer that cannot be read")
        return tuple(value)


def _replace(value, swap: dict[int, Tensor]):
    """``value`` with some of its tensors replaced, in tuples, lists, dictionaries and fdlib's records."""
    if isinstance(value, Tensor):
        return swap.get(id(value), value)
    if isinstance(value, list | tuple):
        return type(value)(_replace(part, swap) for part in value)
    if isinstance(value, dict):
        return {key: _replace(part, swap) for key, part in value.items()}
    if hasattr(type(value), "__dataclass_fields__"):
        for name in type(value).__dataclass_fields__:
            if isinstance(getattr(value, name), Tensor):
                object.__setattr__(value, name, _replace(getattr(value, name), swap))
    return value


# ------------------------------------------------------------------------------ verdicts


@dataclass
class Verdict:
    """What became of one check. ``message`` is for the student."""

    passed: bool
    message: str


class Judge:
    """The checks of one instructor's notebook (with hidden tests), by grade id."""

    def __init__(self, notebook):
        plain = [c.source for c in notebook.cells if c.cell_type == "code" and "nbgrader" not in c.metadata]
        self.imports = imports("\n\n".join(_python(source) for source in plain))
        self.sources = {}
        for cell in notebook.cells:
            meta = cell.metadata.get("nbgrader", {})
            if cell.cell_type == "code" and meta.get("grade") and not meta.get("solution"):
                self.sources[meta["grade_id"]] = _python(cell.source)

    def subject(self, name: str) -> str | None:
        """The one name that a check takes from the student."""
        wanted = self.wanted(name)
        return wanted[0] if len(wanted) == 1 else None

    def wanted(self, name: str) -> list[str]:
        """The names that a check reads and that neither Python, nor the imports, nor the check itself defines."""
        known = {*vars(builtins), *bound(self.imports), *bound(self.sources[name])}
        tree = ast.parse(self.sources[name])
        read = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
        return [found for found in dict.fromkeys(read) if found not in known]

    def check(self, name: str, link: Link, seconds: float, together: bool = False) -> Verdict:
        """Run one check on what the student's process lends. WireError: the process is lost."""
        link.channel.deadline = time.monotonic() + seconds
        out = io.StringIO()
        try:
            if together:
                words = {"source": self.sources[name], "imports": self.imports, "decoys": list(DECOYS)}
                said = link.ask("together", subject=self.subject(name), **words)
                if said == "tampered":
                    said = "a wrong answer passed this check in your notebook: the check, or what it uses, was tampered with"
                return Verdict(said is None, "" if said is None else str(said)[:2000])
            space: dict = {"__name__": "__judge__"}
            exec(self.imports, space)
            for wanted in self.wanted(name):
                space[wanted] = link.ask("get", name=wanted)
            with contextlib.redirect_stdout(out):
                exec(compile(self.sources[name], f"<{name}>", "exec"), space)
        except WireError:
            raise
        except CheckFailed as error:
            return Verdict(False, str(error))
        except StudentError as error:
            return Verdict(False, str(error))
        except Exception as error:
            return Verdict(False, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        return Verdict(True, out.getvalue().strip())


def imports(source: str) -> str:
    """The import statements at the top level of a source, the course's set-up left out."""
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    return "\n".join(line for line in found if line != "from fdlib import course")


def bound(source: str) -> set[str]:
    """The names that a source binds itself."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def _python(source: str) -> str:
    """A cell without IPython's magics and shell lines."""
    return "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
