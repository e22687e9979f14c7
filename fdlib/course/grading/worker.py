"""Inside the student's kernel: lend the student's objects to the judge, one check at a time.

Nothing here is trusted, and nothing needs to be: student code may have replaced all of it. All it can then do is answer the
judge's questions in another way, and the answers are what is graded.
"""

from __future__ import annotations

import os
import socket
import traceback

import torch
from torch import Tensor, nn

from fdlib.course.grading.wire import Channel, Incoming, WireError, encode

_lender: Lender | None = None


def serve(check: str, names: dict) -> None:
    """Answer the judge until it is done with ``check``. ``names``: the notebook's variables."""
    global _lender
    if _lender is None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(os.environ["FDLIB_CHANNEL"])
        _lender = Lender(Channel(connection))
    _lender.names = names
    _lender.channel.send({"op": "ready", "check": check})
    _lender.answer_until("done")


class Callback:
    """A function or object of the judge, called over the wire."""

    def __init__(self, lender: Lender, index: int):
        self.__dict__["_call"] = lambda *request: lender.call_back(index, *request)

    def __call__(self, *args, **kwargs):
        return self._call("call", list(args), kwargs)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return self._call("getattr", [name], {})


class Lender:
    """Holds what the judge has handles of: the student's functions and objects, and graphs for gradients."""

    def __init__(self, channel: Channel):
        self.channel, self.names = channel, {}
        self.held: list[object] = []
        self.graphs: list[tuple[list[Tensor], list[Tensor]]] = []

    def answer_until(self, last: str) -> tuple[dict, bytes]:
        while True:
            words, blob = self.channel.receive()
            if words["op"] == last:
                return words, blob
            try:
                said, data = getattr(self, "do_" + words["op"])(words, blob)
            except WireError:
                raise
            except BaseException as error:  # KeyboardInterrupt too: the time limit of a cell
                text = "".join(traceback.format_exception(error, limit=-3))[-4000:]
                said, data = {"error": type(error).__name__, "message": str(error)[:2000], "trace": text}, b""
            self.channel.send({"op": "answer", "id": words["id"], **said}, data)

    # -------------------------------------------------------------------------- what the judge may ask

    def do_get(self, words, blob):
        if words["name"] not in self.names:
            raise NameError(f"name {words['name']!r} is not defined")
        return self._say(self.names[words["name"]])

    def do_getattr(self, words, blob):
        return self._say(getattr(self.held[words["handle"]], words["name"]))

    def do_call(self, words, blob):
        arrived = self._incoming(words, blob)
        args, kwargs = arrived.load()
        before = [tensor.detach().clone() for tensor in arrived.tensors]
        attributes = {index: dict(_parts(module)) for index, module in arrived.modules.items()}
        leaves = [tensor for tensor in arrived.tensors if tensor.requires_grad]
        with torch.set_grad_enabled(words["grad"]):
            result = self.held[words["handle"]](*args, **kwargs)
        outputs: list[Tensor] = []
        changes = self._changes(arrived, before, attributes)
        said, data = self._say([result, changes], outputs, arrived.modules)
        self.graphs.append((leaves, outputs))
        return said | {"graph": len(self.graphs) - 1}, data

    def do_backward(self, words, blob):
        leaves, outputs = self.graphs[words["graph"]]
        grads = self._incoming(words, blob).load()
        used = [(o, g) for o, g in zip(outputs, grads) if g is not None]
        outs, weights = [o for o, _ in used], [g for _, g in used]
        return self._say(list(torch.autograd.grad(outs, leaves, weights, retain_graph=True, allow_unused=True)))

    def do_together(self, words, blob):
        """Run a check right here, beside the student's objects: for those that cannot be judged from outside."""
        return self._say(together(words["source"], words["imports"], self.names, words["subject"], words["decoys"]))

    # -------------------------------------------------------------------------- back to the judge

    def call_back(self, index: int, what: str, args: list, kwargs: dict):
        said, data = encode([args, kwargs], lambda value: self._handle(value))
        self.channel.send({"op": "callback", "local": index, "what": what, "said": said}, data)
        words, blob = self.answer_until("returned")
        if "error" in words:
            raise RuntimeError(words["error"])
        value, states = self._incoming(words, blob).load()
        for generator, state in zip(_generators(args, kwargs), states):
            generator.set_state(state)  # the judge has drawn from it
        return value

    def _incoming(self, words, blob) -> Incoming:
        return Incoming(words, blob, lambda index: Callback(self, index), self.held.__getitem__)

    def _say(self, value, outputs: list | None = None, modules: dict | None = None):
        def other(value):
            if isinstance(value, Tensor):  # one that needs a gradient: its data are sent already
                if outputs is None:
                    return {}
                outputs.append(value)
                return {"graph": len(outputs) - 1}
            for index, module in (modules or {}).items():
                if module is value:
                    return {"is": "module", "index": index}
            return self._handle(value)

        said, data = encode(value, other)
        return {"said": said}, data

    def _handle(self, value) -> dict:
        if isinstance(value, Tensor):
            return {}
        self.held.append(value)
        return {"is": "handle", "handle": len(self.held) - 1, "callable": callable(value), "type": type(value).__name__}

    def _changes(self, arrived: Incoming, before: list[Tensor], attributes: dict) -> dict:
        """What the call did to its arguments: tensors with new values or another's memory, modules with new attributes."""
        tensors, alias, new = {}, {}, {}
        first: dict[int, int] = {}
        for index, (tensor, old) in enumerate(zip(arrived.tensors, before)):
            now = tensor.detach()
            same = now.shape == old.shape and now.dtype == old.dtype and torch.equal(now.nan_to_num(), old.nan_to_num())
            if not same:
                tensors[index] = now
            place = now.untyped_storage().data_ptr()
            if place and place in first:
                alias[index] = first[place]
            first.setdefault(place, index)
        for index, module in arrived.modules.items():
            for name, value in _parts(module).items():
                known = attributes[index].get(name)
                if value is known or (isinstance(value, bool | int | float | str) and value == known):
                    continue
                if any(value is tensor for tensor in arrived.tensors) or name in ("training",):
                    continue
                new.setdefault(index, {})[name] = value
        return {"tensors": tensors, "alias": alias, "attributes": new}


def _generators(args, kwargs) -> list[torch.Generator]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator)]


def _parts(module: nn.Module) -> dict:
    """A module's own attributes, parameters, buffers and submodules by name."""
    parts = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    for group in ("_parameters", "_buffers", "_modules"):
        parts |= vars(module).get(group, {})
    return parts


def together(source: str, imports: str, names: dict, subject: str, decoys: list[str]) -> str | None:
    """Run a check on the student's object in this very process: None if it passes, else why not.

    The check's modules are imported afresh from disk, where students cannot write. Before and after the answer, the check must
    refuse answers that are surely wrong; a check or library that was patched to let everything pass gives itself away.
    """
    import contextlib
    import io
    import sys

    for name in [name for name in sys.modules if name.startswith("fdlib.course.checks")]:
        del sys.modules[name]
    pristine: dict = {"__name__": "__judge__"}
    exec(imports, pristine)

    def passes(answer) -> str | None:
        space = dict(names) | pristine | {subject: answer}
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                exec(source, space)
            except Exception as error:
                return f"{error}" if type(error).__name__ == "CheckFailed" else f"{type(error).__name__}: {error}"
        return None

    wrong = [eval(text, {"torch": torch}) for text in decoys]
    if any(passes(answer) is None for answer in wrong):
        return "tampered"
    if subject not in names:
        return f"NameError: name {subject!r} is not defined"
    said = passes(names[subject])
    if any(passes(answer) is None for answer in wrong):
        return "tampered"
    return said
