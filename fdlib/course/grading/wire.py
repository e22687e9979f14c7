"""What crosses the wall between the judge, who is trusted, and a student's process, which is not.

Both ends speak in messages: a few words of JSON and a blob. From the judge to the student the blob may hold a pickle: the
judge is trusted, and what a student's process makes of it is its own affair. From the student to the judge nothing is ever
unpickled: ``encode`` and ``decode`` know numbers, text, containers, tensors, arrays and a few of fdlib's own dataclasses.
Everything else (functions, models, classes) stays where it is and crosses as a handle.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import math
import pickle
import socket
import struct
import time
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

HEAD = struct.Struct(">IQ")  # bytes of JSON, bytes of blob
MAX_JSON, MAX_BLOB = 16 * 2**20, 512 * 2**20
MAX_DEPTH = 40
DTYPES = {str(t).removeprefix("torch."): t for t in vars(torch).values() if isinstance(t, torch.dtype)}
CHECKS = "fdlib.course.checks"
RECORDS = {  # fdlib's dataclasses that an answer may be: nothing happens when one is made
    ("fdlib.denoiser", "Prediction"),
    ("fdlib.nerf", "Rendering"),
    ("fdlib.metrics.geometry", "Similarity"),
    ("fdlib.factorized", "Generated"),
}


class WireError(Exception):
    """The other side is gone, too late, or does not keep to the protocol."""


def _lost(error: OSError) -> WireError:
    if isinstance(error, TimeoutError):
        return WireError("no answer in time")
    return WireError("closed" if isinstance(error, ConnectionError) else f"lost: {error}")


class Channel:
    """Messages over a socket. ``deadline`` (of ``time.monotonic``) ends every wait; None waits for ever."""

    def __init__(self, connection: socket.socket):
        self.connection, self.deadline = connection, None

    def send(self, words: dict, blob: bytes = b"") -> None:
        text = json.dumps(words).encode()
        self._arm()
        try:
            self.connection.sendall(HEAD.pack(len(text), len(blob)) + text + blob)
        except OSError as error:
            raise _lost(error) from None

    def receive(self) -> tuple[dict, bytes]:
        json_size, blob_size = HEAD.unpack(self._read(HEAD.size))
        if json_size > MAX_JSON or blob_size > MAX_BLOB:
            raise WireError("an answer of more than 512 MiB")
        text, blob = self._read(json_size), self._read(blob_size)
        try:
            words = json.loads(text)
        except (ValueError, RecursionError):
            words = None
        if not isinstance(words, dict):
            raise WireError("not a message")
        return words, blob

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            self._arm()
            try:
                part = self.connection.recv(min(size - len(parts), 2**20))
            except OSError as error:
                raise _lost(error) from None
            if not part:
                raise WireError("closed")
            parts += part
        return bytes(parts)

    def _arm(self) -> None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise WireError("no answer in time")
            self.connection.settimeout(left)


# ------------------------------------------------------------------------------ data, both ways, as JSON and bytes


def tensor_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def tensor_from(name: str, shape, data: bytes) -> Tensor:
    """A tensor of its own memory; ValueError unless dtype, shape and bytes belong together."""
    dtype, shape = DTYPES.get(name), tuple(shape)
    if dtype is None or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("not a tensor")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor's bytes do not fit its shape")
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return (raw != 0 if dtype is torch.bool else raw.view(dtype)).reshape(shape)


def is_record(value) -> bool:
    """One of RECORDS: they cross as their fields."""
    return (type(value).__module__, type(value).__name__) in RECORDS


def encode(value, other: Callable[[object], dict]) -> tuple[object, bytes]:
    """``value`` as JSON and bytes; ``other`` says what becomes of an object that is not data."""
    blob = bytearray()

    def walk(value, depth=0):
        if depth > MAX_DEPTH:
            raise ValueError("the answer is nested too deeply, or contains itself")
        if value is None or value is ...:
            return {"is": "ellipsis"} if value is ... else None
        for kind in (bool, int, float, str):  # subclasses too: a float of numpy is a float
            if isinstance(value, kind):
                return kind(value)
        if isinstance(value, complex):
            return {"is": "complex", "of": [value.real, value.imag]}
        if isinstance(value, Tensor):
            tensor = value.detach().to_dense() if value.layout is not torch.strided else value.detach().resolve_conj()
            data = tensor_bytes(tensor)
            where = [len(blob), len(data)]
            blob.extend(data)
            name = str(tensor.dtype).removeprefix("torch.")
            said = {"is": "tensor", "dtype": name, "shape": list(tensor.shape), "at": where}
            return said | (other(value) if value.requires_grad else {})
        if isinstance(value, torch.Generator):
            return {"is": "generator", "of": walk(value.get_state(), depth + 1)}
        if isinstance(value, torch.dtype):
            return {"is": "dtype", "of": str(value).removeprefix("torch.")}
        if type(value).__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biufc":
            tensor = torch.from_numpy(value.copy() if value.ndim else value.reshape(1).copy())
            return {"is": "array", "scalar": not value.shape, "of": walk(tensor, depth + 1)}
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                return {"is": kind.__name__, "of": [walk(part, depth + 1) for part in value]}
        if isinstance(value, dict):
            return {"is": "dict", "of": [[walk(k, depth + 1), walk(v, depth + 1)] for k, v in value.items()]}
        if is_record(value):
            fields = {f.name: walk(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value) if f.init}
            return {"is": "record", "class": [type(value).__module__, type(value).__name__], "of": fields}
        return other(value)

    return walk(value), bytes(blob)


def decode(
    said, blob: bytes, other: Callable[[dict], object], grad: Callable[[Tensor, dict], object] = lambda t, said: t
):
    """The value that ``encode`` wrote. Whatever is malformed, however malicious, is a WireError and nothing else.

    Args:
        other: makes something of a handle.
        grad: makes something of a tensor that the other side can differentiate.
    """

    def walk(said, depth=0):
        if said is None or isinstance(said, bool | int | float | str):
            return said
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        kind, of = said["is"], said.get("of")
        if kind in ("list", "tuple", "set", "frozenset"):
            makers = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
            return makers[kind](walk(part, depth + 1) for part in of)
        if kind == "dict":
            return {walk(key, depth + 1): walk(value, depth + 1) for key, value in of}
        if kind == "tensor":
            start, size = said["at"]
            tensor = tensor_from(said["dtype"], said["shape"], blob[start : start + size])
            return grad(tensor, said) if "graph" in said else tensor
        if kind == "array":
            array = walk(of, depth + 1).detach().numpy()
            return array[0] if said["scalar"] else array
        if kind == "complex":
            return complex(*of)
        if kind == "generator":
            return torch.Generator().set_state(walk(of, depth + 1))
        if kind == "ellipsis":
            return ...
        if kind == "dtype":
            return DTYPES[of]
        if kind == "record":
            module, name = said["class"]
            if (module, name) not in RECORDS:
                raise ValueError("no such record")
            return getattr(importlib.import_module(module), name)(
                **{name: walk(value, depth + 1) for name, value in of.items()}
            )
        return other(said)

    try:
        return walk(said)
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"an answer that cannot be read: {type(error).__name__}") from None


# ------------------------------------------------------------------------------ arguments, from the judge to the student


class Outgoing(pickle.Pickler):
    """Pickles arguments and remembers each tensor and module in them, so that what the student changes can be changed here.

    The judge's own functions and the checks' objects do not travel: they become references, called back over the wire.
    """

    def __init__(self, local: Callable[[object], int], remote: Callable[[object], int | None]):
        self.file = io.BytesIO()
        super().__init__(self.file, protocol=5)
        self.local, self.remote = local, remote
        self.tensors: list[Tensor] = []
        self.modules: list[nn.Module] = []
        self.blob, self.meta = bytearray(), []

    @classmethod
    def pack(cls, value, local, remote) -> tuple[dict, bytes, Outgoing]:
        packed = cls(local, remote)
        packed.dump(value)
        text = packed.file.getvalue()
        return {"pickle": len(text), "tensors": packed.meta}, text + bytes(packed.blob), packed

    def persistent_id(self, value):
        if isinstance(value, Tensor):
            for index, known in enumerate(self.tensors):
                if known is value:
                    return "tensor", index
            data, name = tensor_bytes(value), str(value.dtype).removeprefix("torch.")
            parameter, needs = isinstance(value, nn.Parameter), value.requires_grad
            self.meta.append([name, list(value.shape), len(data), parameter, needs])
            self.blob += data
            self.tensors.append(value)
            return "tensor", len(self.tensors) - 1
        handle = self.remote(value)
        if handle is not None:
            return "handle", handle
        if isinstance(value, torch.Generator):
            return "generator", value.get_state().numpy().tobytes()
        if _stays(value):
            return "local", self.local(value)
        return None

    def reducer_override(self, value):
        if isinstance(value, nn.Module):
            self.modules.append(value)
            return (blank_module, (type(value), len(self.modules) - 1), *value.__reduce_ex__(4)[2:])
        return NotImplemented


def _stays(value) -> bool:
    """Whether an object of the judge is called back rather than sent: closures, and all that the checks define."""
    if isinstance(value, types.FunctionType | type):
        inside = value.__module__ or ""
        return "<" in value.__qualname__ or inside.startswith((CHECKS, "__"))
    if isinstance(value, types.MethodType):
        return _stays(value.__self__)
    return (type(value).__module__ or "").startswith(CHECKS)


def blank_module(cls: type, index: int):
    """An empty module to be filled by unpickling; ``Incoming`` replaces this function by its own."""
    return cls.__new__(cls)


class Incoming(pickle.Unpickler):
    """The other end of ``Outgoing``: only ever used inside the jail."""

    def __init__(self, said: dict, blob: bytes, local: Callable[[int], object], handle: Callable[[int], object]):
        super().__init__(io.BytesIO(blob[: said["pickle"]]))
        self.local, self.handle = local, handle
        self.tensors, self.modules = [], {}
        at = said["pickle"]
        for name, shape, size, parameter, needs in said["tensors"]:
            tensor = tensor_from(name, shape, blob[at : at + size])
            at += size
            self.tensors.append(nn.Parameter(tensor, needs) if parameter else tensor.requires_grad_(needs))

    def persistent_load(self, pid):
        kind, index = pid
        if kind == "generator":
            return torch.Generator().set_state(torch.frombuffer(bytearray(index), dtype=torch.uint8))
        return {"tensor": self.tensors.__getitem__, "local": self.local, "handle": self.handle}[kind](index)

    def find_class(self, module, name):
        if (module, name) == (__name__, "blank_module"):

            def tracked(cls, index):
                self.modules[index] = made = cls.__new__(cls)
                return made

            return tracked
        return super().find_class(module, name)
