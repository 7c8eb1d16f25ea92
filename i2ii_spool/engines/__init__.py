"""What edits pictures. An engine is known to its worker alone; each module loads what it needs when it is chosen."""

import logging

from i2ii_spool.engines.base import Engine
from i2ii_spool.errors import SettingsError

log = logging.getLogger(__name__)


def create(name: str, *, has_gpu: bool) -> Engine:
    """Return the engine called `name`, not loaded yet; `auto` chooses by whether there is a CUDA device."""
    if name == "auto":
        if has_gpu:
            raise SettingsError(
                "there is a CUDA device, and this version brings no engine that uses it; "
                "say --engine classic to edit with Pillow on the CPU",
                field="engine",
            )
        log.info("there is no CUDA device: the classic engine edits, with Pillow and a fixed list of instructions")
    from i2ii_spool.engines.classic import ClassicEngine

    return ClassicEngine()
