"""The service manager's interface: notifications (sd_notify(3)), watchdog, inherited sockets.

Without systemd every function does nothing.
"""

import os
import socket
import time
from contextlib import suppress

FIRST_INHERITED_FD = 3  # SD_LISTEN_FDS_START


def sd_notify(**fields: str | int) -> None:
    """Send fields like `READY=1` or `STATUS="job 3 of 50"` to the service manager."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace of Linux
        address = "\0" + address[1:]
    lines = (f"{name}={value}".replace("\n", " ") for name, value in fields.items())
    message = "\n".join(lines).encode(errors="backslashreplace")
    # If the manager itself has died, the service goes on without it.
    no_manager = suppress(ConnectionRefusedError, FileNotFoundError)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, no_manager:
        manager.sendto(message, address)


def notify_reloading() -> None:
    """Announce that the process reads its settings again; `sd_notify(READY=1)` ends this state."""
    sd_notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)


def extend_timeout(seconds: float, **fields: str | int) -> None:
    """Allow the current start or stop `seconds` more from now, beyond the timeout of its unit."""
    sd_notify(EXTEND_TIMEOUT_USEC=round(seconds * 1e6), **fields)


def watchdog_interval() -> float | None:
    """Return the seconds between two `WATCHDOG=1`: half of the unit's `WatchdogSec=`.

    None if the unit has no watchdog.
    """
    microseconds = os.environ.get("WATCHDOG_USEC")
    return int(microseconds) / 2e6 if microseconds else None


def listen_socket() -> socket.socket | None:
    """Return the listening socket passed by systemd (sd_listen_fds(3)), or None."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    return socket.socket(fileno=FIRST_INHERITED_FD)
