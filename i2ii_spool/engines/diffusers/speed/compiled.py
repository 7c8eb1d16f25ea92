"""Compile the blocks of the transformer.

All blocks share their code, which is compiled again for each state that it has not met: a LoRA, or
another number of pictures for Qwen-Image-2.1. It is compiled for any number of tokens at once,
since the sizes of pictures and the lengths of prompts have no end.
"""

import logging
import threading
from typing import Any

import torch
from torch._dynamo.callback import on_compile_end, on_compile_start
from torch._dynamo.exc import FailOnRecompileLimitHit

log = logging.getLogger(__name__)

MAX_COMPILATIONS = 64
"""Of the code of a block. torch's own limit is 8: fewer than the LoRAs that presets may name."""

_running = threading.Event()


def is_running() -> bool:
    """Whether torch compiles at this moment."""
    return _running.is_set()


def compile_blocks(transformer: Any, *, fullgraph: bool) -> None:
    """Compile each block at its first pass. After `MAX_COMPILATIONS`, what is new runs as it is."""
    torch._dynamo.config.recompile_limit = MAX_COMPILATIONS
    # Some versions of torch call these with an argument.
    on_compile_start(lambda *_: _running.set())
    on_compile_end(lambda *_: _running.clear())
    transformer.compile_repeated_blocks(fullgraph=fullgraph, dynamic=True)
    for block in transformer.transformer_blocks:
        block._compiled_call_impl = WithFallback(block)


class WithFallback:
    """Replaces the compiled call of a block. With `fullgraph` torch fails at its limit."""

    def __init__(self, block: Any) -> None:
        self._compiled, self._uncompiled = block._compiled_call_impl, block._call_impl
        self._has_warned = False

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the block: compiled, else as it is."""
        try:
            return self._compiled(*inputs, **options)
        except FailOnRecompileLimitHit:
            if not self._has_warned:
                log.warning("a block was compiled %d times: it runs uncompiled", MAX_COMPILATIONS)
                self._has_warned = True
            return self._uncompiled(*inputs, **options)
