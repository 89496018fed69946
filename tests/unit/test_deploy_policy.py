"""The examples in deploy/policy/ are whole, refuse by default, and say what they read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_docs import commands, problem

POLICIES = Path(__file__).parents[2] / "deploy" / "policy"
MANIFESTS = sorted([*POLICIES.glob("kyverno/*.yaml"), *POLICIES.glob("policy-controller/*.yaml")])
REGISTRIES = POLICIES / "containers" / "registries.d" / "registry.example.com.yaml"
TEAM = "registry.example.com/team"
PEM = re.compile(r"-----BEGIN (PUBLIC KEY|CERTIFICATE)-----\nthe text of .+\n-----END \1-----")


def load(path: Path) -> dict[str, Any]:
    (found,) = yaml.safe_load_all(path.read_text("utf-8"))
    return dict(found)


def values(tree: object, name: str) -> Iterator[Any]:
    """Every value that has this key, at any depth."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == name:
                yield value
            yield from values(value, name)
    elif isinstance(tree, list):
        for item in tree:
            yield from values(item, name)


def texts(tree: object) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from texts(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from texts(item)
    elif isinstance(tree, str):
        yield tree


@pytest.mark.parametrize("path", [*MANIFESTS, REGISTRIES], ids=lambda path: str(path.name))
def test_each_says_which_form_it_reads_and_what_writes_it(path: Path) -> None:
    comment = re.match(r"(#.*\n)+", path.read_text("utf-8"))
    assert comment
    said = " ".join(line.strip("# ") for line in comment[0].splitlines())
    assert re.search(r"Reads: .*(\.sig|undles|JWS)", said)
    written = re.search(r"Written by: (ocimodel [^(]*?)(\(|\.? Change|$)", said)
    assert written
    (arguments,) = commands(f"{written[1].rstrip(' .')} {TEAM}/model:v1")
    assert arguments[0] == "sign"
    assert not problem(arguments)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.name))
def test_each_is_named_in_the_table(path: Path) -> None:
    table = (POLICIES / "README.md").read_text("utf-8")
    assert f"]({path.relative_to(POLICIES)})" in table


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.name))
def test_no_key_of_ours_is_trusted_by_mistake(path: Path) -> None:
    """A key in an example would be applied as it is; a text in its place accepts nothing."""
    (text,) = (text for text in texts(load(path)) if "-----BEGIN" in text)
    assert PEM.fullmatch(text)


@pytest.mark.parametrize(
    ("name", "kind", "has"),
    [
        ("cosign", "Cosign", {"publicKeys", "ignoreTlog", "ignoreSCT"}),
        ("bundle", "SigstoreBundle", {"publicKeys", "ignoreTlog", "ignoreSCT"}),
        ("notary", "Notary", {"cert"}),
    ],
)
def test_kyverno_cluster_policies(name: str, kind: str, has: set[str]) -> None:
    policy = load(POLICIES / "kyverno" / f"{name}.yaml")
    assert (policy["apiVersion"], policy["kind"]) == ("kyverno.io/v1", "ClusterPolicy")
    assert policy["spec"]["webhookConfiguration"]["failurePolicy"] == "Fail"
    (rule,) = policy["spec"]["rules"]
    assert rule["imageExtractors"] == {"Pod": [{"path": "/spec/volumes/*/image/reference"}]}
    (check,) = rule["verifyImages"]
    assert check["type"] == kind
    assert check["failureAction"] == "Enforce"
    assert check["imageReferences"] == [f"{TEAM}/*"]
    assert check.get("required", True)
    ((entry,),) = (attestor["entries"] for attestor in check["attestors"])
    for key in has:
        (value,) = values(entry, key)
        assert value is True or PEM.fullmatch(value)


def test_kyverno_image_validating_policy() -> None:
    policy = load(POLICIES / "kyverno" / "image-validating.yaml")
    assert policy["apiVersion"] == "policies.kyverno.io/v1"
    assert policy["kind"] == "ImageValidatingPolicy"
    spec = policy["spec"]
    assert (spec["failurePolicy"], spec["validationActions"]) == ("Fail", ["Deny"])
    assert spec["matchImageReferences"] == [{"glob": f"{TEAM}/*"}]
    (images,), (attestor,), (check,) = spec["images"], spec["attestors"], spec["validations"]
    assert "spec.?volumes" in images["expression"]
    assert f"images.{images['name']}.map(" in check["expression"]
    assert f"[attestors.{attestor['name']}]" in check["expression"]
    assert check["expression"].strip().endswith(".all(n, n > 0)")
    assert attestor["cosign"]["ctlog"]["insecureIgnoreTlog"] is True


def test_policy_controller() -> None:
    policy = load(POLICIES / "policy-controller" / "cluster-image-policy.yaml")
    assert policy["apiVersion"] == "policy.sigstore.dev/v1beta1"
    assert policy["kind"] == "ClusterImagePolicy"
    assert policy["spec"]["mode"] == "enforce"
    assert policy["spec"]["images"] == [{"glob": f"{TEAM}/**"}]
    (authority,) = policy["spec"]["authorities"]
    # bundles it takes from identities only, and with ctlog it asks for a public log
    assert set(authority) == {"name", "key"}


def test_policy_json_refuses_what_it_does_not_name() -> None:
    policy = json.loads((POLICIES / "containers" / "policy.json").read_text("utf-8"))
    assert policy["default"] == [{"type": "reject"}]
    assert set(policy["transports"]) == {"docker"}
    ((rule,),) = policy["transports"]["docker"].values()
    assert rule["type"] == "sigstoreSigned"
    # cosign's form names no tag, so the default, which asks for one, would refuse it
    assert rule["signedIdentity"] == {"type": "matchRepository"}


def test_signatures_are_looked_for_wherever_they_are_asked_for() -> None:
    policy = json.loads((POLICIES / "containers" / "policy.json").read_text("utf-8"))
    assert load(REGISTRIES)["docker"] == {
        scope: {"use-sigstore-attachments": True} for scope in policy["transports"]["docker"]
    }
