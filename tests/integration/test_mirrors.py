"""Pulls by way of mirrors: good, wrong, down, incomplete; none is ever believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ocimodel.errors import IntegrityError
from ocimodel.ops import access
from ocimodel.ops.copy import copy
from ocimodel.ops.pull import PullResult, pull
from ocimodel.ops.push import push
from ocimodel.spec.digest import sha256
from tests.servers.fault_proxy import FaultProxy
from tests.servers.faults import FlipByte, ReplaceBody, ShortBody, Status
from tests.servers.process import free_port
from tests.servers.registry import DockerRegistry, GgcrRegistry
from tests.trees import MIB, Notices, patient, read_tree, small_model, with_login

BLOBS = "/blobs/"
N_FILES = 3


@dataclass
class Pair:
    """The same artifact at the origin and at a mirror, each behind a proxy."""

    origin: FaultProxy
    mirror: FaultProxy
    repo: str
    model: Path
    target: Path

    def pull(self, *mirrors: str, **options: object) -> tuple[PullResult, Notices]:
        notices = Notices()
        result = pull(
            f"{self.origin.host}/{self.repo}:v1",
            self.target,
            client=patient(mirrors=mirrors, n_attempts=2, **options),
            observer=notices,
        )
        assert read_tree(self.target) == read_tree(self.model)
        return result, notices

    def b_bin(self) -> str:
        """The URL path of the blob of b.bin, which has 3 MiB."""
        return BLOBS + sha256((self.model / "b.bin").read_bytes())


@pytest.fixture
def pair(
    docker_registry: DockerRegistry,
    ggcr: GgcrRegistry,
    fault_proxy: Callable[..., FaultProxy],
    repo: str,
    model: Path,
    tmp_path: Path,
) -> Pair:
    push(model, f"{docker_registry.host}/{repo}:v1", client=patient())
    copy(f"{docker_registry.host}/{repo}:v1", f"{ggcr.host}/{repo}:v1", client=patient())
    return Pair(fault_proxy(docker_registry), fault_proxy(ggcr), repo, model, tmp_path / "target")


def test_a_mirror_gives_the_blobs_and_not_the_tag(pair: Pair) -> None:
    result, _ = pair.pull(pair.mirror.host)
    assert pair.origin.downloaded() == 0
    assert pair.mirror.downloaded() == result.bytes_fetched
    # the origin said which digest the tag is; the mirror was told whose it is
    assert pair.origin.count("GET", "/manifests/v1") == 1
    assert pair.mirror.count("GET", "/manifests/v1") == 0
    assert all(f"ns={pair.origin.host.replace(':', '%3A')}" in e.path for e in pair.mirror.log)


def test_a_mirror_with_wrong_bytes_is_passed_over(pair: Pair) -> None:
    pair.mirror.add(FlipByte(MIB), method="GET", path=BLOBS, times=None)
    _, notices = pair.pull(pair.mirror.host)
    assert any("wrong bytes" in text for text in notices.texts)


def test_a_mirror_with_another_size_is_passed_over(pair: Pair) -> None:
    pair.mirror.add(ReplaceBody(b"short"), method="GET", path=BLOBS, times=None)
    _, notices = pair.pull(pair.mirror.host)
    assert any("passed over" in text for text in notices.texts)


def test_a_mirror_that_breaks_off_is_passed_over(pair: Pair) -> None:
    """What it gave is kept, the rest comes from the registry."""
    path = pair.b_bin()
    pair.mirror.add(ShortBody(MIB), method="GET", path=path)
    pair.mirror.add(ShortBody(0), method="GET", path=path, skip=1, times=None)
    pair.pull(pair.mirror.host)
    assert pair.origin.downloaded() == 2 * MIB


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 503])
def test_a_mirror_that_refuses_is_passed_over(pair: Pair, code: int) -> None:
    pair.mirror.add(Status(code), times=None)
    result, notices = pair.pull(pair.mirror.host)
    assert pair.origin.downloaded() == result.bytes_fetched
    assert any(pair.mirror.host in text for text in notices.texts)


def test_a_mirror_that_is_down_is_passed_over(pair: Pair) -> None:
    result, notices = pair.pull(f"127.0.0.1:{free_port()}", pair.mirror.host)
    # noticed once, not with each blob
    assert sum("passed over" in text for text in notices.texts) <= 1 + N_FILES
    assert pair.mirror.downloaded() == result.bytes_fetched


def test_wrong_bytes_everywhere_are_an_error(pair: Pair) -> None:
    for proxy in (pair.mirror, pair.origin):
        proxy.add(FlipByte(0), method="GET", path=BLOBS, times=None)
    with pytest.raises(IntegrityError):
        pair.pull(pair.mirror.host)


def test_a_mirror_never_gets_the_origin_s_credentials(
    pair: Pair,
    registry_htpasswd: DockerRegistry,
    tmp_path: Path,
    fault_proxy: Callable[..., FaultProxy],
) -> None:
    origin = fault_proxy(registry_htpasswd)
    options = with_login(tmp_path / "a.json", {origin.host: ("alice", "secret")})
    push(pair.model, f"{origin.host}/{pair.repo}:v1", client=options)
    options = with_login(
        tmp_path / "a.json", {origin.host: ("alice", "secret")}, mirrors=(pair.mirror.host,)
    )
    pull(f"{origin.host}/{pair.repo}:v1", pair.target, client=options)
    assert read_tree(pair.target) == read_tree(pair.model)
    assert pair.mirror.downloaded() > 0
    assert all("authorization" not in exchange.headers for exchange in pair.mirror.log)


def test_hosts_toml_may_let_a_mirror_resolve(
    pair: Pair, ggcr: GgcrRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "certs.d" / pair.origin.host
    folder.mkdir(parents=True)
    toml = f'[host."{pair.mirror.url}"]\ncapabilities = ["pull", "resolve"]\n'
    (folder / "hosts.toml").write_text(
        toml + '[host."x".header]\n'.replace("x", pair.mirror.url) + 'x-mirror-key = "k"\n'
    )
    monkeypatch.setattr(access, "HOSTS_DIRS", (tmp_path / "certs.d",))
    pair.pull()
    assert pair.origin.log == []
    assert all(e.headers["x-mirror-key"] == "k" for e in pair.mirror.log)
    # without the right to resolve, the tag is the origin's even where the mirror has another
    other = small_model(tmp_path / "other", 9)
    push(other, f"{ggcr.host}/{pair.repo}:v1", force_tag=True, client=patient())
    (folder / "hosts.toml").write_text(toml.replace(', "resolve"', ""))
    pair.pull()


def test_registries_conf_names_a_mirror(pair: Pair, tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text(
        f'[[registry]]\nprefix = "{pair.origin.host}/integration"\n'
        f'location = "{pair.origin.host}/integration"\n'
        f'[[registry.mirror]]\nlocation = "{pair.mirror.host}/integration"\ninsecure = true\n'
    )
    environ = {"CONTAINERS_REGISTRIES_CONF": str(conf), "HOME": str(tmp_path)}
    result, _ = pair.pull(environ=environ)
    assert pair.mirror.downloaded() == result.bytes_fetched
