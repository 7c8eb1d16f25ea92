"""What a failure on the device means: for this job, for the next one, and for the process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from i2ii_spool.errors import EngineBroken, EngineError

# cuBLAS and cuDNN word a lack of memory as an error of their own, and so does the driver.
NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class OutOfMemory(EngineError):
    """The device had too little memory for this edit. The next one may fit."""

    code = "out_of_memory"


@contextmanager
def judged() -> Iterator[None]:
    """Raise `OutOfMemory` where memory ran out, `EngineBroken` where the device failed; let all
    else through.

    A CUDA error poisons the process: every call after it fails as well.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(
            words in str(error) for words in NO_MEMORY
        ):
            raise OutOfMemory(
                f"out of GPU memory; send fewer pictures, or lower max_side: {error}"
            ) from error
        if "CUDA error" in str(error):
            raise EngineBroken(f"the GPU has failed: {error}") from error
        raise
