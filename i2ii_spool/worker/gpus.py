"""Which GPU a worker is for."""

import os
import re
import subprocess
from dataclasses import dataclass

from i2ii_spool.errors import SettingsError

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of one."""

    id: int | str
    """The index, or the UUID or MIG name by which it was asked for."""
    unit: str
    """The part of the worker's name that tells it from others on this host: `gpu0`, `gpu-8f3a1b2c`, `mig-8f3a1b2c`."""


def listed() -> list[str] | None:
    """The entries of `CUDA_VISIBLE_DEVICES`, or None if it is not set."""
    value = os.environ.get(VISIBLE)
    if value is None:
        return None
    entries = [entry.strip() for entry in value.split(",")]
    # CUDA sees the entries up to the first that is none: "" and "-1" hide all.
    end = next((index for index, entry in enumerate(entries) if entry in ("", "-1")), len(entries))
    return entries[:end]


def find_all() -> list[str]:
    """What `i2ii gpu` can be called with for each GPU of this machine that may be used; empty where there is none."""
    entries = listed()
    if entries is not None:
        return [str(index) for index in range(len(entries))]
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):  # there is no driver, or it sees no GPU
        return []
    return answer.stdout.split()


def choose(wanted: str) -> Gpu:
    """Return the GPU that `wanted` names: the N-th visible one, a UUID, or a MIG name.

    As for CUDA itself, an index counts within `CUDA_VISIBLE_DEVICES` where that is set. Raises `SettingsError`.
    """
    entries = listed()
    if not wanted.isdecimal():
        if entries and wanted not in entries:
            raise SettingsError(f"GPU {wanted} is not in {VISIBLE}={','.join(entries)}", field="gpu")
        return _named(wanted)
    if not entries:
        return _named(wanted)
    if int(wanted) >= len(entries):
        raise SettingsError(
            f"GPU {wanted} is not there: {VISIBLE}={','.join(entries)} has {len(entries)}, counted from 0", field="gpu"
        )
    return _named(entries[int(wanted)])


def _named(name: str) -> Gpu:
    if name.isdecimal():
        return Gpu(int(name), f"gpu{int(name)}")
    match = re.fullmatch(r"(GPU|MIG)(?:-GPU)?-([0-9A-Fa-f]{4,8})[0-9A-Fa-f-]*((?:/\d+)*)", name)
    if match is None:
        raise SettingsError(f"{name!r} is not a GPU: give an index, a GPU-<uuid> or a MIG-<uuid>", field="gpu")
    kind, digits, slices = match.groups()
    return Gpu(name, f"{kind.lower()}-{digits.lower()}{slices.replace('/', '-')}")


def show_only(gpu: Gpu) -> None:
    """Let CUDA see this GPU alone, as its device 0. Call it before anything loads CUDA."""
    os.environ[VISIBLE] = str(gpu.id)
