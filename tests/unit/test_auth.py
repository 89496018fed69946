"""Authorization: the challenge parser, and the token protocol against a small token server."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import AuthenticationError, RegistryError
from ocimodel.registry.auth import Authenticator, Reply
from ocimodel.registry.challenges import Challenge, parse_challenges
from ocimodel.registry.credentials import Credential

ORIGIN = "https://r.example"
REALM = "https://auth.example/token"
PULL = frozenset({"repository:team/m:pull"})
PUSH = frozenset({"repository:team/m:pull,push"})
USER = Credential("u", "p:w")
BASIC = "Basic " + base64.b64encode(b"u:p:w").decode()


def bearer(realm: str = REALM, scope: str = "", error: str = "") -> list[str]:
    text = f'Bearer realm="{realm}",service="r.example"'
    text += f',scope="{scope}"' if scope else ""
    return [text + (f',error="{error}"' if error else "")]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TokenServer:
    """Gives the tokens t1, t2, … and notes what it was asked; credentials when `wants` is set."""

    def __init__(self, *, expires_in: object = None, wants: str = "", oauth2: bool = True) -> None:
        self.expires_in = expires_in
        self.wants = wants
        self.oauth2 = oauth2
        self.requests: list[tuple[str, str, Mapping[str, str], bytes | None]] = []
        self.name = "token"
        self.same = False

    def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        self.requests.append((method, url, dict(headers), body))
        if method == "POST" and not self.oauth2:
            return Reply(404, {}, b"")
        if self.wants and headers.get("authorization") != self.wants:
            return Reply(401, {}, b'{"errors": []}')
        document: dict[str, object] = {self.name: "t1" if self.same else f"t{len(self.requests)}"}
        if self.expires_in is not None:
            document["expires_in"] = self.expires_in
        return Reply(200, {"content-type": "application/json"}, json.dumps(document).encode())

    def scopes(self) -> list[list[str]]:
        """The scopes of each GET, in order."""
        return [parse_qs(urlsplit(url).query).get("scope", []) for _, url, _, _ in self.requests]


def make(
    server: Callable[[str, str, Mapping[str, str], bytes | None], Reply],
    credential: Credential | None = None,
    origin: str = ORIGIN,
) -> tuple[Authenticator, Clock]:
    clock = Clock()
    return Authenticator(origin, lambda: credential, server, clock=clock), clock


def never(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
    raise AssertionError(f"{method} {url} must not be asked")


# --- the parser ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Basic"], [Challenge("basic")]),
        (['BASIC Realm="x y"'], [Challenge("basic", {"realm": "x y"})]),
        (["Basic realm=x"], [Challenge("basic", {"realm": "x"})]),
        (
            ["Bearer realm=https://a.example/t?x=1,service=s"],
            [Challenge("bearer", {"realm": "https://a.example/t?x=1", "service": "s"})],
        ),
        (
            ['Bearer realm="r",scope="repository:a:pull,push"'],
            [Challenge("bearer", {"realm": "r", "scope": "repository:a:pull,push"})],
        ),
        (['Basic realm="a \\"b\\" \\\\c"'], [Challenge("basic", {"realm": 'a "b" \\c'})]),
        (
            ['Basic realm = "a" , charset = UTF-8'],
            [Challenge("basic", {"realm": "a", "charset": "UTF-8"})],
        ),
        (
            ['Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"'],
            [
                Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
                Challenge("basic", {"realm": "simple"}),
            ],
        ),
        (
            ["Negotiate, NTLM TlRMTVNTUAAC==, Basic realm=x"],
            [
                Challenge("negotiate"),
                Challenge("ntlm", {}, "TlRMTVNTUAAC=="),
                Challenge("basic", {"realm": "x"}),
            ],
        ),
        (
            ["Basic realm=a", "Bearer realm=b"],
            [Challenge("basic", {"realm": "a"}), Challenge("bearer", {"realm": "b"})],
        ),
        ([", ,Basic realm=a,, charset=b ,"], [Challenge("basic", {"realm": "a", "charset": "b"})]),
        (["Basic realm=a, realm=b"], [Challenge("basic", {"realm": "a"})]),
        ([""], []),
        ([' , "x, Bearer realm=evil", Basic realm=a'], [Challenge("basic", {"realm": "a"})]),
        (["realm=Basic, Basic realm=a"], [Challenge("basic", {"realm": "a"})]),
        (['Basic realm=a, Bearer realm="b'], [Challenge("basic", {"realm": "a"})]),
        (['"open, Basic realm=a'], []),
        (["(Bearer) x, Basic"], [Challenge("basic")]),
    ],
)
def test_challenges(values: list[str], expected: list[Challenge]) -> None:
    assert parse_challenges(values) == expected


@given(st.lists(st.text(st.sampled_from('Bearsc="\\,: \t=()\n\xff/'), max_size=40), max_size=3))
def test_garbage_never_raises(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme == challenge.scheme.lower() != ""


TOKENS = st.text("abcxyz0189!#$%&'*+-.^_`|~", min_size=1, max_size=8)
QUOTED = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)


@st.composite
def rendered(draw: st.DrawFn) -> tuple[str, list[Challenge]]:
    """A header as a server may write it, and the challenges that it says."""
    texts, challenges = [], []
    for scheme in draw(st.lists(TOKENS, min_size=1, max_size=4)):
        if draw(st.booleans()):
            pairs = draw(st.dictionaries(TOKENS, st.one_of(TOKENS, QUOTED), max_size=4))
            params = []
            for name, value in pairs.items():
                plain = value != "" and set(value) <= set("abcxyz0189!#$%&'*+-.^_`|~")
                if not plain or draw(st.booleans()):
                    value = value.replace("\\", "\\\\").replace('"', '\\"')
                    value = f'"{value}"'
                params.append(name + draw(st.sampled_from(["=", " = "])) + value)
            texts.append(f"{scheme} {', '.join(params)}".strip())
            challenges.append(Challenge(scheme, pairs))
        else:
            token68 = draw(st.text("abcXYZ019-._~+/", min_size=1, max_size=9)) + "=="
            texts.append(f"{scheme} {token68}")
            challenges.append(Challenge(scheme, {}, token68))
    return draw(st.sampled_from([",", ", ", " , "])).join(texts), challenges


@given(rendered())
def test_what_is_rendered_is_parsed(case: tuple[str, list[Challenge]]) -> None:
    text, challenges = case
    assert parse_challenges([text]) == challenges


def test_parsing_is_linear() -> None:
    for text in ('a="' * 20_000, "a " * 30_000, 'x y="\\' * 20_000, "a=b " * 20_000, "," * 60_000):
        parse_challenges([text, text[:-1]])  # ends at once, or this test times out


# --- Basic ---


def test_basic_is_sent_ahead_once_it_was_asked_for() -> None:
    auth, _ = make(never, USER)
    assert auth.header(PULL) is None
    assert auth.answer(['Basic realm="x"'], PULL, None) == BASIC
    assert auth.header(PUSH) == BASIC
    assert not auth.expires_soon(PULL, 1e9)
    auth.refresh(PULL)


@pytest.mark.parametrize(
    ("credential", "challenges", "rejected", "message"),
    [
        (USER, ["Basic"], BASIC, "refused the user name"),
        (None, ["Basic"], None, "none is known"),
        (Credential(identity_token="it"), ["Basic"], None, "none is known"),
        (USER, [], None, "no way to log in"),
        (USER, ["Negotiate"], None, "negotiate"),
        (USER, ["Bearer service=x"], None, "bearer"),
        (Credential(registry_token="rt"), bearer(), "Bearer rt", "registry token"),
    ],
)
def test_dead_ends(
    credential: Credential | None, challenges: list[str], rejected: str | None, message: str
) -> None:
    auth, _ = make(never, credential)
    with pytest.raises(AuthenticationError, match=message) as caught:
        auth.answer(challenges, PULL, rejected)
    assert "r.example" in str(caught.value)
    assert caught.value.hint == "ocimodel login r.example"
    assert "p:w" not in str(caught.value)


def test_registry_token_is_the_bearer() -> None:
    auth, _ = make(never, Credential(registry_token="rt"))
    assert auth.header(PULL) == "Bearer rt"
    assert auth.answer(bearer(), PULL, None) == "Bearer rt"
    assert not auth.expires_soon(PULL, 1e9)


# --- Bearer ---


@pytest.mark.parametrize("name", ["token", "access_token"])
@pytest.mark.parametrize("credential", [None, USER])
def test_token_by_get(name: str, credential: Credential | None) -> None:
    server = TokenServer(wants=BASIC if credential else "")
    server.name = name
    auth, _ = make(server, credential)
    challenge = bearer(REALM + "?x=1#f", scope="repository:team/m:push repository:base:pull")
    assert auth.answer(challenge, PULL, None) == "Bearer t1"
    [(method, url, headers, body)] = server.requests
    assert (method, body) == ("GET", None)
    assert url.startswith(REALM + "?x=1&")
    assert parse_qsl(urlsplit(url).query) == [
        ("x", "1"),
        ("service", "r.example"),
        ("scope", "repository:base:pull"),
        ("scope", "repository:team/m:pull,push"),
    ]
    assert headers.get("authorization") == (BASIC if credential else None)


def test_identity_token_by_post() -> None:
    server = TokenServer()
    auth, _ = make(server, Credential(identity_token="it"))
    assert auth.answer(bearer(), PUSH, None) == "Bearer t1"
    [(method, url, headers, body)] = server.requests
    assert (method, url) == ("POST", REALM)
    assert "authorization" not in headers
    assert body is not None
    assert dict(parse_qsl(body.decode())) == {
        "grant_type": "refresh_token",
        "service": "r.example",
        "scope": "repository:team/m:pull,push",
        "client_id": "ocimodel",
        "refresh_token": "it",
    }


@pytest.mark.parametrize(
    ("credential", "pair"),
    [(Credential("u", "p", "it"), b"u:p"), (Credential("", "", "it"), b":it")],
)
def test_identity_token_falls_back_to_get(credential: Credential, pair: bytes) -> None:
    basic = "Basic " + base64.b64encode(pair).decode()
    server = TokenServer(oauth2=False, wants=basic)
    auth, _ = make(server, credential)
    assert auth.answer(bearer(), PULL, None) == "Bearer t2"
    assert [method for method, *_ in server.requests] == ["POST", "GET"]


def test_a_known_realm_is_asked_ahead_and_a_covering_token_reused() -> None:
    server = TokenServer()
    auth, _ = make(server, USER)
    auth.answer(bearer(), PULL, None)
    assert auth.header(PULL) == "Bearer t1"
    assert auth.header(PUSH) == "Bearer t2"
    assert auth.header(frozenset({"repository:team/m:push"})) == "Bearer t2"
    assert auth.header(frozenset()) in ("Bearer t1", "Bearer t2")
    assert auth.header(frozenset({"repository:other:pull"})) == "Bearer t3"
    assert auth.header(PUSH | {"repository:base:pull"}) == "Bearer t4"
    assert server.scopes()[1:] == [
        ["repository:team/m:pull,push"],
        ["repository:other:pull"],
        ["repository:base:pull", "repository:team/m:pull,push"],
    ]


def test_least_privilege_push() -> None:
    """A pull token refused for a push: the next one is asked for both, and is another one."""
    server = TokenServer()
    auth, _ = make(server, USER)
    first = auth.answer(bearer(scope="repository:team/m:pull"), PULL, None)
    wider = bearer(scope="repository:team/m:pull,push", error="insufficient_scope")
    assert auth.answer(wider, PULL, first, 403) == "Bearer t2"
    assert server.scopes()[-1] == ["repository:team/m:pull,push"]
    assert auth.header(PUSH) == "Bearer t2"


@pytest.mark.parametrize(
    ("stated", "lifetime"),
    [
        (None, 60),
        (300, 300),
        (20, 20),
        (0, 60),
        (-5, 60),
        (0.001, 1),
        (True, 60),
        ("300", 60),
        (10**400, 86_400),
        (float("inf"), 86_400),
        (float("nan"), 60),
    ],
)
def test_tokens_are_renewed_at_nine_tenths(stated: object, lifetime: float) -> None:
    server = TokenServer(expires_in=stated)
    auth, clock = make(server)
    auth.answer(bearer(), PULL, None)
    clock.now += lifetime * 0.89
    assert auth.header(PULL) == "Bearer t1"
    assert not auth.expires_soon(PULL, 0)
    assert auth.expires_soon(PULL, lifetime * 0.02)
    clock.now += lifetime * 0.02
    assert auth.expires_soon(PULL, 0)
    assert auth.header(PULL) == "Bearer t2"


def test_refresh_before_a_long_put() -> None:
    server = TokenServer(expires_in=300)
    auth, _ = make(server)
    assert not auth.expires_soon(PUSH, 60)  # nothing asked for yet
    auth.refresh(PUSH)
    assert server.requests == []
    auth.answer(bearer(), PUSH, None)
    assert auth.expires_soon(frozenset({"repository:other:pull"}), 0)
    auth.refresh(PUSH)
    assert auth.header(PUSH) == "Bearer t2"


def test_an_expired_token_that_was_refused_is_replaced_every_time() -> None:
    server = TokenServer(expires_in=60)
    auth, clock = make(server)
    value = auth.answer(bearer(), PULL, None)
    for n in range(2, 8):
        clock.now += 61
        value = auth.answer(bearer(error="invalid_token"), PULL, value)
        assert value == f"Bearer t{n}"


def test_a_stale_token_within_its_lifetime_is_replaced_every_time() -> None:
    server = TokenServer(expires_in=3600)
    auth, clock = make(server)
    value = auth.answer(bearer(), PULL, None)
    for n in range(2, 8):  # a server that revokes early
        clock.now += 30
        value = auth.answer(bearer(error="invalid_token"), PULL, value)
        assert value == f"Bearer t{n}"


def test_a_new_token_refused_at_once_ends_it() -> None:
    server = TokenServer()
    auth, _ = make(server, USER)
    first = auth.answer(bearer(), PULL, None)
    second = auth.answer(bearer(), PULL, first)
    assert second != first
    with pytest.raises(AuthenticationError, match=r"repository:team/m:pull") as caught:
        auth.answer(bearer(), PULL, second)
    assert caught.value.hint == "ocimodel login r.example"
    assert len(server.requests) == 2


def test_insufficient_scope_of_a_covering_token_ends_it_without_another_fetch() -> None:
    server = TokenServer()
    auth, _ = make(server, USER)
    token = auth.answer(bearer(), PUSH, None)
    refusal = bearer(scope="repository:team/m:pull,push", error="insufficient_scope")
    with pytest.raises(AuthenticationError, match="team/m:pull,push"):
        auth.answer(refusal, PUSH, token, 403)
    assert len(server.requests) == 1


def test_a_registry_that_asks_for_ever_more_is_not_followed_for_ever() -> None:
    server = TokenServer()
    auth, _ = make(server)
    value: str | None = None
    with pytest.raises(AuthenticationError):
        for n in range(100):
            value = auth.answer(bearer(scope=f"repository:r{n}:pull"), PULL, value)
    assert len(server.requests) < 10


def test_the_refused_token_is_never_sent_again() -> None:
    server = TokenServer()
    server.same = True  # a token server with a cache of its own
    auth, _ = make(server)
    first = auth.answer(bearer(), PULL, None)
    with pytest.raises(AuthenticationError, match="refused the token"):
        auth.answer(bearer(), PULL, first)
    assert len(server.requests) == 2


def test_a_token_that_another_thread_has_replaced_costs_no_fetch() -> None:
    server = TokenServer()
    auth, _ = make(server)
    first = auth.answer(bearer(), PULL, None)
    second = auth.answer(bearer(), PULL, first)
    assert auth.answer(bearer(), PULL, first) == second
    assert len(server.requests) == 2


def test_basic_gives_way_to_bearer_and_bearer_to_basic() -> None:
    server = TokenServer(wants=BASIC)
    auth, _ = make(server, USER)
    assert auth.answer(["Basic realm=x", *bearer()], PULL, None) == "Bearer t1"
    assert auth.answer(["Basic realm=x"], PULL, "Bearer t1") == BASIC
    assert auth.header(PULL) == BASIC
    assert auth.answer(bearer(), PUSH, BASIC) == "Bearer t2"
    assert auth.header(PUSH) == "Bearer t2"


# --- threads ---


def test_many_waiters_share_one_fetch() -> None:
    n_threads = 8
    server = TokenServer()
    second, go = threading.Event(), threading.Event()
    arrived: list[str] = []

    def slow(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        arrived.append(url)
        if len(arrived) > 1:
            second.set()
        assert go.wait(30)
        return server(method, url, headers, body)

    auth, _ = make(slow)
    barrier = threading.Barrier(n_threads + 1)
    seen: list[str] = []

    def ask() -> None:
        barrier.wait()
        seen.append(auth.answer(bearer(), PULL, None))

    threads = [threading.Thread(target=ask) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    barrier.wait()
    assert not second.wait(0.2)  # the first one is held until here, so the others had their time
    go.set()
    for thread in threads:
        thread.join()
    assert seen == ["Bearer t1"] * n_threads
    assert len(server.requests) == 1


def test_waiters_get_the_leaders_error_and_the_next_try_is_free() -> None:
    server = TokenServer()
    broken = True

    def flaky(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        if broken:
            raise RegistryError("connection reset")
        return server(method, url, headers, body)

    auth, _ = make(flaky)
    barrier = threading.Barrier(4)
    errors: list[RegistryError] = []

    def ask() -> None:
        barrier.wait()
        try:
            auth.answer(bearer(), PULL, None)
        except RegistryError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 4
    broken = False
    assert auth.header(PULL) == "Bearer t1"


# --- hostile or broken token servers ---


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example/token",
        "HTTP://auth.example/token",
        "/token",
        "auth.example/token",
        "ftp://auth.example/token",
        "file:///etc/passwd",
        "https:///token",
        "https://user@auth.example/token",
        "https://auth.example:port/token",
        "https://[::1/token",
        "https://auth.example/a b",
        "https://auth.example/\u00e9",
        "https://auth.example/\r\nx: y",
    ],
)
def test_realms_that_get_no_credentials(realm: str) -> None:
    auth, _ = make(never, USER)
    with pytest.raises(AuthenticationError, match=r"r\.example"):
        auth.answer(bearer(realm), PULL, None)
    assert auth.header(PULL) is None


def test_an_http_realm_is_fine_for_an_http_registry() -> None:
    auth, _ = make(TokenServer(), USER, "http://localhost:5000")
    assert auth.answer(bearer("http://localhost:5001/t"), PULL, None) == "Bearer t1"


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_by_the_token_server(status: int) -> None:
    auth, _ = make(lambda *_: Reply(status, {}, b""), USER)
    with pytest.raises(AuthenticationError, match=str(status)) as caught:
        auth.answer(bearer(), PULL, None)
    assert "auth.example" in str(caught.value)
    assert caught.value.hint == "ocimodel login r.example"


@pytest.mark.parametrize("status", [301, 404, 429, 500, 503])
def test_trouble_of_the_token_server(status: int) -> None:
    auth, _ = make(lambda *_: Reply(status, {}, b""), USER)
    with pytest.raises(RegistryError) as caught:
        auth.answer(bearer(), PULL, None)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"token": ""}',
        b'{"token": 1}',
        b'{"token": "s3cret\\r\\nx: y"}',
        b'{"token": "s3cret s3cret"}',
        b'{"token": "' + b"x" * (1 << 20) + b'"}',
    ],
)
def test_malformed_answers(body: bytes) -> None:
    auth, _ = make(lambda *_: Reply(200, {}, body), USER)
    with pytest.raises(RegistryError, match=r"auth\.example") as caught:
        auth.answer(bearer(), PULL, None)
    assert "s3cret" not in str(caught.value)


def test_reprs_hide_tokens() -> None:
    assert "s3cret" not in repr(Reply(200, {}, b"s3cret"))
