"""Text files of people: one decision about their encoding."""

from __future__ import annotations

from pathlib import Path

from layertool.errors import CorpusError

_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def utf8(path: Path) -> bytes:
    """The content of a text file as UTF-8 without a byte-order mark.

    Raises CorpusError where it cannot be read, or is in another encoding than those with such marks.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    mark, encoding = next(((mark, name) for mark, name in _MARKS.items() if content.startswith(mark)), (b"", "utf-8"))
    if not mark and b"\0" in content:
        raise CorpusError(
            f"{path} is no text in UTF-8 (line {_line(content, content.index(0))} holds zero bytes): "
            "save it as text in UTF-8; a workbook has the suffix .xlsx"
        )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding.startswith(("utf-16", "utf-32")):
            raise CorpusError(
                f"{path} is cut short ({error.reason} in its {encoding.upper()}): save it again"
            ) from error
        letter = content[error.start : error.start + 1].decode("cp1252", "replace")
        raise CorpusError(
            f"{path}, line {_line(content, error.start)} is not UTF-8 (byte {content[error.start]:#x}, '{letter}' in "
            "Windows' Western encoding): save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        ) from error
    return content if not mark else text.encode()


def read_text(path: Path) -> str:
    """The text of a file, with line feeds; letters as they stand: ``labels.Rules`` says which labels become one."""
    return utf8(path).decode().replace("\r\n", "\n").replace("\r", "\n")


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1
