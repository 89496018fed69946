"""A model as a read-only file system: the kernel asks over /dev/fuse, several threads answer.

Source: linux/fuse.h of protocol 7.40, and the kernel's fuse.rst and fuse-passthrough.rst. Written
for the kernel rather than for libfuse: that has no passthrough before 3.17, changes its ABI from
version to version, and has to be installed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, Final

from ocimodel.errors import OcimodelError
from ocimodel.events import Notice, Observer, ignore
from ocimodel.lazy.nodes import ROOT_ID, Node
from ocimodel.lazy.tensors import new_buffer

MAX_READ_BYTES: Final = 1 << 20
# while reads wait for the network, others are answered
MAX_THREADS: Final = 32
# of these, at most so many for what the kernel reads ahead
MAX_AHEAD: Final = 16
_REQUEST_BYTES: Final = 64 << 10
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# nothing ever changes: the kernel may remember what it was told
_VALID_S: Final = 1 << 30

# what the kernel asks
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
_UNANSWERED: Final = frozenset({FORGET, BATCH_FORGET, INTERRUPT})

_IN: Final = struct.Struct("=IIQQIIIHH")
_OUT: Final = struct.Struct("=IiQ")
_INIT_IN: Final = struct.Struct("=IIII")
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHIIH22x")
_FLAGS_IN: Final = struct.Struct("=I")
_HANDLE_IN: Final = struct.Struct("=Q")
_READ_IN: Final = struct.Struct("=QQI")
_ATTR: Final = struct.Struct("=6Q10I")
_ATTR_OUT: Final = struct.Struct("=QII")
_ENTRY_OUT: Final = struct.Struct("=4QII")
_OPEN_OUT: Final = struct.Struct("=QIi")
_STATFS_OUT: Final = struct.Struct("=5Q4I24x")
_DIRENT: Final = struct.Struct("=QQII")
_BACKING: Final = struct.Struct("=iIQ")

_MAJOR, _MINOR = 7, 40
# Linux 4.20: what it may ask for has not grown since
_OLDEST_MINOR: Final = 28
_ASYNC_READ, _PARALLEL_DIROPS, _MAX_PAGES, _INIT_EXT = 1, 1 << 18, 1 << 22, 1 << 30
# of the second word of flags
_PASSTHROUGH: Final = 1 << 5
# over a backing file on an overlay too, as in a container
_STACK_DEPTH: Final = 2
_KEEP_CACHE, _CACHE_DIR, _NO_FLUSH, _OPEN_PASSTHROUGH = 1 << 1, 1 << 3, 1 << 5, 1 << 7
_BACKING_OPEN: Final = 0x4010E501
# handle of a file that is read through us; of others nothing has to be known
_OURS: Final = 1


class Session:
    """Answers what comes over `fd`, an open /dev/fuse that is mounted or about to be.

    Owns `fd`. `ready`: set once the kernel and we have shaken hands; `ended`: once it is unmounted
    and nobody has a file open any more. `touch`: told, before it is read, of a path and a place.
    `finished`: gives a descriptor of a file that is whole on disk, or None.
    """

    def __init__(
        self,
        fd: int,
        nodes: list[Node],
        *,
        touch: Callable[[str, int], None] = lambda path, position: None,
        finished: Callable[[str], int | None] = lambda path: None,
        observer: Observer = ignore,
    ) -> None:
        self.ready = threading.Event()
        self.ended = threading.Event()
        self._fd = fd
        self._nodes = nodes
        self._touch = touch
        self._finished = finished
        self._observer = observer
        self._has_passthrough = False
        # by node: how often it is open through us; the number of the file behind it, or 0
        self._n_open: Counter[int] = Counter()
        self._backing: Counter[int] = Counter()
        self._opening = threading.Lock()
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._n_threads = 0
        self._n_idle = 0
        self._owner = (os.geteuid(), os.getegid())

    def start(self) -> None:
        with self._lock:
            self._spawn()

    def _spawn(self) -> None:
        """With the lock."""
        self._n_threads += 1
        self._n_idle += 1
        threading.Thread(target=self._serve, name="ocimodel-fuse", daemon=True).start()

    def _serve(self) -> None:
        request = memoryview(bytearray(_REQUEST_BYTES))
        data = new_buffer(MAX_READ_BYTES)
        while (n_bytes := self._next(request)) is not None:
            with self._lock:
                self._n_idle -= 1
                # somebody has to hear what is asked while this is answered
                if not self._n_idle and self._n_threads < MAX_THREADS:
                    self._spawn()
            self._handle(request[:n_bytes], data)
            with self._lock:
                self._n_idle += 1
        with self._lock:
            self._n_threads -= 1
            self._n_idle -= 1
            is_last = not self._n_threads
        if is_last:
            os.close(self._fd)
            self.ended.set()

    def _next(self, request: memoryview) -> int | None:
        """The size of the next request; None when it is over."""
        while True:
            try:
                return os.readv(self._fd, [request])
            except OSError as error:
                # ENOENT: it was interrupted before we saw it
                if error.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    return None

    def _handle(self, request: memoryview, data: memoryview) -> None:
        _, operation, unique, node_id, *_ = _IN.unpack_from(request)
        if operation in _UNANSWERED:
            return
        code = 0
        answer: bytes | memoryview = b""
        try:
            answer = self._answer(operation, node_id, request[_IN.size :], data)
        except OSError as error:
            code = error.errno or errno.EIO
        except Exception as error:  # noqa: BLE001 - one wrong answer must not end the others
            code = errno.EIO
            self._tell(f"operation {operation}", error)
        head = _OUT.pack(_OUT.size + len(answer), -code, unique)
        try:
            os.writev(self._fd, [head, answer])
        except OSError as error:
            # ENOENT: whoever asked is gone; ENODEV: all are
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                self._tell("an answer", error)
        if operation == INIT:
            self.ready.set()

    def _answer(
        self, operation: int, node_id: int, body: memoryview, data: memoryview
    ) -> bytes | memoryview:
        """The body of the answer. Raises OSError with what the kernel shall say."""
        if operation == INIT:
            return self._shake_hands(body)
        if operation == STATFS:
            return self._statistics()
        if operation in (RELEASEDIR, DESTROY):
            return b""
        if not ROOT_ID <= node_id <= len(self._nodes):
            raise OSError(errno.ESTALE, "")
        node = self._nodes[node_id - 1]
        if operation == READ:
            return self._read(node, body, data)
        answer = self._ANSWERS.get(operation)
        if answer is None:
            raise OSError(errno.ENOSYS, "")
        return answer(self, node, body)

    def _read(self, node: Node, body: memoryview, data: memoryview) -> memoryview:
        _, start, length = _READ_IN.unpack_from(body)
        if node.file is None:
            raise OSError(errno.EISDIR, "")
        out = data[: max(0, min(length, MAX_READ_BYTES, node.size - start))]
        try:
            self._touch(node.file.path, start)
            node.file.read_into(start, out)
        except Exception as error:
            self._tell(node.file.path, error)
            raise OSError(errno.EIO, "") from error
        return out

    def _look_up(self, node: Node, body: memoryview) -> bytes:
        child = node.children.get(bytes(body).rstrip(b"\0"))
        if child is None:
            # a number of 0: the kernel may remember that too
            return _ENTRY_OUT.pack(0, 0, _VALID_S, 0, 0, 0) + bytes(_ATTR.size)
        entry = _ENTRY_OUT.pack(child.id, 0, _VALID_S, _VALID_S, 0, 0)
        return entry + self._attributes(child)

    def _get_attributes(self, node: Node, body: memoryview) -> bytes:
        return _ATTR_OUT.pack(_VALID_S, 0, 0) + self._attributes(node)

    def _attributes(self, node: Node) -> bytes:
        n_blocks = -(-node.size // 512)
        times = (0,) * 6
        rest = (node.mode, node.n_links, *self._owner, 0, _PAGE_BYTES, 0)
        return _ATTR.pack(node.id, node.size, n_blocks, *times, *rest)

    def _open(self, node: Node, body: memoryview) -> bytes:
        """By the kernel alone where the file is whole on disk; else it keeps what it got of us.

        Of one file it can have only one of the two at a time.
        """
        (flags,) = _FLAGS_IN.unpack_from(body)
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise OSError(errno.EROFS, "")
        if node.file is None:
            raise OSError(errno.EISDIR, "")
        with self._opening:
            if self._has_passthrough and not (self._backing[node.id] or self._n_open[node.id]):
                self._backing[node.id] = self._register(node.file.path)
            if backing := self._backing[node.id]:
                return _OPEN_OUT.pack(0, _OPEN_PASSTHROUGH, backing)
            self._n_open[node.id] += 1
            return _OPEN_OUT.pack(_OURS, _KEEP_CACHE | _NO_FLUSH, 0)

    def _release(self, node: Node, body: memoryview) -> bytes:
        (handle,) = _HANDLE_IN.unpack_from(body)
        with self._opening:
            self._n_open[node.id] -= handle == _OURS
        return b""

    def _register(self, path: str) -> int:
        """The kernel's number for a file that is whole on disk; 0 where that cannot be."""
        if (fd := self._finished(path)) is None:
            return 0
        try:
            # under another name somebody may write to it
            if os.fstat(fd).st_nlink != 1:
                return 0
            return int(fcntl.ioctl(self._fd, _BACKING_OPEN, bytearray(_BACKING.pack(fd, 0, 0))))
        except OSError:
            # not for us (it takes CAP_SYS_ADMIN), or not on this file system
            self._has_passthrough = False
            return 0
        finally:
            os.close(fd)

    def _open_directory(self, node: Node, body: memoryview) -> bytes:
        return _OPEN_OUT.pack(0, _KEEP_CACHE | _CACHE_DIR, 0)

    def _list(self, node: Node, body: memoryview) -> bytes:
        """As many entries from a place on as the kernel has room for."""
        _, start, n_bytes = _READ_IN.unpack_from(body)
        entries = [(b".", node.id), (b"..", node.parent)]
        entries += [(name, child.id) for name, child in node.children.items()]
        out = bytearray()
        for number, (name, id_) in enumerate(entries[start:], start + 1):
            kind = stat.S_IFMT(self._nodes[id_ - 1].mode) >> 12
            entry = _DIRENT.pack(id_, number, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(out) + len(entry) > n_bytes:
                break
            out += entry
        return bytes(out)

    def _statistics(self) -> bytes:
        n_blocks = sum(-(-node.size // _PAGE_BYTES) for node in self._nodes)
        n_files = len(self._nodes)
        return _STATFS_OUT.pack(n_blocks, 0, 0, n_files, 0, _PAGE_BYTES, 255, _PAGE_BYTES, 0)

    def _shake_hands(self, body: memoryview) -> bytes:
        major, minor, ahead, flags = _INIT_IN.unpack_from(body)
        if (major, minor) < (_MAJOR, _OLDEST_MINOR):
            raise OSError(errno.EPROTO, "")
        more = _FLAGS_IN.unpack_from(body, _INIT_IN.size)[0] if flags & _INIT_EXT else 0
        self._has_passthrough = bool(more & _PASSTHROUGH)
        return _INIT_OUT.pack(
            _MAJOR,
            _MINOR,
            max(ahead, MAX_READ_BYTES),
            flags & (_ASYNC_READ | _PARALLEL_DIROPS | _MAX_PAGES | _INIT_EXT),
            # requests at a time that nobody waits for yet, and from where on it asks for fewer
            MAX_AHEAD,
            MAX_AHEAD,
            # of a write, of which there are none; the kernel's least
            _PAGE_BYTES,
            1,
            MAX_READ_BYTES // _PAGE_BYTES,
            0,
            more & _PASSTHROUGH,
            _STACK_DEPTH,
            0,
        )

    def _tell(self, what: str, error: Exception) -> None:
        """Whoever reads hears only of an I/O error. Once for each file and kind of error."""
        key = f"{what} {type(error).__name__}"
        with self._lock:
            is_first = key not in self._told
            self._told.add(key)
        if is_first:
            kind = "" if isinstance(error, OcimodelError) else f"{type(error).__name__}: "
            self._observer(Notice(f"{what[:200]!r} cannot be read: {kind}{error}"))

    _ANSWERS: ClassVar[dict[int, Callable[[Session, Node, memoryview], bytes]]] = {
        LOOKUP: _look_up,
        GETATTR: _get_attributes,
        OPEN: _open,
        RELEASE: _release,
        OPENDIR: _open_directory,
        READDIR: _list,
    }
