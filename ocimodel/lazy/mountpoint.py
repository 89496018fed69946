"""Puts a file system at a directory, and takes it away again: mount(2), else by fusermount3."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Final

from ocimodel.errors import TargetError, UsageError
from ocimodel.events import Notice, Observer, ignore
from ocimodel.lazy.fuse import MAX_READ_BYTES

# as mount and df show it
TYPE: Final = "fuse.ocimodel"
_DEVICE: Final = "/dev/fuse"
_HELPER: Final = "fusermount3"
_READ_ONLY, _NO_SUID, _NO_DEVICES, _DETACH = 1, 2, 4, 2
_HINT: Final = (
    "it takes /dev/fuse, and CAP_SYS_ADMIN (docker run --device /dev/fuse --cap-add SYS_ADMIN, a "
    "privileged container in Kubernetes), a user namespace (unshare -Urm), or fusermount3"
)


def check_directory(directory: Path, observer: Observer = ignore) -> None:
    """UsageError or TargetError unless it is an empty directory.

    What a killed `ocimodel mount` has left there is taken away first.
    """
    try:
        status = directory.stat()
        is_empty = stat.S_ISDIR(status.st_mode) and not any(directory.iterdir())
    except FileNotFoundError:
        raise UsageError(
            f"there is no directory {directory}", hint=f"mkdir -p {directory}"
        ) from None
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise TargetError(f"cannot look into {directory}: {error.strerror}") from error
        if _type_at(directory) == TYPE and detach(directory):
            observer(Notice(f"took away a mount at {directory} whose process is gone"))
            check_directory(directory)
            return
        raise UsageError(
            f"there is a mount at {directory} whose process is gone",
            hint=f"{_HELPER} -u {directory}",
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{directory} is no directory")
    if not is_empty:
        raise TargetError(f"{directory} is not empty", hint="name an empty directory to mount at")


def attach(directory: Path, name: str) -> int:
    """An open /dev/fuse that is mounted there. `name`: what is shown as its source.

    UsageError where this process may not mount, with what it takes.
    """
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot open {_DEVICE}: {error.strerror}", hint=_HINT) from error
    options = (
        f"fd={fd},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},"
        f"default_permissions,allow_other,max_read={MAX_READ_BYTES}"
    )
    try:
        _call("mount", name.encode(), os.fsencode(directory), TYPE.encode(),
              _READ_ONLY | _NO_SUID | _NO_DEVICES, options.encode())  # fmt: skip
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EPERM and shutil.which(_HELPER):
            return _attach_by_helper(directory, name)
        raise UsageError(f"cannot mount at {directory}: {error.strerror}", hint=_HINT) from error
    return fd


def read_ahead(directory: Path, n_bytes: int) -> None:
    """Have the kernel ask for more at a time, where it lets us: that takes the machine's root."""
    device = directory.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/{name}/read_ahead_kb").write_text(str(n_bytes >> 10))


def detach(directory: Path) -> bool:
    """Take it away, for good once nobody has a file of it open; False if that is not allowed."""
    try:
        _call("umount2", os.fsencode(directory), _DETACH)
    except OSError as error:
        if error.errno == errno.EINVAL:
            # somebody else has done it
            return True
        if not shutil.which(_HELPER):
            return False
        argv = [_HELPER, "-u", "-z", str(directory)]
        return subprocess.run(argv, capture_output=True).returncode == 0  # noqa: S603
    return True


def _attach_by_helper(directory: Path, name: str) -> int:
    """By a program that may mount for its users; it sends the open device over a socket."""
    options = f"ro,nosuid,nodev,fsname={name.replace(',', '')},subtype=ocimodel"
    options += f",default_permissions,max_read={MAX_READ_BYTES}"
    ours, its = socket.socketpair()
    with ours, its:
        done = subprocess.run(  # noqa: S603
            [_HELPER, "-o", options, "--", str(directory)],
            env={**os.environ, "_FUSE_COMMFD": str(its.fileno())},
            pass_fds=[its.fileno()],
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise UsageError(
                f"cannot mount at {directory}: {done.stderr.strip()[:500]}", hint=_HINT
            )
        room = socket.CMSG_SPACE(array.array("i").itemsize)
        _, messages, _, _ = ours.recvmsg(1, room)
    (message,) = [data for _, kind, data in messages if kind == socket.SCM_RIGHTS]
    return array.array("i", message)[0]


def _type_at(directory: Path) -> str:
    """The type of the file system at a directory, by the kernel's table."""
    found = ""
    path = os.path.abspath(directory).encode()  # noqa: PTH100 - it cannot be looked at
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        if fields[4].decode("unicode_escape").encode("latin-1") == path:
            found = fields[fields.index(b"-") + 1].decode()
    return found


def _call(name: str, *arguments: bytes | int) -> None:
    """A function of libc that gives 0 or sets errno."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.argtypes = None
    passed = [ctypes.c_ulong(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    if function(*passed):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
