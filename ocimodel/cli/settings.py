"""Settings files: what flags and OCIMODEL_* variables leave open.

Order: flag, environment, `settings:` in ./ocimodel.yaml, user configuration, default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocimodel.errors import InputError

if TYPE_CHECKING:
    from ocimodel.spec.modelfile import Fields
    from ocimodel.spec.modelfile_values import Where

PROJECT_FILE = Path("ocimodel.yaml")


class FileSettings(Mapping[str, Any]):
    """Parameter name to value, from the files; they are read when someone first asks.

    InputError, naming file and key, for what is wrong there.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._values: Mapping[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> Mapping[str, Any]:
        if self._values is None:
            self._values = load(self._environ)
        return self._values


def user_file(environ: Mapping[str, str]) -> Path:
    """$OCIMODEL_CONFIG, or ocimodel/config.yaml in the user's configuration folder."""
    if named := environ.get("OCIMODEL_CONFIG"):
        return Path(named)
    home = Path(environ.get("HOME") or "/nonexistent")
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "ocimodel" / "config.yaml"


def load(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Parameter values from the files that are there."""
    user = user_file(environ)
    named = bool(environ.get("OCIMODEL_CONFIG"))
    # a home or a directory that this user may not enter holds no settings
    with_user, with_project = os.path.isfile(user), os.path.isfile(PROJECT_FILE)  # noqa: PTH113
    if named and not with_user:
        raise InputError(f"OCIMODEL_CONFIG names {user}, and there is no such file")
    if not with_user and not with_project:
        return {}
    from ocimodel.spec.modelfile import SETTINGS, parse_settings
    from ocimodel.spec.modelfile_values import Where

    values: dict[str, Any] = {}
    if with_user and (document := _yaml(user, may_be_closed=not named)) is not None:
        values |= parse_settings(document, Where(str(user)), _user_fields(SETTINGS))
    if with_project:
        document = _yaml(PROJECT_FILE)
        section = document.get("settings") if isinstance(document, Mapping) else None
        if section is not None:
            values |= parse_settings(section, Where(str(PROJECT_FILE), "settings"))
    return values


def _yaml(path: Path, *, may_be_closed: bool = False) -> object:
    from ocimodel.ops.yamlfile import load_yaml

    try:
        return load_yaml(path)
    except OSError as error:
        if may_be_closed and isinstance(error, PermissionError):
            return None
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _user_fields(project: Fields) -> Fields:
    """A person may also say, once and for all, whom to trust and how to reach it."""
    from ocimodel.spec import modelfile_values as values

    return {
        **project,
        "cache": ("cache", _path),
        "key": ("key", _key),
        "policy": ("policy", _path),
        "mirror": ("mirror", values.list_of(values.line)),
        "plainHTTP": ("plain_http", values.truth),
        "insecure": ("insecure", values.truth),
        "caFile": ("ca_file", _path),
        "clientCert": ("client_cert", _path),
        "clientKey": ("client_key", _path),
        "registryConfig": ("registry_config", _path),
        "compat": ("compat", values.truth),
    }


def _path(value: object, where: Where) -> str:
    from ocimodel.spec import modelfile_values as values

    return os.path.expanduser(values.line(value, where))  # noqa: PTH111


def _key(value: object, where: Where) -> str:
    from ocimodel.spec import modelfile_values as values

    name = values.line(value, where)
    return os.path.expanduser(name) if name.startswith("~") else name  # noqa: PTH111
