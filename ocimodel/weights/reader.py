"""What reads one weights format: ours and anybody's, by the entry-point group `ocimodel.weights`.

A reader is a module or an object with these two functions; its entry point's name is its own. It
gets bytes by ranged reads, from a disk or a registry, and asks for no more than it needs. A file
that is malformed is an InputError; anything else that it raises is reported as its failure.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from ocimodel.spec.tensor import TensorMap
from ocimodel.weights.cursor import ReadAt

GROUP = "ocimodel.weights"


class Match(IntEnum):
    """`MAYBE`: another format if it does not parse. `CERTAIN`: damaged if it does not parse."""

    NO = 0
    MAYBE = 1
    CERTAIN = 2


class Reader(Protocol):
    """One weights format."""

    def recognises(self, head: bytes, size: int, name: str, /) -> Match:
        """Whether a file of `size` bytes that begins with `head` (4 KiB) is of this format.

        `name`: its path, for what it promises to be.
        """
        ...

    def read(self, read_at: ReadAt, size: int, /) -> TensorMap | None:
        """The tensors of a file of `size` bytes; None: on a closer look it is another format.

        Raises InputError when it is malformed.
        """
        ...
