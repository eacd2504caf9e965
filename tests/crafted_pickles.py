"""Checkpoints of torch.save whose pickles are written opcode by opcode."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import torch


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def crafted(path: Path, value: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint whose pickle is {'Step': value}, ``value`` in pickle's own opcodes, and a storage of 12 numbers."""
    out = io.BytesIO()
    torch.save({"a": torch.arange(12.0)}, out)
    with zipfile.ZipFile(out) as source, zipfile.ZipFile(path, "w", compression) as archive:
        for name in source.namelist():
            is_pickle = name.endswith("data.pkl")
            archive.writestr(name, b"\x80\x02}" + text("Step") + value + b"s." if is_pickle else source.read(name))
    return path
