"""Which file names an artifact may carry: those that are safe to create on every system."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from ocimodel.errors import InputError

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
# paths of ours inside an artifact: never part of the model directory
PRIVATE_PREFIX = ".ocimodel/"
# where unfinished blobs grow, in a model directory and in a layout
PARTIAL = ".ocimodel.partial"


def check_path(path: str) -> str:
    """`path` itself when it is a relative POSIX path below the root; else InputError, by name."""
    problem = _problem(path)
    if problem:
        raise InputError(
            f"file name {path[:200]!r} {problem}", hint="the artifact may be hostile: inspect it"
        )
    return path


def _problem(path: str) -> str:
    if not path:
        return "is empty"
    if path.startswith("/") or (len(path) > 1 and path[1] == ":" and path[0].isalpha()):
        return "is absolute"
    if "\\" in path:
        return "has a backslash, a separator on some systems"
    if any(unicodedata.category(c) == "Cs" for c in path):
        return "has bytes that are not UTF-8"
    if any(unicodedata.category(c) == "Cc" for c in path):
        return "has a control character"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    for name in path.split("/"):
        if name in ("", ".", ".."):
            return f"has the component {name!r}"
        if len(name.encode()) > MAX_NAME_BYTES:
            return f"has a component longer than {MAX_NAME_BYTES} bytes"
    if _fold(path.partition("/")[0]) == PARTIAL:
        # it could take the place of a blob that is being verified
        return "is in the folder of unfinished transfers"
    return ""


def check_tree(paths: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Refuse, as InputError, names that would overwrite each other on some file system.

    That is: duplicates, names equal but for case or Unicode composition, and a file whose name is
    also a directory. `paths` are files, `folders` directories, which may well be there twice.
    """
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in paths:
        folded = _fold(check_path(path))
        if folded in files:
            same = "is there twice" if files[folded] == path else f"collides with {files[folded]!r}"
            raise InputError(f"file name {path!r} {same}")
        files[folded] = path
        _note_directories(path.rpartition("/")[0], directories)
    for path in folders:
        _note_directories(check_path(path), directories)
    for folded, parent in directories.items():
        if folded in files:
            raise InputError(f"{files[folded]!r} is both a file and the directory {parent!r}")


def _note_directories(path: str, directories: dict[str, str]) -> None:
    """Add `path` and what is above it to `directories`, by folded name."""
    while path:
        known = directories.setdefault(_fold(path), path)
        if known != path:
            raise InputError(f"directory name {path!r} collides with {known!r}")
        path = path.rpartition("/")[0]


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
