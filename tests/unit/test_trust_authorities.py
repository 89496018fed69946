"""From a policy's keyring, or one key, to those who can vouch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ocimodel.errors import InputError
from ocimodel.signing.authorities import KeyAuthority, open_keyring, policy_of_key, stamper
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.evidence import Evidence, Gathered
from ocimodel.signing.trust import (
    Decision,
    Key,
    decide,
)
from ocimodel.spec.policy import Policy, parse_policy
from tests.trust import ARTIFACT, NOW, attested, made, private


def test_a_key_alone_is_a_policy() -> None:
    key = private("release").public_key
    policy, keyring = policy_of_key("k.pub", key, ["slsaprovenance1"], {"team": "ml"})

    def accepts(*evidence: Evidence) -> Decision:
        gathered = Gathered(evidence)
        return decide(policy, keyring, ARTIFACT, gathered, now=NOW, stamped=lambda e: None)

    signature, provenance = made(annotations={"team": "ml"}), attested("release")
    assert accepts(signature, provenance).accepted
    assert list(accepts(signature).findings[0].counted_by) == ["k.pub"]
    assert not accepts(signature).accepted
    assert not accepts(provenance).accepted
    assert not accepts(made(), provenance).accepted
    assert not accepts(signature, attested("mallory")).accepted
    with pytest.raises(InputError, match="expected an URI"):
        policy_of_key("k.pub", key, ["provenance"], {})


VECTORS = Path(__file__).parents[1] / "vectors" / "signing"


def opened(tmp_path: Path, **entry: object) -> Mapping[str, Key]:
    return open_keyring(parse_policy({"version": 1, "keyring": {"k": entry}}, "p"), tmp_path)


def test_keys_are_opened_from_where_the_policy_lies(tmp_path: Path) -> None:
    pem = (VECTORS / "p256.pub").read_bytes()
    (tmp_path / "k.pub").write_bytes(pem)
    named, absolute = opened(tmp_path, key="k.pub"), opened(Path(), key=str(VECTORS / "p256.pub"))
    inline = opened(tmp_path, key=pem.decode(), revoked="r", notBefore="2026-01-01")
    assert named == absolute == opened(tmp_path, key="file:k.pub")
    assert isinstance(named["k"].authority, KeyAuthority)
    assert named["k"].fingerprint == inline["k"].fingerprint
    assert inline["k"].revoked == "r"
    assert inline["k"].not_before == datetime(2026, 1, 1, tzinfo=UTC)


def test_certificates_and_identities_are_opened(tmp_path: Path) -> None:
    root = str(VECTORS / "notation.root.pem")
    one = opened(tmp_path, certificates=root, identities=["C=US", "O=example"])["k"]
    same = opened(tmp_path, certificates=root, identities=["O=example", "C=US"])["k"]
    other = opened(tmp_path, certificates=root, identities=["C=US"])["k"]
    assert one.fingerprint == same.fingerprint != other.fingerprint
    with pytest.raises(RefusedError):
        one.authority.identify(made(), NOW)
    keyless = {"identity": "a@b.c", "issuer": "https://i.org"}
    identity = opened(tmp_path, keyless=keyless)["k"]
    with pytest.raises(RefusedError):
        identity.authority.identify(made(), NOW)
    issuer = opened(tmp_path, keyless={**keyless, "issuer": "https://j.org"})["k"]
    assert identity.fingerprint != issuer.fingerprint


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"key": "none.pub"}, r"^keyring\.k: cannot read .*none\.pub: No such file"),
        ({"key": "."}, r"^keyring\.k: cannot read "),
        ({"key": "large"}, r"^keyring\.k: .*large is over the limit of 1048576 bytes"),
        ({"key": "text"}, r"^keyring\.k: .*text holds no PEM"),
        ({"certificates": "text", "identities": ["*"]}, r"^keyring\.k: .*text holds no cert"),
        (
            {"certificates": str(VECTORS / "notation.root.pem"), "identities": ["nobody"]},
            r"^keyring\.k: 'nobody' is no name",
        ),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(InputError, match=message):
        opened(tmp_path, **entry)


def test_timestamps_count_only_from_authorities_that_the_policy_names(tmp_path: Path) -> None:
    stamped = replace(made(), timestamps=(b"no timestamp",))
    assert stamper(Policy(), tmp_path)(stamped) is None
    named = Policy(timestamp_authorities=(str(VECTORS / "notation.root.pem"),))
    assert stamper(named, tmp_path)(made()) is None
    assert stamper(named, tmp_path)(stamped) is None
    with pytest.raises(InputError, match=r"^timestampAuthorities\[0\]: cannot read"):
        stamper(Policy(timestamp_authorities=("none.pem",)), tmp_path)
