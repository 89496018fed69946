"""Small YAML files: what an author, a user or an administrator wrote by hand."""

from __future__ import annotations

from pathlib import Path

from ocimodel.errors import InputError

MAX_YAML_BYTES = 1 << 20


def load_yaml(path: Path) -> object:
    """A small YAML document; InputError where it is none."""
    import yaml

    with path.open("rb") as file:
        raw = file.read(MAX_YAML_BYTES + 1)
    if len(raw) > MAX_YAML_BYTES:
        raise InputError(f"{path} is over the limit of {MAX_YAML_BYTES} bytes")
    try:
        return yaml.safe_load(raw)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(
            f"{path}, line {line}: {error.problem or 'not valid YAML'}",
            hint="quote what is no plain word or number, and indent with spaces",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not valid YAML: {reason}") from error
