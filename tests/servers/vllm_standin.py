"""As much of vLLM as a model loader meets: written into a folder, to be imported from there.

What it has in common with the real one is held by tests/unit/test_vllm_loader.py, where a wheel of
that is in the cache.
"""

from __future__ import annotations

from pathlib import Path

_LOADERS = """
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

_LOAD_FORMAT_TO_MODEL_LOADER = {}


def register_model_loader(load_format):
    def _wrapper(model_loader_cls):
        if not issubclass(model_loader_cls, BaseModelLoader):
            raise ValueError("The model loader must be a subclass of `BaseModelLoader`.")
        _LOAD_FORMAT_TO_MODEL_LOADER[load_format] = model_loader_cls
        return model_loader_cls

    return _wrapper


def get_model_loader(load_config):
    return _LOAD_FORMAT_TO_MODEL_LOADER[load_config.load_format](load_config)
"""
_BASE = """
from abc import ABC, abstractmethod


class BaseModelLoader(ABC):
    def __init__(self, load_config):
        self.load_config = load_config

    @abstractmethod
    def download_model(self, model_config):
        raise NotImplementedError

    @abstractmethod
    def load_weights(self, model, model_config):
        raise NotImplementedError

    def load_model(self, vllm_config, model_config, prefix=""):
        model = self.create_model(vllm_config, model_config, prefix)
        self.load_weights(model, model_config)
        return model.eval()

    def create_model(self, vllm_config, model_config, prefix=""):
        return vllm_config.new_model()
"""
_CONFIG = """
from dataclasses import dataclass, field
from typing import Any


@dataclass
class LoadConfig:
    load_format: str = "auto"
    model_loader_extra_config: Any = field(default_factory=dict)
"""
FILES = {
    "vllm/__init__.py": "",
    "vllm/config/__init__.py": "",
    "vllm/config/load.py": _CONFIG,
    "vllm/model_executor/__init__.py": "",
    "vllm/model_executor/model_loader/__init__.py": _LOADERS,
    "vllm/model_executor/model_loader/base_loader.py": _BASE,
}


def write_vllm(folder: Path) -> Path:
    """The stand-in in `folder`, which is to be on the path of whoever imports it."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
