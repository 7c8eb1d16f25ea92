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
    """Runs admission, the reaper and the sweep in a thread of its own, while it is entered."""

    def __init__(self, spool: Spool, settings: Settings) -> None:
        admission = Admission(
            spool,
            settle=settings.settle_seconds,
            patience=settings.guest_patience_seconds,
            max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels,
        )
        reaper = Reaper(spool, max_attempts=settings.max_attempts, lease=settings.lease_seconds)
        self._intervals: dict[Callable[[], object], float] = {
            admission.run_once: ADMISSION_SECONDS,
            reaper.run_once: REAPER_SECONDS,
            partial(sweep, spool): SWEEP_SECONDS,
        }
        self._due = dict.fromkeys(self._intervals, 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def __enter__(self) -> "Maintenance":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.run_once()
            self._stop.wait(max(0.05, min(self._due.values()) - time.monotonic()))

    def run_once(self) -> None:
        """Do what is due."""
        for task, interval in self._intervals.items():
            started = time.monotonic()
            if started < self._due[task]:
                continue
            did_something: object = None
            try:
                did_something = task()
            except Exception:  # no accepted job is at risk: it stays, and is tried again
                log.exception("maintenance failed; trying again in %.0f s", interval)
            # If a scan is slow, wait 50 times its duration, but at most 10 times the interval.
            cost = 0 if did_something else time.monotonic() - started
            self._due[task] = started + max(interval, min(50 * cost, 10 * interval))
