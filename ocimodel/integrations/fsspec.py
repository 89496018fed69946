"""Artifacts as a read-only file system of fsspec, so that pandas and others read from them.

    fsspec.open("ocimodel://registry.example.com/team/minilm:v1/config.json")
    fsspec.open("ocimodel://oci:models/minilm:v1/config.json", cache="/var/cache/ocimodel")

The first component after the host that holds `:` or `@` ends the reference. So the tag or the
digest cannot be left out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.spec import AbstractFileSystem

from ocimodel.errors import UsageError
from ocimodel.lazy.file import LazyFile
from ocimodel.lazy.model import LazyModel
from ocimodel.ops.open import open as open_model
from ocimodel.registry.transport import ClientOptions

_LAYOUT = "oci:"


class OcimodelFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Thread-safe. Each artifact is opened once, and stays what its tag meant then.

    Storage options: those of `ocimodel.open` that are named here. Missing files raise
    FileNotFoundError, all else the tree of ocimodel.errors.
    """

    protocol = "ocimodel"
    root_marker = ""

    def __init__(
        self,
        *,
        key: str = "",
        policy: str | Path | None = None,
        cache: str | Path | None = None,
        require_lazy: bool = False,
        client: ClientOptions | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._open_model: Callable[[str], LazyModel] = lambda reference: open_model(
            reference,
            key=key,
            policy=policy,
            cache=cache,
            require_lazy=require_lazy,
            client=client,
        )
        self._models: dict[str, LazyModel] = {}
        self._models_lock = threading.Lock()

    def close(self) -> None:
        """Close the models; the next use opens them again."""
        with self._models_lock:
            for model in self._models.values():
                model.close()
            self._models.clear()

    def model(self, path: str) -> LazyModel:
        """The open model that a path lies in."""
        reference, _ = split(self._strip_protocol(path))
        with self._models_lock:
            if reference not in self._models:
                self._models[reference] = self._open_model(reference)
            return self._models[reference]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        if (found := self.info(path))["type"] == "file":
            return [found] if detail else [found["name"]]
        reference, inner = split(path)
        depth = len(inner.split("/")) if inner else 0
        model = self.model(path)
        children = {
            "/".join(name.split("/")[: depth + 1])
            for name in model.files
            if not inner or name.startswith(f"{inner}/")
        }
        entries = [self._entry(model, reference, child) for child in sorted(children)]
        return entries if detail else [entry["name"] for entry in entries]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        reference, inner = split(path)
        model = self.model(path)
        is_there = not inner or inner in model.files
        if not (is_there or any(name.startswith(f"{inner}/") for name in model.files)):
            raise FileNotFoundError(path)
        return self._entry(model, reference, inner)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        file = self._file(path)
        low, high, _step = slice(start, end).indices(file.size)
        data = bytearray(max(0, high - low))
        file.fill(low, memoryview(data))
        return bytes(data)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        if mode != "rb":
            raise UsageError(f"{path} is read-only", hint="ocimodel push makes new artifacts")
        return self.model(path).open(self._file(path).path)

    def _file(self, path: str) -> LazyFile:
        path = self._strip_protocol(path)
        if (file := self.model(path).files.get(split(path)[1])) is None:
            raise IsADirectoryError(path) if self.exists(path) else FileNotFoundError(path)
        return file

    def _entry(self, model: LazyModel, reference: str, inner: str) -> dict[str, Any]:
        file = model.files.get(inner)
        name = f"{reference}/{inner}" if inner else reference
        kind = "directory" if file is None else "file"
        return {"name": name, "size": file.size if file else 0, "type": kind}


def split(path: str) -> tuple[str, str]:
    """The reference, and the path in its artifact, of a path without its protocol.

    UsageError where nothing ends the reference.
    """
    # of a layout, the component after the scheme may already be the one
    skipped = _LAYOUT if path.startswith(_LAYOUT) else ""
    parts = path.removeprefix(skipped).split("/")
    for i in range(0 if skipped else 1, len(parts)):
        if ":" in parts[i] or "@" in parts[i]:
            return skipped + "/".join(parts[: i + 1]), "/".join(parts[i + 1 :]).strip("/")
    raise UsageError(
        f"{path[:200]!r} names no tag and no digest",
        hint="ocimodel://HOST/REPOSITORY:TAG/PATH, or ocimodel://oci:DIRECTORY:TAG/PATH",
    )
