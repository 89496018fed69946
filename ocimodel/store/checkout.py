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
from typing import Self

from ocimodel.errors import ConflictError, InputError, NotFoundError, TargetError
from ocimodel.events import Notice, Observer, Outcome, ignore
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.modelpack import EXECUTABLE, ModelFile, read_layer
from ocimodel.spec.paths import PARTIAL, PRIVATE_PREFIX, check_path, check_tree
from ocimodel.store.archive import check_codec, extract
from ocimodel.store.blobcache import BlobCache, file_has
from ocimodel.store.files import make_folder, place
from ocimodel.store.landing import FileLanding, target_error
from ocimodel.store.memo import Memo
from ocimodel.store.protocol import Ingest, Source


def model_files(manifest: Manifest) -> list[ModelFile]:
    """The files of an artifact, checked against each other; InputError for hostile names.

    Our own documents, which are no part of the model directory, are left out.
    """
    files = [read_layer(layer) for layer in manifest.layers]
    files = [f for f in files if not f.path.startswith(PRIVATE_PREFIX)]
    check_tree(
        [f.path for f in files if f.codec == "raw" and not f.is_directory],
        [f.path for f in files if f.is_directory] + [d for f in files for d in f.directories],
    )
    for file in files:
        if file.codec != "raw" and file.path != ".":
            check_path(file.path.rstrip("/"))
    return files


class Checkout:
    """A `Target` for one artifact, to be used in a `with` statement: `close` lets other pulls in.

    `wanted`: decides over files by path. `cache`: where finished blobs may be found and are kept.
    `rehash`: believe no memo. `mode_mask`: bits that new files shall not have, such as the umask.
    """

    def __init__(
        self,
        root: Path,
        *,
        wanted: Callable[[str], bool] = lambda _: True,
        memo: Memo | None = None,
        cache: BlobCache | None = None,
        rehash: bool = False,
        mode_mask: int = 0o022,
        observer: Observer = ignore,
    ) -> None:
        self.name = str(root)
        self.files: list[ModelFile] = []
        self._root = root
        self._partial = root / PARTIAL
        self._wanted = wanted
        self._memo = memo or Memo(None)
        self._cache = cache
        self._rehash = rehash
        self._mask = mode_mask
        self._observer = observer
        self._by_digest: dict[str, list[ModelFile]] = {}
        self._lock_fd = -1
        self._entering = threading.Lock()
        self._of_artifact: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory, also when the copy has failed; what is unfinished stays."""
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
        for file in self.files:
            if file.directories:
                # the manifest tells all that is in there
                continue
            self._by_digest.setdefault(file.layer.digest, []).append(file)
        blobs = [files[0].layer for files in self._by_digest.values()]
        self._check_space(blobs)
        return blobs

    def begin(self, what: Descriptor, source: Source) -> Ingest | Outcome:
        files = self._by_digest[what.digest]
        if self._settled(what, files):
            return Outcome.EXISTS
        self._enter()
        if self._reuse(what, files):
            return Outcome.REUSED

        def deliver(path: Path) -> None:
            with self._writing(path):
                self._deliver(path, what, files)

        return FileLanding(self._partial, what, source, deliver)

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

    def _check_space(self, blobs: Sequence[Descriptor]) -> None:
        missing = sum(
            max(0, b.size * len(self._by_digest[b.digest]) - self._n_bytes_there(b)) for b in blobs
        )
        folder = next(p for p in (self._root, *self._root.absolute().parents) if p.exists())
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise TargetError(
                f"{self._root} needs {missing} bytes more, and has {free} free",
                hint="free some space, choose another directory, or pull in part with --include",
            )

    def _n_bytes_there(self, what: Descriptor) -> int:
        n_bytes = 0
        growing = self._partial / what.digest.partition(":")[2]
        for path in (growing, *(self._root / f.path for f in self._by_digest[what.digest])):
            with contextlib.suppress(OSError):
                # blocks, not length: a growing file has holes
                n_bytes += min(path.lstat().st_blocks * 512, what.size)
        return n_bytes

    def _settled(self, what: Descriptor, files: Sequence[ModelFile]) -> bool:
        if not all(self._is_there(what, f) for f in files):
            return False
        for file in files:
            self._fix_mode(file)
        return True

    def _is_there(self, what: Descriptor, file: ModelFile) -> bool:
        if file.is_directory:
            path = self._root / file.path
            return path.is_dir() and not path.is_symlink()
        return file.codec == "raw" and file_has(
            self._root / file.path, what, self._memo, rehash=self._rehash
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

    def _reuse(self, what: Descriptor, files: Sequence[ModelFile]) -> bool:
        if any(f.codec != "raw" or f.is_directory for f in files):
            return False
        there = [f for f in files if self._is_there(what, f)]
        missing = [f for f in files if f not in there]
        if not there and self._cache:
            with self._writing(self._root):
                final = self._final(missing[0])
                if self._cache.take(what, final, self._mode(missing[0])):
                    there = [missing.pop(0)]
        if not there:
            return False
        with self._writing(self._root):
            self._spread(what, there[0], missing)
        # the bytes of a cache are only as good as they are now
        return self._settled(what, files)

    def _deliver(self, path: Path, what: Descriptor, files: Sequence[ModelFile]) -> None:
        raw = [f for f in files if f.codec == "raw" and not f.is_directory]
        for file in files:
            if file.is_directory:
                self._folder(file.path)
            elif file.codec != "raw":
                extract(path, file.codec, self._root, self._mask)
        if not raw:
            path.unlink()
            return
        first, *others = raw
        path.chmod(self._mode(first))
        final = self._final(first)
        path.replace(final)
        self._memo.note(final.stat(), what.digest)
        self._spread(what, first, others)
        if self._cache:
            try:
                self._cache.add(what, final)
            except TargetError as error:
                # the model is in place; only the next pull is slower
                self._observer(Notice(f"not kept in the cache: {error}"))

    def _spread(self, what: Descriptor, origin: ModelFile, files: Sequence[ModelFile]) -> None:
        for file in files:
            final = self._final(file)
            place(self._root / origin.path, final, self._mode(file))
            self._memo.note(final.stat(), what.digest)

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
