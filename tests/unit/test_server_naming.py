"""The pure parts of the server: names, routes, ranges, addresses."""

from __future__ import annotations

import pytest

from ocimodel.errors import UsageError
from ocimodel.server import parse_address
from ocimodel.server.naming import Naming, default_name, is_name, page
from ocimodel.server.ranges import parse_content_range, parse_range
from ocimodel.server.routes import Resource, Route, find_route

NAMING = Naming("models")
STORED = ["v1", "v2", "team/a:v1", "team/a:x", "models:v1", "models:old", "localhost:5000/b:v1", ""]


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("models", {"v1": "v1", "v2": "v2", "old": "models:old"}),
        ("team/a", {"v1": "team/a:v1", "v2": "v2", "x": "team/a:x"}),
        ("team", {"v1": "v1", "v2": "v2"}),
    ],
)
def test_a_repository_sees_its_own_tags_before_the_plain_ones(
    repository: str, expected: dict[str, str]
) -> None:
    assert NAMING.visible(repository, STORED) == expected
    assert NAMING.visible(repository, reversed(STORED)) == expected


@pytest.mark.parametrize(
    ("repository", "tag", "stored"),
    [
        ("models", "v1", "v1"),
        ("team/a", "v1", "team/a:v1"),
        ("docker.io/library/x", "3.0", "docker.io/library/x:3.0"),
    ],
)
def test_stored_names_lead_back(repository: str, tag: str, stored: str) -> None:
    assert NAMING.ref_name(repository, tag) == stored
    assert NAMING.split(stored) == (repository, tag)
    assert NAMING.owns(repository, stored)
    assert not NAMING.owns("another", stored)


def test_two_repositories_never_share_a_stored_name() -> None:
    names = {NAMING.ref_name(r, t) for r in ("models", "a", "a/b", "b") for t in ("v1", "b", "a")}
    assert len(names) == 12


@pytest.mark.parametrize("stored", ["", ":v1", "v1:", "-x", "Team/a:v1", "h:5000/b:v1", "a/../b:v"])
def test_foreign_names_are_no_tags(stored: str) -> None:
    assert NAMING.split(stored) is None


def test_the_catalog_lists_repositories_with_tags_of_their_own() -> None:
    assert NAMING.repositories(STORED) == ["models", "team/a"]
    assert NAMING.repositories([]) == []


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("models", "models"),
        ("Llama-3", "llama-3"),
        ("..", "model"),
        ("a b", "model"),
        ("", "model"),
    ],
)
def test_the_default_repository(directory: str, expected: str) -> None:
    assert default_name(directory) == expected


@pytest.mark.parametrize("name", ["a", "a/b", "a-b.c__d/e1", "docker.io/library/x", "a" * 255])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "A", "a/", "/a", "a//b", "..", "a/../b", "a/.", "-a", "a-", "a___b", "a:b", "a\n"),
        *("é", "a" * 256, "sha256", "sha512"),
    ],
)
def test_no_names(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize(
    ("n", "last", "expected"),
    [
        (None, "", (["A", "b", "C"], False)),
        (2, "", (["A", "b"], True)),
        (3, "", (["A", "b", "C"], False)),
        (0, "", ([], False)),
        (1, "A", (["b"], True)),
        (None, "B", (["b", "C"], False)),
        (2, "C", ([], False)),
    ],
)
def test_pages(n: int | None, last: str, expected: tuple[list[str], bool]) -> None:
    assert page(["b", "C", "A"], n, last) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2", Route(Resource.BASE)),
        ("/v2/", Route(Resource.BASE)),
        ("/v2/_catalog", Route(Resource.CATALOG)),
        ("/v2/a/b/tags/list", Route(Resource.TAGS, "a/b")),
        ("/v2/a/manifests/v1", Route(Resource.MANIFEST, "a", "v1")),
        ("/v2/a/manifests/sha256%3Aab", Route(Resource.MANIFEST, "a", "sha256:ab")),
        ("/v2/a/referrers/sha256:ab", Route(Resource.REFERRERS, "a", "sha256:ab")),
        ("/v2/a/blobs/uploads/", Route(Resource.UPLOADS, "a")),
        ("/v2/a/blobs/uploads", Route(Resource.UPLOADS, "a")),
        ("/v2/a/blobs/uploads/12", Route(Resource.UPLOAD, "a", "12")),
        ("/v2/a/blobs/sha256:ab", Route(Resource.BLOB, "a", "sha256:ab")),
        ("/v2/manifests/blobs/manifests/v1", Route(Resource.MANIFEST, "manifests/blobs", "v1")),
        ("/v2/a/../../etc/manifests/v1", Route(Resource.MANIFEST, "a/../../etc", "v1")),
    ],
)
def test_routes(path: str, expected: Route) -> None:
    assert find_route(path) == expected


@pytest.mark.parametrize("path", ["", "/", "/v1/", "/v2/a", "/v2/a/manifests/", "/v2//tags/list"])
def test_no_routes(path: str) -> None:
    assert find_route(path) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 10)),
        ("bytes=3-5", (3, 3)),
        ("bytes=9-9", (9, 1)),
        ("bytes=5-99", (5, 5)),
        ("bytes=-3", (7, 3)),
        ("bytes=-99", (0, 10)),
        ("bytes=0-1,4-5", None),
        ("bytes=5-3", None),
        ("bytes=-", None),
        ("lines=0-1", None),
        ("bytes=x-1", None),
    ],
)
def test_ranges_of_ten_bytes(header: str, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_ranges_outside(header: str, size: int) -> None:
    with pytest.raises(ValueError):
        parse_range(header, size)


def test_content_ranges() -> None:
    assert parse_content_range("0-9") == (0, 10)
    assert parse_content_range("bytes 5-5/*") == (5, 1)
    for malformed in ("", "5", "9-5", "-5", "a-b", "0-9-10", "1" * 30 + "-2"):
        with pytest.raises(ValueError):
            parse_content_range(malformed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        (":8080", ("127.0.0.1", 8080)),
        ("localhost", ("localhost", 5000)),
        ("[::1]:0", ("::1", 0)),
        ("[::1]", ("::1", 5000)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["a:b", "a:70000", "a:-1", "::1"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)
