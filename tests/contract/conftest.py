"""The stores under contract. To add one: a line in STORES, name → factory.

A factory gets pytest's `request` (for fixtures such as `tmp_path`, and `addfinalizer`) and
returns an empty `Store`. `repository_in("fixture")` is the factory for a registry that a fixture of
tests/conftest.py runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from ocimodel.store.layout import Layout
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Store

Factory = Callable[[pytest.FixtureRequest], Store]


def _memory(request: pytest.FixtureRequest) -> Store:
    return MemoryStore()


def _layout(request: pytest.FixtureRequest) -> Store:
    return Layout(request.getfixturevalue("tmp_path") / "layout", create=True)


def repository_in(server_fixture: str) -> Factory:
    """A factory of repositories, each with a new name, at the fixture's `.host`."""

    def make(request: pytest.FixtureRequest) -> Store:
        pytest.importorskip("ocimodel.registry.repository")
        from ocimodel.registry.credentials import Credentials
        from ocimodel.registry.repository import Repository
        from ocimodel.registry.transport import ClientOptions
        from ocimodel.spec.reference import RegistryReference

        host = request.getfixturevalue(server_fixture).host
        reference = RegistryReference(host, f"contract/r{os.urandom(6).hex()}")
        home = request.getfixturevalue("tmp_path")
        credentials = Credentials(environ={}, home=home)
        repository = Repository(reference, ClientOptions(), credentials, writable=True)
        request.addfinalizer(repository.close)
        return repository

    return make


STORES: dict[str, Factory] = {
    "memory": _memory,
    "layout": _layout,
    "docker-registry": repository_in("docker_registry"),
    "ggcr": repository_in("ggcr"),
    "zot": repository_in("zot"),
}


# (store, test) → what the server, not our client, does otherwise
DEVIATIONS: dict[tuple[str, str], str] = {
    ("ggcr", "test_delete_takes_the_manifest_and_its_tags"): "keeps the tags of a deleted digest",
    ("ggcr", "test_a_manifest_without_its_blobs_is_refused"): "takes manifests without blobs",
    ("ggcr", "test_referrers_are_found_by_their_subject"): "lists the config's type",
}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Store:
    """Each of the stores, empty."""
    deviation = DEVIATIONS.get((request.param, request.node.originalname))
    if deviation:
        request.applymarker(pytest.mark.xfail(reason=deviation, strict=True))
    return STORES[request.param](request)
