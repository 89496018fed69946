"""Labels, log entries and names that lie, beside models in a real registry.

Lines 6, 10 and 12 of the list in docs/trust.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import ocimodel
from ocimodel.errors import InputError
from ocimodel.signing import cosign
from ocimodel.spec.base64text import encode_base64
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_model
from tests.servers.sigstore import IDENTITY, ISSUER, SigstoreInstance
from tests.signing import (
    ONE,
    SIGNED,
    SLSA,
    Scene,
    bundle_over,
    compact,
    edited,
    private_key,
)

# 10: what nobody signed


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "predicate type": lambda d: d["annotations"].update(
        {"dev.sigstore.bundle.predicateType": SLSA}
    ),
    "names": lambda d: d["annotations"].update(
        {"dev.ocimodel.tag": "v9", "dev.ocimodel.repository": "evil.example/x"}
    ),
    "expiry": lambda d: d["annotations"].update({"dev.ocimodel.expires": "2001-01-01T00:00:00Z"}),
    "layer": lambda d: d["layers"][0].update(annotations={"predicateType": SLSA, "keyid": "x"}),
    "artifact type": lambda d: d.update(artifactType="application/octet-stream"),
}


@ONE
@pytest.mark.parametrize("lie", LIES)
def test_10_labels_change_nothing(scene: Scene, lie: str) -> None:
    """A true signature under false labels counts; a false one under true labels does not."""
    root = scene.push()
    exact = scene.policy({**SIGNED, "expect": {"tag": True, "repository": True}})
    scene.attach(bundle_over(scene.statement(root.digest), "other"), root)
    scene.refused("not signed by this key", policy=exact)
    scene.attach(bundle_over(scene.statement(root.digest)), root, LIES[lie])
    scene.pull(policy=exact)


@pytest.mark.parametrize(
    "marks",
    [
        {"dev.ocimodel.tag": "v1"},
        {"dev.ocimodel.repository": "{name}"},
        {"stage": "prod"},
    ],
    ids=lambda marks: next(iter(marks)),
)
def test_10_annotations_beside_a_signature_are_not_in_it(
    scene: Scene, marks: dict[str, str]
) -> None:
    root = scene.push()
    marks = {key: value.format(name=scene.name) for key, value in marks.items()}
    expect: dict[str, Any] = {
        "dev.ocimodel.tag": {"tag": True},
        "dev.ocimodel.repository": {"repository": True},
        "stage": {"annotations": {"stage": "prod"}},
    }[next(iter(marks))]
    policy = scene.policy({**SIGNED, "expect": expect})
    bare = cosign.signature_statement(root.digest, {})
    payload = cosign.simple_payload(root.digest, "", {})
    scene.attach(bundle_over(bare), root, lambda d: d["annotations"].update(marks))
    signature = encode_base64(private_key().sign(payload))
    scene.attach_layer(payload, root, {cosign.SIGNATURE_MARK: signature, **marks})
    scene.refused("signature by", policy=policy)
    scene.pull()
    said = scene.said(stage="prod")
    scene.attach(bundle_over(cosign.signature_statement(root.digest, said)), root)
    scene.pull(policy=policy)


def test_10_hints_and_key_ids_give_no_trust_and_take_none(scene: Scene) -> None:
    root = scene.push()
    statement = scene.statement(root.digest)
    named = edited(
        bundle_over(statement, "other", hint=private_key().public_key.hint),
        lambda d: d["dsseEnvelope"]["signatures"][0].update(
            keyid=private_key().public_key.fingerprint
        ),
    )
    scene.attach(named, root)
    scene.refused("not signed by this key")
    scene.attach(bundle_over(statement, hint=private_key("other").public_key.hint), root)
    scene.pull()


# 6: log entries


def test_6_log_entries_of_another_signature(scene: Scene) -> None:
    instance = SigstoreInstance()
    trusted = instance.write_trusted_root(scene.folder / "root.json")
    identity = {"identity": IDENTITY, "issuer": ISSUER, "trustedRoot": str(trusted)}
    policy = scene.policy({"require": [{"by": ["ci"]}]}, keys={"ci": {"keyless": identity}})
    root = scene.push()
    scene.sign()
    scene.refused("signature by ci", policy=policy)

    honest = instance.bundle(scene.statement(root.digest))
    other = instance.bundle(cosign.signature_statement("sha256:" + "1" * 64, {}))
    forged = []
    for entries in ([], other["verificationMaterial"]["tlogEntries"]):
        material = {**honest["verificationMaterial"], "tlogEntries": entries}
        forged.append({**honest, "verificationMaterial": material})
    # certificate and entry of the other one, around an envelope of this artifact
    forged.append({**other, "dsseEnvelope": honest["dsseEnvelope"]})
    for document in forged:
        scene.attach(compact(document), root)
    said = scene.refused("signature by ci", policy=policy)
    assert "none found" in said
    scene.attach(compact(honest), root)
    (found,) = scene.pull(policy=policy).evidence
    assert found.counted_by == {"ci": f"{IDENTITY}, according to {ISSUER}"}


def test_6_log_entries_make_no_key_signature(scene: Scene) -> None:
    """Nobody looks at them where a key is asked for: they neither help nor harm."""
    root = scene.push()
    entries = SigstoreInstance().bundle(b"{}")["verificationMaterial"]["tlogEntries"]

    def logged(by: str) -> bytes:
        return edited(
            bundle_over(scene.statement(root.digest), by),
            lambda d: d["verificationMaterial"].update(tlogEntries=entries),
        )

    scene.attach(logged("other"), root)
    scene.refused("not signed by this key")
    scene.attach(logged("release"), root)
    scene.pull()


# 12: who signs may still not write where he likes


@ONE
@pytest.mark.parametrize(
    "names",
    [["../evil"], ["Model.bin", "model.bin"], ["caf\u00e9", "cafe\u0301"], ["dir", "dir/x"]],
    ids=repr,
)
def test_12_a_signed_model_with_hostile_names(scene: Scene, names: list[str]) -> None:
    store = MemoryStore()
    document = put_model(store, {name: name.encode() for name in ["good", *names]})
    scene.layers |= {layer.digest for layer in document.layers}
    scene.put(document, *[(blob, store.blobs[blob.digest]) for blob in document.blobs()], tag="v1")
    scene.sign()
    ocimodel.verify(scene.reference, key=scene.key())
    before = set(scene.folder.rglob("*"))
    scene.refused(expected=InputError)
    assert set(scene.folder.rglob("*")) == before
