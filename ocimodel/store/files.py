"""Putting one file beside another without moving its bytes where the file system can."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from ocimodel.errors import TargetError

# linux/fs.h: share the extents of another file (btrfs, xfs, overlayfs above them)
_FICLONE = 0x40049409


def temporary_beside(path: Path) -> Path:
    # without the name itself, which may be as long as a name can be
    return path.with_name(f".ocimodel.{os.getpid()}.{os.urandom(8).hex()}")


def place(origin: Path, final: Path, mode: int, *, link: bool = False) -> None:
    """Make `final` a file with the bytes of `origin`, atomically, replacing what stands there.

    By reflink; else, with `link` and equal modes, by hard link; else by copying. OSError as the
    system gives it.
    """
    temporary = temporary_beside(final)
    try:
        if not (_reflink(origin, temporary, mode) or (link and _link(origin, temporary, mode))):
            _copy(origin, temporary, mode)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def _reflink(origin: Path, new: Path, mode: int) -> bool:
    with origin.open("rb") as source, new.open("xb") as target:
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError:
            pass
        else:
            os.fchmod(target.fileno(), mode)
            return True
    new.unlink()
    return False


def _link(origin: Path, new: Path, mode: int) -> bool:
    if origin.stat().st_mode & 0o777 != mode:
        return False
    with contextlib.suppress(OSError):
        os.link(origin, new)
        return True
    return False


def _copy(origin: Path, new: Path, mode: int) -> None:
    with origin.open("rb", buffering=0) as source, new.open("xb", buffering=0) as target:
        left = os.fstat(source.fileno()).st_size
        while left:
            try:
                n = os.copy_file_range(source.fileno(), target.fileno(), min(left, 1 << 30))
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                n = os.sendfile(target.fileno(), source.fileno(), None, min(left, 1 << 30))
            if n == 0:
                break
            left -= n
        os.fchmod(target.fileno(), mode)
        os.fsync(target.fileno())


def make_folder(root: Path, path: str) -> Path:
    """Make `root`/`path` and its parents; TargetError where one of them is a link or a file."""
    folder = root
    folder.mkdir(parents=True, exist_ok=True)
    for name in path.split("/") if path else ():
        folder = folder / name
        if folder.is_symlink():
            raise TargetError(
                f"{folder} is a link: files would end up outside of {root}",
                hint="remove the link, or pull into another directory",
            )
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError:
            raise TargetError(
                f"{folder} is a file, and the artifact has a directory of that name",
                hint="move it away, or pull into another directory",
            ) from None
    return folder
