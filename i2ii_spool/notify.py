"""Telling systemd how we are (sd_notify(3)). Without systemd every call does nothing."""

import os
import socket


def notify(**fields: str | int) -> None:
    """Send fields like `READY=1` or `STATUS="job 3 of 50"` to the service manager, if one listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract name space
        address = "\0" + address[1:]
    message = "\n".join(f"{name}={value}" for name, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(message.encode(), address)
