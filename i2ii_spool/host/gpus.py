"""List the GPUs, resolve the one that a worker uses, and read how busy it is.

A GPU has three kinds of names: the N of its device file /dev/nvidiaN, its UUID, and the name of a
MIG slice. CUDA always gets the UUID: if a unit's `DeviceAllow=` shows a process only one card, that
card has index 0 in CUDA, whatever its N.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from i2ii_spool.errors import DriverError, SettingsError

CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/version")
MIB = 2**20


# --- what the driver sees -------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG slice of one."""

    name: str
    """The product, for example `NVIDIA H100 80GB HBM3`."""
    uuid: str
    minor: int
    """The N of its /dev/nvidiaN; a slice has the N of its card."""

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice."""
        return self.uuid.startswith("MIG-")


@contextmanager
def _nvml_session() -> Iterator[bool]:
    """Yield whether an NVIDIA driver is installed.

    Raises `DriverError` if there is one and it does not work.
    """
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        yield False
        return
    except pynvml.NVMLError as error:
        raise _driver_error(error) from error
    try:
        yield True
    except pynvml.NVMLError as error:
        raise _driver_error(error) from error
    finally:
        pynvml.nvmlShutdown()


def _driver_error(error: Exception) -> DriverError:
    return DriverError(
        f"the NVIDIA driver does not work: {error}; see nvidia-smi and `dmesg` for details"
    )


def devices() -> list[Device]:
    """Return the GPUs that this process may use, in the order of nvidia-smi.

    A card in MIG mode is represented by its slices.
    """
    with _nvml_session() as has_driver:
        if not has_driver:
            return []
        cards = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [_device(part, card) for card in cards for part in _slices(card) or [card]]


def _device(part: Any, card: Any) -> Device:
    return Device(
        name=pynvml.nvmlDeviceGetName(card),
        uuid=pynvml.nvmlDeviceGetUUID(part),
        minor=pynvml.nvmlDeviceGetMinorNumber(card),
    )


def _slices(card: Any) -> list[Any]:
    found = []
    with suppress(pynvml.NVMLError_NotSupported):
        for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card)):
            with suppress(pynvml.NVMLError_NotFound):  # slices are numbered with gaps
                found.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))
    return found


def driver_versions() -> tuple[str, str] | None:
    """Return the versions of the driver and of the newest CUDA that it supports.

    For example `("570.86", "12.8")`; None without a driver.
    """
    with _nvml_session() as has_driver:
        if not has_driver:
            return None
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return pynvml.nvmlSystemGetDriverVersion(), f"{cuda // 1000}.{cuda % 1000 // 10}"


# --- the GPU of a worker --------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of one."""

    id: int | str
    """Its number, or the UUID or MIG name that the operator gave."""
    unit: str
    """The part of the worker's name that is unique on this host: `gpu0`, `gpu-8f3a1b2c`,
    `mig-8f3a1b2c`."""


def visible_devices() -> list[str] | None:
    """Return the entries of `CUDA_VISIBLE_DEVICES`, or None if it is not set."""
    value = os.environ.get(CUDA_VISIBLE_DEVICES)
    if value is None:
        return None
    entries = [entry.strip() for entry in value.split(",")]
    # CUDA ignores the first invalid entry and all that follow it: "" and "-1" hide every GPU.
    end = next((index for index, entry in enumerate(entries) if entry in ("", "-1")), len(entries))
    return entries[:end]


def list_ids() -> list[str]:
    """Return the argument of `i2ii gpu` for each GPU that this process may use."""
    entries = visible_devices()
    if entries is not None:
        return [str(index) for index in range(len(entries))]
    return [device.uuid if device.is_slice else str(device.minor) for device in devices()]


def resolve(id: str) -> Gpu:
    """Return the GPU that `id` means: a number, a UUID, or a MIG name.

    Like CUDA, a number counts within `CUDA_VISIBLE_DEVICES` if that is set. Raises `SettingsError`.
    """
    entries = visible_devices()
    if not entries:
        return _parse(id)
    visible = f"{CUDA_VISIBLE_DEVICES}={','.join(entries)}"
    if not id.isdecimal():
        if id not in entries:
            raise SettingsError(f"GPU {id} is not in {visible}", field="gpu")
        return _parse(id)
    if int(id) >= len(entries):
        raise SettingsError(
            f"GPU {id} not found: {visible} has {len(entries)}, counted from 0", field="gpu"
        )
    return _parse(entries[int(id)])


def _parse(id: str) -> Gpu:
    if id.isdecimal():
        return Gpu(int(id), f"gpu{int(id)}")
    match = re.fullmatch(r"(GPU|MIG)(?:-GPU)?-([0-9A-Fa-f]{4,8})[0-9A-Fa-f-]*((?:/\d+)*)", id)
    if match is None:
        raise SettingsError(
            f"{id!r} is not a GPU: give an index, a GPU-<uuid> or a MIG-<uuid>", field="gpu"
        )
    kind, digits, slices = match.groups()
    return Gpu(id, f"{kind.lower()}-{digits.lower()}{slices.replace('/', '-')}")


def set_visible(gpu: Gpu) -> Device | None:
    """Make this GPU the only one that CUDA sees, and return it. Call this before CUDA is loaded.

    Returns None on a machine without a GPU. Raises `SettingsError` if the machine has GPUs and this
    is not one of them, `DriverError` if the driver does not work.
    """
    if visible_devices() == []:
        return None
    accessible = devices()
    if not accessible and not DRIVER.exists():
        return None
    device = _find_device(gpu, accessible)
    if device is None:
        here = ", ".join(f"{device.minor} ({device.uuid})" for device in accessible)
        raise SettingsError(
            f"GPU {gpu.id} not found: this process may use {here or 'no GPU'}", field="gpu"
        )
    os.environ[CUDA_VISIBLE_DEVICES] = device.uuid
    return device


def _find_device(gpu: Gpu, accessible: list[Device]) -> Device | None:
    if isinstance(gpu.id, str):
        return next((device for device in accessible if device.uuid.startswith(gpu.id)), None)
    if visible_devices() is None:
        return next((device for device in accessible if device.minor == gpu.id), None)
    # The numbers in CUDA_VISIBLE_DEVICES are those of nvidia-smi.
    return accessible[gpu.id] if gpu.id < len(accessible) else None


# --- how busy it is -------------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuUsage:
    """How busy a GPU is with the work of all processes."""

    memory_used_mib: int
    memory_total_mib: int
    use_percent: int | None
    """The part of the last second in which it computed; None for a MIG slice, which the driver does
    not measure."""


class GpuMonitor:
    """Reads how busy a GPU is. A reading takes microseconds."""

    def __init__(self, device: Device) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(device.uuid)

    def read(self) -> GpuUsage:
        """Return the current use. Raises `DriverError` if the GPU is lost."""
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
            percent = None
            with suppress(pynvml.NVMLError_NotSupported):
                percent = int(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        except pynvml.NVMLError as error:
            raise _driver_error(error) from error
        return GpuUsage(memory.used // MIB, memory.total // MIB, percent)
