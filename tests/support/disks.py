"""Real file systems in a file: one that can be shut down under its users, one that is small, one
that is read-only."""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.service import wait_until

MEMORY = Path("/dev/shm")
"""A file system in memory, if there is one: for tests that make many files."""


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A new folder for which an fsync costs nothing."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_THE_LOG = 2


def why_not() -> str | None:
    """Why no file system can be mounted here; None if one can."""
    if os.geteuid() != 0:
        return "mounting takes root"
    if shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is missing; install e2fsprogs"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return None


class MountedDisk:
    """An ext4 of its own, mounted at `folder`."""

    def __init__(self, root: Path, *, mib: int = 8, inodes: int = 1024) -> None:
        self._image = root / "disk.img"
        self.folder = root / "disk"
        self.folder.mkdir()
        with self._image.open("wb") as image:
            image.truncate(mib * 2**20)
        _run(
            "mkfs.ext4",
            "-q",
            "-F",
            "-m",
            "0",
            "-N",
            str(inodes),
            "-E",
            "lazy_itable_init=0",
            str(self._image),
        )

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unmount()
        self._image.unlink()

    def mount(self) -> None:
        # Not `mount -o loop`: soon after an unmount it takes the loop device of the last mount
        # again, which the kernel is about to detach, and reads and writes then fail with EIO.
        self._device = _run("losetup", "--find", "--show", str(self._image)).strip()
        _run("mount", self._device, str(self.folder))

    def unmount(self) -> None:
        """Unmount it once the decoder of a killed process, which notices its death, has ended."""
        wait_until(self._is_unmounted)
        _run("losetup", "--detach", self._device)

    def _is_unmounted(self) -> bool:
        tried = subprocess.run(["umount", str(self.folder)], capture_output=True, text=True)
        assert tried.returncode == 0 or "busy" in tried.stderr, tried.stderr
        return tried.returncode == 0

    def remount(self, options: str) -> None:
        """Mount it otherwise: `ro`, `rw`."""
        _run("mount", "-o", f"remount,{options}", str(self.folder))

    def cut_power(self) -> None:
        """From now on every call fails, and what was not synced is gone for good."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_THE_LOG))
        finally:
            os.close(descriptor)

    def boot(self) -> None:
        """Mount it again, as a machine does whose power has come back: the journal is replayed."""
        self.unmount()
        self.mount()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
