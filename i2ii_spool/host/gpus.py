"""List the GPUs, resolve the one that a worker uses, and read how busy it is.

A GPU has three kinds of names: the N of its device file /dev/nvidiaN, its UUID, and the name of a
MIG slice. CUDA always gets the UUID: if a unit's `DeviceAllow=` shows a process only one card, that
card has index 0 in CUDA, whatever its N.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pynvml

from i2ii_spool.errors import DriverError, I2iiError, SettingsError

log = logging.getLogger(__name__)

CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
NVIDIA_VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
NO_DEVICES = ("none", "void")
"""Values of `NVIDIA_VISIBLE_DEVICES` with which a container gets no GPU."""
DRIVER = Path("/proc/driver/nvidia/version")
MIB = 2**20
NVML_INVALID_ARGUMENT, NVML_NOT_SUPPORTED, NVML_NO_PERMISSION, NVML_NOT_FOUND = 2, 3, 4, 6
NVML_GPU_IS_LOST, NVML_RESET_REQUIRED = 15, 16
NVML_GONE = (NVML_GPU_IS_LOST, NVML_RESET_REQUIRED)
"""The GPU cannot work. Any other error is that of one query."""
NVML_NO_SLICE = (NVML_INVALID_ARGUMENT, NVML_NOT_SUPPORTED, NVML_NOT_FOUND)
INDEX = re.compile(r"\d{1,6}", re.ASCII)
NAME = re.compile(r"(GPU|MIG)(?:-GPU)?-([0-9A-Fa-f]{1,8})[0-9A-Fa-f-]*((?:/\d+)*)", re.ASCII)


# --- what the driver sees -------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A GPU that answers, or a MIG slice of one."""

    name: str
    """The product, for example `NVIDIA H100 80GB HBM3`."""
    uuid: str
    minor: int | None
    """The N of its /dev/nvidiaN; a slice has the N of its card. Where the driver does not tell it,
    as under WSL2, it is the index; None if another card has this N."""
    index: int
    """Its number, or that of its card, in nvidia-smi."""

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice."""
        return self.uuid.startswith("MIG-")

    @property
    def number(self) -> str:
        """`minor`, as it is shown."""
        return "-" if self.minor is None else str(self.minor)

    @property
    def id(self) -> str:
        """The argument of `i2ii gpu` for it."""
        return self.uuid if self.is_slice or self.minor is None else str(self.minor)


@dataclass(frozen=True)
class SickDevice:
    """A GPU, or a MIG slice of one, that the driver lists and that does not answer."""

    index: int
    """Its number, or that of its card, in nvidia-smi."""
    name: str
    """`GPU 1`, or `slice 2 of GPU 1`."""
    code: int
    """The NVML error."""
    reason: str

    def __str__(self) -> str:
        return f"{self.name} does not answer: {self.reason}"


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
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _driver_error(error: Exception) -> DriverError:
    return DriverError(
        f"the NVIDIA driver does not work: {error}; see nvidia-smi and `dmesg` for details"
    )


def survey(*, optional: bool = False) -> tuple[list[Device], list[SickDevice]]:
    """Return the GPUs that this process may use and those that do not answer, as nvidia-smi orders
    them.

    A card in MIG mode is represented by its slices. Raises `DriverError` if the driver does not
    work; with `optional`, for an engine without a GPU, this is as if there were none.
    """
    found: list[Device] = []
    sick: list[SickDevice] = []
    try:
        with _nvml_session() as has_driver:
            for index in range(pynvml.nvmlDeviceGetCount() if has_driver else 0):
                try:
                    devices, sick_slices = _read_card(index)
                except pynvml.NVMLError as error:
                    sick.append(SickDevice(index, f"GPU {index}", error.value, str(error)))
                else:
                    found += devices
                    sick += sick_slices
    except DriverError as error:
        if not optional:
            raise
        log.warning("%s; this engine works without a GPU", error)
    taken = {device.minor for device in found}
    return [_numbered(device, taken) for device in found], sick


def devices() -> list[Device]:
    """Return the GPUs that answer. Raises `DriverError` if the driver does not work."""
    return survey()[0]


def _read_card(index: int) -> tuple[list[Device], list[SickDevice]]:
    """Return the card or its slices, and the slices that do not answer.

    Raises `NVMLError` if the card does not answer.
    """
    card = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = _ask(pynvml.nvmlDeviceGetName, card) or "NVIDIA GPU"
    minor = _ask(pynvml.nvmlDeviceGetMinorNumber, card)
    uuids: list[str] = []
    sick: list[SickDevice] = []
    for slot in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, card) or 0):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, slot)
            uuids.append(pynvml.nvmlDeviceGetUUID(part))
        except pynvml.NVMLError as error:
            if error.value not in NVML_NO_SLICE:  # slices are numbered with gaps
                called = f"slice {slot} of GPU {index}"
                sick.append(SickDevice(index, called, error.value, str(error)))
    if not uuids and not sick:
        uuids = [pynvml.nvmlDeviceGetUUID(card)]
    return [Device(name, uuid, minor, index) for uuid in uuids], sick


def _ask(query: Callable[[Any], Any], card: Any) -> Any:
    """Return the answer, or None if the driver cannot tell. Raises `NVMLError` for a lost card."""
    try:
        return query(card)
    except pynvml.NVMLError as error:
        if error.value in NVML_GONE:
            raise
        return None


def _numbered(device: Device, taken: set[int | None]) -> Device:
    if device.minor is not None or device.index in taken:
        return device
    return replace(device, minor=device.index)


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
    """Return the entries of `CUDA_VISIBLE_DEVICES`, each once, or None if it is not set.

    Like CUDA, it ignores the first invalid entry and all that follow it: "", "-1" and "NoDevFiles"
    hide every GPU.
    """
    value = os.environ.get(CUDA_VISIBLE_DEVICES)
    if value is None:
        return None
    entries = [entry.strip() for entry in value.split(",")]
    is_valid = [bool(INDEX.fullmatch(entry) or NAME.fullmatch(entry)) for entry in entries]
    end = is_valid.index(False) if False in is_valid else len(entries)
    return list(dict.fromkeys(entries[:end]))


def list_ids(*, optional: bool = False) -> list[str]:
    """Return the argument of `i2ii gpu` for each GPU that this process may use and that answers.

    A GPU that does not answer is logged. Raises `DriverError` if the driver does not work, or if
    none of its GPUs answers; with `optional`, this is as if there were none.
    """
    entries = visible_devices()
    if entries == []:
        return []
    found, sick = survey(optional=optional)
    if entries is None:
        ids = [device.id for device in found]
        problems: list[object] = [*sick]
    else:
        lacking = {
            entry: _not_found(gpu, found, sick)
            for entry in entries
            if sick and not _find_visible(gpu := _parse(entry), found)
        }
        ids = [str(index) for index, entry in enumerate(entries) if entry not in lacking]
        problems = [*lacking.values()]
    for each in problems:
        log.error("%s; there is no worker for it", each)
    if problems and not ids and not optional:
        raise DriverError(f"no GPU can be used: {_listed(sick)}")
    return ids


def _listed(parts: Iterable[SickDevice]) -> str:
    return "; ".join(map(str, parts))


def resolve(id: str) -> Gpu:
    """Return the GPU that `id` means: a number, a UUID, or a MIG name.

    Like CUDA, a number counts within `CUDA_VISIBLE_DEVICES` if that is set, and a UUID may be
    abbreviated. What is found there is called by its device, not by its number among those that
    this process sees: a scheduler that opens one card to each process has all of them see a GPU 0.
    Raises `SettingsError` or `DriverError` if it is not there.
    """
    entries = visible_devices()
    if not entries:
        return _parse(id)
    visible = f"{CUDA_VISIBLE_DEVICES}={','.join(entries)}"
    if not INDEX.fullmatch(id):
        if not any(entry.startswith(id) or id.startswith(entry) for entry in entries):
            raise SettingsError(f"GPU {id} is not in {visible}", field="gpu")
        return _parse(id)
    if int(id) >= len(entries):
        raise SettingsError(
            f"GPU {id} not found: {visible} has {len(entries)}, counted from 0", field="gpu"
        )
    gpu = _parse(entries[int(id)])
    return gpu if isinstance(gpu.id, str) else _on_this_host(gpu)


def _on_this_host(gpu: Gpu) -> Gpu:
    """Return the GPU that has this number in nvidia-smi, called by its device.

    Without a driver that works it keeps its number: `set_visible` tells what is wrong.
    """
    try:
        found, sick = survey()
    except DriverError:
        return gpu
    if not found and not sick:
        return gpu
    device = _find_visible(gpu, found)
    if device is None:
        raise _not_found(gpu, found, sick)
    return _parse(device.id)


def _parse(id: str) -> Gpu:
    if INDEX.fullmatch(id):
        return Gpu(int(id), f"gpu{int(id)}")
    match = NAME.fullmatch(id)
    if match is None:
        raise SettingsError(
            f"{id!r} is not a GPU: give an index, a GPU-<uuid> or a MIG-<uuid>", field="gpu"
        )
    kind, digits, slices = match.groups()
    return Gpu(id, f"{kind.lower()}-{digits.lower()}{slices.replace('/', '-')}")


def set_visible(gpu: Gpu, *, optional: bool = False) -> Device | None:
    """Make this GPU the only one that CUDA sees, and return it. Call this before CUDA is loaded.

    Returns None on a machine without a GPU; with `optional`, also where the driver does not work.
    Raises `SettingsError` if the machine has GPUs and this is not one of them, `DriverError` if the
    driver or this GPU does not work.
    """
    if visible_devices() == []:
        log.info("no GPU is visible: %s=%s", CUDA_VISIBLE_DEVICES, os.environ[CUDA_VISIBLE_DEVICES])
        return None
    found, sick = survey(optional=optional)
    if not found and not sick and (optional or not _has_driver()):
        return None
    device = _find_device(gpu, found)
    if device is None:
        raise _not_found(gpu, found, sick)
    for each in sick:
        if each.code != NVML_NO_PERMISSION:  # so the driver shows the cards of other units
            log.warning("%s; the other GPUs are not affected", each)
    os.environ[CUDA_VISIBLE_DEVICES] = device.uuid
    return device


def _has_driver() -> bool:
    """Whether this machine should have a GPU: its driver is loaded, and shown to this container."""
    return DRIVER.exists() and os.environ.get(NVIDIA_VISIBLE_DEVICES) not in NO_DEVICES


def _find_device(gpu: Gpu, found: list[Device]) -> Device | None:
    """Return the device that is meant, or None if there is none, or if there are several."""
    if isinstance(gpu.id, str):
        named = [device for device in found if device.uuid.startswith(gpu.id)]
        return named[0] if len(named) == 1 else None
    return next((device for device in found if device.minor == gpu.id), None)


def _find_visible(gpu: Gpu, found: list[Device]) -> Device | None:
    """Likewise for an entry of CUDA_VISIBLE_DEVICES: its numbers are those of nvidia-smi."""
    if isinstance(gpu.id, str):
        return _find_device(gpu, found)
    return next((device for device in found if device.index == gpu.id), None)


def _not_found(gpu: Gpu, found: list[Device], sick: list[SickDevice]) -> I2iiError:
    meant = [each for each in sick if each.index == gpu.id]
    if meant:
        return DriverError(f"{_listed(meant)}; see nvidia-smi and `dmesg` for details")
    is_masked = visible_devices() is not None
    here = (
        ", ".join(
            f"{device.index if is_masked else device.number} ({device.uuid})" for device in found
        )
        or "no GPU"
    )
    message = f"GPU {gpu.id} not found: this process may use {here}"
    if not sick:
        return SettingsError(message, field="gpu")
    return DriverError(f"{message}; {_listed(sick)}")


# --- how busy it is -------------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuUsage:
    """How busy a GPU is with the work of all processes. None is what the driver does not tell."""

    memory_used_mib: int | None
    memory_total_mib: int | None
    use_percent: int | None
    """The part of the last second in which it computed; None for a MIG slice."""
    temperature_celsius: int | None = None


def _temperature(card: Any) -> int:
    return int(pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU))


class GpuMonitor:
    """Reads how busy a GPU is. A reading takes microseconds."""

    def __init__(self, device: Device, *, optional: bool = False) -> None:
        self._optional = optional
        self._name = f"GPU {device.id}"
        self._uuid = device.uuid
        self._handle: Any = None
        self.fault = ""
        """Why the last reading is incomplete; nothing where the driver does not offer more."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise _driver_error(error) from error

    def read(self) -> GpuUsage:
        """Return the current use.

        Raises `DriverError` if the GPU is lost; with `optional`, this is a fault like another.
        """
        before, self.fault = self.fault, ""
        if self._handle is None:
            self._handle = self._ask(pynvml.nvmlDeviceGetHandleByUUID, self._uuid)
        memory = rates = temperature = None
        if self._handle is not None:
            memory = self._ask(pynvml.nvmlDeviceGetMemoryInfo, self._handle)
            rates = self._ask(pynvml.nvmlDeviceGetUtilizationRates, self._handle)
            temperature = self._ask(_temperature, self._handle)
        if self.fault and self.fault != before:
            log.warning("%s", self.fault)
        return GpuUsage(
            None if memory is None else memory.used // MIB,
            None if memory is None else memory.total // MIB,
            None if rates is None else int(rates.gpu),
            temperature,
        )

    def _ask(self, query: Callable[[Any], Any], of: Any) -> Any:
        try:
            return query(of)
        except pynvml.NVMLError as error:
            if error.value in NVML_GONE and not self._optional:
                raise DriverError(f"{self._name} does not answer: {error}") from error
            if error.value != NVML_NOT_SUPPORTED:
                self.fault = f"{self._name} does not tell how busy it is: {error}"
            return None
