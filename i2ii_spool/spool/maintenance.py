"""Maintenance: every server and every worker admits guests, recovers jobs and sweeps."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from i2ii_spool.settings import Settings
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.recovery import Reaper
from i2ii_spool.spool.retention import sweep

log = logging.getLogger(__name__)

ADMISSION_SECONDS = 1.0
REAPER_SECONDS = 10.0
SWEEP_SECONDS = 60.0


class Maintenance:
    """Runs admission, the reaper and the sweep, each in a thread of its own, while it is entered.

    A guest may take a minute to judge: the jobs of dead workers do not wait for it.
    """

    def __init__(self, spool: Spool, settings: Settings) -> None:
        admission = Admission(
            spool,
            settle=settings.settle_seconds,
            patience=settings.guest_patience_seconds,
            max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels,
        )
        reaper = Reaper(spool, max_attempts=settings.max_attempts, lease=settings.lease_seconds)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=task, name=task[0], daemon=True)
            for task in (
                ("admission", admission.run_once, ADMISSION_SECONDS),
                ("reaper", reaper.run_once, REAPER_SECONDS),
                ("sweep", partial(sweep, spool), SWEEP_SECONDS),
            )
        ]

    def __enter__(self) -> "Maintenance":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, name: str, task: Callable[[], object], interval: float) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            did_something: object = None
            try:
                did_something = task()
            except Exception:  # no accepted job is at risk: it stays, and is tried again
                log.exception("%s failed; trying again in %.0f s", name, interval)
            # If a scan is slow, wait 50 times its duration, but at most 10 times the interval.
            took = time.monotonic() - started
            cost = 0 if did_something else took
            self._stop.wait(max(0.05, max(interval, min(50 * cost, 10 * interval)) - took))
