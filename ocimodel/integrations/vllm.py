"""vLLM's load format "ocimodel": weights stream from a registry into the engine.

vLLM finds `register` by the entry point group `vllm.general_plugins`. Source: vLLM 0.33,
model_executor/model_loader/{__init__,base_loader}.py and config/load.py.

    vllm serve FOLDER --load-format ocimodel \\
        --model-loader-extra-config '{"reference": "registry.example.com/team/llama:v1"}'
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final, Self

from ocimodel.errors import UsageError
from ocimodel.events import Event, Notice
from ocimodel.lazy.model import LazyModel
from ocimodel.ops.open import open as open_model

LOAD_FORMAT: Final = "ocimodel"
# below vLLM's own, which has the handlers
_log = logging.getLogger("vllm.ocimodel")


def register() -> None:
    """Make the load format known. vLLM calls it in each of its processes; more calls do no harm."""
    from vllm.model_executor.model_loader import register_model_loader

    register_model_loader(LOAD_FORMAT)(loader_class())


@cache
def loader_class() -> type[OcimodelLoader]:
    """The loader as vLLM wants it: with the rest of its work inherited from vLLM's own."""
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    return type("OcimodelModelLoader", (OcimodelLoader, BaseModelLoader), {})


@dataclass(frozen=True, slots=True)
class Options:
    """`model_loader_extra_config`. `reference`: the model.

    `prefix`: only the tensors whose names begin with it, and without it. `cache`: a folder that all
    processes of a node share, or each tensor-parallel rank fetches the whole model for itself.
    The others: as for `ocimodel.open` and `LazyModel.load`.
    """

    reference: str
    key: str = ""
    policy: str = ""
    cache: str = ""
    prefix: str = ""
    workers: int = 0
    require_lazy: bool = False

    @classmethod
    def parse(cls, given: Any) -> Self:
        """Raises UsageError."""
        if not isinstance(given, dict) or not given.get("reference"):
            raise UsageError(
                'the load format "ocimodel" needs the model\'s reference',
                hint='--model-loader-extra-config \'{"reference": "HOST/REPOSITORY:TAG"}\'',
            )
        known = {field.name: str(field.type) for field in fields(cls)}
        for name, value in given.items():
            if name not in known:
                raise UsageError(
                    f"model_loader_extra_config has no {str(name)[:100]!r}",
                    hint=f"it takes: {', '.join(known)}",
                )
            if type(value).__name__ != known[name]:
                raise UsageError(f"{name} of model_loader_extra_config has to be a {known[name]}")
        if given.get("workers", 0) < 0:
            raise UsageError("workers of model_loader_extra_config is less than 0")
        return cls(**given)


class OcimodelLoader:
    """What is ours of the loader, to be joined with BaseModelLoader.

    `load_config`: vLLM's. Raises the tree of ocimodel.errors.
    """

    def __init__(self, load_config: Any) -> None:
        super().__init__(load_config)  # type: ignore[call-arg] # BaseModelLoader's
        self._options = Options.parse(load_config.model_loader_extra_config)

    def download_model(self, model_config: Any) -> None:
        """Fetch what `load_weights` will read into the cache; without one there is no place."""
        if self._options.cache:
            with self._open() as model:
                for _ in model.load_bytes(
                    prefix=self._options.prefix, workers=self._options.workers
                ):
                    pass

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Hand `model` all tensors, in the order of the files, each as soon as it is verified."""
        with self._open() as source:
            model.load_weights(self._weights(source))
            _log.info(
                "%s@%s: %s, %d bytes fetched in %d requests, %d from the cache",
                self._options.reference,
                source.digest,
                source.mode,
                source.traffic.n_fetched,
                source.traffic.n_requests,
                source.traffic.n_cached,
            )

    def _open(self) -> LazyModel:
        options = self._options
        return open_model(
            options.reference,
            key=options.key,
            policy=options.policy or None,
            cache=options.cache or None,
            require_lazy=options.require_lazy,
            observer=_tell,
        )

    def _weights(self, source: LazyModel) -> Iterator[tuple[str, Any]]:
        prefix = self._options.prefix
        for name, tensor in source.load(
            prefix=prefix, workers=self._options.workers, framework="torch"
        ):
            yield name.removeprefix(prefix), tensor


def _tell(event: Event) -> None:
    if isinstance(event, Notice):
        _log.warning("%s", event.message)
