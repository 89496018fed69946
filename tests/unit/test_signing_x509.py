"""Chains and whom they lead to: one row for each way to be wrong."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.keys import PrivateKey
from ocimodel.signing.x509 import (
    check_chain,
    ordered_chain,
    parse_certificates,
)
from tests import chains
from tests.chains import AUTHORITY, DAY, LEAF, NOW, chain, ders, issue, rsa_key, self_signed
from tests.servers.tsa import openssl

Chains = Callable[[], tuple[list[bytes], list[bytes]]]
EKU = ExtendedKeyUsageOID
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
NAMES = x509.NameConstraints(
    permitted_subtrees=[x509.DNSName("example.org")], excluded_subtrees=None
)


def three(**changes: Any) -> Chains:
    """The usual chain with something wrong in it; its root is trusted."""

    def make() -> tuple[list[bytes], list[bytes]]:
        made = ders(chain(**changes))
        return made, made[-1:]

    return make


def leaf(**changes: Any) -> Chains:
    return three(leaf=changes)


def usage(*names: str) -> Chains:
    return leaf(usages=("digital_signature", *names))


def for_(*purposes: x509.ObjectIdentifier) -> Chains:
    return leaf(purposes=purposes)


def ca(path_length: int | None) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=True, path_length=path_length)


def of(pick: Callable[[list[bytes], list[bytes]], tuple[list[bytes], list[bytes]]]) -> Chains:
    """Two good chains that have nothing to do with one another, put together by `pick`."""
    return lambda: pick(ders(chain()), ders(chain()))


def long(n_issuers: int) -> list[bytes]:
    made = [issue("CN=0", **AUTHORITY)]
    while len(made) < n_issuers:
        made.append(issue(f"CN={len(made)}", made[-1], **AUTHORITY))
    return ders([issue("CN=leaf", made[-1], **LEAF), *reversed(made)])


def impostor() -> tuple[list[bytes], list[bytes]]:
    """A whole chain with the names of another one."""
    return ders(chain()), ders(chain())[-1:]


def alone_in_the_middle() -> tuple[list[bytes], list[bytes]]:
    """A signer's certificate that issues another one, all properly signed."""
    signer, middle, root = chain()
    return ders([issue("CN=below", signer, **LEAF), signer, middle, root]), [root.der]


def not_its_key() -> tuple[list[bytes], list[bytes]]:
    """The right names, but the issuer's key made no signature."""
    return three(leaf={"signed_by": chains.new_key()})()


def with_sha1(tmp: Path) -> tuple[list[bytes], list[bytes]]:
    """By OpenSSL, since cryptography does no longer make such."""
    root = issue("CN=root", **AUTHORITY)
    (tmp / "root.pem").write_bytes(root.pem)
    (tmp / "root.key").write_bytes(PrivateKey(root.key).pkcs8)
    (tmp / "extensions").write_text("keyUsage=critical,digitalSignature")
    openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=old",
        "-keyout", tmp / "old.key", "-out", tmp / "old.csr",
    )  # fmt: skip
    openssl(
        "x509", "-req", "-sha1", "-in", tmp / "old.csr", "-CA", tmp / "root.pem", "-CAkey",
        tmp / "root.key", "-CAkeyform", "DER", "-extfile", tmp / "extensions", "-days", "9",
        "-out", tmp / "old.pem",
    )  # fmt: skip
    return [*parse_certificates((tmp / "old.pem").read_bytes(), "old"), root.der], [root.der]


GOOD: dict[str, Chains] = {
    "a chain up to its root": three(),
    "without the root, which is an anchor": of(lambda a, b: (a[:2], [b[2], a[2]])),
    "the leaf alone, issued by an anchor": of(lambda a, b: (a[:1], [a[1]])),
    "signed by itself, and trusted": lambda: ([(a := self_signed().der)], [a]),
    "no extended key usage": for_(),
    "no basic constraints in the leaf": leaf(constraints=None),
    "contentCommitment beside digitalSignature": usage("content_commitment"),
    "RSA": leaf(key=rsa_key(2048)),
    "P-384": leaf(key=ec.generate_private_key(ec.SECP384R1())),
    "an issuer for code signing": three(middle={"purposes": (EKU.CODE_SIGNING,)}),
    "an issuer for anything": three(middle={"purposes": (EKU.ANY_EXTENDED_KEY_USAGE,)}),
    "exactly as long as allowed": three(root={"constraints": ca(1)}, middle={"constraints": ca(0)}),
    "an unknown extension that is not critical": leaf(extensions=((UNKNOWN, False),)),
    "the last second": leaf(ends=NOW),
    "the first second": leaf(starts=NOW),
    "eight certificates": lambda: ((made := long(7)), made[-1:]),
}
BAD: dict[str, tuple[str, Chains]] = {
    "nothing at all": ("a chain of 0", of(lambda a, b: ([], a))),
    "nine certificates": ("a chain of 9", lambda: ((made := long(8)), made[-1:])),
    "no certificate": ("cannot be read", of(lambda a, b: ([b"0\x00", *a], a[2:]))),
    "no anchors": ("nobody trusted", of(lambda a, b: (a, []))),
    "another root": ("nobody trusted", of(lambda a, b: (a, b[2:]))),
    "the same names, other keys": ("nobody trusted", impostor),
    "signed by itself, and not trusted": (
        "nobody trusted",
        lambda: ([self_signed().der], [self_signed().der]),
    ),
    "only an intermediate is trusted": ("nobody trusted", of(lambda a, b: (a, a[1:2]))),
    "only the leaf is trusted": ("nobody trusted", of(lambda a, b: (a, a[:1]))),
    "wrong order": ("was not issued by", of(lambda a, b: ([a[1], a[0], a[2]], a[2:]))),
    "an issuer is missing": ("was not issued by", of(lambda a, b: ([a[0], a[2]], a[2:]))),
    "a stranger in the chain": (
        "was not issued by",
        of(lambda a, b: ([*a[:2], b[1], a[2]], a[2:])),
    ),
    "an anchor put behind it": ("was not issued by", of(lambda a, b: ([*a, b[2]], b[2:]))),
    "an issuer's key that did not sign": ("was not issued by", not_its_key),
    "the leaf expired": ("CN=signer,O=example,ST=WA,C=US expired", leaf(ends=NOW - DAY / 2)),
    "the intermediate expired": (
        "CN=middle,O=example,ST=WA,C=US expired",
        three(middle={"ends": NOW - DAY / 2}),
    ),
    "the root expired": (
        "CN=root,O=example,ST=WA,C=US expired",
        three(root={"ends": NOW - DAY / 2}),
    ),
    "the leaf is not valid yet": ("valid only from", leaf(starts=NOW + DAY / 2)),
    "the intermediate is not valid yet": (
        "valid only from",
        three(middle={"starts": NOW + DAY / 2}),
    ),
    "an authority signs": ("is an authority's", leaf(constraints=ca(None))),
    "a signer issues": ("is no authority", alone_in_the_middle),
    "an issuer without basic constraints": ("is no authority", three(middle={"constraints": None})),
    "basic constraints not critical": (
        "is no authority",
        three(middle={"constraints_are_critical": False}),
    ),
    "the root says that it is none": (
        "is no authority",
        three(root={"constraints": x509.BasicConstraints(False, None)}),
    ),
    "longer than the root allows": ("allows 0", three(root={"constraints": ca(0)})),
    "the leaf has no key usage": ("no critical key usage", leaf(usages=())),
    "the leaf's key usage is not critical": (
        "no critical key usage",
        leaf(usage_is_critical=False),
    ),
    "an issuer has no key usage": ("no critical key usage", three(middle={"usages": ()})),
    "an issuer may not issue": ("not keyCertSign", three(middle={"usages": ("crl_sign",)})),
    "the leaf may not sign": ("not digitalSignature", leaf(usages=("content_commitment",))),
    "the leaf may encipher keys": ("more than digitalSignature", usage("key_encipherment")),
    "the leaf may encipher": ("more than digitalSignature", usage("data_encipherment")),
    "the leaf may agree on keys": ("more than digitalSignature", usage("key_agreement")),
    "the leaf may issue": ("more than digitalSignature", usage("key_cert_sign")),
    "the leaf may revoke": ("more than digitalSignature", usage("crl_sign")),
    "a TLS certificate": ("not for code signing", for_(EKU.SERVER_AUTH)),
    "for code signing and TLS": ("not for code signing", for_(EKU.CODE_SIGNING, EKU.SERVER_AUTH)),
    "for anything": ("not for code signing", for_(EKU.ANY_EXTENDED_KEY_USAGE)),
    "for timestamps": ("not for code signing", for_(EKU.TIME_STAMPING)),
    "for mail": ("not for code signing", for_(EKU.EMAIL_PROTECTION)),
    "an issuer for TLS only": ("issues no", three(middle={"purposes": (EKU.SERVER_AUTH,)})),
    "an unknown critical extension": (
        "critical extension 1.2.3.4",
        leaf(extensions=((UNKNOWN, True),)),
    ),
    "limits on names": (
        "critical extension 2.5.29.30",
        three(root={"extensions": ((NAMES, True),)}),
    ),
    "an extension that cannot be read": (
        "cannot be read",
        leaf(
            extensions=(
                (x509.UnrecognizedExtension(x509.SubjectKeyIdentifier.oid, b"\xff"), False),
            )
        ),
    ),
    "SHA-224": ("signed with sha224", leaf(digest=hashes.SHA224())),
    "SHA-224 in the middle": ("signed with sha224", three(middle={"digest": hashes.SHA224()})),
    "a short RSA key": ("RSA key of 1024 bits", leaf(key=rsa_key(1024))),
    "a short RSA key of an issuer": ("RSA key of 1024 bits", three(middle={"key": rsa_key(1024)})),
    "a curve that nobody asked for": (
        "secp256k1",
        leaf(key=ec.generate_private_key(ec.SECP256K1())),
    ),
    "an Ed25519 key": ("Ed25519", leaf(key=ed25519.Ed25519PrivateKey.generate())),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_a_chain_that_leads_to_an_anchor(make: Chains) -> None:
    given_chain, anchors = make()
    found = check_chain(given_chain, anchors, NOW)
    assert found == x509.load_der_x509_certificate(given_chain[0])


@pytest.mark.parametrize(("reason", "make"), BAD.values(), ids=BAD)
def test_a_chain_that_does_not_count(reason: str, make: Chains) -> None:
    given_chain, anchors = make()
    with pytest.raises(RefusedError, match=reason):
        check_chain(given_chain, anchors, NOW)


def test_sha1_is_refused(tmp_path: Path) -> None:
    given_chain, anchors = with_sha1(tmp_path)
    with pytest.raises(RefusedError, match="signed with sha1"):
        check_chain(given_chain, anchors, NOW)


@given(st.data())
def test_a_damaged_certificate_is_refused_and_nothing_else(data: st.DataObject) -> None:
    raw = bytearray(DAMAGED[0])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(raw) != DAMAGED[0]:
        with pytest.raises(RefusedError):
            check_chain([bytes(raw), *DAMAGED[1:]], DAMAGED[2:], NOW)


DAMAGED = ders(chain())


def of_no_version(der: bytes) -> bytes:
    """X.509 ends at version 3, which is written as 2; `cryptography` has an error of its own."""
    return der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020103"), 1)


def test_a_certificate_of_a_version_that_there_is_not() -> None:
    unknown = of_no_version(DAMAGED[0])
    with pytest.raises(RefusedError, match="cannot be read"):
        check_chain([unknown, *DAMAGED[1:]], DAMAGED[2:], NOW)
    text = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
    with pytest.raises(InputError, match="the anchors"):
        parse_certificates(text % base64.b64encode(unknown), "the anchors")


# files


def test_a_pem_file_keeps_its_order() -> None:
    made = chain()
    text = b"leaf\n" + b"and then\n".join(holder.pem for holder in made)
    assert parse_certificates(text, "the chain") == ders(made)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"text",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        chain()[0].pem.replace(b"M", b"N", 1),
        chain()[0].der,
        b"\n" * (1 << 20) + chain()[0].pem,
    ],
    ids=["empty", "text", "cut", "damaged", "DER", "huge"],
)
def test_no_pem_file(raw: bytes) -> None:
    with pytest.raises(InputError, match="the anchors"):
        parse_certificates(raw, "the anchors")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1, 1)])
def test_a_chain_is_put_in_order(order: tuple[int, ...]) -> None:
    made = ders(chain())
    assert ordered_chain([made[i] for i in order]) == made


def test_a_single_certificate_is_its_own_chain() -> None:
    alone = self_signed().der
    assert ordered_chain([alone]) == [alone]


UNORDERED: dict[str, tuple[str, Callable[[list[bytes], list[bytes]], list[bytes]]]] = {
    "no root": ("lacks the certificate of CN=root", lambda a, b: a[:2]),
    "nothing between": ("2 certificates that issued no other", lambda a, b: [a[0], a[2]]),
    "two chains of one name": ("2 certificates", lambda a, b: [*a, *b]),
    "a root of the same name": ("does not belong", lambda a, b: [*a, b[2]]),
    "another intermediate": ("lacks the certificate", lambda a, b: [a[0], b[1], b[2]]),
}


@pytest.mark.parametrize(("reason", "pick"), UNORDERED.values(), ids=UNORDERED)
def test_certificates_that_make_no_chain(
    reason: str, pick: Callable[[list[bytes], list[bytes]], list[bytes]]
) -> None:
    with pytest.raises(InputError, match=reason):
        ordered_chain(pick(ders(chain()), ders(chain())))
