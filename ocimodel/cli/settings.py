"""Settings files: what flags and OCIMODEL_* variables leave open.

Order: flag, environment, `settings:` in ./ocimodel.yaml, user configuration, default. A model
directory may come from anywhere, so its file can set how fast, never whom to trust.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocimodel.errors import InputError

# name in a file → parameter of the verbs
PROJECT_KEYS = {"concurrency": "concurrency", "retries": "retries", "timeout": "timeout"}
USER_KEYS = {
    **PROJECT_KEYS,
    "cache": "cache",
    "mirror": "mirror",
    "plainHTTP": "plain_http",
    "insecure": "insecure",
    "caFile": "ca_file",
    "clientCert": "client_cert",
    "clientKey": "client_key",
    "registryConfig": "registry_config",
    "compat": "compat",
}
PROJECT_FILE = Path("ocimodel.yaml")


def user_file(environ: Mapping[str, str]) -> Path:
    """$OCIMODEL_CONFIG, or ocimodel/config.yaml in the user's configuration folder."""
    if named := environ.get("OCIMODEL_CONFIG"):
        return Path(named)
    home = Path(environ.get("HOME", "/nonexistent"))
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "ocimodel" / "config.yaml"


def load(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Parameter values from the files. InputError, naming file and key, for what is wrong there."""
    user = user_file(environ)
    values = _read(user, None, USER_KEYS) if user.is_file() else {}
    if PROJECT_FILE.is_file():
        values |= _read(PROJECT_FILE, "settings", PROJECT_KEYS)
    return values


def _read(path: Path, section: str | None, keys: Mapping[str, str]) -> dict[str, Any]:
    from ocimodel.ops.packing import load_yaml

    document = load_yaml(path)
    if section is not None:
        document = document.get(section) if isinstance(document, dict) else None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InputError(f"{path}: {section or 'the document'} must be a mapping")
    unknown = [k for k in document if k not in keys]
    if unknown:
        raise InputError(
            f"{path}: there is no setting {unknown[0]!r} here", hint=f"known: {', '.join(keys)}"
        )
    return {keys[k]: v for k, v in document.items()}
