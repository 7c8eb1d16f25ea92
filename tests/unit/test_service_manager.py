"""What reaches systemd: one field a line, and text of any kind."""

import logging
import socket
from contextlib import closing
from pathlib import Path

import pytest

from i2ii_spool.host import logging as host_logging
from i2ii_spool.host.logging import JournalHandler
from i2ii_spool.host.systemd import sd_notify


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "manager"))
    listener.settimeout(5)
    return listener


def test_no_text_adds_a_field_or_ends_the_process(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    with manager:
        sd_notify(STATUS="no such file: \udcff\nREADY=1", WATCHDOG=1)
        received = manager.recv(4096)
    assert received == b"STATUS=no such file: \\udcff READY=1\nWATCHDOG=1"


def test_a_record_with_a_lone_surrogate_reaches_the_journal(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_logging, "JOURNAL", manager.getsockname())
    with manager, closing(JournalHandler("i2ii-gpu0", None)) as handler:
        handler.emit(logging.makeLogRecord({"name": "i2ii", "msg": "\ud83d\udcff 水"}))
        received = manager.recv(4096)
    assert "\\ud83d\\udcff 水".encode() in received
