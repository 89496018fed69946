"""Authorization for one registry: challenges in, header values out; no sockets of its own.

The transport asks `header` before a request and `answer` after a refusal. Tokens live in memory
only. Credentials go to the registry's origin (Basic) and to the realm that this origin names
(Bearer): that is the token protocol, whose realm is often another host (auth.docker.io). What a
realm may be is therefore limited: absolute, http or https, and never http for an https registry.

Sources: RFC 9110 section 11, RFC 6750 section 3, the distribution project's token and OAuth2 specs.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from ocimodel.errors import AuthenticationError, RegistryError
from ocimodel.registry.challenges import Challenge, parse_challenges
from ocimodel.registry.credentials import Credential

if TYPE_CHECKING:
    from concurrent.futures import Future

_MAX_BODY_BYTES = 1 << 20
_DEFAULT_LIFETIME_S = 60.0  # the token specification's default
_MIN_LIFETIME_S, _MAX_LIFETIME_S = 1.0, 86_400.0
_REFRESH_AT = 0.9  # of the lifetime
_FRESH_S = 10.0  # a token refused this soon was never good; one refused later has gone stale
_MAX_REPLACEMENTS = 3

_BEARER_VALUE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a token server answered. The keys of `headers` are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


Fetch = Callable[[str, str, Mapping[str, str], bytes | None], Reply]
"""`(method, url, headers, body)`; adds no credentials, follows no redirect, caps the body."""


class _Scopes:
    """What a token is asked for: resource → actions, such as repository:team/m → {pull, push}."""

    def __init__(self, scopes: Iterable[str]) -> None:
        self._actions: dict[str, frozenset[str]] = {}
        for scope in scopes:
            resource, _, actions = scope.rpartition(":")
            if ":" not in resource:
                resource, actions = scope, ""
            known = self._actions.get(resource, frozenset())
            self._actions[resource] = known | frozenset(filter(None, actions.split(",")))

    def covers(self, other: _Scopes) -> bool:
        return all(
            resource in self._actions and actions <= self._actions[resource]
            for resource, actions in other._actions.items()
        )

    def texts(self) -> tuple[str, ...]:
        """Return them sorted, one a resource, the actions sorted too."""
        return tuple(
            f"{resource}:{','.join(sorted(actions))}" if actions else resource
            for resource, actions in sorted(self._actions.items())
        )


@dataclass(frozen=True, slots=True)
class _Realm:
    """Where a registry's tokens come from."""

    url: str
    service: str


@dataclass(frozen=True, slots=True)
class _Token:
    """A bearer token. Times are the clock's seconds; `replaces` counts its refused forerunners."""

    header: str = field(repr=False)
    scopes: _Scopes
    issued_at: float
    lifetime_s: float
    replaces: int = 0

    @property
    def refresh_at(self) -> float:
        return self.issued_at + _REFRESH_AT * self.lifetime_s

    def is_fresh(self, now: float) -> bool:
        return now - self.issued_at < min(self.lifetime_s, _FRESH_S)


_Key = tuple[str, str, tuple[str, ...]]  # service, realm, sorted scopes


class Authenticator:
    """Authorization values for one origin (`scheme://host[:port]`); safe to share between threads.

    Scopes are strings such as `repository:team/m:pull,push`. `lookup` gives the credential, or
    None for anonymous; `clock` gives seconds that never run backwards.
    """

    def __init__(
        self,
        origin: str,
        lookup: Callable[[], Credential | None],
        fetch: Fetch,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(origin)
        self._secure = parts.scheme == "https"
        self._host = parts.netloc
        self._lookup = lookup
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._basic = False
        self._realm: _Realm | None = None
        self._tokens: dict[_Key, _Token] = {}
        self._flights: dict[_Key, Future[_Token]] = {}

    def header(self, scope: frozenset[str]) -> str | None:
        """Return the Authorization to send with a request that needs these scopes, or None.

        None before the registry has asked for anything. Fetches a token where none is cached.
        Raises AuthenticationError, RegistryError (token server).
        """
        credential = self._lookup()
        if self._basic:
            return _basic(credential)
        if credential is not None and credential.registry_token:
            return f"Bearer {credential.registry_token}"
        realm = self._realm
        return None if realm is None else self._token(realm, _Scopes(scope)).header

    def answer(
        self,
        challenges: Sequence[str],
        scope: frozenset[str],
        rejected: str | None,
        status: int = 401,
    ) -> str:
        """Return the Authorization to try next, never `rejected`, which was just refused.

        `challenges`: the WWW-Authenticate values. Raises AuthenticationError when there is nothing
        left to try, RegistryError when the token server is in trouble. A caller still bounds its
        own tries: a server that refuses every token late is only seen as one that expires them.
        """
        parsed = parse_challenges(challenges)
        credential = self._lookup()
        if credential is not None and credential.registry_token:
            value = f"Bearer {credential.registry_token}"
            if value == rejected:
                raise self._refusal("refused the registry token", status)
            return value
        for challenge in parsed:
            if challenge.scheme == "bearer" and challenge.params.get("realm"):
                return self._answer_bearer(challenge, scope, rejected, status)
        if any(challenge.scheme == "basic" for challenge in parsed):
            return self._answer_basic(credential, rejected, status)
        schemes = ", ".join(challenge.scheme for challenge in parsed) or "none"
        raise self._refusal(f"offers no way to log in that is known here ({schemes})", status)

    def expires_soon(self, scope: frozenset[str], within_s: float) -> bool:
        """Say whether the token for these scopes is missing or due within so many seconds.

        Always False where there are no tokens: Basic, a registry token, or nothing asked yet.
        """
        realm = self._token_realm()
        if realm is None:
            return False
        with self._lock:
            cached = self._cached(realm, _Scopes(scope))
        return cached is None or cached.refresh_at - self._clock() <= within_s

    def refresh(self, scope: frozenset[str]) -> None:
        """Fetch a new token for these scopes; does nothing where there are no tokens."""
        realm = self._token_realm()
        if realm is not None:
            self._token(realm, _Scopes(scope), renew=True)

    def _token_realm(self) -> _Realm | None:
        credential = self._lookup()
        if self._basic or (credential is not None and credential.registry_token):
            return None
        return self._realm

    def _answer_basic(
        self, credential: Credential | None, rejected: str | None, status: int
    ) -> str:
        value = _basic(credential)
        if value is None:
            raise self._refusal("asks for a user name and password, and none is known", status)
        if value == rejected:
            raise self._refusal("refused the user name or password", status)
        self._basic = True
        return value

    def _answer_bearer(
        self, challenge: Challenge, scope: frozenset[str], rejected: str | None, status: int
    ) -> str:
        params = challenge.params
        realm = _Realm(self._checked_realm(params["realm"]), params.get("service", ""))
        wanted = _Scopes([*scope, *params.get("scope", "").split()])
        replaces = 0
        with self._lock:
            self._realm, self._basic = realm, False
            refused = self._drop(rejected)
        if refused is not None and refused.is_fresh(self._clock()):
            covers = refused.scopes.covers(wanted)
            hopeless = covers and (
                refused.replaces > 0 or params.get("error") == "insufficient_scope"
            )
            if hopeless or refused.replaces >= _MAX_REPLACEMENTS:
                raise self._refusal(f"refused a new token for {_named(wanted)}", status)
            replaces = refused.replaces + 1
        token = self._token(realm, wanted, replaces=replaces)
        if token.header == rejected:
            with self._lock:
                self._drop(rejected)
            raise self._refusal(f"refused the token for {_named(wanted)}", status)
        return token.header

    def _drop(self, header: str | None) -> _Token | None:
        """Forget the token that this header carried, and return it. Called with the lock held."""
        for key, token in self._tokens.items():
            if token.header == header:
                return self._tokens.pop(key)
        return None

    def _cached(self, realm: _Realm, wanted: _Scopes) -> _Token | None:
        """Return the longest-lived good token that covers `wanted`. Called with the lock held."""
        now = self._clock()
        good = [
            token
            for (service, url, _), token in self._tokens.items()
            if (url, service) == (realm.url, realm.service)
            and now < token.refresh_at
            and token.scopes.covers(wanted)
        ]
        return max(good, key=lambda token: token.refresh_at, default=None)

    def _token(
        self, realm: _Realm, wanted: _Scopes, *, replaces: int = 0, renew: bool = False
    ) -> _Token:
        """Return a token from the cache, or fetch one; threads that want the same share a fetch."""
        key = (realm.service, realm.url, wanted.texts())
        with self._lock:
            if not renew and (cached := self._cached(realm, wanted)) is not None:
                return cached
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                # with its module comes logging; who needs no token shall not wait for that
                from concurrent.futures import Future

                flight = self._flights[key] = Future()
        if not mine:
            return flight.result()
        try:
            token = self._fetch_token(realm, wanted, replaces)
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            flight.set_exception(error)
            raise
        with self._lock:
            now = self._clock()
            self._tokens = {k: t for k, t in self._tokens.items() if now < t.refresh_at}
            self._tokens[key] = token
            del self._flights[key]
        flight.set_result(token)
        return token

    def _fetch_token(self, realm: _Realm, wanted: _Scopes, replaces: int) -> _Token:
        credential = self._lookup() or Credential()
        issued_at = self._clock()  # before the request: the lifetime may count from then
        reply = None
        if credential.identity_token:
            reply = self._post(realm, wanted, credential.identity_token)
            if reply.status in (404, 405):  # a server without OAuth2: the token as a password
                reply = None
                password = credential.password or credential.identity_token
                credential = Credential(credential.username, password)
        if reply is None:
            reply = self._get(realm, wanted, credential)
        self._check(reply, realm, wanted)
        value, lifetime_s = _parse_token(reply.body, realm.url)
        return _Token(f"Bearer {value}", wanted, issued_at, lifetime_s, replaces)

    def _get(self, realm: _Realm, wanted: _Scopes, credential: Credential) -> Reply:
        parts = urlsplit(realm.url)
        query = [("service", realm.service)] if realm.service else []
        query += [("scope", scope) for scope in wanted.texts()]
        joined = "&".join(filter(None, (parts.query, urlencode(query))))
        url = urlunsplit(parts._replace(query=joined))
        headers = {"accept": "application/json"}
        if value := _basic(credential):
            headers["authorization"] = value
        return self._fetch("GET", url, headers, None)

    def _post(self, realm: _Realm, wanted: _Scopes, identity_token: str) -> Reply:
        form = {
            "grant_type": "refresh_token",
            "service": realm.service,
            "client_id": "ocimodel",
            "refresh_token": identity_token,
        }
        if scope := " ".join(wanted.texts()):
            form["scope"] = scope
        headers = {
            "accept": "application/json",
            "content-type": "application/x-www-form-urlencoded",
        }
        return self._fetch("POST", realm.url, headers, urlencode(form).encode())

    def _check(self, reply: Reply, realm: _Realm, wanted: _Scopes) -> None:
        if reply.status in (400, 401, 403):  # 400: RFC 6749 section 5.2, invalid_grant
            raise AuthenticationError(
                f"the token server of {self._host} ({_place(realm.url)}) refused a token for "
                f"{_named(wanted)}, status {reply.status}",
                hint=f"ocimodel login {self._host}",
            )
        if reply.status != 200:
            raise RegistryError(
                f"the token server {_place(realm.url)} answered {reply.status}, not 200",
                status=reply.status,
            )

    def _checked_realm(self, realm: str) -> str:
        """Return the realm as a URL to ask, without a fragment; refuse one that is not safe."""
        parts = _split_url(realm)
        if parts is None:
            raise self._refusal(
                f"names {realm[:200]!r} as its token server, which is no http(s) URL"
            )
        if parts.scheme == "http" and self._secure:
            raise self._refusal(f"wants credentials sent in the clear to {_place(realm)}")
        return urlunsplit(parts._replace(fragment=""))

    def _refusal(self, what: str, status: int = 401) -> AuthenticationError:
        return AuthenticationError(
            f"{self._host} {what} (status {status})", hint=f"ocimodel login {self._host}"
        )


def _basic(credential: Credential | None) -> str | None:
    if credential is None or not credential.password:
        return None
    pair = f"{credential.username}:{credential.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _named(scopes: _Scopes) -> str:
    return " ".join(scopes.texts()) or "no scope"


def _place(url: str) -> str:
    """The URL without its query, for messages."""
    return urlunsplit(urlsplit(url)._replace(query=""))


def _split_url(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return None
    safe = _BEARER_VALUE.fullmatch(url) is not None and "@" not in parts.netloc
    return parts if safe and parts.scheme in ("http", "https") and parts.hostname else None


def _parse_token(body: bytes, realm: str) -> tuple[str, float]:
    """Return the token and its lifetime in seconds. Raises RegistryError."""
    if len(body) > _MAX_BODY_BYTES:
        raise RegistryError(f"the token server {_place(realm)} sent over {_MAX_BODY_BYTES} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None  # named below without the body: it may hold a token
    if not isinstance(document, dict):
        raise RegistryError(f"the token server {_place(realm)} sent no JSON object")
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not _BEARER_VALUE.fullmatch(token):
        raise RegistryError(f"the token server {_place(realm)} sent no usable token")
    stated = document.get("expires_in")
    # `stated > 0` leaves out NaN; a bool is an int to Python.
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not stated > 0:
        return token, _DEFAULT_LIFETIME_S
    return token, float(min(max(stated, _MIN_LIFETIME_S), _MAX_LIFETIME_S))
