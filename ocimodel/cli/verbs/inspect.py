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
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List the tensors in the weights.")
    ] = False,
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Show what an artifact holds; fetches no weights."""
    import ocimodel

    if raw and out.as_json:
        raise UsageError("--raw and --json ask for two things", hint="--raw alone prints JSON too")
    if raw and tensors:
        raise UsageError("--raw and --tensors ask for two things", hint="--json has both in one")
    found = ocimodel.inspect(reference, tensors=tensors, client=client, observer=out.notices)
    if raw:
        out.content().write(found.raw)
        return
    text = _tensor_text(found) if tensors else _text(found)
    out.result(_document(found), text, found.pinned)


def _document(found: "Inspection") -> dict[str, Any]:
    document = {
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
                "mediaType": f.layer.media_type,
            }
            | (
                {"digest": f.layer.digest}
                if len(f.layers) == 1
                else {"segments": [layer.digest for layer in f.layers]}
            )
            for f in found.files
        ],
        "referrers": [d.to_json() for d in found.referrers],
        "manifests": [d.to_json() for d in found.manifests],
    }
    if found.tensors_from:
        document["tensorsFrom"] = found.tensors_from
        document["tensors"] = [
            {
                "file": t.file,
                "name": t.name,
                "dtype": t.dtype,
                "shape": list(t.shape),
                "offset": t.offset,
                "length": t.length,
            }
            for t in found.tensors
        ]
    return document


def _tensor_text(found: "Inspection") -> Iterator[str]:
    if found.tensors:
        shapes = ["x".join(map(str, t.shape)) or "scalar" for t in found.tensors]
        rows = [
            (t.name, t.dtype, shape, human(t.length), t.file)
            for t, shape in zip(found.tensors, shapes, strict=True)
        ]
        yield from table([("name", "dtype", "shape", "bytes", "file"), *rows], right=frozenset({3}))
        yield ""
    n_bytes = sum(t.length for t in found.tensors)
    n_files = len({t.file for t in found.tensors})
    told = "the index" if found.tensors_from == "index" else "the files' headers, not verified"
    yield (
        f"{counted(len(found.tensors), 'tensor')}, {human(n_bytes)} in "
        f"{counted(n_files, 'file')}, from {told}"
    )


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
