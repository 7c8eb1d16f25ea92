"""Errors of the device, and what they mean for the job and for the process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from i2ii_spool.errors import BadOutput, EngineBroken, EngineError

# cuBLAS, cuDNN and the driver report a lack of memory as a plain RuntimeError.
NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class OutOfMemory(EngineError):
    """The device has too little memory for this edit. The next edit may fit."""

    code = "out_of_memory"


class LargeEditOutOfMemory(OutOfMemory):
    """The device has too little memory for this edit, which is larger than the one at start."""

    suspects_worker = False


class BlackPicture(BadOutput):
    """The model returned a black picture, which a client may have asked for."""

    suspects_worker = False


@contextmanager
def device_errors(kind: type[OutOfMemory] = OutOfMemory) -> Iterator[None]:
    """Raise `kind` for a lack of memory and `EngineBroken` for other CUDA errors.

    After a CUDA error every later call of the process fails as well. All other exceptions pass.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(
            words in str(error) for words in NO_MEMORY
        ):
            raise kind(
                f"out of GPU memory; send fewer pictures, or lower max_side: {error}"
            ) from error
        if "CUDA error" in str(error):
            raise EngineBroken(f"the GPU has failed: {error}") from error
        raise
