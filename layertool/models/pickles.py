"""Files of torch.save, read as data: no name of a file is called, and nothing becomes larger than the file.

A small machine follows the opcodes, which pickletools takes apart. Names stay names, objects of other classes are
``Kept``, tensors are ``Stored``: places in the file, which are checked before they are read.
"""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickletools import genops
from typing import Any

import numpy as np
import torch

from layertool.errors import ModelError
from layertool.models.strangers import shown

# Packages whose classes only describe: their objects are kept as what was stored in them.
_SETTINGS = re.compile(
    r"(argparse\.Namespace|typing\.\w+|pathlib\.(Posix|Pure)?\w*Path|collections\.(defaultdict|Counter|OrderedDict)|"
    r"(omegaconf|fairseq|examples|data2vec|hydra)(\.\w+)+|enum\.\w+|"
    r"builtins\.(dict|list|int|str|float|bool|tuple|set|frozenset|object|complex|bytes|bytearray)|_codecs\.encode|"
    r"numpy\.(core|_core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|numpy\.(ndarray|dtype|dtypes\.\w+)|"
    r"torch\.(\w+Storage|storage\.UntypedStorage|Size|device|Tensor|bool|bfloat16|(float|int|uint|complex)\d\w*|"
    r"nn\.parameter\.Parameter|_utils\._rebuild_(tensor(_v2|_v3)?|parameter(_with_state)?)|"
    r"_tensor\._rebuild_from_type_v2))"
)
_NUMBER_KIND = re.compile(r"[<>=|]?[biuf][1248]")  # booleans, whole and broken numbers of up to 8 bytes
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Untyped": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files before torch 1.6: pickles in a row, and then numbers
_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE "
    "BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_MARKED: dict[str, Callable[[list], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": lambda items: _fill({}, items),
    "FROZENSET": lambda items: _add(set(), items),
}


@dataclass(frozen=True)
class Name:
    """A name that a file asks for; it is never looked up."""

    text: str


class Kept:
    """Stands for an object of a class that is not loaded: ``name`` of the class, ``arguments``, ``state``."""

    def __init__(self, name: str, arguments: tuple):
        self.name, self.arguments = name, arguments
        self.state: Any = {}

    def __repr__(self) -> str:
        return f"<{self.name}>"


class _NumberKind:
    """Stands for numpy.dtype: only its text is kept, and only that of plain numbers.

    NumPy's own dtype and scalar, called by a file, can be made to take its bytes for the address of an object.
    """

    def __init__(self, text: Any = "", *_rest: Any) -> None:
        self.text = text if isinstance(text, str) and _NUMBER_KIND.fullmatch(text) else ""

    def order(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in (">", "<") and self.text:
            self.text = state[1] + self.text.lstrip("<>=|")


@dataclass(frozen=True)
class Storage:
    """A row of numbers in the file: ``n_bytes`` as the pickle says, found by ``key``."""

    key: Any
    dtype: torch.dtype
    n_bytes: int


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor: numbers of a storage, from ``offset`` on."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class Machine:
    """What the opcodes of one file make. ``n_bytes``: of the file, which bounds all that it asks for."""

    n_bytes: int
    storages: dict[Any, Storage] = field(default_factory=dict)

    def run(self, file: Any) -> Any:
        """The object of a pickle that ``file`` stands at the beginning of; it stands behind it afterwards."""
        stack: list[Any] = []
        below: list[list[Any]] = []  # stacks under the marks
        memo: dict[Any, Any] = {}
        for opcode, argument, _ in genops(file):
            code = opcode.name
            if code in _CONSTANTS:
                stack.append(_CONSTANTS[code]())
            elif code == "MARK":
                below.append(stack)
                stack = []
            elif code in _MARKED:
                items, stack = stack, below.pop()
                stack.append(_MARKED[code](items))
            elif code in ("APPENDS", "ADDITEMS", "SETITEMS"):
                items, stack = stack, below.pop()
                _extend(code, stack[-1], items)
            elif code in ("APPEND", "SETITEM"):
                items = _pop(stack, 1 if code == "APPEND" else 2)
                _extend(f"{code}S", stack[-1], items)
            elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
                stack.append(tuple(_pop(stack, int(code[-1]))))
            elif code in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif code == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif code in ("GLOBAL", "STACK_GLOBAL"):
                parts = argument.split(" ", 1) if argument is not None else _pop(stack, 2)
                stack.append(_name(*parts))
            elif code in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):  # the last has named arguments besides
                stack.append(self.call(*_pop(stack, 3 if code == "NEWOBJ_EX" else 2)[:2]))
            elif code == "BUILD":
                (state,) = _pop(stack, 1)
                _build(stack[-1], state)
            elif code == "BINPERSID":
                stack.append(self.storage(*_pop(stack, 1)))
            elif code == "DUP":
                stack.append(stack[-1])
            elif code == "POP":
                _pop(stack, 1)
            elif code == "STOP":
                return stack.pop()
            elif code in _VALUES:
                stack.append(argument)
            elif code not in ("PROTO", "FRAME"):
                raise ValueError(f"opcode {code}")
        raise EOFError

    def call(self, name: Any, arguments: Any) -> Any:
        """What a class or function makes of arguments: known ones by what is known of them, others are kept."""
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no name")
        last = name.text.rpartition(".")[2]
        first = arguments[0] if arguments else None
        if name.text.startswith("torch."):
            if last.startswith("_rebuild_tensor"):
                return self.tensor(last, *arguments)
            if last == "_rebuild_from_type_v2":  # the function, its class, its arguments, attributes
                return self.call(first, arguments[2])
            return (
                first
                if last in ("Parameter", "Size") or last.startswith("_rebuild_parameter")
                else Kept(last, arguments)
            )
        if last in ("set", "frozenset"):
            return _add(set(), first or ())
        if last in ("encode", "bytes", "bytearray"):
            return first.encode("latin-1") if isinstance(first, str) else first if isinstance(first, bytes) else b""
        if last == "scalar":
            return _number(*arguments)
        if last == "dtype":
            return _NumberKind(*arguments)
        if last in ("dict", "OrderedDict", "defaultdict"):  # pairs, as Python 2 wrote them
            pairs = first if isinstance(first, list) else ()
            return _fill({}, [part for pair in pairs for part in (pair[0], pair[1])])
        return Kept(name.text, arguments)

    def storage(self, said: Any) -> Storage:
        """('storage', kind, key, place, how many numbers) of the file."""
        if not isinstance(said, tuple) or said[0] not in ("storage", b"storage") or not isinstance(said[1], Name):
            raise ValueError("a reference to what is no storage")
        if len(said) > 5 and said[5] is not None:
            raise ValueError("a view of a storage")
        dtype = _STORAGES[said[1].text.rpartition(".")[2].removesuffix("Storage")]
        n_bytes = _whole(said[4]) * dtype.itemsize
        if n_bytes > self.n_bytes:
            raise ValueError(f"a storage of {n_bytes} bytes in a file of {self.n_bytes}")
        if not isinstance(said[2], (str, bytes, int)):
            raise ValueError("a storage without key")
        return self.storages.setdefault(said[2], Storage(said[2], dtype, n_bytes))

    def tensor(self, function: str, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Stored:
        """A tensor of torch's ``_rebuild_tensor``, ``_v2`` or ``_v3`` (which says its kind of numbers)."""
        if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise ValueError("a tensor without numbers")
        dtype = _dtype(rest[2]) if function.endswith("_v3") else storage.dtype
        sizes, strides, first = tuple(map(_whole, size)), tuple(map(_whole, stride)), _whole(offset)
        if len(sizes) != len(strides) or len(sizes) > 16:
            raise ValueError(f"a tensor of {len(sizes)} dimensions and {len(strides)} strides")
        last = first + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if 0 not in sizes and (last + 1) * dtype.itemsize > storage.n_bytes:
            raise ValueError(
                f"a tensor that ends at {last} in a storage of {storage.n_bytes // dtype.itemsize} numbers"
            )
        if math.prod(sizes) >= 2**62 or (0 in sizes and max(sizes) > self.n_bytes):
            raise ValueError("a tensor of more numbers than there are")
        return Stored(storage, dtype, first, sizes, strides)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{shown(value)} where a count belongs")
    return value


def _dtype(name: Any) -> torch.dtype:
    found = getattr(torch, name.text.removeprefix("torch."), None) if isinstance(name, Name) else None
    if not isinstance(found, torch.dtype):
        raise ValueError("an unknown kind of numbers")
    return found


def _pop(stack: list, n: int) -> list:
    if len(stack) < n:
        raise IndexError("values that were never given")
    taken = stack[len(stack) - n :]
    del stack[len(stack) - n :]
    return taken


def _name(module: Any, name: Any) -> Name:
    """A name that is known to be harmless. Raises ModelError for any other."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name that is no text")
    module = {"__builtin__": "builtins"}.get(module, module)
    name = "int" if (module, name) == ("builtins", "long") else name  # of Python 2, which protocol 2 writes
    if not _SETTINGS.fullmatch(text := f"{module}.{name}"):
        raise ModelError(
            f"it asks for {text[:120]!r} while it is read, which is not known to be harmless: layertool does not run "
            "code of a checkpoint; save its state dict alone, or as safetensors"
        )
    return Name(text)


def _check_key(key: Any) -> Any:
    is_plain = isinstance(key, (str, bytes, float, Name, Kept, type(None)))
    # larger numbers can be made to fall on one place of a dict
    if not is_plain and not (isinstance(key, int) and abs(key) < 2**60):
        raise ValueError(f"a {type(key).__name__} as the key of a dict or in a set")
    return key


def _fill(into: dict, items: Sequence) -> dict:
    for key, value in zip(items[::2], items[1::2], strict=True):
        into[_check_key(key)] = value
    return into


def _add(into: set, items: Iterable) -> set:
    into.update(map(_check_key, items))
    return into


def _extend(code: str, into: Any, items: list) -> None:
    if code == "SETITEMS" and isinstance(into, dict):
        _fill(into, items)
    elif code == "APPENDS" and isinstance(into, list):
        into.extend(items)
    elif code == "ADDITEMS" and isinstance(into, set):
        _add(into, items)
    else:
        raise ValueError(f"{code} of a {type(into).__name__}")


def _build(instance: Any, state: Any) -> None:
    """Give an object its state; dicts and tensors have attributes of no meaning here."""
    if isinstance(instance, Kept):
        instance.state = state
    elif isinstance(instance, _NumberKind):
        instance.order(state)
    elif not isinstance(instance, (dict, Stored)):
        raise ValueError(f"a state of a {type(instance).__name__}")


def _number(kind: Any, content: Any = b"") -> float | int | bool | None:
    """Stands for numpy's scalar: a Python number from a plain kind and the bytes of one, None for all else."""
    content = content.encode("latin-1", errors="replace") if isinstance(content, str) else content
    if not isinstance(kind, _NumberKind) or not kind.text or not isinstance(content, bytes):
        return None
    of = np.dtype(kind.text)
    return np.frombuffer(content, of)[0].item() if len(content) == of.itemsize else None


class Pickled:
    """A file of torch.save: ``value`` as its pickle says, and tensors, which share the file's memory until they are
    written.
    """

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        machine = Machine(len(self._memory))
        self._rows: dict[Any, torch.Tensor] = {}
        if self._memory[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                self.value, self._places = self._of_archive(archive, machine)
        else:
            self.value, self._places = self._of_row(machine)

    def _of_archive(self, archive: zipfile.ZipFile, machine: Machine) -> tuple[Any, dict[Any, tuple[int, int]]]:
        """Since torch 1.6: a zip archive that stores data.pkl, and each storage as a file."""
        files: dict[str, tuple[int, int]] = {}
        for info in archive.infolist():
            at = info.header_offset
            signature, n_name, n_extra = struct.unpack("<4s22xHH", self._memory[at : at + 30])
            start, n = at + 30 + n_name + n_extra, info.file_size
            if signature != b"PK\x03\x04" or info.compress_type != zipfile.ZIP_STORED or info.filename in files:
                raise ValueError(f"{info.filename[:40]!r} is compressed, or there twice")
            if n != info.compress_size or start + n > len(self._memory):
                raise ValueError(f"{info.filename[:40]!r} is said to be of {n} bytes")
            files[info.filename] = (start, n)
        top = next((name.removesuffix("data.pkl") for name in files if name.endswith("/data.pkl")), None)
        if top is None or f"{top}constants.pkl" in files:
            raise ModelError("it is a zip archive and none of torch.save: give the checkpoint that training wrote")
        start, n = files[f"{top}data.pkl"]
        value = machine.run(io.BytesIO(self._memory[start : start + n]))
        order = files.get(f"{top}byteorder", (0, 0))
        if self._memory[order[0] : sum(order)] == b"big":
            raise ModelError(
                "it was written by a machine of another order of bytes: save it again on a machine of today"
            )
        return value, {key: files[f"{top}data/{key}"] for key in machine.storages}

    def _of_row(self, machine: Machine) -> tuple[Any, dict[Any, tuple[int, int]]]:
        """Before torch 1.6: a magic number, a version, the machine, the value, its keys.

        Then the numbers of each key.
        """
        if machine.run(self._memory) != _MAGIC or machine.run(self._memory) != _PROTOCOL:
            raise ValueError("it does not begin as files of torch.save do")
        machine.run(self._memory)
        value, keys = machine.run(self._memory), machine.run(self._memory)
        at, places = self._memory.tell(), {}
        for key in keys if isinstance(keys, list) else ():
            (n,) = struct.unpack("<q", self._memory[at : at + 8])
            n_bytes = _whole(n) * machine.storages[key].dtype.itemsize
            places[key] = (at + 8, n_bytes)
            at += 8 + n_bytes
        if at > len(self._memory):
            raise EOFError
        return value, places

    def tensor(self, stored: Stored) -> torch.Tensor:
        """The numbers of a tensor, in memory of the file."""
        key = (stored.storage.key, stored.dtype)
        if key not in self._rows:
            start, n = self._places[stored.storage.key]
            if n < stored.storage.n_bytes:
                raise ValueError(f"a storage of {n} bytes for {stored.storage.n_bytes}")
            n_numbers = stored.storage.n_bytes // stored.dtype.itemsize
            if not n_numbers:
                return torch.zeros(stored.size, dtype=stored.dtype)
            row = torch.frombuffer(self._memory, dtype=stored.dtype, count=n_numbers, offset=start)
            self._rows[key] = row if start % stored.dtype.itemsize == 0 else row.clone()
        return self._rows[key].as_strided(stored.size, stored.stride, stored.offset)
