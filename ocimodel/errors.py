"""Every error that ocimodel raises on purpose, and the exit code that each one means.

    OcimodelError                 1   internal: a bug or an impossible state
    ├── UsageError                2   the command or the call was wrong
    ├── NotFoundError             3   no such artifact, tag, blob or file
    ├── AuthenticationError       4   no, wrong or insufficient credentials
    ├── RegistryError             5   network or registry trouble, worth retrying
    ├── IntegrityError            6   bytes differ from their digest or size
    ├── PolicyError               7   signature or policy refused
    ├── LineageError              8   an input drifted or is gone
    ├── ConflictError             9   tag moved, or is immutable
    └── InputError               10   bad input or format
        └── TargetError          10   the place to write to is full, read-only or occupied

An error says what went wrong and with which thing; `hint` says what to do next.
"""

from __future__ import annotations


class OcimodelError(Exception):
    """Base of all declared errors. `hint`: the next thing to do, or empty."""

    exit_code = 1
    kind = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(OcimodelError):
    exit_code = 2
    kind = "usage"


class NotFoundError(OcimodelError):
    exit_code = 3
    kind = "not-found"


class AuthenticationError(OcimodelError):
    exit_code = 4
    kind = "authentication"


class RegistryError(OcimodelError):
    """The network or the registry failed; `status` is the HTTP status, 0 when there was none."""

    exit_code = 5
    kind = "registry"

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class IntegrityError(OcimodelError):
    exit_code = 6
    kind = "integrity"


class PolicyError(OcimodelError):
    exit_code = 7
    kind = "policy"


class LineageError(OcimodelError):
    exit_code = 8
    kind = "lineage"


class ConflictError(OcimodelError):
    exit_code = 9
    kind = "conflict"


class InputError(OcimodelError):
    exit_code = 10
    kind = "input"


class TargetError(InputError):
    kind = "target"
