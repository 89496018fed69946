"""Who signed, by a certificate: the names that a policy gives, and the algorithm of the key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.signing.authority import Authority, RefusedError
from ocimodel.signing.evidence import SIGNATURE, Evidence, Form
from ocimodel.signing.keys import PrivateKey
from ocimodel.signing.x509 import CertificateAuthority, parse_identity
from tests import chains
from tests.chains import AUTHORITY, DAY, LEAF, NOW, chain, ders, issue, rsa_key


def evidence(signer: Any, certificates: list[bytes], algorithm: str) -> Evidence:
    key = PrivateKey(signer)
    message = b"what was signed"
    signature = key.sign_as(message, algorithm) if algorithm else key.sign(message)
    return Evidence(
        origin="here",
        form=Form.NOTATION,
        subjects=(),
        predicate_type=SIGNATURE,
        message=message,
        signature=signature,
        algorithm=algorithm,
        certificates=tuple(certificates),
    )


def authority(anchors: list[bytes], *identities: str) -> Authority:
    return CertificateAuthority(anchors, identities or ("*",))


KEYS = {
    "ES256": lambda: chains.new_key(),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "PS256": lambda: rsa_key(2048),
    "PS384": lambda: rsa_key(3072),
    # a key whose algorithm the signature does not name
    "": lambda: chains.new_key(),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_who_signed_is_named(algorithm: str) -> None:
    made = chain(leaf={"key": KEYS[algorithm]()})
    said = authority([made[2].der]).identify(evidence(made[0].key, ders(made), algorithm), NOW)
    assert said == ("CN=signer,O=example,ST=WA,C=US, issued by CN=middle,O=example,ST=WA,C=US")


@pytest.mark.parametrize(
    "stated", ["none", "HS256", "RS256", "PS256", "ES384", "ES512", "EdDSA", "es256", "ES256K"]
)
def test_an_algorithm_that_is_not_the_keys_is_refused(stated: str) -> None:
    made = chain()
    found = replace(evidence(made[0].key, ders(made), "ES256"), algorithm=stated)
    with pytest.raises(RefusedError, match="does not go with the key"):
        authority([made[2].der]).identify(found, NOW)


def test_an_algorithm_that_the_key_can_do_and_should_not_is_refused() -> None:
    made = chain(leaf={"key": rsa_key(3072)})
    with pytest.raises(RefusedError, match="PS256 does not go with the key, RSA 3072"):
        authority([made[2].der]).identify(evidence(made[0].key, ders(made), "PS256"), NOW)


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no certificate": ("carries no certificate", {"certificates": ()}),
    "another message": ("not by the certified key", {"message": b"something else"}),
    "no signature": ("not by the certified key", {"signature": b""}),
    "half a signature": ("not by the certified key", {"signature": bytes(63)}),
}


@pytest.mark.parametrize(("reason", "changes"), WRONG.values(), ids=WRONG)
def test_a_signature_that_does_not_hold(reason: str, changes: dict[str, Any]) -> None:
    made = chain()
    found = replace(evidence(made[0].key, ders(made), "ES256"), **changes)
    with pytest.raises(RefusedError, match=reason):
        authority([made[2].der]).identify(found, NOW)


def test_a_signature_by_another_key_is_refused() -> None:
    made = chain()
    with pytest.raises(RefusedError, match="not by the certified key"):
        authority([made[2].der]).identify(evidence(made[1].key, ders(made), "ES256"), NOW)


def test_certificates_are_judged_at_the_given_time() -> None:
    made = chain()
    found = evidence(made[0].key, ders(made), "ES256")
    judge = authority([made[2].der])
    assert judge.identify(found, NOW)
    with pytest.raises(RefusedError, match="expired"):
        judge.identify(found, NOW + 2 * DAY)


SUBJECT = r"C=US,ST=WA,O=Ex\, Inc.+OU=ml,OU=a\ ,CN=signer"
IDENTITIES = {
    "C=US, O=example": False,
    "C=US, ST=WA, CN=signer": True,
    "CN=signer": True,
    " CN=signer ": True,
    "CN = signer": None,
    "CN=Signer": False,
    "CN=signer2": False,
    "CN=sign": False,
    "CN=*": False,
    "*": True,
    r"O=Ex\, Inc.": True,
    r"O=Ex\2c Inc.": True,
    "O=Ex, Inc.": None,
    "OU=ml+CN=signer": True,
    r"OU=a\ , CN=signer": True,
    "OU=a, CN=signer": False,
    "OU=ml, OU=a": False,
    "2.5.4.3=signer": True,
    "C=US, C=DE": False,
    "L=Seattle": False,
    "": None,
    " ": None,
    ",": None,
    "signer": None,
    "XX=signer": None,
    "CN=signer,": None,
    "**": None,
}


@pytest.mark.parametrize(("identity", "fits"), IDENTITIES.items())
def test_an_identity_is_all_of_its_attributes(identity: str, fits: bool | None) -> None:
    root = issue("CN=root", **AUTHORITY)
    signer = issue(SUBJECT, root, **LEAF)
    found = evidence(signer.key, [signer.der], "ES256")
    if fits is None:
        with pytest.raises(InputError):
            authority([root.der], identity)
    elif fits:
        # one of several is enough
        assert authority([root.der], "CN=somebody", identity).identify(found, NOW)
    else:
        with pytest.raises(RefusedError, match="whom nobody named"):
            authority([root.der], identity).identify(found, NOW)


def test_an_authority_without_identities_trusts_nobody() -> None:
    with pytest.raises(InputError, match="names no identities"):
        CertificateAuthority([chain()[2].der], [])


@given(st.text(max_size=40))
def test_any_text_is_an_identity_or_an_input_error(text: str) -> None:
    try:
        found = parse_identity(text)
    except InputError:
        return
    assert found or text.strip() == "*"
