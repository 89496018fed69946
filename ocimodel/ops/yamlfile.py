"""Small YAML files: what an author, a user or an administrator wrote by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ocimodel.errors import InputError

MAX_YAML_BYTES = 1 << 20


def load_yaml(path: Path) -> object:
    """A small YAML document; InputError where it is none, and where it gives a key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            for key, n in keys.items():
                if n > 1:
                    problem = f"{key[:100]!r} is there twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            return super().construct_mapping(node, deep)

    with path.open("rb") as file:
        raw = file.read(MAX_YAML_BYTES + 1)
    if len(raw) > MAX_YAML_BYTES:
        raise InputError(f"{path} is over the limit of {MAX_YAML_BYTES} bytes")
    try:
        return yaml.load(raw, Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(
            f"{path}, line {line}: {error.problem or 'not valid YAML'}",
            hint="quote what is no plain word or number, and indent with spaces",
        ) from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML takes `!!int ''` and `!!timestamp x` apart without looking
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not valid YAML: {reason}") from error
