"""Magic numbers: what the first bytes of a file prove about its format."""

from __future__ import annotations

from typing import Final

LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"

# torch.save before 1.6: the pickled number 0x1950a86a20f9469cfc6c.
_TORCH_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# (offset, bytes, format): weight formats, and zip, which may be one.
_WEIGHTS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"GGUF", "gguf"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"\x93NUMPY", "numpy"),
    (0, _TORCH_LEGACY, "torch"),
    (4, b"TFL3", "tflite"),
    (4, b"ET12", "executorch"),
    # ggml's formats before GGUF, written as little-endian numbers.
    (0, b"lmgg", "ggml"),
    (0, b"fmgg", "ggml"),
    (0, b"tjgg", "ggml"),
    (0, b"PK\x03\x04", "zip"),
)

_CODE: Final[tuple[tuple[int, bytes], ...]] = (
    (0, b"\x7fELF"),
    (0, b"\xcf\xfa\xed\xfe"),  # Mach-O, 64-bit
    (0, b"\xce\xfa\xed\xfe"),
    (0, b"\xca\xfe\xba\xbe"),  # Mach-O universal, Java class
    (0, b"\x00asm"),  # WebAssembly
    (0, b"!<arch>\n"),
    (0, b"#!"),
)
_DATASET: Final[tuple[tuple[int, bytes], ...]] = (
    (0, b"PAR1"),
    (0, b"ARROW1\0\0"),
    (0, b"FEA1"),
    (0, b"ORC"),
    (0, b"Obj\x01"),  # Avro
    (0, b"SQLite format 3\0"),
)
_DOC: Final[tuple[tuple[int, bytes], ...]] = (
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"\xff\xd8\xff"),
    (0, b"GIF87a"),
    (0, b"GIF89a"),
    (8, b"WEBP"),
    (0, b"%PDF-"),
    (4, b"ftyp"),  # MP4, MOV, HEIC
)

# Opcodes that the first object of a pickle of protocol 2 or 3 begins with in practice.
_PICKLE_START: Final = frozenset(b"}](ccX)KJGM\x8a\x8c\x88\x89N")


def format_of(head: bytes) -> str:
    """The weight format ("gguf", "hdf5", …), "zip" or "pickle" that `head` proves, else "".

    Formats without a magic number (safetensors, ONNX) are not told here.
    """
    for offset, magic, name in _WEIGHTS:
        if head.startswith(magic, offset):
            return name
    return "pickle" if _is_pickle(head) else ""


def begins_torch_zip(head: bytes) -> bool:
    """Whether the zip that begins with `head` has a torch checkpoint's entry as its first."""
    length = int.from_bytes(head[26:28], "little")
    return head[30 : 30 + length].endswith(
        (b"/data.pkl", b"/version", b"/.format_version", b"/byteorder")
    )


def is_code(head: bytes) -> bool:
    """Whether `head` begins a program: a native or WebAssembly binary, a library, a script."""
    # PE files begin with a mere "MZ": ask for the pointer to the header that names them too.
    if head.startswith(b"MZ") and len(head) >= 64:
        start = int.from_bytes(head[60:64], "little")
        return head.startswith(b"PE\0\0", start)
    return _any(_CODE, head)


def is_dataset(head: bytes) -> bool:
    """Whether `head` begins a table: Parquet, Arrow, ORC, Avro, SQLite."""
    return _any(_DATASET, head)


def is_document(head: bytes) -> bool:
    """Whether `head` begins an image, a video or a PDF."""
    return _any(_DOC, head)


def is_text(head: bytes) -> bool:
    """Whether `head` is UTF-8 without control characters that no text holds; empty is text."""
    if any(byte in head for byte in b"\0\x01\x02\x03\x04\x05\x06"):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The head may end in the middle of a character.
        return error.start >= len(head) - 3 and error.reason == "unexpected end of data"
    return True


def _is_pickle(head: bytes) -> bool:
    if len(head) < 3 or head[0] != 0x80 or not 2 <= head[1] <= 5:
        return False
    # Protocol 4 opens with a frame, or with an object too small to need one.
    return head[2] in _PICKLE_START or (head[1] >= 4 and head[2] == 0x95)


def _any(table: tuple[tuple[int, bytes], ...], head: bytes) -> bool:
    return any(head.startswith(magic, offset) for offset, magic in table)
