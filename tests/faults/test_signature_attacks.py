"""Attacks on signed models in real registries: a pull refuses each before any weight moves.

The numbers are those of the list in docs/trust.md. Each test first sees the honest pull accepted,
so that a refusal can have no other reason than the attack.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import ocimodel
from ocimodel.errors import IntegrityError, NotFoundError, RegistryError
from ocimodel.signing import cosign
from ocimodel.signing.evidence import SIGNATURE
from ocimodel.spec import canonical
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.dsse import IN_TOTO, Envelope, pae
from ocimodel.spec.manifest import Manifest
from tests.servers import faults, quirks
from tests.servers.fault_proxy import FaultProxy
from tests.signing import (
    PROVEN,
    SIGNED,
    SLSA,
    Scene,
    bundle_over,
    changed_manifest,
    private_key,
    referrers_tag,
)
from tests.trees import patient, read_tree

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
BUNDLES = {**SIGNED, "forms": ["bundle"]}


def expecting(**expect: Any) -> dict[str, Any]:
    return {**SIGNED, "expect": expect}


# the named states


def test_what_was_signed_is_pulled(scene: Scene) -> None:
    root = scene.signed()
    scene.refused(key=scene.key("other"))
    pulled = scene.pull(scene.target)
    assert pulled.digest == root.digest
    assert {finding.form for finding in pulled.evidence} == {"bundle", "simplesigning"}
    assert read_tree(scene.target)["w.bin"]
    # the control of all that follows: these requests are what assert_untouched looks for
    asked = {exchange.path.rpartition("/")[2] for exchange in scene.proxy.log}
    assert scene.layers & asked


def test_tampered(scene: Scene) -> None:
    root = scene.signed()
    scene.pull()
    content = b"malicious weights"
    layer = Descriptor("application/vnd.cncf.model.weight.v1.raw", sha256(content), len(content))

    def swap(document: dict[str, Any]) -> None:
        weights = next(d for d in document["layers"] if "weight" in d["mediaType"])
        weights.update(digest=layer.digest, size=layer.size)

    evil = changed_manifest(root, swap)
    scene.layers.add(layer.digest)
    scene.put(evil, (layer, content), tag="v1")
    scene.refused("signature by", tag="v1")
    # its signatures brought along
    (bundle,) = scene.bundles(root)
    scene.attach(scene.content(bundle), evil)
    scene.refused("made for another artifact")
    assert scene.pull(tag=f"@{root.digest}").digest == root.digest


def test_unsigned(scene: Scene) -> None:
    scene.push()
    assert "there is nothing else" in scene.refused()
    scene.sign()
    scene.pull()


def test_wrongly_signed(scene: Scene) -> None:
    scene.push()
    scene.sign("other")
    scene.refused("not signed by this key")
    scene.refused("not signed by this key", policy=scene.policy())
    scene.pull(key=scene.key("other"))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"notAfter": NOW - DAY}, "counts until"),
        ({"notBefore": NOW + DAY}, "counts from"),
        ({"revoked": "laptop stolen"}, "revoked: laptop stolen"),
        ({"revoked": "laptop stolen", "notAfter": NOW + DAY}, "revoked: laptop stolen"),
    ],
    ids=["expired key", "early key", "revoked key", "revoked key in its window"],
)
def test_keys_that_do_not_count_any_more(scene: Scene, entry: dict[str, Any], says: str) -> None:
    scene.signed()
    scene.pull(policy=scene.policy(keys={"release": {"notAfter": NOW + DAY}}))
    said = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in entry.items()}
    scene.refused(says, policy=scene.policy(keys={"release": said}))


# 1: predicate confusion


def test_1_an_attestation_is_no_signature(scene: Scene) -> None:
    root = scene.push()
    scene.attest(compatible=True)
    scene.refused("signature by")
    scene.refused("signature by", policy=scene.policy())
    # nor under a false label, nor among the signatures
    (bundle,) = scene.bundles(root, SLSA)
    scene.attach(scene.content(bundle), root)
    attested = scene.store.manifest(referrers_tag(root.digest, ".att"))
    assert isinstance(attested, Manifest)
    scene.put(attested, tag=referrers_tag(root.digest, ".sig"))
    scene.refused("signature by")
    scene.sign()
    scene.pull(policy=scene.policy(PROVEN))


def test_1_a_signature_is_no_attestation(scene: Scene) -> None:
    root = scene.signed()
    proven = scene.policy(PROVEN)
    scene.refused(f"attestation {SLSA}", policy=proven)
    (bundle,) = scene.bundles(root)
    mark = "dev.sigstore.bundle.predicateType"
    scene.attach(scene.content(bundle), root, lambda d: d["annotations"].update({mark: SLSA}))
    scene.refused(f"attestation {SLSA}", policy=proven)
    scene.attest(kind="spdxjson")
    scene.refused(f"attestation {SLSA}", policy=proven)
    scene.attest()
    scene.pull(policy=proven)


# 2: between two requests


def test_2_a_tag_that_moves_after_it_was_read(scene: Scene) -> None:
    good = scene.signed()
    evil = scene.push("6.6.6", tag="evil")

    class Move(faults.Action):
        def after(self, _request: faults.Request, reply: faults.Reply) -> faults.Reply:
            scene.store.tag("v1", evil.descriptor)
            return reply

    scene.proxy.clear()
    scene.proxy.add(Move(), method="GET", path="/manifests/v1$")
    assert scene.pull().digest == good.digest
    assert scene.proxy.count(path="/manifests/v1$") == 1
    scene.refused()


def test_2_a_registry_that_lies_about_the_digest(scene: Scene) -> None:
    good = scene.signed()
    evil = scene.push("6.6.6", tag="evil")
    scene.proxy.add(faults.ReplaceBody(evil.raw), path="/manifests/v1$", times=None)
    # other bytes under the signed one's digest
    scene.refused(expected=IntegrityError)
    # no word of any digest: what counts is what we hash
    quiet = faults.Headers({"Docker-Content-Digest": None})
    scene.proxy.add(quiet, path="/manifests/v1$", times=None)
    scene.refused(evil.digest)
    scene.proxy.clear()
    assert scene.pull().digest == good.digest
    # asked for by digest, the other bytes are seen at once
    scene.proxy.add(faults.ReplaceBody(evil.raw), path=f"/manifests/{good.digest}$", times=None)
    scene.refused(expected=IntegrityError, tag=f"@{good.digest}")


def test_2_a_mirror_that_lies(
    scene: Scene, fault_proxy: Callable[..., FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that may resolve tags serves what it likes under one, and signs nothing by that."""
    good = scene.signed()
    evil = scene.push("6.6.6", tag="evil")
    mirror = fault_proxy(scene.registry)
    conf = scene.folder / "registries.conf"
    conf.write_text(
        f'[[registry]]\nlocation = "{scene.proxy.host}"\n'
        f'[[registry.mirror]]\nlocation = "{mirror.host}"\ninsecure = true\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    assert scene.pull().digest == good.digest
    assert mirror.count(path="/manifests/v1$")
    mirror.clear()
    mirror.add(faults.ReplaceBody(evil.raw), path="/manifests/v1$", times=None)
    quiet = faults.Headers({"Docker-Content-Digest": None})
    mirror.add(quiet, path="/manifests/v1$", times=None)
    scene.refused(evil.digest)
    assert not [e.path for e in mirror.log if e.path.rpartition("/")[2] in scene.layers]


# 3: copied to another place


def test_3_a_signature_under_another_digest(scene: Scene) -> None:
    good = scene.signed()
    scene.pull()
    evil = scene.push("6.6.6", tag="evil")
    (bundle,) = scene.bundles(good)
    scene.attach(scene.content(bundle), evil)
    tagged = scene.store.manifest(referrers_tag(good.digest, ".sig"))
    scene.put(tagged, tag=referrers_tag(evil.digest, ".sig"))
    said = scene.refused(f"made for another artifact: {good.digest}", tag="evil")
    assert said.count("made for another artifact") == 2


def test_3_a_referrer_of_another_manifest_in_the_list(scene: Scene) -> None:
    good = scene.signed()
    evil = scene.push("6.6.6", tag="evil")
    (bundle,) = scene.bundles(good)
    listed = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    raw = canonical.encode(listed | {"manifests": [bundle.descriptor.to_json()]})
    scene.store._control.put_raw(referrers_tag(evil.digest), raw, listed["mediaType"])
    scene.refused("its subject is another manifest", tag="evil")


@pytest.mark.parametrize("field", ["size", "mediaType"])
def test_3_a_referrer_that_states_another_size_or_type(scene: Scene, field: str) -> None:
    root = scene.push()
    bundle = bundle_over(scene.statement(root.digest))
    wrong = {"size": len(root.raw) + 1, "mediaType": "application/vnd.oci.image.index.v1+json"}
    scene.attach(bundle, root, lambda d: d["subject"].update({field: wrong[field]}))
    scene.refused("its subject is another manifest")
    scene.attach(bundle, root)
    scene.pull()


def test_3_a_signed_model_under_another_name(
    scene: Scene, fault_proxy: Callable[..., FaultProxy], tmp_path: Path
) -> None:
    scene.signed()
    here = scene.policy(expecting(repository=True))
    scene.pull(policy=here)
    other = Scene(scene.registry, fault_proxy(scene.registry), tmp_path / "other")
    other.folder.mkdir()
    ocimodel.copy(scene.reference, other.reference, client=patient())
    other.known("v1")
    other.refused(f"made for {scene.name}, not for {other.name}", policy=here)
    other.pull(policy=scene.policy())


# 4: downgrade


def test_4_the_bundle_deleted_and_the_older_form_left(scene: Scene) -> None:
    root = scene.signed()
    bundles = scene.policy(BUNDLES)
    scene.pull(policy=bundles)
    scene.forget(root)
    scene.refused("form simplesigning is not among the allowed", policy=bundles)
    scene.pull(policy=scene.policy())
    scene.untag(root)
    scene.refused("there is nothing else", policy=scene.policy())
    scene.refused("there is nothing else")


def test_4_the_attestation_deleted(scene: Scene) -> None:
    root = scene.signed()
    scene.attest()
    proven = scene.policy(PROVEN)
    scene.pull(policy=proven)
    scene.forget(root, SLSA)
    scene.refused(f"attestation {SLSA}", policy=proven)


def test_4_a_registry_that_knows_of_no_referrers(scene: Scene) -> None:
    scene.signed()
    bundles = scene.policy(BUNDLES)
    scene.pull(policy=bundles)
    scene.proxy.apply(quirks.no_referrers())
    scene.proxy.add(faults.Status(404), path="/manifests/sha256-", times=None)
    scene.refused("none found; there is nothing else", policy=bundles)
    scene.refused("none found; there is nothing else")


@pytest.mark.parametrize("status", [500, 429, 403])
def test_4_a_registry_that_will_not_tell(scene: Scene, status: int) -> None:
    """An error is no empty answer: it might hide what is there."""
    scene.signed()
    expected = ocimodel.errors.AuthenticationError if status == 403 else RegistryError
    scene.proxy.add(faults.Status(status), path="/manifests/sha256-.*sig$", times=None)
    scene.refused(expected=expected)


def test_4_one_signature_of_two_hidden(scene: Scene) -> None:
    root = scene.signed()
    both = scene.policy({"require": [{"by": ["release", "other"], "atLeast": 2}]})
    scene.refused("1 found", policy=both)
    scene.sign("other")
    scene.pull(policy=both)
    scene.forget(root)
    scene.untag(root)
    scene.sign()
    scene.refused("1 found", policy=both)


# 8: an old artifact that was validly signed


def test_8_rollback(scene: Scene) -> None:
    old = scene.signed("1.0", tag="v1.0")
    new = scene.signed("2.0")
    policies = [
        scene.policy(expecting(version="2.0")),
        scene.policy(expecting(minVersion="1.5")),
        scene.policy(expecting(tag=True)),
    ]
    for policy in policies:
        assert scene.pull(policy=policy).digest == new.digest
    scene.store.tag("v1", old.descriptor)
    assert scene.pull(policy=scene.policy()).digest == old.digest
    for policy, says in zip(
        policies,
        ["version 2.0 is expected", "1.5 or later", "made for v1.0, not for v1"],
        strict=True,
    ):
        scene.refused(says, policy=policy)


def test_8_annotations_that_a_stage_asks_for(scene: Scene) -> None:
    scene.push()
    scene.sign(annotations={"stage": "test"})
    prod = scene.policy(expecting(annotations={"stage": "prod"}))
    scene.pull(policy=scene.policy(expecting(annotations={"stage": "test"})))
    scene.refused("annotation stage is 'test', not 'prod'", policy=prod)
    scene.sign(annotations={"stage": "prod"})
    scene.pull(policy=prod)


def test_8_a_signature_that_has_expired(scene: Scene) -> None:
    root = scene.push()
    scene.sign_until(root, NOW - DAY)
    said = scene.refused("expired at")
    assert said.count("expired at") == 2
    scene.sign(expires=DAY)
    scene.pull()


def test_8_expired_provenance(scene: Scene) -> None:
    """An attestation can end as well; its envelope is read in both forms."""
    root = scene.signed()
    document = json.loads(cosign.attestation_statement(root.digest, SLSA, {"a": 1}))
    past = f"{NOW - DAY:%Y-%m-%dT%H:%M:%SZ}"
    document["subject"][0]["annotations"] = {"dev.ocimodel.expires": past}
    payload = json.dumps(document).encode()
    scene.attach(bundle_over(payload), root)
    signature = private_key().sign(pae(IN_TOTO, payload))
    envelope = Envelope(payload, IN_TOTO, (signature,)).encode()
    scene.attach_layer(envelope, root, {cosign.SIGNATURE_MARK: ""}, ".att")
    said = scene.refused("expired at", policy=scene.policy(PROVEN))
    assert said.count("expired at") == 2


def test_nothing_there_is_not_found(scene: Scene) -> None:
    scene.signed()
    scene.refused(expected=NotFoundError, tag="v9")
    assert SIGNATURE not in scene.refused(key=scene.key("other"))
