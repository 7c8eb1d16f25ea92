"""The disk fails at any call, once or from then on: the caller hears of it, and all promises hold
once it works."""

import errno
import logging
import os
from pathlib import Path

import pytest

from i2ii_spool.spool.layout import Spool
from tests.crash.test_every_call import calls
from tests.support.promises import Promises, check
from tests.support.recording_disk import Op, RecordingDisk
from tests.support.scenarios import SCENARIOS, begin, end

FAILURES = {
    "once, with EIO": (errno.EIO, False),
    "once, with EACCES": (errno.EACCES, False),
    "for good, with ENOSPC": (errno.ENOSPC, True),
    "for good, with EROFS": (errno.EROFS, True),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_disk_that_fails_breaks_no_promise(
    name: str, failure: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code, for_good = FAILURES[failure]
    ops = calls(name, tmp_path / "whole")

    for n in range(1, len(ops) + 1):

        def fail(number: int, op: Op, n: int = n) -> None:
            if number == n or (for_good and number > n):
                raise OSError(code, os.strerror(code), op.path)

        spool, promised = Spool(tmp_path / str(n)), Promises()
        going = begin(name, spool, promised)
        raised = None
        caplog.clear()
        try:
            end(going, RecordingDisk(spool.root, fail))
        except Exception as error:
            raised = error
        try:
            heard = raised is not None or any(is_of_the_disk(record) for record in caplog.records)
            assert heard or not for_good or is_left_to_the_sweep(ops[n - 1 :]), "nobody heard of it"
            check(spool, promised)
        except Exception as error:
            raise AssertionError(
                f"call {n} of {len(ops)} failed, {ops[n - 1]}: {error!r}"
            ) from error


def is_of_the_disk(record: logging.LogRecord) -> bool:
    """Whether a line of the log says that the disk has failed."""
    return record.exc_info is not None or "[Errno" in record.getMessage()


def is_left_to_the_sweep(ops: list[Op]) -> bool:
    """Whether all that was left to do was to clear away a submission that had been refused."""
    calls = ("rename", "unlink", "rmdir")
    return all(op.call in calls and op.path.startswith(".tmp/") for op in ops)
