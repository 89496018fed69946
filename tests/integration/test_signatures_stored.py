"""Signatures in every kind of store: what is attached is gathered, and what was there stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ocimodel.registry.repository import Repository
from ocimodel.signing import cosign
from ocimodel.signing.evidence import SIGNATURE, Form, Gathered
from ocimodel.signing.gather import MAX_REFERRERS, gather
from ocimodel.signing.keys import PrivateKey, parse_public_key
from ocimodel.spec.bundle import BUNDLE
from ocimodel.spec.descriptor import EMPTY_MEDIA_TYPE, Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.dsse import IN_TOTO, Envelope, pae
from ocimodel.spec.manifest import INDEX, Manifest, parse_manifest
from ocimodel.spec.modelpack import IMAGE_CONFIG_TYPE
from ocimodel.store.copy import copy
from ocimodel.store.layout import Layout
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Store
from ocimodel.store.workers import Workers
from tests.artifacts import put_blob, put_model
from tests.servers.fault_proxy import FaultProxy
from tests.servers.faults import Action, Reply, Request
from tests.servers.registry import DockerRegistry, GgcrRegistry
from tests.trees import repository

VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
KEY = PrivateKey.generate()
PREDICATE = "https://example.com/p"
CREATED = "2027-01-31T00:00:00Z"
KINDS = ("memory", "layout", "docker_registry", "ggcr")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, repo: str, tmp_path: Path) -> Store:
    """Each kind of place; docker-registry has no referrers API, ggcr has."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "layout":
        return Layout(tmp_path / "layout", create=True)
    host = request.getfixturevalue(request.param).host
    opened = repository(f"{host}/{repo}:v1")
    request.addfinalizer(opened.close)
    return opened


def put(store: Store) -> Manifest:
    """A model to sign."""
    memory = MemoryStore()
    root = put_model(memory, {"weights": b"some"})
    copy(memory, store, root, tag="v1")
    return root


def sign(store: Store, root: Manifest, name: str = "") -> str:
    """In both forms, as `ocimodel sign` does; the digest of the referrer."""
    annotations = {"name": name} if name else {}
    statement = cosign.signature_statement(root.digest, annotations)
    raw = cosign.sign_statement(KEY, statement)
    payload = cosign.simple_payload(root.digest, "host/repo", annotations)
    referrer = cosign.attach_bundle(store, root.descriptor, raw, SIGNATURE, CREATED)
    cosign.attach_signature_tag(store, root.digest, payload, KEY.sign(payload))
    return referrer.digest


def forms(found: Gathered) -> list[Form]:
    assert not found.unreadable
    return sorted(e.form for e in found.evidence)


def test_what_is_attached_is_gathered(store: Store) -> None:
    root = put(store)
    assert gather(store, root) == Gathered()
    sign(store, root)
    assert forms(gather(store, root)) == [Form.BUNDLE, Form.SIMPLE]

    statement = cosign.attestation_statement(root.digest, PREDICATE, {"a": {"b": 1}})
    raw = cosign.sign_statement(KEY, statement)
    cosign.attach_bundle(store, root.descriptor, raw, PREDICATE, CREATED)
    envelope = Envelope(statement, IN_TOTO, (KEY.sign(pae(IN_TOTO, statement)),))
    cosign.attach_attestation_tag(store, root.digest, envelope, PREDICATE)

    found = gather(store, root)
    assert forms(found) == [Form.BUNDLE, Form.BUNDLE, Form.ENVELOPE, Form.SIMPLE]
    attested = [e for e in found.evidence if e.predicate_type == PREDICATE]
    assert [e.predicate for e in attested] == [{"a": {"b": 1}}] * 2
    for evidence in found.evidence:
        assert [s.digest for s in evidence.subjects] == [root.digest]
        assert KEY.public_key.verify(evidence.signature, evidence.message)


# what others signed


def _config_of_cosign(layers: int) -> bytes:
    digest = sha256((VECTORS / "cosign2.sig.layer0.json").read_bytes())
    never = "0001-01-01T00:00:00Z"
    document = {
        "architecture": "",
        "created": never,
        "history": [{"created": never}] * layers,
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": [digest] * layers},
        "config": {},
    }
    return json.dumps(document, separators=(",", ":")).encode()


CONFIGS: dict[str, tuple[str, bytes]] = {
    "cosign": (IMAGE_CONFIG_TYPE, _config_of_cosign(3)),
    "fewer entries": (IMAGE_CONFIG_TYPE, _config_of_cosign(1)),
    "no entries": (IMAGE_CONFIG_TYPE, b'{"architecture":"amd64","os":"linux"}'),
    "empty": (EMPTY_MEDIA_TYPE, b"{}"),
    "no JSON": ("application/octet-stream", b"\0"),
}


def put_foreign(store: Store, config: tuple[str, bytes]) -> Manifest:
    """What cosign 2 signed with three keys, the configuration apart."""
    document = json.loads((VECTORS / "cosign2.sig.manifest.json").read_bytes())
    kind, content = config
    document["config"] = Descriptor(kind, sha256(content), len(content)).to_json()
    memory = MemoryStore()
    put_blob(memory, content)
    put_blob(memory, (VECTORS / "cosign2.sig.layer0.json").read_bytes())
    foreign = parse_manifest(json.dumps(document, separators=(",", ":")).encode())
    assert isinstance(foreign, Manifest)
    subject = sha256((VECTORS / "subject2.manifest.json").read_bytes())
    copy(memory, store, foreign, tag=cosign.signature_tag(subject))
    return foreign


def test_the_golden_configuration_is_made_up_rightly() -> None:
    golden = parse_manifest((VECTORS / "cosign2.sig.manifest.json").read_bytes())
    assert isinstance(golden, Manifest)
    assert golden.config.digest == sha256(CONFIGS["cosign"][1])


@pytest.mark.parametrize("config", CONFIGS)
def test_foreign_signatures_stay_first_and_as_they_were(store: Store, config: str) -> None:
    root = parse_manifest((VECTORS / "subject2.manifest.json").read_bytes())
    foreign = put_foreign(store, CONFIGS[config])
    payload = cosign.simple_payload(root.digest, "host/repo", {})
    cosign.attach_signature_tag(store, root.digest, payload, KEY.sign(payload))

    written = json.loads(store.manifest(cosign.signature_tag(root.digest)).raw)
    assert written["layers"][:3] == json.loads(foreign.raw)["layers"]
    assert len(written["layers"]) == 4
    found = gather(store, root)
    assert not found.unreadable
    keys = [
        *(parse_public_key((VECTORS / f"{n}.pub").read_bytes(), n) for n in ("p256", "ed", "p384")),
        KEY.public_key,
    ]
    for evidence, key in zip(found.evidence, keys, strict=True):
        assert key.verify(evidence.signature, evidence.message)


# writers at the same time


class Meanwhile(Action):
    """Somebody acts `before` a request gets through, or `after` it was answered."""

    def __init__(self, moment: str, act: Callable[[], object]) -> None:
        self._moment = moment
        self._act = act

    def before(self, request: Request) -> Reply | None:
        if self._moment == "before":
            self._act()
        return None

    def after(self, _request: Request, reply: Reply) -> Reply:
        if self._moment == "after":
            self._act()
        return reply


def layers(found: Gathered) -> set[bytes]:
    return {e.signature for e in found.evidence}


@pytest.mark.parametrize("server", ["docker_registry", "ggcr"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_sign_under_one_tag_at_once(
    request: pytest.FixtureRequest,
    fault_proxy: Callable[..., FaultProxy],
    repo: str,
    server: str,
    moment: str,
) -> None:
    registry = request.getfixturevalue(server)
    proxy = fault_proxy(registry)
    direct = repository(f"{registry.host}/{repo}:v1")
    ours = repository(f"{proxy.host}/{repo}:v1")
    root = put(direct)
    tag = cosign.signature_tag(root.digest)
    payload = cosign.simple_payload(root.digest, "host/repo", {})
    first, second, third = (KEY.sign(payload) for _ in range(3))
    seen = cosign.attach_signature_tag(direct, root.digest, payload, first)

    def overwrite() -> None:
        # with what they made of the tag before we wrote
        stale = MemoryStore()
        copy(direct, stale, seen, tag=tag)
        theirs = cosign.attach_signature_tag(stale, root.digest, payload, second)
        copy(stale, direct, theirs, tag=tag)

    def join() -> None:
        cosign.attach_signature_tag(direct, root.digest, payload, second)

    if moment == "before":
        # while our manifest goes up under its digest
        added = proxy.add(Meanwhile(moment, join), method="PUT", path="/manifests/sha256:")
    else:
        added = proxy.add(Meanwhile(moment, overwrite), method="PUT", path=f"/manifests/{tag}")
    cosign.attach_signature_tag(ours, root.digest, payload, third)
    # once more, after the other one was seen
    assert added.hits == 2
    for opened in (ours, direct):
        assert layers(gather(opened, root)) == {first, second, third}
        opened.close()


@pytest.mark.parametrize("store", ["memory", "layout", "ggcr"], indirect=True)
def test_many_attach_bundles_at_once(store: Store) -> None:
    root = put(store)

    def attach(i: int) -> None:
        statement = cosign.signature_statement(root.digest, {"i": str(i)})
        raw = cosign.sign_statement(KEY, statement)
        cosign.attach_bundle(store, root.descriptor, raw, SIGNATURE, CREATED)

    Workers((partial(attach, i) for i in range(12)), 6).run()
    found = gather(store, root)
    assert sorted(int(e.annotations["i"]) for e in found.evidence) == list(range(12))


# attackers


@pytest.mark.parametrize("store", ["memory", "ggcr"], indirect=True)
def test_a_flood_of_referrers_does_not_hide_a_signature(store: Store) -> None:
    root = put(store)
    content = b"of no interest"
    layer = Descriptor("application/x", sha256(content), len(content))
    ours = ""
    for i in range(600):
        if i == 300:
            ours = sign(store, root)
        made, blobs = cosign.referrer(
            "application/x", (layer, content), root.descriptor, {"i": str(i)}
        )
        # ggcr lists the configuration's type in place of the artifact's
        fields = {**json.loads(made.raw), "config": layer.to_json()}
        flood = parse_manifest(json.dumps(fields).encode())
        assert isinstance(flood, Manifest)
        if i and isinstance(store, Repository):
            # without a look at the growing list each time
            store._put_under(flood.digest, flood)
        else:
            cosign.put_referrer(store, flood, blobs)
    found = gather(store, root)
    assert {e.origin for e in found.evidence} >= {f"referrer {ours}"}
    assert [u.origin for u in found.unreadable] == ["the rest"]
    assert f"{601 - MAX_REFERRERS} more" in found.unreadable[0].reason


@pytest.mark.parametrize("store", ["docker_registry", "ggcr"], indirect=True)
def test_a_referrer_of_the_wrong_size_or_type_does_not_count(store: Store) -> None:
    root = put(store)
    raw = cosign.sign_statement(KEY, cosign.signature_statement(root.digest, {}))
    for subject in (
        Descriptor(root.media_type, root.digest, len(root.raw) + 1),
        Descriptor(INDEX, root.digest, len(root.raw)),
    ):
        cosign.attach_bundle(store, subject, raw, SIGNATURE, CREATED)
    found = gather(store, root)
    assert not found.evidence
    assert [u.reason for u in found.unreadable] == ["its subject is another manifest"] * 2


def test_a_page_under_the_fallback_tag_hides_no_other_form(
    docker_registry: DockerRegistry, repo: str
) -> None:
    store = repository(f"{docker_registry.host}/{repo}:v1")
    root = put(store)
    sign(store, root)
    store.tag(root.digest.replace(":", "-"), root.descriptor)
    # no index: the list is empty, and the tag still speaks
    assert forms(gather(store, root)) == [Form.SIMPLE]
    store.close()


def test_bundles_are_listed_by_their_type(ggcr: GgcrRegistry, repo: str) -> None:
    # what Kyverno looks for
    store = repository(f"{ggcr.host}/{repo}:v1")
    root = put(store)
    sign(store, root)
    manifest = store.manifest(store.referrers(root.digest)[0].digest)
    assert isinstance(manifest, Manifest)
    assert manifest.artifact_type == BUNDLE
    store.close()
