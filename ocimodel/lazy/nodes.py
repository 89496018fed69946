"""The files and directories of a model as a file system has them: numbered, with modes, sizes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Final

from ocimodel.lazy.file import LazyFile
from ocimodel.lazy.model import LazyModel
from ocimodel.spec.segments import model_files

ROOT_ID: Final = 1
_DIRECTORY: Final = stat.S_IFDIR | 0o555
_FILE: Final = stat.S_IFREG | 0o444


@dataclass(slots=True, eq=False)
class Node:
    """`id`: the inode number; the same in each mount of an artifact."""

    id: int
    mode: int
    parent: int
    file: LazyFile | None = None
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.file.size if self.file else 0

    @property
    def n_links(self) -> int:
        """As a directory has them: from above, its own dot, and the dots of those in it."""
        return 1 if self.file else 2 + sum(child.file is None for child in self.children.values())


def build_nodes(model: LazyModel) -> list[Node]:
    """All nodes in the order of their numbers; the first one is the root."""
    nodes = [Node(ROOT_ID, _DIRECTORY, ROOT_ID)]
    for file in model_files(model.root):
        for directory in file.directories:
            _enter(nodes, directory.strip("/").split("/"))
        parts = file.path.strip("/").split("/")
        if file.is_directory:
            _enter(nodes, parts)
        elif file.path in model.files:
            folder = _enter(nodes, parts[:-1])
            mode = _FILE | (file.mode & 0o111)
            new = Node(len(nodes) + 1, mode, folder.id, model.files[file.path])
            folder.children[os.fsencode(parts[-1])] = new
            nodes.append(new)
    return nodes


def _enter(nodes: list[Node], parts: list[str]) -> Node:
    """The directory of this path, made if need be."""
    folder = nodes[0]
    for part in parts:
        if part in ("", "."):
            continue
        name = os.fsencode(part)
        if name not in folder.children:
            folder.children[name] = Node(len(nodes) + 1, _DIRECTORY, folder.id)
            nodes.append(folder.children[name])
        folder = folder.children[name]
    return folder
