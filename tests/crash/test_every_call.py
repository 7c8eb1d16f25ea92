"""Die before, and in the middle of, each call that changes the file system; start again: all promises hold."""

import os
import signal
from pathlib import Path

import pytest

from i2ii_spool.spool.layout import Spool
from tests.crash.disk import Disk, Op
from tests.crash.lives import LIVES, Life
from tests.crash.promises import Promises, check


def die_at(n: int, number: int, op: Op, *, root: Path) -> None:
    """SIGKILL before call `n`; a write gets half of its bytes out."""
    if number == n:
        if op.call == "write":
            descriptor = os.open(root / op.path, os.O_WRONLY | os.O_APPEND)
            os.write(descriptor, op.data[: len(op.data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


def lead(life: Life, spool: Spool, promised: Promises, disk: Disk) -> None:
    """Live a life; from its `yield` on, `disk` stands between it and the kernel."""
    going = life(spool, promised)
    next(going)
    with disk:
        for _ in going:
            raise AssertionError("a life has one yield")


def calls(life: Life, root: Path) -> list[Op]:
    """The calls of a life that is not disturbed."""
    spool = Spool(root)
    spool.create()
    disk = Disk(spool.root)
    lead(life, spool, promised := Promises(), disk)
    check(spool, promised)
    return disk.ops


@pytest.mark.parametrize("name", LIVES)
def test_death_at_any_call_breaks_no_promise(name: str, tmp_path: Path) -> None:
    ops = calls(LIVES[name], tmp_path / "whole")
    assert ops, "nothing happens in this life"
    for n in range(1, len(ops) + 1):
        spool = Spool(tmp_path / str(n))
        spool.create()
        promised = Promises()
        said = os.memfd_create("promises")
        if (child := os.fork()) == 0:
            try:
                promised.out = said
                disk = Disk(spool.root, lambda number, op, n=n, root=spool.root: die_at(n, number, op, root=root))
                lead(LIVES[name], spool, promised, disk)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"call {n} of {len(ops)} was not reached"
        promised.hear(said)
        os.close(said)
        try:
            check(spool, promised)
        except AssertionError as error:
            raise AssertionError(f"death at call {n} of {len(ops)}, {ops[n - 1]}: {error}") from error
