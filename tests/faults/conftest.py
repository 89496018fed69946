"""A small model in a real registry, and a proxy before it that fails on demand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ocimodel.errors import OcimodelError
from ocimodel.ops.pull import PullResult, pull
from ocimodel.ops.push import push
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Document, Manifest
from tests.servers.fault_proxy import FaultProxy
from tests.servers.registry import DockerRegistry
from tests.signing import Scene
from tests.trees import Notices, patient, read_tree, repository, settled, small_model

_numbers = itertools.count()


@dataclass
class Bench:
    """`direct`, `reference`: the same tag without and through the proxy."""

    registry: DockerRegistry
    proxy: FaultProxy
    model: Path
    target: Path
    repo: str
    digest: str = ""
    notices: Notices = field(default_factory=Notices)

    @property
    def reference(self) -> str:
        return f"{self.proxy.host}/{self.repo}:v1"

    @property
    def direct(self) -> str:
        return f"{self.registry.host}/{self.repo}:v1"

    def direct_manifest(self) -> Document:
        """What is under the tag, past the proxy."""
        return repository(self.direct).manifest("v1")

    def layer(self, path: str) -> Descriptor:
        manifest = repository(self.direct).manifest("v1")
        assert isinstance(manifest, Manifest)
        names = {layer.annotations["org.cncf.model.filepath"]: layer for layer in manifest.layers}
        return names[path]

    def blob(self, path: str) -> str:
        """A regex for the URL of a file's blob."""
        return f"/blobs/{self.layer(path).digest}"

    def pull(self, options: ClientOptions | None = None, **changes: object) -> PullResult:
        return pull(
            self.reference,
            self.target,
            client=options or patient(),
            observer=self.notices,
            **changes,  # type: ignore[arg-type]
        )

    def refused(
        self,
        expected: type[OcimodelError],
        options: ClientOptions | None = None,
        *,
        hint: bool = True,
    ) -> OcimodelError:
        """A pull that must end in this error, with nothing wrong at any final path."""
        with pytest.raises(OcimodelError) as caught:
            self.pull(options)
        error = caught.value
        assert type(error) is expected, repr(error)
        assert error.exit_code == expected.exit_code
        assert error.hint or not hint, error
        self.assert_nothing_wrong()
        return error

    def assert_nothing_wrong(self) -> None:
        """What stands at a final path is whole and right."""
        wanted, found = read_tree(self.model), read_tree(self.target)
        for name in settled(self.target):
            assert found[name] == wanted[name], name

    def assert_heals(self) -> PullResult:
        """The next run, without faults, succeeds."""
        self.proxy.clear()
        result = self.pull()
        assert read_tree(self.target) == read_tree(self.model)
        return result


@pytest.fixture
def bench(
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
) -> Iterator[Bench]:
    """A pushed model; the proxy has no faults and an empty log."""
    made = Bench(
        docker_registry,
        fault_proxy(docker_registry),
        small_model(tmp_path / "model"),
        tmp_path / "target",
        f"faults/n{next(_numbers)}",
    )
    made.digest = push(made.model, made.direct, client=patient()).digest
    yield made


@pytest.fixture
def empty(
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
) -> Bench:
    """The same, with nothing pushed and a model that no other test has."""
    number = next(_numbers)
    return Bench(
        docker_registry,
        fault_proxy(docker_registry),
        small_model(tmp_path / "model", seed=1000 + 10 * number),
        tmp_path / "target",
        f"faults/n{number}",
    )


@pytest.fixture(params=["docker_registry", "ggcr"])
def scene(
    request: pytest.FixtureRequest, fault_proxy: Callable[..., FaultProxy], tmp_path: Path
) -> Scene:
    """docker-registry keeps referrers under a tag, ggcr has the API."""
    registry = request.getfixturevalue(request.param)
    return Scene(registry, fault_proxy(registry), tmp_path)
