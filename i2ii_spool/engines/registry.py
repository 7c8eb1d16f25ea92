"""Create the engine that the settings name. An engine's module is imported only if it is chosen."""

import logging

from i2ii_spool.engines.base import Engine
from i2ii_spool.settings import Settings

log = logging.getLogger(__name__)


def create(settings: Settings, *, has_gpu: bool) -> Engine:
    """Return the engine of the settings, not loaded; `auto` is qwen with a GPU, else classic."""
    name = settings.engine
    if name == "auto":
        name = "qwen" if has_gpu else "classic"
        log.info("engine auto: %s, since there is %s", name, "a GPU" if has_gpu else "no GPU")
    if name == "qwen":
        from i2ii_spool.engines.diffusers.engine import QwenEngine

        return QwenEngine(settings)
    from i2ii_spool.engines.classic import ClassicEngine

    return ClassicEngine()
