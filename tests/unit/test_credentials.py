"""Credentials: which file, key and form wins, what helpers say, and how logins are written."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from ocimodel.errors import AuthenticationError, InputError, TargetError, UsageError
from ocimodel.registry.credentials import (
    HUB_KEY,
    Credential,
    Credentials,
    default_path,
    erase,
    save,
)

HELPER = """#!/bin/sh
# A credential helper whose keychain is a folder; it notes every call.
cd "$(dirname "$0")" || exit 1
IFS= read -r key
echo "$1 $key" >> calls
name=$(printf %s "$key" | tr '/:' '__')
case "$1" in
get) if [ -f "kept/$name" ]; then cat "kept/$name"; else echo "credentials not found in native keychain"; exit 1; fi ;;
store) mkdir -p kept; name=$(printf %s "$key" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/' | tr '/:' '__'); printf %s "$key" > "kept/$name" ;;
erase) rm "kept/$name" ;;
esac
"""  # noqa: E501


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def auth(pair: str) -> dict[str, str]:
    return {"auth": b64(pair)}


def finder(path: Path, environ: Mapping[str, str] | None = None) -> Credentials:
    return Credentials(registry_config=path, environ=environ or {}, home=path.parent)


@pytest.fixture
def helpers(tmp_path: Path) -> Path:
    """A folder with docker-credential-toy in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker-credential-toy"
    program.write_text(HELPER)
    program.chmod(0o755)
    return folder


def path_of(helpers: Path) -> dict[str, str]:
    return {"PATH": f"{helpers}:{os.defpath}"}


def keep(helpers: Path, key: str, username: str, secret: str) -> None:
    name = key.replace("/", "_").replace(":", "_")
    write(
        helpers / "kept" / name,
        {"ServerURL": key, "Username": username, "Secret": secret},
    )


def calls(helpers: Path) -> list[str]:
    file = helpers / "calls"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("u:p"), Credential("u", "p")),
        (auth("u:p:with:colons"), Credential("u", "p:with:colons")),
        (auth("u:p\0\0"), Credential("u", "p")),
        (auth("u:pä"), Credential("u", "pä")),
        ({"username": "u", "password": "p"}, Credential("u", "p")),
        ({"identitytoken": "it"}, Credential(identity_token="it")),
        (
            {**auth("00000000-0000:"), "identitytoken": "it"},
            Credential("00000000-0000", identity_token="it"),
        ),
        ({"registrytoken": "rt"}, Credential(registry_token="rt")),
        ({}, None),
        ({"email": "me@example.com"}, None),
        ({"username": "u"}, None),
    ],
)
def test_forms(tmp_path: Path, entry: object, expected: Credential | None) -> None:
    file = write(tmp_path / "c.json", {"auths": {"r.example": entry}})
    assert finder(file).lookup("r.example", "m") == expected


@pytest.mark.parametrize(
    ("key", "host", "repository", "found"),
    [
        ("r.example", "r.example", "a/b", True),
        ("r.example", "R.Example", "a/b", True),
        ("r.example:5000", "r.example:5000", "", True),
        ("r.example", "r.example:5000", "a", False),
        ("https://r.example", "r.example", "a", True),
        ("https://r.example/", "r.example", "a", True),
        ("https://r.example/v1/", "r.example", "a", True),
        ("https://r.example/v2/", "r.example", "a", True),
        ("http://r.example", "r.example", "a", True),
        ("r.example/a", "r.example", "a/b", True),
        ("r.example/a/b", "r.example", "a/b", True),
        ("r.example/a/b", "r.example", "a/bc", False),
        ("r.example/a", "r.example", "ab", False),
        ("r.example/a", "r.example", "", False),
        ("evil-r.example", "r.example", "a", False),
        ("example", "r.example", "a", False),
        (HUB_KEY, "docker.io", "a", True),
        (HUB_KEY, "registry-1.docker.io", "a", True),
        ("docker.io", "registry-1.docker.io", "a", True),
        ("registry-1.docker.io", "docker.io", "a", True),
        ("docker.io/team", "registry-1.docker.io", "team/m", True),
        (HUB_KEY, "r.example", "a", False),
    ],
)
def test_keys(tmp_path: Path, key: str, host: str, repository: str, found: bool) -> None:
    file = write(tmp_path / "c.json", {"auths": {key: auth("u:p")}})
    assert (finder(file).lookup(host, repository) is not None) is found


def test_the_longest_namespace_wins(tmp_path: Path) -> None:
    keys = ["r.example", "r.example/a", "r.example/a/b", "https://r.example"]
    file = write(tmp_path / "c.json", {"auths": {key: auth(f"{key}:p") for key in keys[:3]}})
    found = finder(file)
    for repository, key in [("a/b", 2), ("a/b/c", 2), ("a/x", 1), ("x", 0), ("", 0)]:
        credential = found.lookup("r.example", repository)
        assert credential is not None
        assert credential.username == keys[key]


def test_search_order_is_the_documented_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environ = {
        "REGISTRY_AUTH_FILE": str(tmp_path / "named.json"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }
    files = [
        tmp_path / "named.json",
        tmp_path / "docker" / "config.json",
        home / ".docker" / "config.json",
        tmp_path / "run" / "containers" / "auth.json",
        home / ".config" / "containers" / "auth.json",
    ]
    for n, file in enumerate(files):
        write(file, {"auths": {"r.example": auth(f"{n}:p")}})
    for n, file in enumerate(files):
        credential = Credentials(environ=environ, home=home).lookup("r.example", "m")
        assert credential == Credential(str(n), "p")
        file.unlink()
    assert Credentials(environ=environ, home=home).lookup("r.example", "m") is None


def test_each_key_is_sought_in_every_file(tmp_path: Path) -> None:
    write(tmp_path / "named.json", {"auths": {"a.example": auth("named:p")}})
    write(
        tmp_path / ".docker" / "config.json",
        {"auths": {"a.example": auth("home:p"), "b.example": auth("home:p")}},
    )
    environ = {"REGISTRY_AUTH_FILE": str(tmp_path / "named.json")}
    found = Credentials(environ=environ, home=tmp_path)
    assert found.lookup("a.example") == Credential("named", "p")
    assert found.lookup("b.example") == Credential("home", "p")


def test_registry_config_is_the_only_file(tmp_path: Path) -> None:
    write(tmp_path / ".docker" / "config.json", {"auths": {"r.example": auth("home:p")}})
    file = write(tmp_path / "mine.json", {})
    assert finder(file).lookup("r.example") is None
    with pytest.raises(InputError, match=r"absent\.json"):
        finder(tmp_path / "absent.json").lookup("r.example")


@pytest.mark.parametrize("name", [".dockerconfigjson", "config.json"])
def test_a_mounted_secret_may_be_a_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / "secret" / name, {"auths": {"r.example": auth("u:p")}})
    found = Credential("u", "p")
    assert finder(tmp_path / "secret").lookup("r.example") == found
    for variable in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        environ = {variable: str(tmp_path / "secret")}
        assert Credentials(environ=environ, home=tmp_path).lookup("r.example") == found


@pytest.mark.parametrize(
    ("bound", "host", "applies"),
    [
        ("", "any.example", True),
        ("r.example", "r.example", True),
        ("https://R.example/", "r.example", True),
        ("r.example/team", "r.example", True),
        ("r.example", "other.example", False),
        ("r.example", "r.example:5000", False),
        ("docker.io", "registry-1.docker.io", True),
    ],
)
def test_environment_is_bound_to_one_registry(
    tmp_path: Path, bound: str, host: str, applies: bool
) -> None:
    environ = {
        "OCIMODEL_USERNAME": "env",
        "OCIMODEL_PASSWORD": "p",
        "OCIMODEL_REGISTRY": bound,
    }
    file = write(tmp_path / "c.json", {"auths": {host: auth("file:p")}})
    found = finder(file, environ)
    assert found.lookup(host) == Credential("env" if applies else "file", "p")
    assert found.lookup(host, explicit_env=False) == Credential("file", "p")


def test_half_an_environment(tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", {})
    assert finder(file, {"OCIMODEL_USERNAME": "u"}).lookup("r.example") is None
    with pytest.raises(AuthenticationError, match="OCIMODEL_USERNAME"):
        finder(file, {"OCIMODEL_PASSWORD": "p"}).lookup("r.example")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b" " * (1 << 20) + b"{}",
        b'{"auths": []}',
        b'{"credHelpers": {"r.example": 1}}',
        b'{"credsStore": 1}',
        b'{"auths": {"r.example": "s3cret"}}',
        b'{"auths": {"r.example": {"auth": "s3cret!"}}}',
        b'{"auths": {"r.example": {"auth": "czNjcmV0"}}}',
        b'{"auths": {"r.example": {"password": 1}}}',
        b'{"credHelpers": {"r.example": "../toy"}}',
        b'{"credHelpers": {"r.example": "toy;id"}}',
        b'{"credHelpers": []}',
    ],
)
def test_malformed_files_name_themselves_and_no_secret(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        finder(file).lookup("r.example", "m")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "c.json" in str(caught.value)


def test_a_bad_entry_of_another_host_does_no_harm(tmp_path: Path) -> None:
    auths = {"bad.example": {"auth": "!"}, "r.example": auth("u:p")}
    file = write(tmp_path / "c.json", {"auths": auths})
    assert finder(file).lookup("r.example") == Credential("u", "p")


def test_a_byte_order_mark_and_an_empty_file_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"auths": {"r": auth("u:p")}}).encode())
    assert finder(file).lookup("r") == Credential("u", "p")
    file.write_bytes(b"")
    assert finder(file).lookup("r") is None


def test_repr_hides_secrets() -> None:
    shown = repr(Credential("user", "s3cret1", "s3cret2", "s3cret3"))
    assert "user" in shown
    assert "s3cret" not in shown


def test_values_are_remembered(tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", {"auths": {"r.example": auth("u:p")}})
    found = finder(file)
    assert found.lookup("r.example") == Credential("u", "p")
    file.unlink()
    assert found.lookup("r.example") == Credential("u", "p")


# --- helpers ---


def test_cred_helper_before_store_before_auths(tmp_path: Path, helpers: Path) -> None:
    other = helpers / "docker-credential-other"
    other.write_text('#!/bin/sh\necho \'{"Username": "other", "Secret": "p"}\'\n')
    other.chmod(0o755)
    document: dict[str, object] = {
        "auths": {"r.example": auth("file:p")},
        "credsStore": "other",
        "credHelpers": {"r.example": "toy"},
    }
    keep(helpers, "r.example", "toy", "p")
    for user, last in [("toy", "credHelpers"), ("other", "credsStore"), ("file", "")]:
        file = write(tmp_path / "c.json", document)
        assert finder(file, path_of(helpers)).lookup("r.example") == Credential(user, "p")
        document.pop(last, None)


def test_helper_token_user_and_one_run_only(tmp_path: Path, helpers: Path) -> None:
    keep(helpers, "r.example", "<token>", "it")
    file = write(tmp_path / "c.json", {"credHelpers": {"r.example": "toy"}})
    found = finder(file, path_of(helpers))
    barrier = threading.Barrier(4)
    seen: list[Credential | None] = []

    def ask() -> None:
        barrier.wait()
        seen.append(found.lookup("r.example", "m"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [Credential(identity_token="it")] * 4
    found.lookup("r.example", "another")
    assert calls(helpers) == ["get r.example"]


@pytest.mark.parametrize("key", [HUB_KEY, "docker.io"])
def test_store_knows_the_hub_by_either_name(tmp_path: Path, helpers: Path, key: str) -> None:
    keep(helpers, key, "hub", "p")
    file = write(tmp_path / "c.json", {"credsStore": "toy"})
    found = finder(file, path_of(helpers))
    assert found.lookup("registry-1.docker.io", "a/b") == Credential("hub", "p")


def test_not_found_falls_through_to_auths(tmp_path: Path, helpers: Path) -> None:
    document = {"credsStore": "toy", "auths": {"r.example": auth("file:p")}}
    file = write(tmp_path / "c.json", document)
    assert finder(file, path_of(helpers)).lookup("r.example") == Credential("file", "p")
    assert calls(helpers) == ["get r.example", "get https://r.example"]


def test_missing_programs(tmp_path: Path) -> None:
    document = {"credsStore": "nowhere", "auths": {"r.example": auth("file:p")}}
    file = write(tmp_path / "c.json", document)
    assert finder(file, {"PATH": str(tmp_path)}).lookup("r.example") == Credential("file", "p")
    write(file, {**document, "credHelpers": {"r.example": "nowhere"}})
    with pytest.raises(AuthenticationError, match="docker-credential-nowhere") as caught:
        finder(file, {"PATH": str(tmp_path)}).lookup("r.example")
    assert "docker-credential-nowhere" in caught.value.hint


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo locked; exit 3", "status 3: locked"),
        ("echo nothing", "printed no credential"),
        ('echo \'{"Username": 1, "Secret": "s"}\'', "printed no credential"),
        ("echo '[]'", "printed no credential"),
        ("head -c 3000000 /dev/zero", "printed over"),
    ],
)
def test_helper_trouble(tmp_path: Path, helpers: Path, script: str, message: str) -> None:
    (helpers / "docker-credential-toy").write_text(f"#!/bin/sh\n{script}\n")
    file = write(tmp_path / "c.json", {"credHelpers": {"r.example": "toy"}})
    with pytest.raises(AuthenticationError, match=message):
        finder(file, path_of(helpers)).lookup("r.example")


def test_a_hanging_helper_is_ended_with_its_children(
    tmp_path: Path, helpers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocimodel.registry.helpers._TIMEOUT_S", 0.2)
    (helpers / "docker-credential-toy").write_text("#!/bin/sh\nsleep 600\necho late\n")
    file = write(tmp_path / "c.json", {"credHelpers": {"r.example": "toy"}})
    with pytest.raises(AuthenticationError, match="took over"):
        finder(file, path_of(helpers)).lookup("r.example")


def test_the_helper_does_not_see_our_password(tmp_path: Path, helpers: Path) -> None:
    script = (
        '#!/bin/sh\necho "{\\"Username\\": \\"u\\", \\"Secret\\": \\"x$OCIMODEL_PASSWORD\\"}"\n'
    )
    (helpers / "docker-credential-toy").write_text(script)
    file = write(tmp_path / "c.json", {"credHelpers": {"r.example": "toy"}})
    environ = {
        **path_of(helpers),
        "OCIMODEL_PASSWORD": "s3cret",
        "OCIMODEL_USERNAME": "u",
        "OCIMODEL_REGISTRY": "other.example",
    }
    assert finder(file, environ).lookup("r.example") == Credential("u", "x")


# --- login and logout ---


def test_save_keeps_the_rest_and_closes_the_file(tmp_path: Path) -> None:
    before = {"HttpHeaders": {"a": "b"}, "auths": {"o.example": auth("o:p")}, "zeta": 1}
    folder = tmp_path / "config"
    folder.mkdir()
    file = write(folder / "c.json", before)
    file.chmod(0o644)
    assert save(file, "https://R.example/", Credential("u", "p"), environ={}) == str(file)
    after = json.loads(file.read_text())
    assert after == {**before, "auths": {"o.example": auth("o:p"), "r.example": auth("u:p")}}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert finder(file).lookup("r.example", "m") == Credential("u", "p")
    assert [p.name for p in folder.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    "credential",
    [
        Credential("u", "p:ü"),
        Credential("u", identity_token="it"),
        Credential(identity_token="it"),
        Credential(registry_token="rt"),
    ],
)
@pytest.mark.parametrize("host", ["r.example:5000", "docker.io", "r.example/team"])
def test_what_is_saved_is_found_and_erased(
    tmp_path: Path, host: str, credential: Credential
) -> None:
    file = tmp_path / "new" / "config.json"
    save(file, host, credential, environ={})
    name, _, repository = host.partition("/")
    assert finder(file).lookup(name, repository) == credential
    assert erase(file, host, environ={}) is True
    assert finder(file).lookup(name, repository) is None
    assert erase(file, host, environ={}) is False
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_hub_is_saved_as_docker_saves_it(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    save(file, "registry-1.docker.io", Credential("u", "p"), environ={})
    assert json.loads(file.read_text()) == {"auths": {HUB_KEY: auth("u:p")}}


def test_a_symlink_is_written_through(tmp_path: Path) -> None:
    real = write(tmp_path / "dotfiles" / "docker.json", {"auths": {}})
    link = tmp_path / "config.json"
    link.symlink_to(Path("dotfiles") / "docker.json")
    save(link, "r.example", Credential("u", "p"), environ={})
    assert link.is_symlink()
    assert json.loads(real.read_text())["auths"] == {"r.example": auth("u:p")}
    assert sorted(p.name for p in real.parent.iterdir()) == ["docker.json"]
    assert erase(link, "r.example", environ={})
    assert link.is_symlink()


def test_save_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="colon"):
        save(tmp_path / "c.json", "r.example", Credential("a:b", "p"), environ={})
    with pytest.raises(UsageError, match="no registry host"):
        save(tmp_path / "c.json", "https://", Credential("a", "p"), environ={})
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises((TargetError, InputError)):
        save(loop, "r.example", Credential("a", "p"), environ={})
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError):
        save(tmp_path / "file" / "c.json", "r.example", Credential("a", "p"), environ={})
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(InputError):
        save(bad, "r.example", Credential("a", "p"), environ={})
    assert bad.read_text() == "{"


@pytest.mark.parametrize("host", ["r.example", "docker.io"])
@pytest.mark.parametrize("credential", [Credential("u", "p"), Credential(identity_token="it")])
def test_login_goes_to_the_store(
    tmp_path: Path, helpers: Path, host: str, credential: Credential
) -> None:
    environ = path_of(helpers)
    file = write(tmp_path / "c.json", {"credsStore": "toy"})
    assert save(file, host, credential, environ=environ) == "docker-credential-toy"
    key = HUB_KEY if host == "docker.io" else host
    assert json.loads(file.read_text()) == {"credsStore": "toy", "auths": {key: {}}}
    assert finder(file, environ).lookup(host) == credential
    assert erase(file, host, environ=environ) is True
    assert finder(file, environ).lookup(host) is None
    assert erase(file, host, environ=environ) is False


def test_a_store_is_never_replaced_by_plain_text(tmp_path: Path, helpers: Path) -> None:
    file = write(tmp_path / "c.json", {"credsStore": "nowhere"})
    with pytest.raises(AuthenticationError, match="docker-credential-nowhere"):
        save(file, "r.example", Credential("u", "p"), environ={"PATH": str(helpers)})
    with pytest.raises(UsageError, match="keeps hosts"):
        save(file, "r.example/team", Credential("u", "p"), environ={"PATH": str(helpers)})
    assert json.loads(file.read_text()) == {"credsStore": "nowhere"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "home/.docker/config.json"),
        ({"DOCKER_CONFIG": "{}/to-come"}, "to-come/config.json"),
        ({"DOCKER_CONFIG": "{}"}, "config.json"),
        ({"REGISTRY_AUTH_FILE": "{}/auth", "DOCKER_CONFIG": "{}"}, "auth"),
    ],
)
def test_default_path(tmp_path: Path, environ: dict[str, str], expected: str) -> None:
    environ = {name: value.format(tmp_path) for name, value in environ.items()}
    file = default_path(environ, tmp_path / "home")
    assert file == tmp_path / expected
    save(file, "r.example", Credential("u", "p"), environ={})
    found = Credentials(environ=environ, home=tmp_path / "home").lookup("r.example")
    assert found == Credential("u", "p")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_closed_home_is_no_login_but_a_closed_named_file_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / ".docker" / "config.json", {"auths": {"r": auth("u:p")}})
    file.chmod(0)
    assert Credentials(environ={}, home=tmp_path).lookup("r") is None
    with pytest.raises(InputError, match=r"config\.json"):
        finder(file).lookup("r")
