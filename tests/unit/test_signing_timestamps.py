"""Timestamps by a real authority (OpenSSL), and what is no timestamp."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import RegistryError, UsageError
from ocimodel.signing.timestamps import (
    MAX_RESPONSE_BYTES,
    MAX_TIMESTAMPS,
    request_timestamp,
    token_of,
    trusted_time,
)
from tests.servers.process import free_port
from tests.servers.tsa import TimestampAuthority

pytest.importorskip("rfc3161_client", reason="needs the extra tsa")
SIGNATURE = b"what was signed"
STAMPING = ExtendedKeyUsageOID.TIME_STAMPING


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimestampAuthority]:
    with TimestampAuthority(tmp_path_factory.mktemp("tsa")) as found:
        yield found


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimestampAuthority]:
    with TimestampAuthority(tmp_path_factory.mktemp("stranger")) as found:
        yield found


@pytest.fixture(scope="module")
def response(authority: TimestampAuthority) -> bytes:
    return request_timestamp(authority.url, SIGNATURE)


def test_a_response_and_its_token_tell_the_time(
    authority: TimestampAuthority, response: bytes
) -> None:
    found = trusted_time([response], SIGNATURE, [authority.root])
    assert found is not None
    assert abs(found - datetime.now(UTC)) < timedelta(hours=1)
    assert trusted_time([token_of(response)], SIGNATURE, [authority.root]) == found


def test_openssl_accepts_what_we_asked_for(authority: TimestampAuthority, response: bytes) -> None:
    data, reply = authority.folder / "data", authority.folder / "asked.tsr"
    data.write_bytes(SIGNATURE)
    reply.write_bytes(response)
    done = subprocess.run(
        ["openssl", "ts", "-verify", "-data", data, "-in", reply, "-CAfile",
         authority.folder / "ca.pem"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_query_holds_a_hash_and_no_content(
    authority: TimestampAuthority, response: bytes
) -> None:
    assert len(authority.queries) >= 1
    assert all(SIGNATURE not in query for query in authority.queries)


def test_one_that_holds_is_enough(
    authority: TimestampAuthority, stranger: TimestampAuthority, response: bytes
) -> None:
    right = trusted_time([response], SIGNATURE, [authority.root])
    foreign = request_timestamp(stranger.url, SIGNATURE)
    several = [b"", b"no timestamp", foreign, response]
    assert right is not None
    assert trusted_time(several, SIGNATURE, [authority.root]) == right
    assert trusted_time(several, SIGNATURE, [stranger.root, authority.root]) is not None


def test_the_earliest_counts(authority: TimestampAuthority, response: bytes) -> None:
    token, minutes = token_of(response), timedelta(minutes=30)
    earlier = authority.resigned(token, authority.certificate(), -minutes)
    later = authority.resigned(token, authority.certificate(), minutes)
    right = trusted_time([response], SIGNATURE, [authority.root])
    assert right is not None
    assert trusted_time([later], SIGNATURE, [authority.root]) == right + minutes
    several = [response, earlier, later]
    assert trusted_time(several, SIGNATURE, [authority.root]) == right - minutes


@pytest.mark.parametrize("days", [-1, 30])
def test_an_authority_counts_while_its_certificate_does(
    authority: TimestampAuthority, response: bytes, days: int
) -> None:
    """Certificates of `tests.servers.certs` are good for a week, from an hour ago."""
    certificate, away = authority.certificate(), timedelta(days=days)
    token = authority.resigned(token_of(response), certificate, away)
    assert trusted_time([token], SIGNATURE, [authority.root]) is None


def resigned(
    authority: TimestampAuthority,
    response: bytes,
    purposes: Sequence[x509.ObjectIdentifier],
    *,
    critical: bool = True,
) -> bytes:
    certificate = authority.certificate(purposes, critical=critical)
    return authority.resigned(token_of(response), certificate)


def test_a_token_can_be_signed_anew(authority: TimestampAuthority, response: bytes) -> None:
    """What the next test relies on: it is the certificate that it is refused for."""
    again = resigned(authority, response, [STAMPING])
    assert trusted_time([again], SIGNATURE, [authority.root]) is not None


PURPOSES = {
    "none": ([], True),
    "not critical": ([STAMPING], False),
    "code signing": ([ExtendedKeyUsageOID.CODE_SIGNING], True),
    "anything": ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], True),
    "code signing too": ([STAMPING, ExtendedKeyUsageOID.CODE_SIGNING], True),
    "something unknown too": ([STAMPING, x509.ObjectIdentifier("1.2.3.4")], True),
}


@pytest.mark.parametrize(("purposes", "critical"), PURPOSES.values(), ids=PURPOSES)
def test_an_authority_does_nothing_else(
    authority: TimestampAuthority,
    response: bytes,
    purposes: list[x509.ObjectIdentifier],
    critical: bool,
) -> None:
    found = resigned(authority, response, purposes, critical=critical)
    assert trusted_time([found], SIGNATURE, [authority.root]) is None


def test_what_does_not_hold_is_passed_over(
    authority: TimestampAuthority, stranger: TimestampAuthority, response: bytes
) -> None:
    roots = [authority.root]
    assert trusted_time([response], SIGNATURE + b"!", roots) is None
    assert trusted_time([response], SIGNATURE, [stranger.root]) is None
    assert trusted_time([response], SIGNATURE, []) is None
    assert trusted_time([], SIGNATURE, roots) is None
    assert trusted_time([response[:-1]], SIGNATURE, roots) is None
    assert trusted_time([token_of(response)[:-1]], SIGNATURE, roots) is None


def test_no_more_than_a_few_are_looked_at(authority: TimestampAuthority, response: bytes) -> None:
    many = [b"no timestamp"] * MAX_TIMESTAMPS
    assert trusted_time([*many, response], SIGNATURE, [authority.root]) is None
    assert trusted_time([*many[1:], response], SIGNATURE, [authority.root]) is not None


def test_a_refusal_is_no_timestamp(authority: TimestampAuthority, tmp_path: Path) -> None:
    with TimestampAuthority(tmp_path, digests="sha512") as other:
        with pytest.raises(RegistryError, match="gave no timestamp"):
            request_timestamp(other.url, SIGNATURE)
        refusal = other.reply(other.queries[0])
        assert trusted_time([refusal], SIGNATURE, [other.root]) is None


def answered(
    authority: TimestampAuthority, status: int, body: bytes | Callable[[bytes], bytes]
) -> None:
    make = body if callable(body) else lambda _: body
    authority.answer = lambda query: (status, make(query))
    try:
        request_timestamp(authority.url, SIGNATURE)
    finally:
        authority.answer = None


@pytest.mark.parametrize("status", [201, 302, 404, 500])
def test_only_200_is_an_answer(authority: TimestampAuthority, status: int) -> None:
    with pytest.raises(RegistryError, match=f"answered {status}"):
        answered(authority, status, b"")


@pytest.mark.parametrize("body", [b"", b"<html>", b"0\x00"])
def test_an_answer_that_is_no_timestamp(authority: TimestampAuthority, body: bytes) -> None:
    with pytest.raises(RegistryError, match="sent no timestamp"):
        answered(authority, 200, body)


def test_an_answer_is_bounded(authority: TimestampAuthority) -> None:
    with pytest.raises(RegistryError, match="over the limit"):
        answered(authority, 200, bytes(MAX_RESPONSE_BYTES + 1))


def test_an_answer_to_another_question_is_refused(
    authority: TimestampAuthority, response: bytes
) -> None:
    """The same message with another nonce, and another message with the same nonce."""
    with pytest.raises(RegistryError, match="not asked"):
        answered(authority, 200, response)

    def of_another_message(query: bytes) -> bytes:
        ours, other = sha256(SIGNATURE).digest(), sha256(b"other").digest()
        assert ours in query
        return authority.reply(query.replace(ours, other))

    with pytest.raises(RegistryError, match="not asked"):
        answered(authority, 200, of_another_message)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://tsa.example/x", "is not https"),
        ("ftp://tsa.example/x", "is no URL"),
        ("tsa.example", "is no URL"),
        ("https://", "is no URL"),
        ("https://[::1", "is no URL"),
        ("https://tsa.example:http", "is no URL"),
        ("", "is no URL"),
    ],
)
def test_where_nobody_is_asked(url: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        request_timestamp(url, SIGNATURE)


def test_plain_http_is_a_choice(authority: TimestampAuthority) -> None:
    # this machine under a name that does not say so
    url = authority.url.replace("127.0.0.1", "0.0.0.0")
    with pytest.raises(UsageError, match="is not https"):
        request_timestamp(url, SIGNATURE)
    assert request_timestamp(url, SIGNATURE, plain_http=True)


def test_nobody_there() -> None:
    with pytest.raises(RegistryError, match="gave no timestamp"):
        request_timestamp(f"http://127.0.0.1:{free_port()}", SIGNATURE)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(UsageError, match="rfc3161-client") as raised:
        trusted_time([b"some"], SIGNATURE, [b"some"])
    assert raised.value.hint == "pip install 'ocimodel[tsa]'"
    with pytest.raises(UsageError):
        request_timestamp("https://tsa.example", SIGNATURE)
    # nothing to check, nothing to install
    assert trusted_time([], SIGNATURE, [b"some"]) is None
    assert trusted_time([b"some"], SIGNATURE, []) is None


@given(data=st.data(), bare=st.booleans())
def test_damage_gives_the_same_time_or_none(
    authority: TimestampAuthority, response: bytes, data: st.DataObject, bare: bool
) -> None:
    """The certificates that go along are not under the signature; the time is."""
    raw = bytearray(token_of(response) if bare else response)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    right = trusted_time([response], SIGNATURE, [authority.root])
    assert trusted_time([bytes(raw)], SIGNATURE, [authority.root]) in (right, None)


def test_a_certificate_of_a_version_that_there_is_not(
    authority: TimestampAuthority, response: bytes
) -> None:
    """Every version in it, one after the other: X.509 ends at 3, which is written as 2."""
    right = trusted_time([response], SIGNATURE, [authority.root])
    version = bytes.fromhex("a003020102")
    starts = [i for i in range(len(response)) if response.startswith(version, i)]
    assert starts
    for start in starts:
        damaged = response[: start + 4] + b"\x03" + response[start + 5 :]
        assert trusted_time([damaged], SIGNATURE, [authority.root]) in (right, None)
        assert trusted_time([damaged, response], SIGNATURE, [authority.root]) == right
