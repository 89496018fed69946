"""A directory as a target: the files of an artifact, put where they belong, or left where they are.

Nothing is ever written through a link or outside the root; a file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ocimodel.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    TargetError,
)
from ocimodel.events import Notice, Observer, Outcome, ignore
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.modelpack import EXECUTABLE, ModelFile, check_codec
from ocimodel.spec.paths import PARTIAL
from ocimodel.spec.segments import model_files
from ocimodel.store.assembly import (
    MIN_COMPOSED_BYTES,
    Assembly,
    ChunkFinder,
    take_chunks,
    take_range,
)
from ocimodel.store.files import make_folder, place
from ocimodel.store.growing import GrowingFile, target_error
from ocimodel.store.landing import FileLanding
from ocimodel.store.memo import Memo
from ocimodel.store.presence import file_joins
from ocimodel.store.protocol import Ingest, Source

if TYPE_CHECKING:
    from ocimodel.spec.chunkindex import Chunk, ChunkIndex
    from ocimodel.store.chunkcache import ChunkCache


class Checkout:
    """A `Target` for one artifact, to be used in a `with` statement: `close` lets other pulls in.

    `wanted`: decides over files by path. `rank`: files of a lower one come first. `index`: fetches
    the artifact's chunk index, which is asked for only where `chunks`, who may have parts of the
    blobs, or the `cache` could give some.
    `cache`: where finished blobs may be found and are kept. `rehash`: believe no memo.
    `mode_mask`: bits that new files shall not have, such as the umask.
    """

    def __init__(
        self,
        root: Path,
        *,
        wanted: Callable[[str], bool] = lambda _: True,
        rank: Callable[[ModelFile], int] = lambda _: 0,
        index: Callable[[], ChunkIndex | None] = lambda: None,
        chunks: Sequence[ChunkFinder] = (),
        memo: Memo | None = None,
        cache: ChunkCache | None = None,
        rehash: bool = False,
        mode_mask: int = 0o022,
        observer: Observer = ignore,
    ) -> None:
        self.name = str(root)
        self.files: list[ModelFile] = []
        self._root = root
        self._partial = root / PARTIAL
        self._wanted = wanted
        self._rank = rank
        self._index = index
        self._chunks: Sequence[ChunkFinder] = (*chunks, cache) if cache else chunks
        self._memo = memo or Memo(None)
        self._cache = cache
        self._rehash = rehash
        self._mask = mode_mask
        self._observer = observer
        self._assemblies: dict[str, Assembly] = {}
        self._places: dict[str, list[tuple[Assembly, int]]] = {}
        # blobs that were put together from what is here; if that was wrong, not once more
        self._composed: set[str] = set()
        self._lock_fd = -1
        self._entering = threading.Lock()
        self._of_artifact: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.close()
        else:
            # on an interrupt threads may still be writing
            self._leave()

    def close(self) -> None:
        """Let go of the directory, also when the copy has failed; what is unfinished stays."""
        for assembly in self._assemblies.values():
            if assembly.growing:
                assembly.growing.close()
        self._leave()

    def _leave(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __del__(self) -> None:
        self.close()

    # the target's side

    def plan(self, document: Document) -> Sequence[Descriptor]:
        if not isinstance(document, Manifest):
            raise InputError(
                f"{document.digest} is an index of several artifacts, not one model",
                hint="name one of its manifests by digest: ocimodel inspect --raw shows them",
            )
        files = model_files(document)
        self._of_artifact = {f.path for f in files}
        self.files = [f for f in files if self._wanted(f.path)]
        if not self.files:
            raise NotFoundError(
                f"{document.digest} has no file that matches",
                hint="ocimodel inspect shows the files of an artifact",
            )
        for file in self.files:
            check_codec(file.codec)
        if self._root.exists() and not self._root.is_dir():
            raise TargetError(f"{self._root} is not a directory")
        for file in sorted(self.files, key=self._rank):
            if file.directories:
                # the manifest tells all that is in there
                continue
            self._assemblies.setdefault(file.key, Assembly(file.layers)).files.append(file)
        blobs: dict[str, Descriptor] = {}
        for assembly in self._assemblies.values():
            for layer, base in assembly.places():
                blobs.setdefault(layer.digest, layer)
                self._places.setdefault(layer.digest, []).append((assembly, base))
                assembly.left.add(base)
        self._check_space()
        return list(blobs.values())

    def begin(self, what: Descriptor, source: Source) -> Ingest | Outcome:
        places = self._places[what.digest]
        missing = [p for p in places if not self._settled(p[0])]
        if not missing:
            return Outcome.EXISTS
        self._enter()
        missing = [p for p in missing if not self._reused(p[0])]
        if not missing:
            return Outcome.REUSED
        assembly, base = missing[0]
        file = self._growing(assembly)
        self._compose(file, base, what, [p for p in places if p[0].is_there])

        def deliver() -> None:
            with self._writing(file.path):
                self._landed(what, missing)

        return FileLanding(file, what, source, deliver, base if len(assembly.layers) > 1 else None)

    def put_manifest(self, document: Document) -> None:
        """All files are in place: nothing of the way there remains."""
        with self._writing(self._root):
            self._folder("")
            for path in (d for f in self.files for d in f.directories):
                self._folder(path)
        if self._lock_fd < 0 and self._partial.is_dir() and os.access(self._root, os.W_OK):
            # an earlier run was killed between its last file and this
            self._enter()
        if self._lock_fd >= 0:
            shutil.rmtree(self._partial, ignore_errors=True)
            self.close()
        self._memo.save()

    def tag(self, name: str, what: Descriptor) -> None:
        raise ConflictError("a model directory has no tags")

    def extra_files(self) -> list[str]:
        """Files in the directory that are not of the artifact, sorted; they are left alone."""
        tars = [f for f in self.files if f.codec != "raw" and not f.directories]
        if tars:
            return []
        found = []
        for folder, _, names in os.walk(self._root):
            base = Path(folder).relative_to(self._root)
            if base.parts[:1] != (PARTIAL,):
                found += [p for n in names if (p := (base / n).as_posix()) not in self._of_artifact]
        return sorted(found)

    # how it gets there

    def _check_space(self) -> None:
        missing = sum(
            max(0, a.size * len(a.files) - self._n_bytes_there(key, a))
            for key, a in self._assemblies.items()
        )
        folder = next(p for p in (self._root, *self._root.absolute().parents) if p.exists())
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise TargetError(
                f"{self._root} needs {missing} bytes more, and has {free} free",
                hint="free some space, choose another directory, or pull in part with --include",
            )

    def _n_bytes_there(self, key: str, assembly: Assembly) -> int:
        n_bytes = 0
        for path in (self._growing_path(key), *(self._root / f.path for f in assembly.files)):
            with contextlib.suppress(OSError):
                # blocks, not length: a growing file has holes
                n_bytes += min(path.lstat().st_blocks * 512, assembly.size)
        return n_bytes

    def _growing_path(self, key: str) -> Path:
        return self._partial / key.partition(":")[2]

    def _growing(self, assembly: Assembly) -> GrowingFile:
        with assembly.lock:
            if assembly.growing is None or assembly.growing.fd < 0:
                path = self._growing_path(assembly.files[0].key)
                assembly.growing = GrowingFile(path, assembly.size)
            return assembly.growing

    def _compose(
        self,
        file: GrowingFile,
        base: int,
        what: Descriptor,
        elsewhere: Sequence[tuple[Assembly, int]],
    ) -> None:
        """Fill in what this machine has of a blob; its digest is checked over all of it later."""
        if what.digest in self._composed:
            return
        with self._writing(file.path):
            if elsewhere:
                assembly, at = elsewhere[0]
                has_some = take_range(self._root / assembly.files[0].path, at, file, base, what)
            else:
                is_big = file.size >= MIN_COMPOSED_BYTES
                index = self._index() if self._chunks and is_big else None
                known = index.chunks(what) if index else None
                has_some = known is not None and take_chunks(known, self._chunks, file, base)
        if has_some:
            self._composed.add(what.digest)

    def _landed(self, what: Descriptor, places: Sequence[tuple[Assembly, int]]) -> None:
        """A blob is here, at the first of `places`: bring it to the others."""
        first, base = places[0]
        origin = self._growing(first)
        for assembly, at in places[1:]:
            file = self._growing(assembly)
            file.forget(at, what.size)
            file.resize()
            if not file.take(origin.fd, base, at, what.size):
                raise IntegrityError(f"{what.digest}: {origin.path} was cut while it was copied")
            file.keep(at, what.size)
        for assembly, at in places:
            with assembly.lock:
                is_last = at in assembly.left and len(assembly.left) == 1
                assembly.left.discard(at)
            if is_last:
                self._deliver(assembly)

    def _settled(self, assembly: Assembly) -> bool:
        with assembly.lock:
            if assembly.is_there is None:
                assembly.is_there = self._all_there(assembly)
            return assembly.is_there

    def _all_there(self, assembly: Assembly) -> bool:
        if not all(self._is_there(f) for f in assembly.files):
            return False
        for file in assembly.files:
            self._fix_mode(file)
        return True

    def _is_there(self, file: ModelFile) -> bool:
        if file.is_directory:
            path = self._root / file.path
            return path.is_dir() and not path.is_symlink()
        return file.codec == "raw" and file_joins(
            self._root / file.path, file.layers, self._memo, rehash=self._rehash
        )

    def _fix_mode(self, file: ModelFile) -> None:
        if file.is_directory:
            return
        path = self._root / file.path
        mode = path.stat().st_mode
        if bool(mode & 0o111) != (file.mode == EXECUTABLE):
            with self._writing(path):
                path.chmod(self._mode(file))

    def _mode(self, file: ModelFile) -> int:
        return file.mode & ~self._mask

    def _enter(self) -> None:
        """Be the only process that writes to this directory, from the first write on."""
        with self._entering:
            while self._lock_fd < 0:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
                with self._writing(self._root):
                    self._partial.mkdir(parents=True, exist_ok=True)
                    try:
                        fd = os.open(self._partial, flags)
                    except FileNotFoundError:
                        # another pull is done and has just taken it away
                        continue
                self._lock(fd)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), self._partial.stat()):
                        self._lock_fd = fd
                        return
                # whoever had it is done and has taken the folder away
                os.close(fd)

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._observer(Notice(f"another pull is at work in {self._root}: waiting for it"))
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            # a file system without locks: the digests still decide what becomes visible
            pass

    def _reused(self, assembly: Assembly) -> bool:
        """Whether the content could be had from another file here, or from the cache."""
        with assembly.lock:
            if not assembly.is_sought:
                assembly.is_sought = True
                assembly.is_there = self._reuse(assembly)
            return bool(assembly.is_there)

    def _reuse(self, assembly: Assembly) -> bool:
        if any(f.codec != "raw" or f.is_directory for f in assembly.files):
            return False
        # once more: another process may have brought it while this one waited
        there = [f for f in assembly.files if self._is_there(f)]
        missing = [f for f in assembly.files if f not in there]
        if not there and self._cache:
            with self._writing(self._root):
                final = self._final(missing[0])
                if self._cache.take(assembly.layers, final, self._mode(missing[0])):
                    there = [missing.pop(0)]
        if not there:
            return False
        with self._writing(self._root):
            self._spread(there[0], missing)
        # the bytes of a cache are only as good as they are now
        return self._all_there(assembly)

    def _deliver(self, assembly: Assembly) -> None:
        """All of the content is here and verified: put the files in place."""
        growing = self._growing(assembly)
        growing.seal()
        path = growing.path
        raw = [f for f in assembly.files if f.codec == "raw" and not f.is_directory]
        for file in assembly.files:
            if file.is_directory:
                self._folder(file.path)
            elif file.codec != "raw":
                from ocimodel.store.archive import extract

                extract(path, file.codec, self._root, self._mask)
        if raw:
            self._put(path, raw[0])
            self._spread(raw[0], raw[1:])
        else:
            path.unlink()
        growing.delivered()
        assembly.is_there = True

    def _put(self, path: Path, file: ModelFile) -> None:
        path.chmod(self._mode(file))
        final = self._final(file)
        path.replace(final)
        self._memo.note(final.stat(), file.key)
        if self._cache:
            try:
                self._cache.add(file.layers, final, self._chunks_of(file))
            except TargetError as error:
                # the model is in place; only the next pull is slower
                self._observer(Notice(f"not kept in the cache: {error}"))

    def _chunks_of(self, file: ModelFile) -> Iterator[Chunk]:
        from ocimodel.spec.chunkindex import ChunkIndex

        is_big = file.size >= MIN_COMPOSED_BYTES
        index = (self._index() if is_big else None) or ChunkIndex()
        base = 0
        for layer in file.layers:
            if known := index.chunks(layer):
                yield from known.at(base)
            base += layer.size

    def _spread(self, origin: ModelFile, files: Sequence[ModelFile]) -> None:
        for file in files:
            final = self._final(file)
            place(self._root / origin.path, final, self._mode(file))
            self._memo.note(final.stat(), origin.key)

    def _final(self, file: ModelFile) -> Path:
        """Where a file goes; its folders are made. TargetError if a directory is in its way."""
        parent, _, name = file.path.rpartition("/")
        final = self._folder(parent) / name
        if final.is_dir() and not final.is_symlink():
            raise TargetError(
                f"{final} is a directory, and the artifact has a file of that name",
                hint="move it away, or pull into another directory",
            )
        return final

    def _folder(self, path: str) -> Path:
        return make_folder(self._root, path)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise target_error(error, Path(error.filename or path)) from error
