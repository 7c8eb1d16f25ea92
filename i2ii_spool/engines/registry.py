"""What edits pictures. An engine is known to its worker alone; each module loads what it needs when
it is chosen."""

import logging

from i2ii_spool.engines.base import Engine
from i2ii_spool.settings import Settings

log = logging.getLogger(__name__)


def create(settings: Settings, *, has_gpu: bool) -> Engine:
    """Return the engine that is set, not loaded yet; `auto` chooses by whether there is a CUDA
    device."""
    name = settings.engine
    if name == "auto":
        name = "qwen" if has_gpu else "classic"
        found = "a CUDA device" if has_gpu else "no CUDA device"
        log.info("there is %s: the %s engine edits", found, name)
    if name == "qwen":
        from i2ii_spool.engines.diffusers.engine import QwenEngine

        return QwenEngine(settings)
    from i2ii_spool.engines.classic import ClassicEngine

    return ClassicEngine()
