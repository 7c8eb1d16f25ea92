"""Die before, and in the middle of, each call that changes the file system; start again: all
promises hold."""

import os
import signal
from pathlib import Path

import pytest

from i2ii_spool.spool.layout import Spool
from tests.support.promises import Promises, check
from tests.support.recording_disk import Op, RecordingDisk
from tests.support.scenarios import SCENARIOS, begin, end


def die_at(n: int, number: int, op: Op, *, root: Path) -> None:
    """SIGKILL before call `n`; a write gets half of its bytes out."""
    if number == n:
        if op.call == "write":
            descriptor = os.open(root / op.path, os.O_WRONLY | os.O_APPEND)
            os.write(descriptor, op.data[: len(op.data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def calls(name: str, root: Path) -> list[Op]:
    """The system calls of an undisturbed scenario."""
    spool, promised = Spool(root), Promises()
    disk = RecordingDisk(spool.root)
    end(begin(name, spool, promised), disk)
    check(spool, promised)
    return disk.ops


@pytest.mark.parametrize("name", SCENARIOS)
def test_death_at_any_call_breaks_no_promise(name: str, tmp_path: Path) -> None:
    ops = calls(name, tmp_path / "whole")
    assert ops, "the scenario changes nothing"
    for n in range(1, len(ops) + 1):
        spool = Spool(tmp_path / str(n))
        said = os.memfd_create("promises")
        if (child := os.fork()) == 0:
            try:
                disk = RecordingDisk(
                    spool.root,
                    lambda number, op, n=n, root=spool.root: die_at(n, number, op, root=root),
                )
                end(
                    begin(name, spool, Promises(lambda text, said=said: os.pwrite(said, text, 0))),
                    disk,
                )
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"call {n} of {len(ops)} was not reached"
        try:
            check(spool, Promises.told(os.pread(said, 2**20, 0)))
        except AssertionError as error:
            raise AssertionError(
                f"death at call {n} of {len(ops)}, {ops[n - 1]}: {error}"
            ) from error
        finally:
            os.close(said)
