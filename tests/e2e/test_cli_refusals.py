"""What a deployment sees of an attack: exit code 7, the reason, no byte of the model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cli
from tests.servers.fault_proxy import FaultProxy
from tests.servers.registry import DockerRegistry
from tests.signing import PROVEN, SIGNED, SLSA, Scene, bundle_over

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
Prepare = Callable[[Scene], Path]


@pytest.fixture
def scene(
    docker_registry: DockerRegistry, fault_proxy: Callable[..., FaultProxy], tmp_path: Path
) -> Scene:
    return Scene(docker_registry, fault_proxy(docker_registry), tmp_path)


def unsigned(scene: Scene) -> Path:
    scene.push()
    return scene.policy()


def tampered(scene: Scene) -> Path:
    good = scene.signed()
    evil = scene.push("6.6.6", tag="evil")
    (bundle,) = scene.bundles(good)
    scene.attach(scene.content(bundle), evil)
    scene.store.tag("v1", evil.descriptor)
    return scene.policy()


def wrongly_signed(scene: Scene) -> Path:
    scene.push()
    scene.sign("other")
    return scene.policy()


def with_key(**entry: str) -> Prepare:
    def prepare(scene: Scene) -> Path:
        scene.signed()
        return scene.policy(keys={"release": entry})

    return prepare


def expired_signature(scene: Scene) -> Path:
    scene.sign_until(scene.push(), NOW - DAY)
    return scene.policy()


def downgraded(scene: Scene) -> Path:
    scene.forget(scene.signed())
    return scene.policy({**SIGNED, "forms": ["bundle"]})


def without_its_attestation(scene: Scene) -> Path:
    root = scene.signed()
    scene.attest()
    scene.forget(root, SLSA)
    return scene.policy(PROVEN)


def attested_only(scene: Scene) -> Path:
    scene.push()
    scene.attest()
    return scene.policy()


def replayed(expect: dict[str, Any]) -> Prepare:
    def prepare(scene: Scene) -> Path:
        old = scene.signed("1.0", tag="v1.0")
        scene.signed("2.0")
        scene.store.tag("v1", old.descriptor)
        return scene.policy({**SIGNED, "expect": expect})

    return prepare


def from_another_repository(scene: Scene) -> Path:
    root = scene.push()
    elsewhere = {"dev.ocimodel.repository": "registry.example.com/team/m"}
    scene.attach(bundle_over(scene.statement(root.digest, **elsewhere)), root)
    return scene.policy({**SIGNED, "expect": {"repository": True}})


STATES: dict[str, tuple[Prepare, str]] = {
    "unsigned": (unsigned, "there is nothing else"),
    "tampered": (tampered, "made for another artifact"),
    "wrongly signed": (wrongly_signed, "not signed by this key"),
    "expired key": (with_key(notAfter=(NOW - DAY).isoformat()), "counts until"),
    "revoked key": (with_key(revoked="laptop stolen"), "revoked: laptop stolen"),
    "expired signature": (expired_signature, "expired at"),
    "downgraded": (downgraded, "not among the allowed: bundle"),
    "attestation removed": (without_its_attestation, f"attestation {SLSA}"),
    "attested only": (attested_only, "is asked for"),
    "replayed by version": (replayed({"version": "2.0"}), "version 2.0 is expected"),
    "replayed by order": (replayed({"minVersion": "2"}), "version 2 or later"),
    "replayed by tag": (replayed({"tag": True}), "made for v1.0, not for v1"),
    "another repository": (from_another_repository, "made for registry.example.com/team/m"),
}


@pytest.mark.parametrize("state", STATES)
def test_7_refused(cli: Cli, scene: Scene, state: str) -> None:
    prepare, says = STATES[state]
    policy = prepare(scene)
    scene.proxy.clear()
    arguments = ("pull", scene.reference, "-o", str(scene.target), "--policy", str(policy))
    document = cli(*arguments, "--json", code=7).document
    assert (document["exitCode"], document["error"]["kind"]) == (7, "policy")
    assert says in document["error"]["message"]
    scene.assert_untouched()
    refused = cli("verify", scene.reference, "--policy", str(policy), "--json", code=7).document
    assert not refused["accepted"]
