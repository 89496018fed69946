"""ocimodel: ship models as signed OCI artifacts, with any container registry.

    import ocimodel
    pushed = ocimodel.push("model/", "registry.example.com/team/model:v1")
    ocimodel.pull(pushed.pinned, "model-copy/")

Every operation of the command line is a function here, with the same names, defaults and errors
(ocimodel.errors). Importing this module is cheap: an operation loads what it needs when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.3.0"

_HOMES = {
    "pack": "push",
    "push": "push",
    "pull": "pull",
    "mount": "mount",
    "trace": "trace",
    "open": "open",
    "copy": "copy",
    "inspect": "browse",
    "ls": "browse",
    "cat": "browse",
    "diff": "diff",
    "cache_ls": "cache",
    "cache_gc": "cache",
    "keygen": "keygen",
    "sign": "sign",
    "attest": "sign",
    "verify": "verify",
    "tag": "tags",
    "rm": "tags",
    "login": "login",
    "logout": "login",
    "doctor": "doctor",
    "init": "init",
    "serve": "serve",
}

if TYPE_CHECKING:
    from ocimodel.ops.browse import cat, inspect, ls
    from ocimodel.ops.cache import cache_gc, cache_ls
    from ocimodel.ops.copy import copy
    from ocimodel.ops.diff import diff
    from ocimodel.ops.doctor import doctor
    from ocimodel.ops.init import init
    from ocimodel.ops.keygen import keygen
    from ocimodel.ops.login import login, logout
    from ocimodel.ops.mount import mount
    from ocimodel.ops.open import open  # noqa: A004
    from ocimodel.ops.pull import pull
    from ocimodel.ops.push import pack, push
    from ocimodel.ops.serve import serve
    from ocimodel.ops.sign import attest, sign
    from ocimodel.ops.tags import rm, tag
    from ocimodel.ops.trace import trace
    from ocimodel.ops.verify import verify
    from ocimodel.registry.transport import ClientOptions

__all__ = [
    "ClientOptions",
    "__version__",
    "attest",
    "cache_gc",
    "cache_ls",
    "cat",
    "copy",
    "diff",
    "doctor",
    "init",
    "inspect",
    "keygen",
    "login",
    "logout",
    "ls",
    "mount",
    "open",
    "pack",
    "pull",
    "push",
    "rm",
    "serve",
    "sign",
    "tag",
    "trace",
    "verify",
]


def __getattr__(name: str) -> object:
    if name == "ClientOptions":
        return import_module("ocimodel.registry.transport").ClientOptions
    if name in _HOMES:
        return getattr(import_module(f"ocimodel.ops.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
