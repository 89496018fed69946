"""Names and small models for tests against real registries."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.trees import small_model

_numbers = itertools.count()


@pytest.fixture
def repo() -> str:
    """A repository name that no other test uses."""
    return f"integration/n{next(_numbers)}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two weights of 1 and 3 MiB and a configuration, unlike those of any other test."""
    return small_model(tmp_path / "model", seed=100_000 + 10 * next(_numbers))
