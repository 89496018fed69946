"""References: what they mean, what is refused, and that writing one reads as the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import UsageError
from ocimodel.spec.reference import (
    LayoutReference,
    Reference,
    RegistryReference,
    check_tag,
    is_loopback,
    parse_reference,
)

D = "sha256:" + "ab" * 32
D512 = "sha512:" + "cd" * 64


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("r.io/m", RegistryReference("r.io", "m")),
        ("r.io/team/m:v1", RegistryReference("r.io", "team/m", "v1")),
        (f"r.io/m@{D}", RegistryReference("r.io", "m", "", D)),
        (f"r.io/m:v1@{D512}", RegistryReference("r.io", "m", "v1", D512)),
        ("localhost/m", RegistryReference("localhost", "m")),
        ("localhost:5000/m:v1", RegistryReference("localhost:5000", "m", "v1")),
        ("box:5000/m", RegistryReference("box:5000", "m")),
        ("127.0.0.1:5000/m", RegistryReference("127.0.0.1:5000", "m")),
        ("[::1]:5000/m", RegistryReference("[::1]:5000", "m")),
        ("[2001:db8::1]/m", RegistryReference("[2001:db8::1]", "m")),
        ("R.IO/m", RegistryReference("R.IO", "m")),
        ("docker.io/alpine", RegistryReference("docker.io", "library/alpine")),
        ("index.docker.io/u/m:1", RegistryReference("docker.io", "u/m", "1")),
        ("registry-1.docker.io/u/m", RegistryReference("docker.io", "u/m")),
        ("r.io/a__b/c--d/e.f_g", RegistryReference("r.io", "a__b/c--d/e.f_g")),
        ("r.io/m:_", RegistryReference("r.io", "m", "_")),
        ("oci:dir", LayoutReference("dir")),
        ("oci:dir:v1", LayoutReference("dir", "v1")),
        ("oci:/a/b c/d:v1", LayoutReference("/a/b c/d", "v1")),
        (f"oci:dir@{D}", LayoutReference("dir", "", D)),
        (f"oci:dir:v1@{D}", LayoutReference("dir", "v1", D)),
        ("oci:/x:y/z", LayoutReference("/x:y/z")),
        ("oci:/x:y/z:v1", LayoutReference("/x:y/z", "v1")),
        ("oci:a:b:c", LayoutReference("a:b", "c")),
        ("oci:user@host/dir", LayoutReference("user@host/dir")),
        ("oci:.", LayoutReference(".")),
        ("oci:ü", LayoutReference("ü")),
    ],
)
def test_parsed(text: str, parsed: Reference) -> None:
    assert parse_reference(text) == parsed
    assert parse_reference(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "@",
        "model",
        "model:v1",
        "team/model",
        "r.io",
        "r.io/",
        "r.io/M",
        "r.io/a//b",
        "r.io/-a",
        "r.io/a-",
        "r.io/a___b",
        "r.io/a..b",
        "r.io/../b",
        "r.io/m:",
        "r.io/m:-v",
        "r.io/m:.v",
        "r.io/m:a/b",
        "r.io/m:a:b",
        "r.io/m:" + "v" * 129,
        "r.io/" + "m" * 256,
        "r.io/m@",
        "r.io/m@sha256:ab",
        f"r.io/m@{D.upper()}",
        f"r.io/m@{D}x",
        f"r.io/m@{D}@{D}",
        f"r.io/m:@{D}",
        "r.io:port/m",
        "r.io:/m",
        "r.io:0/m",
        "r.io:65536/m",
        "r.io:99999/m",
        "r.io:123456/m",
        "r.io:\u0665\u0660\u0660\u0660/m",
        "-r.io/m",
        "r-.io/m",
        "r..io/m",
        ".io/m",
        "r.io./m",
        "a" * 64 + ".io/m",
        "r_o.io/m",
        "us er@r.io/m",
        "user:pw@r.io/m",
        "https://r.io/m",
        "[::1/m",
        "r.io/m\n",
        "r.io/m:v1\n",
        "r.io/ü",
        "rü.io/m",
        "oci:",
        "oci::v1",
        f"oci:@{D}",
        "oci:dir:",
        "oci:a:b:",
        "oci:dir:-v",
        "oci:dir:tag with space",
        "oci:dir@sha256:ab",
        "oci:a\0b",
        f"oci:dir:@{D}",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


pieces = st.sampled_from(
    [*"/:@\n\0 üA.a-_", "oci:", "r.io", "localhost", "[::1]", "docker.io", D, "v1", "5000"]
)


@given(st.text() | st.lists(pieces, max_size=9).map("".join))
def test_parse_gives_a_reference_or_the_declared_error(text: str) -> None:
    try:
        parsed = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(parsed)) == parsed
    pinned = parsed.at(D)
    assert (pinned.tag, pinned.digest) == ("", D)
    again = parse_reference(str(pinned))
    assert (again.tag, again.digest, str(again)) == ("", D, str(pinned))


def test_a_pinned_layout_whose_path_has_a_colon_still_means_that_path() -> None:
    pinned = parse_reference("oci:/models/a:b:v1").at(D)
    assert str(pinned) == f"oci:/models/a:b/@{D}"
    assert parse_reference(str(pinned)) == LayoutReference("/models/a:b/", "", D)


def test_docker_hub_answers_elsewhere() -> None:
    parsed = parse_reference("docker.io/u/m")
    assert isinstance(parsed, RegistryReference)
    assert (parsed.host, parsed.name) == ("registry-1.docker.io", "docker.io/u/m")


def test_what_is_wrong_comes_with_what_to_do() -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference("model:v1")
    assert "docker.io/model:v1" in caught.value.hint


@pytest.mark.parametrize("tag", ["v1", "V1.2-rc_3", "_x", "0", "a" * 128])
def test_tags(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a b", "a/b", "a:b", "é", "a" * 129, "a\n", D])
def test_no_tags(tag: str) -> None:
    with pytest.raises(UsageError):
        check_tag(tag)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("reg.localhost:5000", True),
        ("127.0.0.1", True),
        ("127.8.9.1:80", True),
        ("[::1]", True),
        ("[::1]:5000", True),
        ("localhost.evil.com", False),
        ("evillocalhost", False),
        ("127.0.0.1.evil.com", False),
        ("128.0.0.1", False),
        ("[::2]:1", False),
        ("0.0.0.0", False),
        ("r.io:127", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
