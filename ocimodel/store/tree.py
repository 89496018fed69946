"""A directory as a list of files: which ones belong, which links may be followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ocimodel.errors import InputError, NotFoundError
from ocimodel.spec.paths import check_path, check_tree

# other tools' private folders and ours; never part of a model
LEFT_OUT = frozenset(
    {".git", ".hg", ".svn", ".dvc", ".cache", "__pycache__", ".ipynb_checkpoints", ".DS_Store"}
    | {".ocimodel", ".ocimodel.partial"}
)


@dataclass(frozen=True, slots=True)
class TreeFile:
    """`path`: relative, POSIX. `real`: where the bytes are. `size`: bytes."""

    path: str
    real: Path
    size: int
    executable: bool


@dataclass(slots=True)
class Tree:
    """Sorted files and empty directories of a model; `left_out` names what was passed over."""

    root: Path
    files: list[TreeFile] = field(default_factory=list)
    empty_directories: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def scan(root: Path, wanted: Callable[[str], bool]) -> Tree:
    """Walk `root`. `wanted` decides over files by their relative path.

    Links are followed inside the tree, and into the blobs of the Hugging Face cache that `root` is
    a snapshot of. InputError, naming it, for any other link, for devices, sockets and pipes, and
    for names that cannot be created everywhere. NotFoundError if `root` is not there.
    """
    tree = Tree(root)
    try:
        if not root.exists():
            raise NotFoundError(f"there is no directory {root}")
        if not root.is_dir():
            raise InputError(f"{root} is a file, not a model directory")
        _Walk(tree, wanted, _allowed_roots(root.resolve())).directory(root, "")
    except OSError as error:
        raise InputError(f"cannot read {error.filename or root}: {error.strerror}") from error
    tree.files.sort(key=lambda f: f.path)
    tree.empty_directories.sort()
    check_tree([f.path for f in tree.files], tree.empty_directories)
    return tree


def _own_path(path: str) -> str:
    try:
        return check_path(path)
    except InputError as error:
        raise InputError(
            str(error), hint="not every system can create it: rename it, or exclude it"
        ) from None


def _allowed_roots(root: Path) -> list[Path]:
    """Where links may lead. A snapshot lies at models--ORG--NAME/snapshots/COMMIT[/…].

    Source: huggingface_hub, "Understand caching".
    """
    for folder in (root, *root.parents):
        repository = folder.parent.parent
        if folder.parent.name == "snapshots" and "--" in repository.name:
            return [root, repository / "blobs"]
    return [root]


class _Walk:
    def __init__(self, tree: Tree, wanted: Callable[[str], bool], allowed: list[Path]) -> None:
        self._tree = tree
        self._wanted = wanted
        self._allowed = allowed
        self._above: list[Path] = []

    def directory(self, folder: Path, prefix: str) -> bool:
        """Whether anything below belongs to the model."""
        real = folder.resolve()
        if real in self._above:
            raise InputError(f"the link {prefix.rstrip('/')!r} leads back to a directory above it")
        self._above.append(real)
        found = False
        n_entries = 0
        for entry in self._entries(folder):
            n_entries += 1
            found |= self._entry(entry, prefix + entry.name)
        self._above.pop()
        if not n_entries and prefix:
            path = _own_path(prefix.rstrip("/"))
            if self._wanted(path + "/"):
                self._tree.empty_directories.append(path)
                found = True
        return found

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda e: e.name)

    def _entry(self, entry: os.DirEntry[str], path: str) -> bool:
        if entry.name in LEFT_OUT:
            self._tree.left_out.append(path)
            return False
        if entry.is_symlink() and not self._may_follow(entry, path):
            self._tree.left_out.append(path)
            return False
        if entry.is_dir():
            return self.directory(Path(entry.path), f"{path}/")
        if not self._wanted(path):
            self._tree.left_out.append(path)
            return False
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path!r} is neither a file nor a directory")
        self._tree.files.append(
            TreeFile(
                path=_own_path(path),
                real=Path(entry.path),
                size=status.st_size,
                executable=bool(status.st_mode & 0o111),
            )
        )
        return True

    def _may_follow(self, entry: os.DirEntry[str], path: str) -> bool:
        """Whether the link leads to where it may; InputError if not, unless it is excluded."""
        try:
            real = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):
            real = None
        if real and any(real.is_relative_to(root) for root in self._allowed):
            return True
        if not (self._wanted(path) and self._wanted(f"{path}/")):
            return False
        if real is None:
            raise InputError(
                f"the link {path!r} leads nowhere ({Path(entry.path).readlink()})",
                hint="remove it, or exclude it in ocimodel.yaml",
            )
        raise InputError(
            f"the link {path!r} leads out of the model directory, to {real}",
            hint="copy the file into the directory, or exclude the link in ocimodel.yaml",
        )
