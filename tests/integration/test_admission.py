"""Who decides what may be pulled: keys, policies, and where they are named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

import ocimodel
from ocimodel.errors import InputError, PolicyError, UsageError
from ocimodel.events import Notice
from ocimodel.ops.verify import RefusedArtifactError
from tests.servers.fault_proxy import FaultProxy
from tests.servers.registry import DockerRegistry
from tests.signing import SLSA, Scene, bundle_over
from tests.trees import Notices, patient, read_tree, with_login, write_tree

_numbers = itertools.count()


@pytest.fixture
def scene(
    docker_registry: DockerRegistry, fault_proxy: Callable[..., FaultProxy], tmp_path: Path
) -> Scene:
    return Scene(docker_registry, fault_proxy(docker_registry), tmp_path)


def test_without_key_and_policy_nothing_is_asked(scene: Scene) -> None:
    scene.push()
    scene.proxy.clear()
    assert scene.pull(key="").evidence == ()
    assert not scene.proxy.count(path="/referrers/|sha256-")


def test_key_and_policy_must_both_accept(scene: Scene) -> None:
    scene.signed()
    by_other = scene.policy({"require": [{"by": ["other"]}]})
    said = scene.refused(policy=by_other, key=scene.key())
    assert f"policy {by_other}" in said and f"key {scene.key()}" not in said
    said = scene.refused(policy=scene.policy(), key=scene.key("other"))
    assert "policy " not in said and f"key {scene.key('other')}" in said
    said = scene.refused(policy=by_other, key=scene.key("other"))
    assert f"policy {by_other}" in said and f"key {scene.key('other')}" in said
    scene.sign("other")
    evidence = scene.pull(policy=by_other, key=scene.key()).evidence
    assert len(evidence) == 4
    assert len({finding.origin for finding in evidence}) == 4


def test_the_default_is_to_reject(scene: Scene) -> None:
    scene.signed()
    elsewhere = scene.policy(repositories=["registry.example.com/team/*"])
    scene.refused("the default rejects everything", policy=elsewhere)
    scene.pull(policy=scene.policy(repositories=[f"{scene.proxy.host}/signing/*"]))
    exact = scene.policy({"reject": True}, repositories=[scene.name])
    scene.refused(f"scope {scene.name} rejects everything", policy=exact)


@pytest.mark.parametrize("how", ["scope", "default"])
def test_what_is_accepted_unseen_is_told(scene: Scene, how: str) -> None:
    scene.push()
    policy = scene.policy({"accept": True})
    if how == "default":
        policy = scene.policy(repositories=["registry.example.com/x"], default="accept")
    assert scene.pull(policy=policy).evidence == ()
    (told,) = [text for text in scene.notices.texts if "not verified" in text]
    assert str(policy) in told


def test_however_a_repository_is_written_its_scope_is_the_same(scene: Scene) -> None:
    scene.push()
    policy = scene.policy(repositories=[scene.name])
    open_to_all = "scopes:\n- accept: true\n  repositories: ['*']\n"
    policy.write_text(policy.read_text().replace("scopes:\n", open_to_all))
    scene.refused("signature by", policy=policy)
    shouted = f"LOCALHOST:{scene.proxy.host.partition(':')[2]}/{scene.repo}:v1"
    named = scene.policy(repositories=[shouted.removesuffix(":v1").lower()])
    named.write_text(named.read_text().replace("scopes:\n", open_to_all))
    with pytest.raises(PolicyError, match="signature by"):
        ocimodel.pull(shouted, scene.target, policy=named, client=patient(plain_http=True))
    assert not scene.target.exists()


def test_mistakes_in_key_and_policy_show_before_anything_is_fetched(scene: Scene) -> None:
    scene.signed()
    policy = scene.folder / "bad.yaml"
    for text, says in (
        ("version: 2", "expected 1"),
        ("scopes: [", "bad.yaml, line"),
        ("version: 1\nscopes:\n- repositories: ['*']\n  require: [{by: [nobody]}]", "nobody"),
        ("version: 1\nkeyring: {k: {key: none.pub}}", "none.pub"),
        ("", "expected"),
        ("- 1", "expected"),
        ("x" * (2 << 20), "over the limit"),
    ):
        policy.write_text(text)
        scene.proxy.clear()
        with pytest.raises(InputError, match=says):
            scene.pull(scene.target, policy=policy)
        # the manifest at most
        assert not scene.proxy.count(path="/blobs/|/referrers/|sha256-")
    with pytest.raises(InputError, match="cannot read the policy"):
        scene.pull(scene.target, policy=scene.folder / "none.yaml")
    assert not scene.target.exists()


def test_a_policy_finds_its_keys_beside_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene.signed()
    scene.key()
    policy = write_tree(
        scene.folder,
        {
            "trust/policy.yaml": b"version: 1\nkeyring: {release: {key: ../keys/release.pub}}\n"
            b"scopes:\n- repositories: ['*']\n  require: [{by: [release]}]\n"
        },
    )
    monkeypatch.chdir(tmp_path)
    assert scene.pull(policy=policy / "trust/policy.yaml").evidence


def test_verify_and_pull_agree_and_verify_tells_more(scene: Scene) -> None:
    root = scene.signed()
    scene.attach(bundle_over(scene.statement("sha256:" + "0" * 64)), root)
    scene.attach(b"{}", root)
    found = ocimodel.verify(scene.reference, key=scene.key(), client=patient())
    (judgement,) = found.judgements
    assert judgement.decision.accepted
    told = {reason for f in judgement.decision.findings for reason in f.refusals.values()}
    assert any("made for another artifact" in reason for reason in told)
    assert len(judgement.decision.findings) == 4
    with pytest.raises(RefusedArtifactError) as caught:
        ocimodel.verify(scene.reference, key=scene.key("other"), client=patient())
    refused = caught.value.result
    assert refused.digest == root.digest and not refused.judgements[0].decision.accepted
    assert len(refused.judgements[0].decision.findings) == 4


def test_a_key_may_be_asked_for_attestations_and_annotations(scene: Scene) -> None:
    scene.push()
    scene.sign(annotations={"stage": "prod"})

    def verify(**how: object) -> None:
        ocimodel.verify(scene.reference, key=scene.key(), client=patient(), **how)  # type: ignore[arg-type]

    verify(annotations={"stage": "prod"})
    with pytest.raises(PolicyError, match="annotation stage is 'prod', not 'test'"):
        verify(annotations={"stage": "test"})
    with pytest.raises(PolicyError, match="attestation"):
        verify(types=["slsaprovenance1"])
    scene.attest()
    verify(types=["slsaprovenance1", SLSA], annotations={"stage": "prod"})
    with pytest.raises(UsageError):
        ocimodel.verify(scene.reference, types=[SLSA], client=patient())
    with pytest.raises(UsageError):
        ocimodel.verify(scene.reference, client=patient())


def test_signatures_travel_and_count_in_a_layout(scene: Scene) -> None:
    root = scene.signed()
    layout = f"oci:{scene.folder / 'layout'}:v1"
    ocimodel.copy(scene.reference, layout, client=patient())
    target = scene.folder / "out"
    found = ocimodel.pull(layout, target, key=scene.key())
    assert found.digest == root.digest
    assert {finding.form for finding in found.evidence} == {"bundle", "simplesigning"}
    with pytest.raises(PolicyError):
        ocimodel.pull(layout, scene.target, key=scene.key("other"))
    assert not scene.target.exists()


def test_a_refused_pull_leaves_the_older_model_as_it_is(scene: Scene) -> None:
    scene.signed("1.0")
    scene.pull(scene.target)
    before = read_tree(scene.target)
    scene.push("2.0", force=True)
    n_seen = len(scene.proxy.log)
    with pytest.raises(PolicyError):
        scene.pull(scene.target)
    assert read_tree(scene.target) == before
    asked = [exchange.path for exchange in scene.proxy.log[n_seen:]]
    assert asked and not [path for path in asked if path.rpartition("/")[2] in scene.layers]


def test_what_is_cached_is_not_given_out_either(scene: Scene) -> None:
    scene.push()
    cache = scene.folder / "cache"
    scene.pull(key="", cache=cache)
    with pytest.raises(PolicyError):
        scene.pull(scene.target, cache=cache)
    assert not scene.target.exists()


def test_signatures_behind_a_login(
    registry_htpasswd: DockerRegistry, tmp_path: Path, isolated_environment: Path
) -> None:
    reference = f"{registry_htpasswd.host}/signing/auth{next(_numbers)}:v1"
    client = with_login(tmp_path / "auth.json", {registry_htpasswd.host: ("alice", "secret")})
    scene = Scene(registry_htpasswd, None, tmp_path)  # type: ignore[arg-type]
    model = write_tree(tmp_path / "model", {"w.bin": b"w"})
    pushed = ocimodel.push(model, reference, sign=scene.private(), client=client)
    assert len(pushed.signatures) == 2
    notices = Notices()
    ocimodel.pull(reference, tmp_path / "a", key=scene.key(), client=client, observer=notices)
    assert not [event for event in notices.events if isinstance(event, Notice)]
    with pytest.raises(PolicyError):
        ocimodel.pull(reference, tmp_path / "b", key=scene.key("other"), client=client)
    assert not (tmp_path / "b").exists()
