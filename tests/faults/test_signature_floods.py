"""Too much of everything beside a signed model, and keys that cost more than they are worth.

Lines 5 and 13 of the list in docs/trust.md. A flood may end in a refusal, never in an acceptance
or in work without bounds.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import ocimodel
from ocimodel.errors import InputError, NotFoundError, PolicyError, RegistryError
from ocimodel.ops.verify import RefusedArtifactError
from ocimodel.signing import cosign
from ocimodel.signing.gather import MAX_REFERRERS, MAX_TAG_LAYERS
from ocimodel.spec.base64text import decode_base64, encode_base64
from ocimodel.spec.bundle import BUNDLE, MAX_BUNDLE_BYTES
from ocimodel.spec.descriptor import EMPTY_MEDIA_TYPE, Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import INDEX, MANIFEST, Document, as_referrer
from ocimodel.spec.simplesigning import PAYLOAD_TYPE
from tests.servers import faults
from tests.servers.registry import DockerRegistry
from tests.signing import (
    ONE,
    SIGNED,
    Scene,
    bundle_over,
    compact,
    key_files,
    private_key,
    referrers_tag,
)
from tests.trees import patient

BUNDLES = {**SIGNED, "forms": ["bundle"]}
N_FLOOD = MAX_REFERRERS + 88


def index_of(listed: Sequence[Descriptor]) -> bytes:
    manifests = [descriptor.to_json() for descriptor in listed]
    return compact({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})


def list_referrers(scene: Scene, root: Document, listed: Sequence[Descriptor]) -> None:
    """As whoever may push can have it on a registry without the API: any list."""
    response = scene.store._control.put_raw(referrers_tag(root.digest), index_of(listed), INDEX)
    assert response.status_code == 201


def flood(scene: Scene, root: Document, kind: str, config: str = "") -> list[Descriptor]:
    """Referrers that are there and mean nothing.

    `config`: the type of their configuration, by which ggcr lists them; else an empty one's.
    """
    content = b'{"none":"of your business"}'
    layer = Descriptor(kind, sha256(content), len(content))
    made, blobs = cosign.referrer(kind, (layer, content), root.descriptor, {})
    scene.put(made, *blobs)
    scene.store.delete(made.digest)
    listed = []
    for number in range(N_FLOOD):
        document = json.loads(made.raw) | {"annotations": {"n": str(number)}}
        document["config"]["mediaType"] = config or EMPTY_MEDIA_TYPE
        raw = compact(document)
        response = scene.store._control.put_raw(sha256(raw), raw, made.media_type)
        assert response.status_code == 201
        listed.append(Descriptor(made.media_type, sha256(raw), len(raw), {}, kind))
    return listed


def outcome(scene: Scene, policy: Path) -> str:
    """What a pull comes to, in words that must be the same the next time."""
    try:
        return f"accepted: {scene.pull(policy=policy).evidence}"
    except PolicyError as error:
        return str(error)


@pytest.mark.parametrize("kind", ["application/spdx+json", "application/x-noise"])
def test_5_foreign_referrers_do_not_hide_the_right_one(scene: Scene, kind: str) -> None:
    root = scene.push()
    listed = flood(scene, root, kind, kind)
    bundle = scene.attach(bundle_over(scene.statement(root.digest)), root)
    if isinstance(scene.registry, DockerRegistry):
        list_referrers(scene, root, [*listed, as_referrer(bundle)])
    assert len(scene.store.referrers(root.digest)) == N_FLOOD + 1
    scene.proxy.clear()
    (found,) = scene.pull(policy=scene.policy(BUNDLES)).evidence
    assert found.origin == f"referrer {bundle.digest}"
    assert scene.proxy.count(path="/manifests/sha256:") <= MAX_REFERRERS
    scene.refused("not signed by this key", key=scene.key("other"))


def test_5_false_signatures_beyond_the_limit(scene: Scene) -> None:
    """Then it may be refused, always or never; and the other form still counts."""
    root = scene.signed()
    right = scene.store.referrers(root.digest)
    listed = flood(scene, root, BUNDLE)
    if isinstance(scene.registry, DockerRegistry):
        list_referrers(scene, root, [*listed, *right])
    policy = scene.policy(BUNDLES)
    scene.proxy.clear()
    first = outcome(scene, policy)
    # lists, manifests, and the one blob that they share
    assert scene.proxy.count(path="/manifests/|/blobs/|/referrers/") < MAX_REFERRERS + 30
    # in whatever order the registry lists them today
    assert [outcome(scene, policy) for _ in range(2)] == [first, first]
    if "none found" in first:
        with pytest.raises(RefusedArtifactError) as caught:
            ocimodel.verify(scene.reference, policy=policy, client=patient())
        (judgement,) = caught.value.result.judgements
        told = [f for f in judgement.decision.findings if f.origin == "the rest"]
        assert "more were not looked into" in told[0].refusals["*"]
    assert {f.form for f in scene.pull(policy=scene.policy()).evidence} >= {"simplesigning"}
    scene.refused(key=scene.key("other"))


@pytest.mark.parametrize("scene", ["docker_registry"], indirect=True)
def test_5_referrers_that_are_not_there_or_claim_to_be_huge(scene: Scene) -> None:
    """From a registry that lists what it likes."""
    root = scene.signed()
    right = scene.store.referrers(root.digest)
    absent = [
        Descriptor(MANIFEST, sha256(str(i).encode()), size, {}, BUNDLE)
        for i, size in enumerate([100, (1 << 63) - 1, 65 << 20, 0] * 20)
    ]
    policy = scene.policy(BUNDLES)
    for listed in ([*right, *absent], absent):
        scene.proxy.clear()
        raw = index_of(listed)
        lies = faults.ReplaceBody(raw), faults.Headers({"Docker-Content-Digest": None})
        for lie in lies:
            scene.proxy.add(lie, path=f"/manifests/{referrers_tag(root.digest)}$", times=None)
        if listed == absent:
            scene.refused("none found", policy=policy)
        else:
            assert scene.pull(policy=policy).evidence


@ONE
def test_5_layers_under_the_signature_tag(scene: Scene) -> None:
    """The newest are looked into; what lies before them is not, and that is said."""
    root = scene.push()
    payload = cosign.simple_payload(root.digest, scene.name, {})
    true = encode_base64(private_key().sign(payload))
    false = encode_base64(private_key("other").sign(payload))
    layer = Descriptor(PAYLOAD_TYPE, sha256(payload), len(payload))
    tag = referrers_tag(root.digest, ".sig")

    def store(signatures: Sequence[str]) -> None:
        base, config = cosign.appended(None, layer)
        document = json.loads(base.raw)
        (one,) = document["layers"]
        document["layers"] = [
            {**one, "annotations": {cosign.SIGNATURE_MARK: text}} for text in signatures
        ]
        raw = compact(document)
        scene.put(base, config, (layer, payload))
        assert scene.store._control.put_raw(tag, raw, base.media_type).status_code == 201

    store([true, *[false] * MAX_TAG_LAYERS])
    scene.refused("not signed by this key")
    store([*[false] * MAX_TAG_LAYERS, true])
    scene.pull()


@ONE
def test_5_bundles_and_payloads_over_the_limit(scene: Scene) -> None:
    root = scene.push()
    statement = scene.statement(root.digest)
    padded = bundle_over(statement) + b" " * MAX_BUNDLE_BYTES
    scene.attach(padded, root)
    scene.proxy.clear()
    scene.refused("over the limit")
    # told by its size, it is not fetched at all
    assert scene.proxy.downloaded() < 100_000
    scene.attach(bundle_over(statement), root)
    scene.pull()


@ONE
def test_5_a_list_of_referrers_without_an_end(scene: Scene) -> None:
    scene.signed()

    class Endless(faults.Action):
        def before(self, request: faults.Request) -> faults.Reply:
            link = f'<{request.path}>; rel="next"'
            return faults.answer(200, {"Content-Type": INDEX, "Link": link}, index_of([]))

    scene.proxy.clear()
    scene.proxy.add(Endless(), path="/referrers/", times=None)
    scene.refused("without an end", expected=RegistryError)
    assert scene.proxy.count(path="/referrers/") <= 100


# 13: key files


def cosign_key(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A key file of cosign, with other parameters."""
    from ocimodel.signing.keyfile import encrypted

    lines = encrypted(private_key(), b"pw").decode().splitlines()
    document = json.loads(decode_base64("".join(lines[1:-1]), "key"))
    change(document)
    return "\n".join([lines[0], encode_base64(compact(document)), lines[-1], ""]).encode()


BOMBS: dict[str, Callable[[dict[str, Any]], object]] = {
    "memory": lambda d: d["kdf"]["params"].update(N=1 << 30),
    "blocks": lambda d: d["kdf"]["params"].update(r=1 << 20),
    "rounds": lambda d: d["kdf"]["params"].update(p=1 << 20),
    "no power of two": lambda d: d["kdf"]["params"].update(N=65537),
    "negative": lambda d: d["kdf"]["params"].update(N=-65536),
    "text": lambda d: d["kdf"]["params"].update(N="65536"),
    "huge number": lambda d: d["kdf"]["params"].update(N=1 << 4000),
    "another KDF": lambda d: d["kdf"].update(name="pbkdf2"),
    "salt": lambda d: d["kdf"].update(salt=""),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_13_key_files_that_ask_for_too_much(tmp_path: Path, bomb: str) -> None:
    """Refused before the passphrase is asked for, and before anything is sent."""
    path = tmp_path / "bomb.key"
    path.write_bytes(cosign_key(BOMBS[bomb]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def ask(what: str) -> bytes:
        raise AssertionError("asked for the passphrase")

    with pytest.raises(InputError):
        ocimodel.sign("127.0.0.1:9/a/b:v1", key=str(path), passphrase=ask)
    # KiB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_13_the_same_key_file_with_honest_parameters(tmp_path: Path) -> None:
    path = tmp_path / "honest.key"
    path.write_bytes(cosign_key(lambda d: None))
    with pytest.raises(RegistryError):
        ocimodel.sign(
            "127.0.0.1:9/a/b:v1", key=str(path), passphrase=lambda what: b"pw", client=patient()
        )


@ONE
def test_13_keys_that_are_no_public_keys(scene: Scene) -> None:
    scene.signed()
    private, public = key_files(scene.folder / "keys")
    strange = scene.folder / "strange.pub"
    for raw, says in (
        (private.read_bytes(), "that is a private key"),
        (public.read_bytes() * 2, "2 PEM blocks"),
        (b"", "no PEM blocks"),
        (cosign_key(lambda d: None), "private key"),
        (b"-----BEGIN PUBLIC KEY-----\n" + b"A" * 100_000, "larger than"),
    ):
        strange.write_bytes(raw)
        with pytest.raises(InputError, match=says):
            scene.pull(scene.target, key=str(strange))
    with pytest.raises(NotFoundError):
        scene.pull(scene.target, key=str(scene.folder / "none.pub"))
    assert not scene.target.exists()
