"""An artifact as an open model: its files to read from, its tensors to load."""

from __future__ import annotations

import io
import posixpath
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, BinaryIO, Final, Self, cast

from ocimodel.errors import InputError, NotFoundError, RegistryError
from ocimodel.events import Notice, Observer, ignore
from ocimodel.lazy.blob import Blob, ChunkedBlob, Traffic
from ocimodel.lazy.file import AHEAD_BYTES, FileReader, LazyFile, Note
from ocimodel.lazy.loading import Loading, Wanted
from ocimodel.lazy.memory import ChunkMemory, window_bytes
from ocimodel.lazy.pool import MAX_STREAMS, Pool
from ocimodel.lazy.recorder import Recorder
from ocimodel.lazy.switching import SwitchingBlob
from ocimodel.lazy.tensors import LazyTensor, as_array, framework_of
from ocimodel.lazy.whole import WholeBlob
from ocimodel.spec.chunkindex import ChunkIndex
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import ModelFile
from ocimodel.spec.segments import model_files
from ocimodel.spec.tensor import Tensor, TensorMap
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.protocol import Source

LAZY: Final = "lazy"
WHOLE: Final = "whole"
_BUFFER_BYTES: Final = 1 << 20


class LazyModel:
    """For a `with` statement. Thread-safe.

    `mode`: "lazy", or "whole" where some blob had to be, or will have to be, fetched before it can
    be read. `traffic`: bytes by where they came from. Every byte that comes out was verified.
    """

    def __init__(
        self,
        source: Source,
        root: Manifest,
        index: ChunkIndex | None,
        *,
        cache: ChunkCache | None = None,
        require_lazy: bool = False,
        window: int | None = None,
        max_streams: int = MAX_STREAMS,
        recorder: Recorder | None = None,
        observer: Observer = ignore,
    ) -> None:
        """`index`: checked against `root`. `window`: bytes; by the memory that there is.

        `recorder`: is told what is read.
        """
        self.digest = root.digest
        self.root = root
        self.traffic = Traffic()
        self.pool = Pool(max_streams)
        self._source = source
        self._index = index or ChunkIndex()
        self._cache = cache
        self._require_lazy = require_lazy
        self._window = window_bytes() if window is None else window
        self._memory = ChunkMemory(self._window)
        self._observer = observer
        self._blobs: dict[str, Blob] = {}
        self._tensors: dict[str, tuple[Tensor, LazyFile]] | None = None
        self._lock = threading.Lock()
        # whoever looks for tensors may find out that a blob has to be fetched whole
        self._mode_lock = threading.Lock()
        self.mode = LAZY
        note: Note = recorder.note if recorder else lambda path, start, stop: None
        self._note = note
        found = [f for f in model_files(root) if not (f.is_directory or f.directories)]
        self.model_files = [f for f in found if f.codec == "raw"]
        if packed := [f.path for f in found if f.codec != "raw"]:
            observer(
                Notice(f"only a pull unpacks what lies in tar layers: {', '.join(packed[:5])}")
            )
        self.files: Mapping[str, LazyFile] = {
            f.path: LazyFile(f.path, [self._blob(layer) for layer in f.layers], self.pool, note)
            for f in self.model_files
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections, files and threads; the cache keeps what it has."""
        self.pool.close()
        for blob in self._blobs.values():
            blob.close()
        if self._cache:
            self._cache.close()

    def open(self, path: str) -> BinaryIO:
        """A file to read and seek in. Each call gives one with a position of its own."""
        file = self.file(path)
        # what is fetched ahead must not push itself out of memory
        ahead = min(AHEAD_BYTES, self._window // 2)
        reader = io.BufferedReader(FileReader(file, self.pool, ahead), _BUFFER_BYTES)
        return cast(BinaryIO, reader)

    def file(self, path: str) -> LazyFile:
        """NotFoundError if the artifact has none of this name."""
        if path not in self.files:
            raise NotFoundError(
                f"the model has no file {path[:200]!r}",
                hint=f"it has: {', '.join(sorted(self.files)[:10])}",
            )
        return self.files[path]

    def open_finished(self, path: str) -> int | None:
        """A descriptor of the file if the cache has all of it; who has it, closes it."""
        (file,) = [f for f in self.model_files if f.path == path]
        return self._cache.open(file.layers) if self._cache else None

    def tensors(self, framework: str = "") -> Mapping[str, LazyTensor]:
        """All tensors by name. `framework`: "numpy" or "torch", for what slices give.

        Raises InputError where two files have a tensor of the same name.
        """
        chosen = framework_of(framework)
        return {
            name: LazyTensor(tensor, file, chosen)
            for name, (tensor, file) in self._all_tensors().items()
        }

    def load(
        self,
        names: Iterable[str] | None = None,
        *,
        prefix: str = "",
        workers: int = 0,
        framework: str = "",
    ) -> Iterator[tuple[str, Any]]:
        """(name, array) of each tensor, in the order of `names`, each as soon as it is verified.

        Without `names`: all whose name begins with `prefix`, in the order in which they lie in
        their files. Further ones are fetched meanwhile, within the window, over up to `workers`
        connections (0: as many as help). Each array has memory of its own. Raises NotFoundError at
        once; later, and at the right one, what else reading may raise.
        """
        chosen = framework_of(framework)
        # which takes a while, and the first bytes can come in meanwhile
        ready = partial(import_module, chosen)
        loaded = self._loaded(self._wanted(names, prefix), workers, ready)
        return ((tensor.name, as_array(tensor, None, data, chosen)) for tensor, data in loaded)

    def load_bytes(
        self, names: Iterable[str] | None = None, *, prefix: str = "", workers: int = 0
    ) -> Iterator[tuple[Tensor, memoryview]]:
        """The same, as bytes, for who has an array type of their own."""
        return self._loaded(self._wanted(names, prefix), workers, lambda: None)

    def _loaded(
        self, wanted: list[Wanted], workers: int, meanwhile: Callable[[], object]
    ) -> Iterator[tuple[Tensor, memoryview]]:
        pool = Pool(workers) if workers else self.pool
        files = {id(tensor): file.path for tensor, file in wanted}
        loading = Loading(wanted, pool, self._window)
        try:
            loading.begin()
            # what is missing is told where the first array is made
            with suppress(ImportError):
                meanwhile()
            for tensor, data in loading:
                path = files[id(tensor)]
                self._note(path, tensor.offset, tensor.offset + tensor.length)
                yield tensor, data
        finally:
            loading.close()
            if pool is not self.pool:
                pool.close()

    def _wanted(self, names: Iterable[str] | None, prefix: str) -> list[Wanted]:
        known = self._all_tensors()
        if names is None:
            return [wanted for name, wanted in known.items() if name.startswith(prefix)]
        chosen = list(names)
        for name in chosen:
            if name not in known:
                raise NotFoundError(
                    f"the model has no tensor {name[:200]!r}",
                    hint="ocimodel inspect --tensors lists them",
                )
        return [known[name] for name in chosen if name.startswith(prefix)]

    def _all_tensors(self) -> dict[str, tuple[Tensor, LazyFile]]:
        with self._lock:
            if self._tensors is None:
                self._tensors = self._find_tensors()
            return self._tensors

    def _find_tensors(self) -> dict[str, tuple[Tensor, LazyFile]]:
        found: dict[str, tuple[Tensor, LazyFile]] = {}
        for file in self.model_files:
            for tensor in self._tensors_of(file):
                path = tensor.file or file.path
                if path not in self.files:
                    raise InputError(f"tensor {tensor.name[:200]!r} lies in {path!r}, not here")
                if tensor.offset + tensor.length > self.files[path].size:
                    raise InputError(f"tensor {tensor.name[:200]!r} ends behind its file")
                if tensor.name in found:
                    raise InputError(
                        f"two files have a tensor {tensor.name[:200]!r}",
                        hint="read one of them: model.open(path)",
                    )
                found[tensor.name] = (tensor, self.files[path])
        return found

    def _tensors_of(self, file: ModelFile) -> Iterable[Tensor]:
        """From the index, which is verified; else from the header of the file."""
        entry = self._index.files.get(file.path)
        if entry is not None and entry.format:
            return entry.tensors
        if entry is not None or file.kind not in ("weight", ""):
            return ()
        from ocimodel.weights import read_tensor_map

        found: TensorMap | None = read_tensor_map(
            partial(self._read_at, self.files[file.path]), file.size, file.path
        )
        folder = posixpath.dirname(file.path)
        return tuple(
            replace(t, file=posixpath.normpath(posixpath.join(folder, t.file))) if t.file else t
            for t in (found.tensors if found else ())
        )

    def _read_at(self, file: LazyFile, start: int, length: int) -> bytes:
        data = bytearray(max(0, min(length, file.size - start)))
        file.read_into(start, memoryview(data))
        return bytes(data)

    def _blob(self, layer: Descriptor) -> Blob:
        if layer.digest not in self._blobs:
            self._blobs[layer.digest] = self._new_blob(layer)
        return self._blobs[layer.digest]

    def _new_blob(self, layer: Descriptor) -> Blob:
        chunks = self._index.chunks(layer)
        whole = partial(self._whole, layer)
        if layer.size == 0:
            return WholeBlob(self._source, layer, None, self.traffic)
        if chunks is None:
            return whole("there is no index of its chunks")
        cached = self._cache.open_blob(layer, chunks, self._observer) if self._cache else None
        chunked = ChunkedBlob(
            self._source,
            layer,
            chunks,
            cached=cached,
            memory=self._memory,
            traffic=self.traffic,
        )
        return SwitchingBlob(chunked, whole)

    def _whole(self, layer: Descriptor, why: str) -> Blob:
        """The way for a blob that cannot be read in parts; said aloud, or refused."""
        if self._require_lazy:
            raise RegistryError(
                f"{layer.digest} cannot be read lazily: {why}",
                hint="push the model with ocimodel, to a registry that serves ranges",
            )
        with self._mode_lock:
            is_first, self.mode = self.mode == LAZY, WHOLE
        if is_first:
            self._observer(Notice(f"blobs are fetched whole before they are read: {why}"))
        return WholeBlob(self._source, layer, self._cache, self.traffic, self._observer)
