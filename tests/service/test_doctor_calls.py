"""`i2ii doctor` on file systems that lack a call, or do it otherwise."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from i2ii_spool.ops.doctor import filesystem
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from tests.support.service import Service

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not there")
needs_setpriv = pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop a capability")


def examined(service: Service, check: str, *wrapper: str) -> dict[str, Any]:
    """What this check finds when the doctor is run by the wrapper."""
    shown = subprocess.run(
        [*wrapper, sys.executable, "-m", "i2ii_spool", "doctor", "--json"],
        env=service.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    findings = json.loads(shown.stdout)["findings"]
    (finding,) = (each for each in findings if each["check"] == check)
    found: dict[str, Any] = finding
    return found


def failing(calls: str, code: str, *options: str) -> tuple[str, ...]:
    """The command that runs another one in which these system calls fail."""
    inject = f"inject={calls}:error={code}"
    return (
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={calls}",
        "-e",
        inject,
        *options,
    )


def test_a_file_system_that_has_all_calls_is_well(service: Service) -> None:
    assert examined(service, "calls")["verdict"] == "ok"
    assert examined(service, "locks")["verdict"] == "ok"
    hidden = list(service.spool.root.rglob(".doctor-*"))
    assert hidden == []


@needs_strace
@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EACCES", "EBADF"])
def test_a_lock_that_fails_is_no_lock_that_holds(service: Service, code: str) -> None:
    finding = examined(service, "locks", *failing("flock", code))
    assert finding["verdict"] == "error"
    assert "a file cannot be locked: [Errno" in finding["message"]
    assert "mount it with locks" in finding["cure"]


def test_a_lock_that_a_second_process_cannot_try_is_not_taken_for_one(
    service: Service, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl, sys\n"
        "def flock(*_):\n"
        "    raise OSError(errno.EBADF, 'Bad file descriptor')\n"
        "if sys.orig_argv[1] == '-c':\n"
        "    fcntl.flock = flock\n"
    )
    service.environment["PYTHONPATH"] = f"{tmp_path}:{service.environment.get('PYTHONPATH', '')}"
    finding = examined(service, "locks")
    assert finding["verdict"] == "error"
    assert "a second process cannot try a lock: [Errno 9]" in finding["message"]


def test_a_lock_that_two_processes_hold_is_none(spool: Spool) -> None:
    with mock.patch.object(filesystem.fcntl, "flock"):  # as with a lock on each host alone
        [finding] = filesystem.check_locks(Settings(spool=spool.root))
    assert finding.verdict == "error"
    assert finding.message.startswith("two processes hold the same lock")


@needs_strace
def test_a_file_system_without_hard_links_is_told(service: Service) -> None:
    finding = examined(service, "calls", *failing("link,linkat", "EPERM"))
    assert finding["verdict"] == "warning"
    assert finding["message"].startswith("no hard links (Operation not permitted)")


@needs_strace
def test_a_file_system_that_does_not_sync_folders_is_told(service: Service) -> None:
    staging = str(service.spool.staging)
    finding = examined(service, "calls", *failing("fsync", "EOPNOTSUPP", "-P", staging))
    assert finding["verdict"] == "warning"
    assert finding["message"] == "a folder cannot be synced: Operation not supported"


@needs_strace
def test_a_file_system_that_refuses_a_mode_is_told(service: Service) -> None:
    finding = examined(service, "calls", *failing("chmod,fchmodat", "EPERM"))
    assert finding["verdict"] == "error"
    assert finding["message"] == "a new folder cannot get mode 2770: Operation not permitted"
    assert list(service.spool.staging.iterdir()) == []


@needs_setpriv
def test_a_setgid_bit_that_is_dropped_is_told(service: Service) -> None:
    for folder in (service.spool.root, *service.spool.folders()):
        os.chown(folder, -1, 4321)
        folder.chmod(0o2770)
    drop = ("setpriv", "--clear-groups", "--inh-caps=-fsetid", "--bounding-set=-fsetid")
    finding = examined(service, "calls", *drop)
    assert finding["verdict"] == "error"
    assert finding["message"].startswith("a new folder gets mode 770 and group 4321, not 2770")
    assert finding["cure"].startswith("usermod -aG 4321 ")


def test_a_user_without_an_account_is_told_by_number(spool: Spool) -> None:
    refusal = PermissionError(13, "Permission denied")
    with (
        mock.patch.object(os, "geteuid", return_value=54321),  # as in a container
        mock.patch.object(filesystem, "write_file", side_effect=refusal),
    ):
        [finding] = filesystem.check_writing(Settings(spool=spool.root))
    assert finding.message.startswith("54321 cannot write: ")
    assert f"usermod -aG {spool.root.group()} 54321" in str(finding.cure)


def test_a_clock_that_differs_from_the_file_server_is_told(spool: Spool) -> None:
    now = time.time()
    with mock.patch.object(time, "time", return_value=now - 60):
        [finding] = filesystem.check_clock(Settings(spool=spool.root))
    assert finding.verdict == "warning"
    assert finding.message.startswith("the file system's clock differs by +60.")
