from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocimodel.cli.options import ReferenceArgument
from ocimodel.cli.output import Output
from ocimodel.cli.text import counted, human, table
from ocimodel.errors import UsageError

if TYPE_CHECKING:
    from ocimodel.ops.browse import Inspection
    from ocimodel.registry.transport import ClientOptions


def inspect(
    reference: ReferenceArgument,
    raw: Annotated[bool, typer.Option("--raw", help="Print the manifest byte for byte.")] = False,
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Show what an artifact holds; fetches no weights."""
    import ocimodel

    if raw and out.as_json:
        raise UsageError("--raw and --json ask for two things", hint="--raw alone prints JSON too")
    found = ocimodel.inspect(reference, client=client, observer=out.notices)
    if raw:
        out.content().write(found.raw)
        return
    out.result(_document(found), _text(found), found.pinned)


def _document(found: "Inspection") -> dict[str, Any]:
    return {
        "reference": found.reference,
        "digest": found.digest,
        "pinned": found.pinned,
        "mediaType": found.media_type,
        "artifactType": found.artifact_type,
        "size": found.size,
        "descriptor": dict(found.descriptor),
        "config": dict(found.config),
        "annotations": dict(found.annotations),
        "files": [
            {
                "path": f.path,
                "kind": f.kind,
                "size": f.size,
                "digest": f.layer.digest,
                "mediaType": f.layer.media_type,
            }
            for f in found.files
        ],
        "referrers": [d.to_json() for d in found.referrers],
        "manifests": [d.to_json() for d in found.manifests],
    }


def _text(found: "Inspection") -> Iterator[str]:
    # what the artifact says of itself comes last, and replaces nothing
    facts = [
        ("digest", found.digest),
        ("type", found.artifact_type or found.media_type),
        ("size", f"{human(found.size)} in {counted(len(found.files), 'file')}"),
        *found.descriptor.items(),
        *found.config.items(),
    ]
    yield found.reference
    yield from table([(key, _plain(value)) for key, value in facts])
    if found.files:
        yield ""
        rows = [(f.kind or "-", human(f.size), f.path or f.layer.digest) for f in found.files]
        yield from table(rows, right=frozenset({1}))
    if found.manifests:
        yield ""
        yield from table([("manifest", d.digest, d.media_type) for d in found.manifests])
    if found.referrers:
        yield ""
        yield from table([("referrer", d.digest, d.artifact_type) for d in found.referrers])


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return "; ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return str(value)
