"""OpenSSF Model Signing: what the statement in a `model.sig` says of a model's files.

Source: model_signing 1.1.1, predicate https://model_signing/signature/v1.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.digest import parse_digest
from ocimodel.spec.manifest import MAX_LAYERS
from ocimodel.spec.paths import check_path, check_tree
from ocimodel.spec.statement import StatementSubject, encode_statement, parse_statement

PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
# in the model directory itself
SIGNATURE_NAME: Final = "model.sig"
# what model_signing passes over, whatever it was told to look at
IGNORED: Final = (".git", ".gitattributes", ".github", ".gitignore", SIGNATURE_NAME)
MAX_FILES: Final = MAX_LAYERS
MAX_IGNORED: Final = 1000
_WHAT: Final = "model signature"


@dataclass(frozen=True, slots=True)
class ModelStatement:
    """A model's files, by path, each with its sha256:hex digest.

    `name`: of the directory, when it was signed; it identifies nothing. `ignored`: files, and
    folders with all in them, that the statement says nothing about. `follows_links`: whether links
    were read as what they lead to; else a model has none.
    """

    name: str
    files: Mapping[str, str]
    ignored: tuple[str, ...] = IGNORED
    follows_links: bool = False

    def ignores(self, path: str) -> bool:
        return any(path == skipped or path.startswith(f"{skipped}/") for skipped in self.ignored)

    def encode(self) -> bytes:
        # component by component, as model_signing sorts: a/b comes before a.txt
        paths = sorted(self.files, key=lambda path: path.split("/"))
        predicate = {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": self.follows_links,
                "ignore_paths": list(self.ignored),
            },
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": self.files[path][len("sha256:") :]}
                for path in paths
            ],
        }
        root = _root([self.files[path] for path in paths])
        return encode_statement([StatementSubject(root, self.name)], PREDICATE_TYPE, predicate)


def parse_model_statement(raw: bytes) -> ModelStatement:
    """A statement about 1 to MAX_FILES files; the caller has bounded its size.

    Raises InputError for anything else: names that are not plain relative paths, or that would
    be one file on some system; files that it also says to ignore; hashes other than sha256, and of
    parts of files; a root digest of other files. Further fields of the predicate are passed over.
    """
    statement = parse_statement(raw)
    if statement.predicate_type != PREDICATE_TYPE:
        raise InputError(
            f"{_WHAT} states {statement.predicate_type[:100]!r}, not {PREDICATE_TYPE}",
            hint="sign the model again, with model_signing 1.0 or later",
        )
    if len(statement.subjects) != 1:
        raise InputError(f"{_WHAT} has {len(statement.subjects)} subjects, not one")
    follows_links, ignored = _serialization(statement.predicate)
    files = _files(statement.predicate)
    found = ModelStatement(statement.subjects[0].name, files, ignored, follows_links)
    for path in files:
        if found.ignores(path):
            raise InputError(f"{_WHAT} both lists {path!r} and says to ignore it")
    if _root(files.values()) != statement.subjects[0].digest:
        raise InputError(f"{_WHAT} has a root digest that is not the one of its files")
    return found


def _serialization(predicate: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether links are followed, and what is ignored."""
    said = canonical.mapping(predicate, "serialization", _WHAT)
    for key, readable in (("method", "files"), ("hash_type", "sha256")):
        if (value := canonical.text(said, key, _WHAT)) != readable:
            raise InputError(
                f"{_WHAT} is by {key} {value[:40]!r}: only {readable} is read here",
                hint="verify it with model_signing",
            )
    follows_links = said.get("allow_symlinks")
    if not isinstance(follows_links, bool):
        raise InputError(f"{_WHAT}: allow_symlinks must be true or false")
    ignored = canonical.sequence(said, "ignore_paths", _WHAT)
    if len(ignored) > MAX_IGNORED:
        raise InputError(f"{_WHAT} ignores {len(ignored)} paths, over the limit of {MAX_IGNORED}")
    if not all(isinstance(path, str) for path in ignored):
        raise InputError(f"{_WHAT}: ignore_paths must be strings")
    return follows_links, tuple(check_path(path) for path in ignored)


def _files(predicate: Mapping[str, Any]) -> dict[str, str]:
    resources = canonical.sequence(predicate, "resources", _WHAT)
    if not 1 <= len(resources) <= MAX_FILES:
        raise InputError(f"{_WHAT} lists {len(resources)} files, not 1 to {MAX_FILES}")
    listed = [_resource(item, f"resources[{i}]") for i, item in enumerate(resources)]
    # by list: two of one name are two, and refused
    check_tree([path for path, _ in listed])
    return dict(listed)


def _resource(document: object, what: str) -> tuple[str, str]:
    if not isinstance(document, dict):
        raise InputError(f"{what} must be an object")
    algorithm = canonical.text(document, "algorithm", what)
    if algorithm != "sha256":
        raise InputError(f"{what} has a digest by {algorithm[:40]!r}, not sha256")
    digest = parse_digest(f"sha256:{canonical.text(document, 'digest', what)}")
    return canonical.text(document, "name", what), digest


def _root(digests: Iterable[str]) -> str:
    joined = b"".join(bytes.fromhex(digest[len("sha256:") :]) for digest in digests)
    return f"sha256:{hashlib.sha256(joined).hexdigest()}"
