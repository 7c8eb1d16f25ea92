"""NVIDIA's library as it would be on a machine with the cards that `FAKE_GPUS` lists.

`FAKE_GPUS` is a JSON list of cards; a card is {"minor", "uuid"} and may have "slices", a list of
UUIDs, and "errors", the error of each query that it does not answer: {"nvmlDeviceGetUUID": 15}. One
with a "file" is shown to processes that a device cgroup lets open this file.
Without it, there is no driver; `{"error": N}` is a driver that answers with this error. As the real
one does in a unit that may use one card alone, it shows none that `FAKE_FENCE`, a minor number,
keeps out.
"""

import errno
import functools
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_here = Path(__file__).resolve().parent
_found = (Path(folder, "pynvml.py") for folder in sys.path if Path(folder).resolve() != _here)
_spec = importlib.util.spec_from_file_location(
    "real_pynvml", next(path for path in _found if path.exists())
)
assert _spec is not None
assert _spec.loader is not None
_real = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _real
_spec.loader.exec_module(_real)

NVMLError = _real.NVMLError
NVML_TEMPERATURE_GPU = _real.NVML_TEMPERATURE_GPU
NVMLError_LibraryNotFound = _real.NVMLError_LibraryNotFound
NVMLError_DriverNotLoaded = _real.NVMLError_DriverNotLoaded


def _answers(query: Callable[..., Any]) -> Callable[..., Any]:
    """Make a query of a card answer with the error that the card has for it."""

    @functools.wraps(query)
    def ask(card: Any, *rest: Any) -> Any:
        return query(_handle(card, query.__name__), *rest)

    return ask


def _cards() -> list[Any]:
    fence = os.environ.get("FAKE_FENCE")
    cards = json.loads(os.environ["FAKE_GPUS"])
    return [
        card
        for card in cards
        if (fence is None or str(card["minor"]) == fence) and _may_open(card.get("file"))
    ]


def _may_open(path: str | None) -> bool:
    if path is None:
        return True
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:  # ENXIO: it may, and this machine has no such driver
        return error.errno != errno.EPERM
    return True


def nvmlInit() -> None:
    described = json.loads(os.environ.get("FAKE_GPUS", "null"))
    if described is None:
        raise NVMLError(_real.NVML_ERROR_LIBRARY_NOT_FOUND)
    if isinstance(described, dict):
        raise NVMLError(described["error"])


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return len(_cards())


def nvmlDeviceGetHandleByIndex(index: int) -> Any:
    return _handle(_cards()[index], "nvmlDeviceGetHandleByIndex")


def nvmlDeviceGetHandleByUUID(uuid: str) -> Any:
    parts = [part for card in _cards() for part in (card, *_slices(card))]
    part = next(part for part in parts if part["uuid"] == uuid)
    return _handle(part, "nvmlDeviceGetHandleByUUID")


def _handle(part: Any, query: str) -> Any:
    error = part.get("errors", {}).get(query)
    if error is not None:
        raise NVMLError(error)
    return part


@_answers
def nvmlDeviceGetName(_card: Any) -> str:
    return "NVIDIA Imaginary"


@_answers
def nvmlDeviceGetUUID(part: Any) -> str:
    uuid: str = part["uuid"]
    return uuid


@_answers
def nvmlDeviceGetMinorNumber(card: Any) -> int:
    minor: int = card["minor"]
    return minor


@_answers
def nvmlDeviceGetMaxMigDeviceCount(card: Any) -> int:
    if "slices" not in card:
        raise NVMLError(_real.NVML_ERROR_NOT_SUPPORTED)
    return 7


@_answers
def nvmlDeviceGetMigDeviceHandleByIndex(card: Any, index: int) -> Any:
    if index >= len(card["slices"]):
        raise NVMLError(_real.NVML_ERROR_NOT_FOUND)
    return _slices(card)[index]


def _slices(card: Any) -> list[Any]:
    errors = card.get("errors", {})
    return [
        {"uuid": uuid, "is_slice": True, "errors": errors.get(uuid, {})}
        for uuid in card.get("slices", ())
    ]


@_answers
def nvmlDeviceGetMemoryInfo(_part: Any) -> Any:
    return SimpleNamespace(used=30 * 2**30, total=80 * 2**30)


@_answers
def nvmlDeviceGetUtilizationRates(part: Any) -> Any:
    if "is_slice" in part:
        raise NVMLError(_real.NVML_ERROR_NOT_SUPPORTED)
    return SimpleNamespace(gpu=97)


def nvmlSystemGetDriverVersion() -> str:
    return "570.86.15"


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    return 12080


@_answers
def nvmlDeviceGetTemperature(card: Any, _sensor: int) -> int:
    if card.get("is_slice"):
        raise NVMLError(_real.NVML_ERROR_NOT_SUPPORTED)
    return 61
