"""RFC 3161: a third party says when a signature was there already. Needs the extra `tsa`.

What asks for a timestamp sends a hash only. Source: RFC 3161 and RFC 5816.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ocimodel.errors import InputError, RegistryError, UsageError
from ocimodel.registry.wire import NetworkErrors, TlsOptions, Wire, place
from ocimodel.spec.reference import is_loopback

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

MAX_RESPONSE_BYTES: Final = 64 << 10
MAX_TIMESTAMPS: Final = 8
_OBJECT_IDENTIFIER: Final = 0x06
# DER of PKIStatusInfo { status granted(0) }
_GRANTED: Final = bytes.fromhex("3003020100")


def request_timestamp(
    url: str,
    message: bytes,
    *,
    timeout_s: float = 30.0,
    plain_http: bool = False,
    environ: Mapping[str, str] | None = None,
    user_agent: str = "ocimodel",
) -> bytes:
    """The authority's whole answer for `message`, DER, as a Sigstore bundle holds it.

    https only, but for loopback or with `plain_http`; redirects are not followed. `environ`: with
    the proxies. Raises UsageError, and RegistryError when there is no usable answer: whether to
    believe it is for `trusted_time`.
    """
    client = _library()
    _check_url(url, plain_http=plain_http)
    builder = client.TimestampRequestBuilder().hash_algorithm(client.HashAlgorithm.SHA256)
    request = builder.data(message).cert_request(cert_request=True).build()
    wire = Wire(lambda _: TlsOptions(), environ or {}, timeout_s=timeout_s, user_agent=user_agent)
    raw = _post(wire, url, request.as_bytes())
    try:
        response: TimeStampResponse = client.decode_timestamp_response(raw)
        if response.status != 0:
            said = "; ".join(response.status_string) or "no reason given"
            raise RegistryError(f"{place(url)} gave no timestamp: {said[:500]}")
        stamped = response.tst_info
        is_ours = stamped.message_imprint.message == hashlib.sha256(message).digest()
        if not is_ours or stamped.nonce != request.nonce:
            raise RegistryError(f"{place(url)} answered something that was not asked")
    except ValueError as error:
        raise RegistryError(f"{place(url)} sent no timestamp: {error}") from error
    return raw


def token_of(response: bytes) -> bytes:
    """The token inside an answer of `request_timestamp`, DER, as a notation envelope holds it."""
    token: bytes = _library().decode_timestamp_response(response).time_stamp_token()
    return token


def trusted_time(
    timestamps: Sequence[bytes], signature: bytes, anchors: Sequence[bytes]
) -> datetime | None:
    """When, at the latest, `signature` was there, by the earliest timestamp that the anchors back.

    `timestamps`: whole answers or bare tokens, DER, at most MAX_TIMESTAMPS of which are looked at;
    those that do not hold are passed over. `anchors`: DER of authorities' roots. Raises UsageError
    where there is something to check and the extra is missing.
    """
    if not timestamps or not anchors:
        return None
    from cryptography import x509

    from ocimodel.signing.x509 import UNREADABLE

    client = _library()
    roots = [x509.load_der_x509_certificate(der) for der in anchors]
    verifier = client.VerifierBuilder(roots=roots).build()
    moments = []
    for timestamp in timestamps[:MAX_TIMESTAMPS]:
        try:
            response = client.decode_timestamp_response(_as_response(timestamp))
            verifier.verify_message(response, signature)
            if _is_for_timestamps_only(response):
                moments.append(response.tst_info.gen_time.astimezone(UTC))
        except (*UNREADABLE, x509.ExtensionNotFound, client.VerificationError):
            continue
    return min(moments, default=None)


def _library() -> Any:
    try:
        import rfc3161_client
    except ImportError as error:
        raise UsageError(
            "RFC 3161 timestamps need the package rfc3161-client",
            hint="pip install 'ocimodel[tsa]'",
        ) from error
    return rfc3161_client


def _check_url(url: str, *, plain_http: bool) -> None:
    try:
        target = urlsplit(url)
        is_url = target.scheme in ("http", "https") and target.hostname and target.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise UsageError(f"{url[:200]!r} is no URL of a timestamp authority")
    if target.scheme == "http" and not (plain_http or is_loopback(target.netloc)):
        raise UsageError(f"{place(url)} is not https", hint="use https, or say --plain-http")


def _post(wire: Wire, url: str, query: bytes) -> bytes:
    headers = {"Content-Type": "application/timestamp-query"}
    try:
        answer = wire.send("POST", url, headers, query)
        try:
            if answer.status != 200:
                raise RegistryError(
                    f"{place(url)} answered {answer.status}, not 200", status=answer.status
                )
            return answer.read(MAX_RESPONSE_BYTES)
        finally:
            answer.close()
    except (*NetworkErrors, InputError) as error:
        raise RegistryError(
            f"{place(url)} gave no timestamp: {error}", hint="is the timestamp authority reachable?"
        ) from error
    finally:
        wire.close()


def _as_response(timestamp: bytes) -> bytes:
    """A bare token, put into the answer that it may have come in; an answer as it is."""
    # behind the outer header an answer has a sequence, a token its type
    start = 2 if timestamp[1:2] < b"\x80" else 2 + (timestamp[1] & 0x7F)
    if timestamp[start : start + 1] != bytes([_OBJECT_IDENTIFIER]):
        return timestamp
    content = _GRANTED + timestamp
    n = len(content)
    length = n.to_bytes((n.bit_length() + 7) // 8)
    # a token is longer than what one byte can say
    return bytes([0x30, 0x80 | len(length)]) + length + content


def _is_for_timestamps_only(response: TimeStampResponse) -> bool:
    """Whether the signer's certificate may do nothing else. Source: RFC 3161, section 2.3."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    (signer,) = response.signed_data.signer_infos
    for der in response.signed_data.certificates:
        certificate = x509.load_der_x509_certificate(der)
        if (certificate.issuer, certificate.serial_number) == (signer.issuer, signer.serial_number):
            purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
            return list(purposes.value) == [ExtendedKeyUsageOID.TIME_STAMPING] and purposes.critical
    return False
