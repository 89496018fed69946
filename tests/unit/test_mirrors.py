"""Mirrors: --mirror, containerd's hosts.toml, registries.conf, and certs.d."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError, PolicyError, UsageError
from ocimodel.registry.mirrors import (
    Mirror,
    TlsFiles,
    default_registries_conf,
    mirrors_for,
    parse_hosts_toml,
    parse_mirror,
    parse_registries_conf,
    select,
    tls_files,
)

FILE = Path("/certs.d/r.example/hosts.toml")
CONF = Path("/containers/registries.conf")


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def places(content: str, host: str, repository: str) -> list[str]:
    """Where registries.conf sends `host/repository`, as URLs."""
    found = select(parse_registries_conf(content, CONF), host, repository)
    return [f"{m.api_root}/{m.repository_for(repository)}" for m in found]


# --- --mirror ---


@pytest.mark.parametrize(
    ("value", "root", "repository", "query"),
    [
        ("m.example", "https://m.example/v2", "team/m", "ns=r.example%3A5000"),
        ("m.example:8443", "https://m.example:8443/v2", "team/m", "ns=r.example%3A5000"),
        ("http://m.example/", "http://m.example/v2", "team/m", "ns=r.example%3A5000"),
        ("localhost:5001", "http://localhost:5001/v2", "team/m", "ns=r.example%3A5000"),
        ("127.0.0.1:30020", "http://127.0.0.1:30020/v2", "team/m", "ns=r.example%3A5000"),
        ("[::1]:5001", "http://[::1]:5001/v2", "team/m", "ns=r.example%3A5000"),
        ("https://localhost:5001", "https://localhost:5001/v2", "team/m", "ns=r.example%3A5000"),
        ("127.0.0.1.example", "https://127.0.0.1.example/v2", "team/m", "ns=r.example%3A5000"),
        ("harbor.example/proxy/r", "https://harbor.example/v2", "proxy/r/team/m", ""),
    ],
)
def test_mirror_values(value: str, root: str, repository: str, query: str) -> None:
    mirror = parse_mirror(value, "r.example:5000")
    assert mirror.api_root == root
    assert mirror.repository_for("team/m") == repository
    assert mirror.query == query
    assert (mirror.can_pull, mirror.can_resolve, mirror.verify) == (True, False, True)


@pytest.mark.parametrize(
    "value",
    ["", "https://", "ftp://m", "u:p@m", "m:port", "m:99999", "[::1", "m?x=1", "m#f", "m x", "m\n"],
)
def test_wrong_mirror_values(value: str) -> None:
    with pytest.raises(UsageError, match="--mirror"):
        parse_mirror(value, "r.example")


@given(st.text(st.sampled_from("ab.:/[]@?#% \n1é\0"), max_size=12))
def test_any_mirror_value_gives_a_mirror_or_the_error(value: str) -> None:
    try:
        mirror = parse_mirror(value, "r.example")
    except UsageError:
        return
    assert mirror.url.startswith(("https://", "http://"))


# --- hosts.toml ---


def test_hosts_toml() -> None:
    content = """
        server = "https://upstream.example"
        [host."https://z.example"]
          capabilities = ["pull"]
          ca = "z.crt"
        [host."http://a.example:5000"]
          capabilities = ["pull", "resolve"]
          ca = ["/etc/a.crt", "b.crt"]
          client = [["c.cert", "c.key"], ["d.pem", ""]]
          skip_verify = true
          [host."http://a.example:5000".header]
            x-one = "1"
            x-two = ["2", "3"]
        [host."https://o.example/cache/r"]
          override_path = true
          client = "both.pem"
        [host."p.example/v2"]
          client = ["e.pem", "f.pem"]
        [host."https://push.example"]
          capabilities = ["push"]
    """
    folder = FILE.parent
    ns = "ns=r.example"
    assert parse_hosts_toml(content, "r.example", FILE) == [
        Mirror("https://z.example", False, ca_files=(folder / "z.crt",), query=ns),
        Mirror(
            "http://a.example:5000",
            True,
            ca_files=(Path("/etc/a.crt"), folder / "b.crt"),
            client_certs=((folder / "c.cert", folder / "c.key"), (folder / "d.pem", None)),
            headers={"x-one": "1", "x-two": "2, 3"},
            verify=False,
            query=ns,
        ),
        Mirror(
            "https://o.example/cache/r",
            True,
            client_certs=((folder / "both.pem", None),),
            override_path=True,
            query=ns,
        ),
        Mirror(
            "https://p.example/v2",
            True,
            client_certs=((folder / "e.pem", None), (folder / "f.pem", None)),
            query=ns,
        ),
        Mirror("https://upstream.example", True, query=ns),
    ]


@pytest.mark.parametrize(
    ("url", "override", "root"),
    [
        ("https://m.example", False, "https://m.example/v2"),
        ("https://m.example/v2/", False, "https://m.example/v2"),
        ("https://m.example/sub", False, "https://m.example/sub/v2"),
        ("https://m.example/sub", True, "https://m.example/sub"),
        ("https://m.example/v2/proxy", True, "https://m.example/v2/proxy"),
    ],
)
def test_api_root(url: str, override: bool, root: str) -> None:
    content = f'[host."{url}"]\noverride_path = {str(override).lower()}\n'
    [mirror] = parse_hosts_toml(content, "r.example", FILE)
    assert mirror.api_root == root
    assert mirror.repository_for("a/b") == "a/b"


@pytest.mark.parametrize(
    ("host", "content", "expected"),
    [
        ("r.example", 'server = "https://r.example"', []),
        ("docker.io", 'server = "https://registry-1.docker.io"', []),
        (
            "docker.io",
            'server = "https://registry-1.docker.io"\nskip_verify = true',
            [Mirror("https://registry-1.docker.io", True, verify=False)],
        ),
        (
            "docker.io",
            'server = "https://m.example"',
            [Mirror("https://m.example", True, query="ns=docker.io")],
        ),
        ("r.example", "", []),
    ],
)
def test_server(host: str, content: str, expected: list[Mirror]) -> None:
    assert parse_hosts_toml(content, host, FILE) == expected


@pytest.mark.parametrize(
    "content",
    [
        "x = ",
        "server = 1",
        'server = "ftp://x"',
        "host = 1",
        '[host]\n"https://m" = 1',
        '[host."ftp://m"]',
        '[host."https://m"]\ncapabilities = "pull"',
        '[host."https://m"]\ncapabilities = [1]',
        '[host."https://m"]\nca = 1',
        '[host."https://m"]\nca = [["a"]]',
        '[host."https://m"]\nclient = 1',
        '[host."https://m"]\nclient = [["a", "b", "c"]]',
        '[host."https://m"]\nheader = "x"',
        '[host."https://m"]\nheader = {x = 1}',
        '[host."https://m"]\nheader = {x = "a\\r\\nb: c"}',
        '[host."https://m"]\nskip_verify = "no"',
        "a = " + "[" * 5000,
    ],
)
def test_malformed_hosts_toml_is_named(content: str) -> None:
    with pytest.raises(InputError, match=r"hosts\.toml"):
        parse_hosts_toml(content, "r.example", FILE)


@pytest.mark.parametrize(
    ("folders", "host", "expected"),
    [
        (["r.example", "_default"], "r.example", "r.example"),
        (["_default"], "r.example", "_default"),
        (["r.example"], "other.example", None),
        (["r.example:5000", "r.example"], "r.example:5000", "r.example:5000"),
        (["r.example_5000_", "r.example"], "r.example:5000", "r.example_5000_"),
        (["docker.io"], "registry-1.docker.io", "docker.io"),
        (["r.example"], "R.Example", "r.example"),
        (["x"], "..", None),
        (["x"], "a/../x", None),
    ],
)
def test_which_folder(tmp_path: Path, folders: list[str], host: str, expected: str | None) -> None:
    root = tmp_path / "certs.d"
    write(tmp_path / "hosts.toml", '[host."https://outside"]')
    for n, folder in enumerate(folders):
        write(root / folder / "hosts.toml", f'[host."https://m{n}"]')
    found = mirrors_for(host, "a", hosts_dirs=[tmp_path / "absent", root])
    urls = [] if expected is None else [f"https://m{folders.index(expected)}"]
    assert [mirror.url for mirror in found] == urls


# --- registries.conf ---


@pytest.mark.parametrize(
    ("entry", "host", "repository", "expected"),
    [
        ('location = "r.example"', "r.example", "a/b", []),
        ('prefix = "r.example"\nlocation = "n.example"', "r.example", "a/b", ["n.example/v2/a/b"]),
        ('prefix = "r.example"\nlocation = "n.example/x/"', "r.example", "a", ["n.example/v2/x/a"]),
        ('prefix = "r.example/a"\nlocation = "n.example"', "r.example", "a/b", ["n.example/v2/b"]),
        (
            'prefix = "r.example/a"\nlocation = "n.example/x"',
            "r.example",
            "a/b",
            ["n.example/v2/x/b"],
        ),
        (
            'prefix = "r.example/a/b"\nlocation = "n.example/y"',
            "r.example",
            "a/b",
            ["n.example/v2/y"],
        ),
        ('prefix = "r.example/a"\nlocation = "n.example"', "r.example", "ab", []),
        ('prefix = "r.example"\nlocation = "n.example"', "r.example:5000", "a", []),
        (
            'prefix = "docker.io"\nlocation = "n.example"',
            "registry-1.docker.io",
            "a/b",
            ["n.example/v2/a/b"],
        ),
        ('prefix = "*.example"\nlocation = "n.test"', "r.example", "a/b", ["n.test/v2/a/b"]),
        ('prefix = "*.example/a"\nlocation = "n.test/x"', "r.example", "a/b", ["n.test/v2/x/b"]),
        ('prefix = "*.example"\nlocation = "n.test"', "example", "a/b", []),
        ('prefix = "*.example"\nlocation = "n.test"', "r.example.org", "a/b", []),
        ('prefix = "*.example"\nlocation = "n.test"', "host", "x.example/a", []),
        ('prefix = "*.example"', "r.example", "a/b", []),
    ],
)
def test_prefix_and_location(entry: str, host: str, repository: str, expected: list[str]) -> None:
    found = places(f"[[registry]]\n{entry}", host, repository)
    assert found == [f"https://{place}" for place in expected]


def test_mirrors_come_before_the_location_and_keep_their_kind() -> None:
    content = """
        unqualified-search-registries = ["docker.io"]
        [[registry]]
        prefix = "r.example/team"
        location = "moved.example/team"
        [[registry.mirror]]
        location = "one.example/cache"
        [[registry.mirror]]
        location = "two.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "three.example"
        pull-from-mirror = "tag-only"
    """
    registries = parse_registries_conf(content, CONF)
    found = select(registries, "r.example", "team/m")
    assert [(m.url, m.can_resolve, m.can_pull, m.repository_for("team/m")) for m in found] == [
        ("https://one.example", True, True, "cache/m"),
        ("https://two.example", False, True, "m"),
        ("https://three.example", True, False, "m"),
        ("https://moved.example", True, True, "team/m"),
    ]
    assert {m.query for m in found} == {""}
    assert select(registries, "r.example", "other/m") == []
    assert found[0].repository_for("other/m") == "other/m"


def test_mirror_by_digest_only() -> None:
    content = """
        [[registry]]
        location = "r.example"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.example"
    """
    [mirror] = select(parse_registries_conf(content, CONF), "r.example", "a")
    assert mirror == Mirror("https://m.example", can_resolve=False)


def test_insecure_is_unverified_tls_and_then_http() -> None:
    content = """
        [[registry]]
        location = "r.example"
        insecure = true
        [[registry.mirror]]
        location = "m.example:5000"
        insecure = true
    """
    found = select(parse_registries_conf(content, CONF), "r.example", "a")
    assert [(mirror.url, mirror.verify) for mirror in found] == [
        ("https://m.example:5000", False),
        ("http://m.example:5000", True),
        ("https://r.example", False),
        ("http://r.example", True),
    ]


def test_the_longest_prefix_wins_and_blocks() -> None:
    content = """
        [[registry]]
        location = "r.example"
        [[registry]]
        prefix = "*.example"
        blocked = true
        [[registry]]
        prefix = "r.example/bad"
        blocked = true
        [[registry]]
        prefix = "r.example/bad/good"
        location = "n.example"
    """
    assert places(content, "r.example", "a") == []
    assert places(content, "r.example", "bad/good/m") == ["https://n.example/v2/m"]
    for host, repository in [("r.example", "bad/m"), ("s.example", "a")]:
        with pytest.raises(PolicyError, match="blocks"):
            places(content, host, repository)


@pytest.mark.parametrize(
    "content",
    [
        "x = ",
        "registry = 1",
        "registry = [1]",
        "[[registry]]",
        "[[registry]]\nlocation = 1",
        '[[registry]]\nlocation = "r"\nblocked = "yes"',
        '[[registry]]\nlocation = "https://r"',
        '[[registry]]\nlocation = "r:port"',
        '[[registry]]\nlocation = "r"\nmirror = 1',
        '[[registry]]\nlocation = "r"\n[[registry.mirror]]',
        '[[registry]]\nlocation = "r"\n[[registry.mirror]]\nlocation = "http://m"',
        '[[registry]]\nlocation = "r"\n[[registry.mirror]]\nlocation = "m"\npull-from-mirror = "x"',
    ],
)
def test_malformed_registries_conf_is_named(content: str) -> None:
    with pytest.raises(InputError, match=r"registries\.conf"):
        parse_registries_conf(content, CONF)


# --- all of them ---


def test_order_and_drop_ins(tmp_path: Path) -> None:
    write(tmp_path / "certs.d" / "r.example" / "hosts.toml", '[host."https://two"]')
    main = write(
        tmp_path / "registries.conf",
        '[[registry]]\nprefix = "r.example"\nlocation = "replaced"\n'
        '[[registry]]\nprefix = "s.example"\nlocation = "four"\n',
    )
    drop_ins = tmp_path / "registries.conf.d"
    write(drop_ins / "10.conf", '[[registry]]\nprefix = "r.example"\nlocation = "also-replaced"')
    write(drop_ins / "20.conf", '[[registry]]\nprefix = "r.example"\nlocation = "three"')
    write(drop_ins / "30.conf.bak", "not read")
    (tmp_path / "empty.d").mkdir()

    def urls(host: str) -> list[str]:
        found = mirrors_for(
            host,
            "a",
            explicit=["one"],
            hosts_dirs=[tmp_path / "certs.d"],
            registries_conf=[main, drop_ins, tmp_path / "empty.d", tmp_path / "absent"],
        )
        return [mirror.url for mirror in found]

    assert urls("r.example") == ["https://one", "https://two", "https://three"]
    assert urls("s.example") == ["https://one", "https://four"]
    assert mirrors_for("r.example", "a") == ()


@pytest.mark.parametrize("content", [b"\xff", b"#" * ((1 << 20) + 1)])
def test_unreadable_content_is_named(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path / "r.example" / "hosts.toml")
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"hosts\.toml"):
        mirrors_for("r.example", "a", hosts_dirs=[tmp_path])


def test_default_registries_conf(tmp_path: Path) -> None:
    named = {"CONTAINERS_REGISTRIES_CONF": "/x/y.conf"}
    assert default_registries_conf(named, tmp_path) == (Path("/x/y.conf"),)
    system = Path("/etc/containers")
    own = tmp_path / ".config" / "containers"
    drop_ins = (system / "registries.conf.d", own / "registries.conf.d")
    assert default_registries_conf({}, tmp_path) == (system / "registries.conf", *drop_ins)
    write(own / "registries.conf")
    assert default_registries_conf({}, tmp_path) == (own / "registries.conf", *drop_ins)


def test_repr_hides_headers() -> None:
    assert "s3cret" not in repr(Mirror("https://m", False, headers={"authorization": "s3cret"}))


# --- certs.d ---


def test_tls_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for name in ("ca.crt", "b.cert", "b.key", "a.cert", "a.key", "readme"):
        write(one / "r.example:5000" / name)
    write(two / "r.example:5000" / "other.crt")
    write(one / "r.example" / "never.crt")
    folder = one / "r.example:5000"
    assert tls_files("r.example:5000", [one, tmp_path / "absent", two]) == TlsFiles(
        (folder / "ca.crt", two / "r.example:5000" / "other.crt"),
        ((folder / "a.cert", folder / "a.key"), (folder / "b.cert", folder / "b.key")),
    )
    assert tls_files("..", [one / "r.example"]) == TlsFiles()
    assert tls_files("none.example", [one]) == TlsFiles()


@pytest.mark.parametrize("name", ["client.cert", "client.key"])
def test_half_a_pair_is_an_error(tmp_path: Path, name: str) -> None:
    write(tmp_path / "r.example" / name)
    with pytest.raises(InputError, match=r"client\.cert and client\.key"):
        tls_files("r.example", [tmp_path])
