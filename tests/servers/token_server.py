"""A strict token server: a token carries exactly what was asked for and granted, no more.

Distribution's token scheme, with tokens that docker-registry accepts (ES256, `x5c`).
"""

from __future__ import annotations

import base64
import fnmatch
import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.servers.certs import new_key, pem, self_signed
from tests.servers.loopback import LoopbackServer, QuietHandler, lower

if TYPE_CHECKING:
    from tests.servers.certs import Certs

REGISTRY_LEEWAY_S = 60  # docker-registry accepts a token this long after its `exp`
EVERYTHING = {"*": frozenset({"pull", "push", "delete", "*"})}
Grants = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class User:
    """A password, what may be done where (repository glob → actions), an identity token."""

    password: str
    grants: Grants = field(default_factory=lambda: EVERYTHING)
    identity_token: str | None = None


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request for a token; header names are lower-case, `user` is "" when anonymous."""

    method: str
    scopes: tuple[str, ...]
    headers: dict[str, str]
    form: dict[str, str]
    user: str
    status: int


class TokenServer(LoopbackServer):
    """Issues tokens at `.realm`; `.requests` and `.count(scope)` tell what was asked.

    `expires_in` is in seconds and exact for docker-registry (its leeway is taken off);
    a negative one gives tokens that are refused at once. `anonymous` are the grants of
    requests without credentials: None answers them 401. `oauth2` turns on the POST form
    (refresh_token and password grants), which else answers 404.
    """

    service = "test-registry"
    issuer = "test-issuer"

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, User] | None = None,
        anonymous: Grants | None = None,
        expires_in: int = 300,
        oauth2: bool = False,
        tls: Certs | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self.users = dict(users if users is not None else {"alice": User("secret")})
        self.anonymous = anonymous
        self.expires_in = expires_in
        self.oauth2 = oauth2
        self._lock = threading.Lock()
        self._requests: list[TokenRequest] = []
        self._key = new_key()
        certificate = self_signed(self.issuer, self._key)
        self._x5c = [_b64(certificate.public_bytes(serialization.Encoding.DER))]
        folder.mkdir(parents=True, exist_ok=True)
        self.root_bundle = folder / "token-root.pem"
        self.root_bundle.write_bytes(pem(certificate))

    @property
    def realm(self) -> str:
        """The URL that a challenge names."""
        return f"{self.url}/token"

    @property
    def requests(self) -> list[TokenRequest]:
        """Every request so far."""
        with self._lock:
            return list(self._requests)

    def count(self, scope: str | None = None) -> int:
        """How many tokens were issued, of those that asked for exactly this scope if given."""
        issued = [request for request in self.requests if request.status == 200]
        return sum(1 for request in issued if scope is None or scope in request.scopes)

    def clear(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests.clear()

    def record(self, request: TokenRequest) -> None:
        """Note one request."""
        with self._lock:
            self._requests.append(request)

    def token(self, scopes: tuple[str, ...], user: str, grants: Grants) -> str:
        """A signed token with the asked scopes, each cut down to the grants."""
        now = int(time.time())
        expires = now + self.expires_in - REGISTRY_LEEWAY_S
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.service,
            "iat": expires - 3600,
            "nbf": expires - 3600,
            "exp": expires,
            "jti": secrets.token_hex(8),
            "access": allowed(scopes, grants),
        }
        head = {"typ": "JWT", "alg": "ES256", "x5c": self._x5c}
        signed = f"{_b64url(_json(head))}.{_b64url(_json(claims))}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """A handler class bound to this server."""
        return type("TokenHandler", (_Handler,), {"tokens": self})


def allowed(scopes: tuple[str, ...], grants: Grants) -> list[dict[str, Any]]:
    """The `access` claim: the asked scopes, their actions cut down to the grants."""
    access = []
    for scope in scopes:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        granted = _granted(name, grants)
        kept = [action for action in actions.split(",") if action in granted]
        access.append({"type": kind, "name": name, "actions": kept})
    return access


def _granted(name: str, grants: Grants) -> frozenset[str]:
    matching = (actions for glob, actions in grants.items() if fnmatch.fnmatchcase(name, glob))
    return frozenset[str]().union(*matching)


class _Handler(QuietHandler):
    tokens: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        scopes = tuple(part for asked in query.get("scope", []) for part in asked.split())
        user, grants = self._basic()
        offline = query.get("offline_token", ["false"])[0] == "true"
        self._issue(scopes, user, grants, {}, refresh=offline and self.tokens.oauth2)

    def do_POST(self) -> None:
        form = {name: values[0] for name, values in parse_qs(self.body().decode()).items()}
        scopes = tuple(form.get("scope", "").split())
        if not self.tokens.oauth2:
            self._note(scopes, form, "", 404)
            self.answer(404, {}, b"no OAuth2 here")
            return
        user, grants = self._grant_of(form)
        self._issue(scopes, user, grants, form, refresh=True)

    def _basic(self) -> tuple[str, Grants | None]:
        """Who asks, and their grants; None when they may not."""
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() != "basic":
            return "", self.tokens.anonymous
        name, _, password = base64.b64decode(value).decode().partition(":")
        return name, self._checked(name, password)

    def _grant_of(self, form: dict[str, str]) -> tuple[str, Grants | None]:
        if form.get("grant_type") == "password":
            name = form.get("username", "")
            return name, self._checked(name, form.get("password", ""))
        for name, user in self.tokens.users.items():
            if user.identity_token and user.identity_token == form.get("refresh_token"):
                return name, user.grants
        return "", None

    def _checked(self, name: str, password: str) -> Grants | None:
        user = self.tokens.users.get(name)
        return user.grants if user is not None and user.password == password else None

    def _issue(
        self,
        scopes: tuple[str, ...],
        user: str,
        grants: Grants | None,
        form: dict[str, str],
        *,
        refresh: bool,
    ) -> None:
        self._note(scopes, form, user, 401 if grants is None else 200)
        if grants is None:
            body = _json({"errors": [{"code": "UNAUTHORIZED", "message": "wrong credentials"}]})
            self.answer(401, {"WWW-Authenticate": 'Basic realm="test"'}, body)
            return
        token = self.tokens.token(scopes, user, grants)
        answer = {"token": token, "access_token": token, "expires_in": self.tokens.expires_in}
        identity = self.tokens.users[user].identity_token if user else None
        if refresh and identity:
            answer["refresh_token"] = identity
        self.answer(200, {"Content-Type": "application/json"}, _json(answer))

    def _note(self, scopes: tuple[str, ...], form: dict[str, str], user: str, status: int) -> None:
        headers = lower(self.headers)
        self.tokens.record(TokenRequest(self.command, scopes, headers, form, user, status))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
