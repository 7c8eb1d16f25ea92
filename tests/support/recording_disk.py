"""A recorder between i2ii and the kernel: every call that changes a file system, before it is made.

    with RecordingDisk(root, meet) as disk:      # meet(n, op) may raise, kill or cut the power
        ...
    disk.ops

A change that Python reports (its audit events) and the recorder has not seen fails the test.
"""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import i2ii_spool

CODE = str(Path(i2ii_spool.__file__).parent)
CHANGES = (
    "mkdir",
    "rename",
    "replace",
    "link",
    "symlink",
    "unlink",
    "remove",
    "rmdir",
    "chmod",
    "fchmod",
    "fsync",
)
WRITES = ("write", "pwrite", "sendfile", "ftruncate")
AUDITED = (
    "os.mkdir",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "os.chmod",
)
WRITABLE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Op:
    """One call that changes a file system, or makes a change last; `nothing` if it failed."""

    call: str
    path: str
    """Below the root; of a rename or a link, the old name."""
    target: str = ""
    """Of a rename or a link, the new name."""
    data: bytes = b""
    site: str = ""
    """Of an fsync: the line of the protocol that asks for it, and those of `durable` below it."""


class RecordingDisk:
    """Patches `os` while it is entered. `meet(n, op)` is called before each call below `root`, from
    n = 1."""

    active: "RecordingDisk | None" = None

    def __init__(self, root: Path, meet: Callable[[int, Op], None] | None = None) -> None:
        self.ops: list[Op] = []
        self._root = str(root)
        self._meet = meet
        self._kernel: dict[str, Callable[..., Any]] = {}
        self._is_inside = False

    def __enter__(self) -> "RecordingDisk":
        for name in (*CHANGES, *WRITES, "open"):
            self._kernel[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}", None) or self._standing_for(name))
        RecordingDisk.active = self
        return self

    def __exit__(self, *_: object) -> None:
        RecordingDisk.active = None
        for name, call in self._kernel.items():
            setattr(os, name, call)

    def _standing_for(self, name: str) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            at = options.get("dir_fd", options.get("src_dir_fd"))
            path, target = self._path(first, at), ""
            if name in ("rename", "replace", "link", "symlink"):
                target = self._path(rest[0], options.get("dst_dir_fd"))
            data = bytes(rest[0]) if name == "write" else b""
            if name == "sendfile":
                data = os.pread(rest[0], 2**30, os.lseek(rest[0], 0, os.SEEK_CUR))
            if name == "ftruncate" and rest[0] != 0:
                raise AssertionError("the model knows no truncation but to nothing")
            op = Op(name, path, target, data, self._site() if name == "fsync" else "")
            return self._do(op, name, first, *rest, **options)

        return call

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        whole = self._path(path, dir_fd)
        op = Op("ftruncate", whole) if flags & os.O_TRUNC else None
        if flags & os.O_CREAT and not os.path.lexists(whole):
            op = Op("create", whole)
        return int(self._do(op, "open", path, flags, mode, dir_fd=dir_fd))

    def _path(self, where: Any, dir_fd: int | None = None) -> str:
        if isinstance(where, int):
            return os.readlink(f"/proc/self/fd/{where}")
        base = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
        path = os.path.normpath(os.path.join(base, os.fsdecode(where)))
        if opened := re.match(r"/proc/self/fd/\d+", path):
            path = os.readlink(opened[0]) + path[opened.end() :]
        return path

    def _see(self, op: Op) -> bool:
        if not op.path.startswith(f"{self._root}/") and op.path != self._root:
            return False
        self.ops.append(replace(op, path=self._below(op.path), target=self._below(op.target)))
        if self._meet is not None:
            self._meet(len(self.ops), self.ops[-1])
        return True

    def _below(self, path: str) -> str:
        return os.path.relpath(path, self._root) if path else ""

    def _do(self, op: Op | None, name: str, *arguments: Any, **options: Any) -> Any:
        is_seen = op is not None and self._see(op)
        self._is_inside = True
        try:
            return self._kernel[name](*arguments, **options)
        except OSError:
            if is_seen:
                self.ops[-1] = replace(self.ops[-1], call="nothing")
            raise
        finally:
            self._is_inside = False

    def _site(self) -> str:
        lines = []
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_filename.startswith(CODE):
                module = os.path.relpath(frame.f_code.co_filename, CODE)
                lines.append(f"{module}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back  # type: ignore[assignment]
        above = next(
            (
                index
                for index, line in enumerate(lines)
                if not line.startswith("spool/durable_io.py")
            ),
            0,
        )
        return " > ".join(reversed(lines[: above + 1]))

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise if Python changes what is below the root by a call that was not recorded."""
        if self._is_inside or not (
            event in AUDITED or (event == "open" and (arguments[2] or 0) & WRITABLE)
        ):
            return
        if isinstance(arguments[0], int) or not self._path(arguments[0]).startswith(
            f"{self._root}/"
        ):
            return
        raise AssertionError(f"{event} of {arguments[0]} has not been seen")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if RecordingDisk.active is not None:
        RecordingDisk.active.audit(event, arguments)


sys.addaudithook(_audit)
