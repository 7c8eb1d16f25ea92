"""Which GPUs there are, which one a worker is for, and how busy it is.

A GPU is called by the N of its device file /dev/nvidiaN, by its UUID or by the name of its MIG
slice. CUDA is always given the UUID: where a unit's `DeviceAllow=` shows a process one card alone,
CUDA counts that one as its first.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from i2ii_spool.errors import EngineBroken, SettingsError

CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/version")
MIB = 2**20


# --- what the driver sees -------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG slice of one."""

    name: str
    """The product, like `NVIDIA H100 80GB HBM3`."""
    uuid: str
    minor: int
    """The N of its /dev/nvidiaN; a slice has its card's."""

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice."""
        return self.uuid.startswith("MIG-")


@contextmanager
def _nvml_session() -> Iterator[bool]:
    """Whether there is a driver to ask. Raises `EngineBroken` if there is one that does not work."""
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        yield False
        return
    except pynvml.NVMLError as error:
        raise _broken(error) from error
    try:
        yield True
    except pynvml.NVMLError as error:
        raise _broken(error) from error
    finally:
        pynvml.nvmlShutdown()


def _broken(error: Exception) -> EngineBroken:
    return EngineBroken(
        f"the NVIDIA driver does not work: {error}; nvidia-smi and `dmesg` say more"
    )


def devices() -> list[Device]:
    """Return what this process may use, as nvidia-smi orders them; of a card that is cut up, its
    slices."""
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
    """Return the driver's version and the newest CUDA that it serves, like `("570.86", "12.8")`;
    None without one."""
    with _nvml_session() as has_driver:
        if not has_driver:
            return None
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return pynvml.nvmlSystemGetDriverVersion(), f"{cuda // 1000}.{cuda % 1000 // 10}"


# --- the one that a worker is for -----------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of one."""

    id: int | str
    """The number, or the UUID or MIG name by which it was asked for."""
    unit: str
    """The part of the worker's name that tells it from others on this host: `gpu0`, `gpu-8f3a1b2c`,
    `mig-8f3a1b2c`."""


def visible_devices() -> list[str] | None:
    """The entries of `CUDA_VISIBLE_DEVICES`, or None if it is not set."""
    value = os.environ.get(CUDA_VISIBLE_DEVICES)
    if value is None:
        return None
    entries = [entry.strip() for entry in value.split(",")]
    # CUDA sees the entries up to the first that is none: "" and "-1" hide all.
    end = next((index for index, entry in enumerate(entries) if entry in ("", "-1")), len(entries))
    return entries[:end]


def find_all() -> list[str]:
    """What `i2ii gpu` can be called with for each GPU of this machine that may be used; empty where
    there is none."""
    entries = visible_devices()
    if entries is not None:
        return [str(index) for index in range(len(entries))]
    return [device.uuid if device.is_slice else str(device.minor) for device in devices()]


def choose(wanted: str) -> Gpu:
    """Return the GPU that `wanted` names: a number, a UUID, or a MIG name.

    As for CUDA itself, a number counts within `CUDA_VISIBLE_DEVICES` where that is set. Raises
    `SettingsError`.
    """
    entries = visible_devices()
    if not wanted.isdecimal():
        if entries and wanted not in entries:
            raise SettingsError(
                f"GPU {wanted} is not in {CUDA_VISIBLE_DEVICES}={','.join(entries)}", field="gpu"
            )
        return _named(wanted)
    if not entries:
        return _named(wanted)
    if int(wanted) >= len(entries):
        raise SettingsError(
            f"GPU {wanted} is not there: {CUDA_VISIBLE_DEVICES}={','.join(entries)} has {len(entries)}, counted from 0",
            field="gpu",
        )
    return _named(entries[int(wanted)])


def _named(name: str) -> Gpu:
    if name.isdecimal():
        return Gpu(int(name), f"gpu{int(name)}")
    match = re.fullmatch(r"(GPU|MIG)(?:-GPU)?-([0-9A-Fa-f]{4,8})[0-9A-Fa-f-]*((?:/\d+)*)", name)
    if match is None:
        raise SettingsError(
            f"{name!r} is not a GPU: give an index, a GPU-<uuid> or a MIG-<uuid>", field="gpu"
        )
    kind, digits, slices = match.groups()
    return Gpu(name, f"{kind.lower()}-{digits.lower()}{slices.replace('/', '-')}")


def set_visible(gpu: Gpu) -> Device | None:
    """Let CUDA see this GPU alone. Call it before anything loads CUDA. Return it; None on a machine
    without a GPU.

    Raises `SettingsError` if there are GPUs here and this is none of them, `EngineBroken` if the
    driver does not work.
    """
    if visible_devices() == []:
        return None
    seen = devices()
    if not seen and not DRIVER.exists():
        return None
    device = _find(gpu, seen)
    if device is None:
        here = (
            ", ".join(f"{device.minor} ({device.uuid})" for device in seen)
            or "none that this process may use"
        )
        raise SettingsError(f"GPU {gpu.id} is not there: there is {here}", field="gpu")
    os.environ[CUDA_VISIBLE_DEVICES] = device.uuid
    return device


def _find(gpu: Gpu, seen: list[Device]) -> Device | None:
    if isinstance(gpu.id, str):
        return next((device for device in seen if device.uuid.startswith(gpu.id)), None)
    if visible_devices() is None:
        return next((device for device in seen if device.minor == gpu.id), None)
    return (
        seen[gpu.id] if gpu.id < len(seen) else None
    )  # whoever sets CUDA's variable counts as nvidia-smi does


# --- how busy it is -------------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuUsage:
    """What a GPU does, whoever uses it."""

    memory_used_mib: int
    memory_total_mib: int
    use_percent: int | None
    """Of the last second, how much it computed; None for a MIG slice, of which the driver does not
    know."""


class GpuMonitor:
    """Reads how busy a GPU is, as often as it is asked: a reading takes microseconds."""

    def __init__(self, device: Device) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(device.uuid)

    def read(self) -> GpuUsage:
        """Raises `EngineBroken` if the GPU is lost."""
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
            return GpuUsage(memory.used // MIB, memory.total // MIB, self._use())
        except pynvml.NVMLError as error:
            raise _broken(error) from error

    def _use(self) -> int | None:
        try:
            return int(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        except pynvml.NVMLError_NotSupported:
            return None
