"""A worker whose name a worker of another host may have."""

import time
from unittest import mock

from i2ii_spool.spool.hosts import NamesakeWatch, Origin
from i2ii_spool.spool.layout import Spool
from tests.support.seams import on_network
from tests.support.workers import write_worker

NAME = "node1.gpu0"
LEASE = 60.0


def test_the_silence_of_a_namesake_begins_with_its_first_heartbeat_that_is_seen(
    spool: Spool,
) -> None:
    """It appears while the worker waits for its lock, longer than the lease."""
    with (
        on_network("node1.a", "1111"),
        mock.patch.object(time, "monotonic", return_value=1000.0) as clock,
    ):
        watch = NamesakeWatch(spool, NAME, Origin.here(), lease=LEASE)
        clock.return_value += 2 * LEASE
        write_worker(spool, NAME, host="node1.b", boot_id="2222")
        assert not watch.is_free(has_lock=True)
        clock.return_value += LEASE - 1
        assert not watch.is_free(has_lock=True)
        clock.return_value += 1
        assert watch.is_free(has_lock=True)
