"""Ogg files with long pages, as ffmpeg writes them (RFC 3533 6)."""

from __future__ import annotations

import struct
from pathlib import Path

LACES = 250  # of at most 255 in a page


def merge_pages(path: Path) -> None:
    """Put the packets behind the headers into as few pages as hold them."""
    merged: list[tuple[int, bytes, bytes, bytes]] = []
    content, place = path.read_bytes(), 0
    while place < len(content):
        assert content[place : place + 4] == b"OggS"
        body = place + 27 + content[place + 26]
        laces = content[place + 27 : body]
        end = body + sum(laces)
        flags, about = content[place + 5], content[place + 6 : place + 18]  # granule position and serial number
        if len(merged) > 2 and len(merged[-1][2]) + len(laces) <= LACES:
            before = merged.pop()
            merged.append((before[0] | flags, about, before[2] + laces, before[3] + content[body:end]))
        else:
            merged.append((flags, about, laces, content[body:end]))
        place = end
    path.write_bytes(b"".join(page(number, *parts) for number, parts in enumerate(merged)))


def page(number: int, flags: int, about: bytes, laces: bytes, body: bytes) -> bytes:
    parts = [b"OggS\0", bytes([flags]), about, struct.pack("<I", number), bytes(4), bytes([len(laces)]), laces, body]
    remainder = 0
    for byte in b"".join(parts):
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x04C11DB7 if remainder >> 31 else 0)) & 0xFFFFFFFF
    parts[4] = struct.pack("<I", remainder)
    return b"".join(parts)
