"""Fuzz a parser of foreign bytes: a value or InputError, nothing else. Needs atheris.

python tests/fuzz/fuzz_parsers.py TARGET -max_total_time=60

TARGET: safetensors, gguf, onnx, torch, index; bundle, payload, jws, keyfile, policy, oms.
Begins from small valid files, which are made anew each time or are those of the golden vectors.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports():
    from ocimodel.errors import InputError
    from ocimodel.ops.yamlfile import load_yaml
    from ocimodel.signing.cosign import SIGNATURE_MARK, bundle_evidence, simple_evidence
    from ocimodel.signing.keyfile import parse_private_key
    from ocimodel.signing.keys import parse_public_key
    from ocimodel.signing.oms import read_signature
    from ocimodel.spec import jws
    from ocimodel.spec.bundle import encode_bundle, parse_bundle
    from ocimodel.spec.chunkindex import parse_index
    from ocimodel.spec.modelsigning import parse_model_statement
    from ocimodel.spec.policy import parse_policy
    from ocimodel.spec.simplesigning import encode_payload, parse_payload
    from ocimodel.weights import gguf, onnx, safetensors, torch_zip
    from ocimodel.weights.metadata import MAX_BYTES, bounded

from tests.weights import SEEDS

READERS = {"safetensors": safetensors, "gguf": gguf, "onnx": onnx, "torch": torch_zip}
VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
POLICY = b"""
version: 1
default: reject
keyring:
  release: {key: release.pub, notBefore: 2026-01-01, notAfter: 2027-01-01T00:00:00Z}
  corp: {certificates: root.pem, identities: ["C=US, O=example"], revoked: stolen}
  ci: {keyless: {identity: a@example.org, issuer: "https://example.org", trustedRoot: r.json}}
timestampAuthorities: [tsa.pem]
scopes:
- repositories: [registry.example.com/team/*, "*"]
  require: [{by: [release, corp], atLeast: 2}, {by: [ci], predicate: slsaprovenance1}]
  forms: [bundle, notation]
  expect: {minVersion: 2.0rc1, tag: true, repository: true, annotations: {stage: prod}}
- {repositories: [docker.io/library/x], accept: true}
"""


def reads(name: str) -> Callable[[bytes], None]:
    """One run of a reader, and what holds for every map that it gives."""
    reader = READERS[name]

    def one(data: bytes) -> None:
        found = reader.read(lambda at, length: data[at : at + length], len(data))
        if found is None:
            return
        for tensor in found.tensors:
            inside = 0 <= tensor.offset <= tensor.offset + tensor.length <= len(data)
            if not tensor.file and not inside:
                raise AssertionError(f"{tensor} lies outside {len(data)} bytes")
            tensor.name.encode()
        if len(repr(bounded(found.metadata))) > 6 * MAX_BYTES:
            raise AssertionError("the metadata is not bounded")

    return one


def same(one: object, other: object) -> None:
    """What was accepted is written so that it is accepted again, as the same."""
    if one != other:
        raise AssertionError(f"{other} comes back for {one}")


def indexes(data: bytes) -> None:
    found = parse_index(data)
    same(found, parse_index(found.encode()))


def bundles(data: bytes) -> None:
    found = parse_bundle(data)
    written = encode_bundle(
        found.envelope,
        hint=found.hint,
        certificates=found.certificates,
        timestamps=found.timestamps,
    )
    again = parse_bundle(written)
    same(found.envelope, again.envelope)
    same(found.certificates, again.certificates)
    bundle_evidence("here", data)


def payloads(data: bytes) -> None:
    found = parse_payload(data)
    same(found, parse_payload(encode_payload(found)))
    simple_evidence("here", data, {SIGNATURE_MARK: "AAAA"})


def envelopes(data: bytes) -> None:
    found = jws.parse_envelope(data)
    written = jws.encode_envelope(
        found.signed,
        found.signature,
        found.certificates,
        agent=found.agent,
        timestamp=found.timestamp,
    )
    same(found, jws.parse_envelope(written))


def keys(data: bytes) -> None:
    """Up to the passphrase: what costs time must have been weighed by then."""

    def ask(what: str) -> NoReturn:
        raise InputError("asked")

    if b"PUBLIC" in data:
        parse_public_key(data, "key")
    else:
        parse_private_key(data, ask)


def policies(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(data)
        file.flush()
        parse_policy(load_yaml(Path(file.name)), "policy")


def model_signatures(data: bytes) -> None:
    _, statement = read_signature(data, "here")
    same(statement.files, parse_model_statement(statement.encode()).files)


def golden(*patterns: str) -> Callable[[], list[bytes]]:
    return lambda: [p.read_bytes() for pattern in patterns for p in sorted(VECTORS.glob(pattern))]


OTHERS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "index": (indexes, SEEDS["index"]),
    "bundle": (bundles, golden("cosign3.bundle?.json")),
    "payload": (payloads, golden("cosign2.sig.layer?.json")),
    "jws": (envelopes, golden("notation.jws.json")),
    "keyfile": (keys, golden("*.key", "*.pub")),
    "policy": (policies, lambda: [POLICY, b"version: 1"]),
    "oms": (model_signatures, golden("omsmodel/model.sig")),
}


def main(program: str, name: str, *options: str) -> None:
    one, seeds = OTHERS[name] if name in OTHERS else (reads(name), SEEDS[name])

    def one_input(data: bytes) -> None:
        try:
            one(data)
        except InputError:
            return

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds()):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([program, *options, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv)
