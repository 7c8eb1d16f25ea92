"""What a process that decodes may use: memory, time, no file, no network, no other process."""

import ctypes
import os
import resource
import struct
from contextlib import suppress

CPU_SECONDS = 30
BASE_MEMORY = 2**29
"""Bytes of address space; most of it is the interpreter and its libraries."""
BYTES_PER_PIXEL = 16
"""Decoders hold a picture several times: that of WebP holds two canvases beside the result
(benchmarks/pictures.py)."""
BYTES_WRITTEN = len("RGBA")
"""Per pixel. Only memory is open for writing."""

# <linux/landlock.h>. The numbers of the calls are the same on every architecture but alpha.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_GET_VERSION = 1
_FILE_RIGHTS = {1: 2**13 - 1, 2: 2**14 - 1, 3: 2**15 - 1, 5: 2**16 - 1}
"""All rights to files that each version of Landlock knows, from the version on."""
_NETWORK_VERSION, _NETWORK_RIGHTS = 4, 2**2 - 1
_SCOPE_VERSION, _SCOPES = 6, 2**2 - 1
"""Abstract Unix sockets, and signals to processes outside."""
_PR_SET_NO_NEW_PRIVS = 38


def restrict(max_pixels: int, *, may_start_threads: bool) -> None:
    """Limit this process to decode a picture of up to `max_pixels` pixels that is open already.

    It opens nothing from now on: no file, no socket. Where the kernel has Landlock, it may not
    rename, remove or run a file either, nor trace or signal another process. A process that may
    start threads may fork, too: the kernel counts both as one.
    """
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, the kernel ends this process first
    _restrict_by_landlock()
    for limited, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, BYTES_WRITTEN * max_pixels),
        *([] if may_start_threads else [(resource.RLIMIT_NPROC, 0)]),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, BASE_MEMORY + BYTES_PER_PIXEL * max_pixels),
    ):
        _, hard = resource.getrlimit(limited)  # of the service; it cannot be raised
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limited, (most, most))


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has; 0 for none."""
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _GET_VERSION)))


def _restrict_by_landlock() -> None:
    """Give up all that Landlock controls. Do nothing where the kernel does not have it."""
    libc, version = ctypes.CDLL(None), landlock_version()
    if not version:
        return
    files = _FILE_RIGHTS[max(known for known in _FILE_RIGHTS if known <= version)]
    network = _NETWORK_RIGHTS if version >= _NETWORK_VERSION else 0
    scopes = _SCOPES if version >= _SCOPE_VERSION else 0
    size = 8 * (1 + (version >= _NETWORK_VERSION) + (version >= _SCOPE_VERSION))
    ruleset = libc.syscall(
        _CREATE_RULESET, struct.pack("QQQ", files, network, scopes), ctypes.c_size_t(size), 0
    )
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if ruleset < 0 or libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError("Landlock refuses its own rules")
    os.close(ruleset)
