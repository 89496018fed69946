"""Requests to one registry: authorization, redirects, retries, and errors that say what to do.

Credentials go to the registry's own origin and nowhere else: not along a redirect, not to an
upload Location on another host, not to a mirror.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import ssl
import time
import unicodedata
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from ocimodel.errors import AuthenticationError, InputError, NotFoundError, RegistryError
from ocimodel.events import Notice, Observer, ignore
from ocimodel.registry.auth import Authenticator, Reply
from ocimodel.registry.challenges import parse_challenges
from ocimodel.registry.credentials import Credential
from ocimodel.registry.mirrors import tls_files
from ocimodel.registry.wire import Answer, Body, NetworkErrors, TlsOptions, Wire, origin_of, place
from ocimodel.spec.reference import is_loopback

Scope = frozenset[str]
NO_SCOPE: Scope = frozenset()
RETRIED = frozenset({429, 500, 502, 503, 504})
MAX_REDIRECTS = 5
# longer than this a person should decide, not a program
MAX_WAIT_S = 60.0
MAX_ERROR_BYTES = 64 << 10
MAX_TOKEN_BYTES = 1 << 20
PROXY_HINT = "name the proxy with a user: https_proxy=http://USER:PASSWORD@HOST:PORT"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How to reach registries; the defaults are the safe ones.

    `plain_http`: no TLS; loopback needs no asking. `insecure`: accept any certificate.
    `timeout_s`: without any byte. `n_attempts`: for each request. `mirrors`: hosts, for pulls.
    `certificate_folders`: like /etc/docker/certs.d; None for the system's. `sleep`: how to wait, in
    seconds, before another attempt.
    """

    plain_http: bool = False
    insecure: bool = False
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    registry_config: Path | None = None
    mirrors: tuple[str, ...] = ()
    timeout_s: float = 60.0
    n_attempts: int = 5
    certificate_folders: tuple[Path, ...] | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)
    user_agent: str = "ocimodel"


class Lookup(Protocol):
    """Where credentials come from."""

    def lookup(self, host: str, repository: str = "") -> Credential | None: ...


class UploadRefusedError(RegistryError):
    """A streamed body was not taken; whoever sends it starts over with a new upload.

    `retry_after`: the header of that name, or None.
    """

    retry_after: str | None = None


class Client:
    """Speaks to one host. Thread-safe; connections and tokens are shared by all its users."""

    def __init__(
        self,
        host: str,
        options: ClientOptions,
        credentials: Lookup | None,
        *,
        repository: str = "",
        observer: Observer = ignore,
        tls: TlsOptions | None = None,
        scheme: str = "",
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self._options = options
        self._observer = observer
        self._extra_headers = dict(extra_headers or {})
        self._tls = tls or _tls_options(host, options)
        self._assumed = not scheme and not options.plain_http and is_loopback(host)
        self._scheme = scheme or self._guess_scheme(options)
        self._wire = Wire(
            self._tls_for,
            options.environ,
            timeout_s=options.timeout_s,
            user_agent=options.user_agent,
        )
        self._lookup = lambda: credentials.lookup(host, repository) if credentials else None
        self._authenticator = Authenticator(self.base, self._lookup, self._fetch_token)

    def _guess_scheme(self, options: ClientOptions) -> str:
        if options.plain_http:
            return "http"
        wants_tls = options.insecure or self._tls.ca_files or self._tls.client_certificates
        return "http" if is_loopback(self.host) and not wants_tls else "https"

    @property
    def base(self) -> str:
        return f"{self._scheme}://{self.host}"

    def request(
        self,
        method: str,
        url: str,
        *,
        scope: Scope = NO_SCOPE,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        accept: Container[int] = (200,),
        what: str = "",
    ) -> Answer:
        """Send until an answer with a status in `accept` comes; the caller closes it.

        `url`: absolute, or a path of this registry. `scope`: what a token must allow, such as
        {`repository:team/model:pull`}. `what`: names the thing in errors. A streamed body is sent
        once: UploadRefusedError tells that a new upload must be started. Raises NotFoundError,
        AuthenticationError, RegistryError.
        """
        for attempt in range(1, self._options.n_attempts + 1):
            last = attempt == self._options.n_attempts or isinstance(body, Body)
            try:
                answer = self._authorized(method, url, scope, headers or {}, body)
            except NetworkErrors as error:
                failed = self._network_error(method, url, error)
                if last or isinstance(error, ssl.SSLCertVerificationError) or failed.status == 407:
                    raise _refused(failed, body) from error
                self.wait(attempt, None, str(failed))
                continue
            if answer.status in accept:
                return answer
            failure = error_of(answer, method, what)
            retry_after = answer.headers.get("retry-after")
            if isinstance(failure, RegistryError) and failure.status in RETRIED and not last:
                self.wait(attempt, retry_after, str(failure))
                continue
            raise _refused(failure, body, retry_after)
        raise AssertionError("the loop ends by return or raise")

    def fetch(
        self,
        method: str,
        url: str,
        *,
        limit: int,
        scope: Scope = NO_SCOPE,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        accept: Container[int] = (200,),
        what: str = "",
    ) -> tuple[Answer, bytes]:
        """Like `request`, with the answer's whole body; one that breaks off is asked for again.

        InputError when it is over `limit` bytes.
        """
        for attempt in range(1, self._options.n_attempts + 1):
            answer = self.request(
                method, url, scope=scope, headers=headers, body=body, accept=accept, what=what
            )
            try:
                return answer, b"" if method == "HEAD" else answer.read(limit)
            except NetworkErrors as error:
                failed = self._network_error(method, url, error)
                if attempt == self._options.n_attempts:
                    raise failed from error
                self.wait(attempt, None, str(failed))
            finally:
                answer.close()
        raise AssertionError("the loop ends by return or raise")

    def absolute(self, url: str) -> str:
        return urljoin(self.base, url)

    def is_own(self, url: str) -> bool:
        """Whether `url` lies at the origin that credentials belong to."""
        return origin_of(url) == origin_of(self.base)

    def refresh(self, scope: Scope, within_s: float) -> None:
        """Have a token that lasts for a while, before a long upload."""
        if self._authenticator.expires_soon(scope, within_s):
            self._authenticator.refresh(scope)

    def close(self) -> None:
        self._wire.close()

    # one authorized exchange

    def _authorized(
        self,
        method: str,
        url: str,
        scope: Scope,
        headers: Mapping[str, str],
        body: Body | bytes | None,
    ) -> Answer:
        """Send, answering challenges; a challenge after a streamed body is left to its sender."""
        for _ in range(4):
            absolute = self.absolute(url)
            own = self.is_own(absolute)
            authorization = self._authenticator.header(scope) if own else None
            answer = self._follow(method, absolute, headers, body, authorization)
            if self._speaks_tls(method, answer):
                continue
            if not (own and self.is_own(answer.url) and _is_challenge(answer)):
                return answer
            challenges, status = answer.challenges, answer.status
            answer.close()
            self._authenticator.answer(challenges, scope, authorization, status)
            if isinstance(body, Body):
                raise UploadRefusedError(
                    f"{self.host} asked for authorization after the upload began", status=status
                )
        raise AuthenticationError(
            f"{self.host} keeps refusing its own tokens", hint=f"ocimodel login {self.host}"
        )

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | bytes | None,
        authorization: str | None,
    ) -> Answer:
        sent = {**headers, **self._extra_headers}
        if authorization:
            sent["Authorization"] = authorization
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._wire.send(method, url, sent, body)
            location = answer.headers.get("location")
            if method not in ("GET", "HEAD") or answer.status not in _REDIRECTS or not location:
                return answer
            answer.close()
            target = urljoin(url, location)
            if urlsplit(target).scheme not in ("http", "https"):
                raise RegistryError(f"{place(url)} redirects to {urlsplit(target).scheme}:")
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
                raise RegistryError(
                    f"{place(url)} redirects from https to {place(target)}",
                    hint="fix the registry's storage redirect: it must keep TLS",
                )
            if not self.is_own(target):
                # what belongs to this origin stays here, and does not come back with a later hop
                sent = {k: v for k, v in headers.items() if k.lower() != "authorization"}
            url = target
        raise RegistryError(f"{place(url)}: more than {MAX_REDIRECTS} redirects")

    def _speaks_tls(self, method: str, answer: Answer) -> bool:
        """Plain HTTP was a guess for loopback; Go's server has one bare line for it."""
        if not self._assumed or self._scheme != "http" or answer.status != 400 or answer.headers:
            return False
        said = b"HTTPS server"
        if method != "HEAD":
            with contextlib.suppress(*NetworkErrors, InputError):
                said = answer.read(MAX_ERROR_BYTES)
        answer.close()
        if b"HTTPS server" not in said:
            raise RegistryError(f"{self.host} answered 400 to plain HTTP", status=400)
        self._scheme = "https"
        self._authenticator = Authenticator(self.base, self._lookup, self._fetch_token)
        return True

    def _fetch_token(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        for attempt in range(1, self._options.n_attempts + 1):
            try:
                answer = self._wire.send(method, url, headers, body)
                reply = Reply(answer.status, answer.headers, answer.read(MAX_TOKEN_BYTES))
            except NetworkErrors as error:
                failure = self._network_error(method, url, error)
                if attempt == self._options.n_attempts:
                    raise failure from error
                self.wait(attempt, None, str(failure))
                continue
            if reply.status not in RETRIED or attempt == self._options.n_attempts:
                return reply
            self.wait(attempt, reply.headers.get("retry-after"), f"token server: {reply.status}")
        raise AssertionError("the loop ends by return or raise")

    def _tls_for(self, netloc: str) -> TlsOptions:
        """Private roots and skipped checks hold for this registry; its CDN is the public's."""
        host = netloc.rpartition("@")[2]
        if host == self.host or self._options.ca_file or self._options.insecure:
            return self._tls if host == self.host else _tls_options("", self._options, own=False)
        return TlsOptions()

    # failing and waiting

    def _network_error(self, method: str, url: str, error: Exception) -> RegistryError:
        where = place(self.absolute(url))
        if isinstance(error, ssl.SSLCertVerificationError):
            return RegistryError(
                f"{where}: the certificate is not trusted: {error.verify_message}",
                hint="give its authority with --ca-file",
            )
        if isinstance(error, ssl.SSLError):
            return RegistryError(
                f"{where}: TLS failed: {error.reason or error}",
                hint="if this registry speaks plain HTTP, say --plain-http",
            )
        if "Tunnel connection failed: 407" in str(error):
            return RegistryError(
                f"{where}: the proxy asks who you are", status=407, hint=PROXY_HINT
            )
        reason = "no answer in time" if isinstance(error, TimeoutError) else _plain(str(error))
        return RegistryError(
            f"{method} {where} failed: {reason or type(error).__name__}",
            hint=f"is {self.host} up and reachable? ocimodel doctor {self.host} tells",
        )

    def wait(self, attempt: int, retry_after: str | None, why: str) -> None:
        """Wait before trying again; RegistryError when the registry asks for too long a wait."""
        wait_s = _seconds(retry_after)
        if wait_s is None:
            import random

            wait_s = min(8.0, 0.2 * 2**attempt) * random.uniform(0.75, 1.25)  # noqa: S311
        if wait_s > MAX_WAIT_S:
            raise RegistryError(
                f"{self.host} asks to wait {wait_s:.0f} s: {why}",
                status=429,
                hint="try again later, or log in for a higher rate limit",
            )
        self._observer(Notice(f"{why}; trying again in {wait_s:.1f} s"))
        self._options.sleep(wait_s)


def _tls_options(host: str, options: ClientOptions, *, own: bool = True) -> TlsOptions:
    """Flags first, then certs.d folders. A client certificate is only for the registry itself."""
    folders = options.certificate_folders
    files = None
    if own:
        files = tls_files(host) if folders is None else tls_files(host, folders)
    pairs: tuple[tuple[Path, Path | None], ...] = files.client_certs if files else ()
    if options.client_cert and own:
        pairs = ((options.client_cert, options.client_key),)
    ca_files = ((options.ca_file,) if options.ca_file else ()) + (files.ca_files if files else ())
    return TlsOptions(ca_files, pairs, verify=not options.insecure)


def _is_challenge(answer: Answer) -> bool:
    if answer.status == 401:
        return True
    return answer.status == 403 and any(
        c.params.get("error") == "insufficient_scope" for c in parse_challenges(answer.challenges)
    )


def _refused(
    failure: Exception, body: Body | bytes | None, retry_after: str | None = None
) -> Exception:
    if not isinstance(body, Body) or not isinstance(failure, RegistryError | NotFoundError):
        return failure
    # 404 to a body: not the repository, but the upload is gone
    status = failure.status if isinstance(failure, RegistryError) else 404
    refused = UploadRefusedError(str(failure), status=status, hint=failure.hint)
    refused.retry_after = retry_after
    return refused


def error_of(answer: Answer, method: str, what: str = "") -> Exception:
    """The declared error for an answer that was not accepted; closes it."""
    said = ""
    with contextlib.suppress(*NetworkErrors, InputError):
        said = _message(answer.read(MAX_ERROR_BYTES)) if method != "HEAD" else ""
    answer.close()
    where = what or place(answer.url)
    detail = f": {said}" if said else ""
    if answer.status == 404:
        return NotFoundError(f"{where} was not found{detail}")
    host = urlsplit(answer.url).netloc
    if answer.status in (401, 403):
        return AuthenticationError(
            f"{method} of {where} was refused with {answer.status}{detail}",
            hint=f"ocimodel login {host}, or ask for the right to do this",
        )
    hint = "try again later" if answer.status in RETRIED else ""
    if answer.status == 407:
        hint = PROXY_HINT
    return RegistryError(
        f"{method} of {where} answered {answer.status}{detail}", status=answer.status, hint=hint
    )


def _message(body: bytes) -> str:
    """The messages in an error body, safe for a terminal. Source: distribution-spec, errors."""
    try:
        errors = json.loads(body)["errors"]
        texts = [f"{e.get('code', '')} {e.get('message', '')}".strip() for e in errors[:3]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return _plain("; ".join(texts))[:300]


def _plain(text: str) -> str:
    return "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).strip()


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After as seconds or as a date. Source: RFC 9110 section 10.2.3."""
    if not retry_after:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(int(retry_after)))
    with contextlib.suppress(ValueError, TypeError):
        moment = email.utils.parsedate_to_datetime(retry_after)
        return max(0.0, moment.timestamp() - time.time())
    return None
