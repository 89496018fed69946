"""Signed models in real registries, and what an attacker who may push can put beside them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import ocimodel
from ocimodel.errors import OcimodelError, PolicyError
from ocimodel.ops.pull import PullResult
from ocimodel.registry.repository import Repository
from ocimodel.signing import cosign
from ocimodel.signing.evidence import EXPIRES, REPOSITORY, SIGNATURE, TAG
from ocimodel.signing.keys import PrivateKey
from ocimodel.spec.base64text import encode_base64
from ocimodel.spec.bundle import encode_bundle
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.dsse import ENVELOPE_TYPE, IN_TOTO, Envelope, pae
from ocimodel.spec.manifest import Document, Manifest, parse_manifest
from ocimodel.spec.simplesigning import PAYLOAD_TYPE
from ocimodel.store.copy import copy
from ocimodel.store.memory import MemoryStore
from ocimodel.store.streams import read_blob
from tests.servers.fault_proxy import FaultProxy
from tests.servers.registry import RegistryProcess
from tests.trees import Notices, noise, patient, repository, write_tree

SLSA = "https://slsa.dev/provenance/v1"
CREATED = "2026-01-31T00:00:00Z"
PROVENANCE = {
    "buildDefinition": {"buildType": "https://example.com/b", "externalParameters": {}},
    "runDetails": {"builder": {"id": "https://example.com/ci"}},
}
# scopes of policies
SIGNED = {"require": [{"by": ["release"]}]}
PROVEN = {"require": [{"by": ["release"]}, {"by": ["release"], "predicate": SLSA}]}
_numbers = itertools.count(1)
Change = Callable[[dict[str, Any]], object]
Raw = Callable[[bytes], bytes]
# for tables in which the way to the referrers makes no difference
ONE = pytest.mark.parametrize("scene", ["ggcr"], indirect=True)


def private_key(name: str = "release") -> PrivateKey:
    """The same key for the same name, as long as the tests run."""
    return _private_key(name)


@cache
def _private_key(name: str) -> PrivateKey:
    return PrivateKey(ec.generate_private_key(ec.SECP256R1()))


def key_files(folder: Path, name: str = "release") -> tuple[Path, Path]:
    """Private (plain PKCS #8: there is no scrypt to wait for) and public key."""
    folder.mkdir(exist_ok=True)
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    key = serialization.load_der_private_key(private_key(name).pkcs8, None)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(private_key(name).public_key.pem)
    return private, public


def compact(document: object) -> bytes:
    """As cosign writes JSON."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def edited(raw: bytes, change: Change) -> bytes:
    """A JSON document with a change made to it in place."""
    document = json.loads(raw)
    change(document)
    return compact(document)


def changed(change: Change) -> Raw:
    return lambda raw: edited(raw, change)


def swapped(old: str, new: str) -> Raw:
    """Text for text, where JSON could not say it."""

    def change(raw: bytes) -> bytes:
        assert raw.count(old.encode()) == 1, raw
        return raw.replace(old.encode(), new.encode())

    return change


def deep(n: int = 100_000) -> str:
    return "[" * n + "]" * n


def changed_manifest(document: Document, change: Change) -> Manifest:
    found = parse_manifest(edited(document.raw, change))
    assert isinstance(found, Manifest)
    return found


def bundle_over(payload: bytes, by: str = "release", hint: str | None = None) -> bytes:
    """A bundle with a true signature by `by` over any payload."""
    key = private_key(by)
    signature = key.sign(pae(IN_TOTO, payload))
    chosen = key.public_key.hint if hint is None else hint
    return encode_bundle(Envelope(payload, IN_TOTO, (signature,)), hint=chosen)


def referrers_tag(digest: str, suffix: str = "") -> str:
    return digest.replace(":", "-") + suffix


@dataclass
class Scene:
    """A repository in a real registry.

    The victim pulls through `proxy`, which keeps a log; the attacker writes past it, into `store`.
    `layers`: digests of all that belongs to a model.
    """

    registry: RegistryProcess
    proxy: FaultProxy
    folder: Path
    repo: str = field(default_factory=lambda: f"signing/n{next(_numbers)}")
    notices: Notices = field(default_factory=Notices)
    layers: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"{self.proxy.host}/{self.repo}"

    @property
    def reference(self) -> str:
        return f"{self.name}:v1"

    @property
    def target(self) -> Path:
        return self.folder / "target"

    @cached_property
    def store(self) -> Repository:
        return repository(f"{self.registry.host}/{self.repo}:v1")

    def key(self, name: str = "release") -> str:
        """The file of a public key."""
        return str(key_files(self.folder / "keys", name)[1])

    def private(self, name: str = "release") -> str:
        return str(key_files(self.folder / "keys", name)[0])

    # what honest people do

    def push(self, version: str = "1.0", *, tag: str = "v1", force: bool = False) -> Manifest:
        """A model that no other version or scene has, not signed."""
        settings = f'name: m\nversion: "{version}"\n'
        weights = noise(5000) + f"{self.repo} {version}".encode()
        model = write_tree(
            self.folder / f"model-{version}",
            {"ocimodel.yaml": settings.encode(), "w.bin": weights},
        )
        ocimodel.push(model, f"{self.name}:{tag}", force_tag=force, client=patient())
        return self.known(tag)

    def known(self, tag: str) -> Manifest:
        """What is under the tag, its layers among those that nobody may ask for."""
        root = self.store.manifest(tag)
        assert isinstance(root, Manifest)
        self.layers |= {blob.digest for blob in root.blobs()}
        return root

    def sign(self, by: str = "release", *, tag: str = "v1", **how: Any) -> tuple[str, ...]:
        key = self.private(by)
        return ocimodel.sign(f"{self.name}:{tag}", key=key, client=patient(), **how).written

    def attest(self, by: str = "release", kind: str = SLSA, **how: Any) -> tuple[str, ...]:
        return ocimodel.attest(
            self.reference,
            predicate_type=kind,
            predicate=PROVENANCE,
            key=self.private(by),
            client=patient(),
            **how,
        ).written

    def signed(self, version: str = "1.0", *, tag: str = "v1") -> Manifest:
        root = self.push(version, tag=tag)
        self.sign(tag=tag)
        return root

    def policy(
        self,
        scope: Mapping[str, Any] = SIGNED,
        *,
        keys: Mapping[str, Mapping[str, Any]] = {},
        repositories: Sequence[str] = ("*",),
        **more: Any,
    ) -> Path:
        """A policy file with one scope. `keys`: more names of the keyring, or more about those
        that are always in it: `release` and `other`.
        """
        owners = ("release", "other")
        ring = {name: {"key": Path(self.key(name)).read_text()} for name in owners}
        ring = {name: {**ring.get(name, {}), **keys.get(name, {})} for name in {**ring, **keys}}
        scopes = [{"repositories": list(repositories), **scope}]
        path = self.folder / f"policy-{next(_numbers)}.yaml"
        path.write_text(
            yaml.safe_dump({"version": 1, "keyring": ring, "scopes": scopes, **more}), "utf-8"
        )
        return path

    # what attackers do

    def put(self, document: Document, *blobs: tuple[Descriptor, bytes], tag: str = "") -> None:
        """Any manifest with any blobs; a referrer is listed in the way of the registry."""
        source = MemoryStore()
        source.blobs = {what.digest: content for what, content in blobs}
        copy(source, self.store, document, tag=tag)

    def attach(self, bundle: bytes, root: Document, change: Change | None = None) -> Manifest:
        """A bundle as a referrer of `root`; `change`: what to lie about in its manifest."""
        made, blobs = cosign.bundle_documents(bundle, SIGNATURE, root.descriptor, CREATED)
        made = changed_manifest(made, change) if change else made
        self.put(made, *blobs)
        return made

    def attach_layer(
        self, raw: bytes, root: Document, marks: Mapping[str, str], suffix: str = ".sig"
    ) -> None:
        """One layer alone under one of cosign's tags of `root`."""
        kind = PAYLOAD_TYPE if suffix == ".sig" else ENVELOPE_TYPE
        layer = Descriptor(kind, sha256(raw), len(raw), dict(marks))
        made, config = cosign.appended(None, layer)
        self.put(made, config, (layer, raw), tag=referrers_tag(root.digest, suffix))

    def sign_payload(self, payload: bytes, root: Document, by: str = "release") -> None:
        """A true signature over any payload, under the `.sig` tag of `root`."""
        signature = encode_base64(private_key(by).sign(payload))
        self.attach_layer(payload, root, {cosign.SIGNATURE_MARK: signature})

    def said(self, **more: str) -> dict[str, str]:
        return {REPOSITORY: self.name, TAG: "v1", **more}

    def statement(self, digest: str, **more: str) -> bytes:
        """What an honest signature of this scene says."""
        return cosign.signature_statement(digest, self.said(**more))

    def sign_until(self, root: Document, expires: datetime) -> None:
        """Both of cosign's forms, that count no longer than that."""
        said = self.said() | {EXPIRES: f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
        self.attach(bundle_over(cosign.signature_statement(root.digest, said)), root)
        self.sign_payload(cosign.simple_payload(root.digest, self.name, said), root)

    def bundles(self, root: Document, predicate_type: str = SIGNATURE) -> list[Manifest]:
        """The referrers that say, outside the signature, that they are of that type."""
        mark = "dev.sigstore.bundle.predicateType"
        found = [self.store.manifest(one.digest) for one in self.store.referrers(root.digest)]
        return [
            document
            for document in found
            if isinstance(document, Manifest) and document.annotations.get(mark) == predicate_type
        ]

    def content(self, carrier: Manifest) -> bytes:
        """The bytes of its one layer."""
        (layer,) = carrier.layers
        return read_blob(self.store.open(layer), layer, layer.size)

    def forget(self, root: Document, predicate_type: str = SIGNATURE) -> None:
        """Delete the bundles of that type; what is under cosign's tags stays."""
        for document in self.bundles(root, predicate_type):
            self.store.delete(document.digest)
        assert not self.bundles(root, predicate_type)

    def untag(self, root: Document, suffix: str = ".sig") -> None:
        self.store.untag(referrers_tag(root.digest, suffix))

    # what the victim sees

    def pull(self, target: Path | None = None, *, tag: str = "v1", **how: Any) -> PullResult:
        """With the public key of `release` unless a key or a policy is given."""
        if not how.keys() & {"key", "policy"}:
            how["key"] = self.key()
        reference = self.name + (tag if tag.startswith("@") else f":{tag}")
        where = target or self.folder / f"pulled-{next(_numbers)}"
        how.setdefault("client", patient())
        return ocimodel.pull(reference, where, observer=self.notices, **how)

    def refused(
        self,
        says: str | Sequence[str] = (),
        *,
        expected: type[OcimodelError] = PolicyError,
        **how: Any,
    ) -> str:
        """A pull that is refused before anything of the model moves; what it said."""
        n_seen = len(self.proxy.log)
        with pytest.raises(OcimodelError) as caught:
            self.pull(self.target, **how)
        error = caught.value
        assert type(error) is expected, repr(error)
        self.assert_untouched(n_seen)
        for text in [says] if isinstance(says, str) else says:
            assert text in str(error), str(error)
        return str(error)

    def assert_untouched(self, n_seen: int = 0) -> None:
        """Since then no byte of a model was asked for, and nothing came into being."""
        assert self.layers
        asked = [exchange.path for exchange in self.proxy.log[n_seen:]]
        assert asked, "nothing went through the proxy"
        assert not [path for path in asked if path.rpartition("/")[2] in self.layers]
        assert not self.target.exists()
