"""Tiny models of random weights, and engines that have loaded them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engines.qwen import KINDS, settings

if TYPE_CHECKING:
    from i2ii_spool.engines.diffusers.engine import QwenEngine


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a tiny model of each kind."""
    from i2ii_spool.engines.diffusers.testing.tiny_edit import write

    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write(root / kind, kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="session")
def engines(models: dict[str, Path]) -> "Callable[[str], QwenEngine]":
    """A loaded engine of a kind."""
    from i2ii_spool.engines.diffusers.engine import QwenEngine

    loaded: dict[str, QwenEngine] = {}

    def engine_of(kind: str) -> QwenEngine:
        if kind not in loaded:
            loaded[kind] = QwenEngine(settings(models[kind]))
            loaded[kind].load()
        return loaded[kind]

    return engine_of


@pytest.fixture
def engine(engines: "Callable[[str], QwenEngine]") -> "QwenEngine":
    return engines("2511")
