"""Telling systemd how we are (sd_notify(3)). Without systemd every call does nothing."""

import os
import socket
import time
from contextlib import suppress

FIRST_INHERITED = 3  # behind standard input, output and error


def sd_notify(**fields: str | int) -> None:
    """Send fields like `READY=1` or `STATUS="job 3 of 50"` to the service manager, if one listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract name space
        address = "\0" + address[1:]
    message = "\n".join(f"{name}={value}" for name, value in fields.items())
    nobody_listens = suppress(
        ConnectionRefusedError, FileNotFoundError
    )  # the manager itself has died
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, nobody_listens:
        manager.sendto(message.encode(), address)


def notify_reloading() -> None:
    """Say that the settings are being read again; `sd_notify(READY=1)` says that they are."""
    sd_notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)


def extend_timeout(seconds: float, **fields: str | int) -> None:
    """Say that the start or stop which is under way takes `seconds` more from now, whatever its
    unit allows."""
    sd_notify(EXTEND_TIMEOUT_USEC=round(seconds * 1e6), **fields)


def watchdog_interval() -> float | None:
    """How often `WATCHDOG=1` should be sent, in seconds: twice in the time after which we are
    killed."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    return int(microseconds) / 2e6 if microseconds else None


def listen_socket() -> socket.socket | None:
    """Return the listening socket that systemd has made for this process (sd_listen_fds(3)), if it
    has."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    return socket.socket(fileno=FIRST_INHERITED)
