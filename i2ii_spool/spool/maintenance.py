"""Maintenance: every server and every worker admits guests, recovers jobs, sweeps, and retires dead
workers."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from i2ii_spool.host.systemd import watchdog_interval
from i2ii_spool.settings import Settings
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.recovery import Reaper
from i2ii_spool.spool.retention import sweep
from i2ii_spool.spool.retirement import Retirement
from i2ii_spool.spool.webhook import WebhookPolicy

log = logging.getLogger(__name__)

SETTLE_SECONDS, NETWORK_SETTLE_SECONDS = 5.0, 40.0
"""A client of NFS may hold back what a program has written into a file that it keeps open until it
is 30 s old, and sends it when it next looks, after up to 5 s."""
LEASE_SECONDS, NETWORK_LEASE_SECONDS = 60.0, 180.0
"""A worker is silent during a step, which may take as long as WatchdogSec= of the units. And NFS
clients try again after up to a minute when their server is back."""

ADMISSION_SECONDS = 1.0
REAPER_SECONDS = 10.0
SWEEP_SECONDS = 60.0
RETIREMENT_SECONDS = 60.0


class Maintenance:
    """Runs its four tasks, each in a thread of its own, while it is entered.

    A guest may take a minute to judge: the jobs of dead workers do not wait for it.
    """

    def __init__(self, spool: Spool, settings: Settings) -> None:
        admission = Admission(
            spool,
            settle=_settle_seconds(spool, settings),
            patience=settings.guest_patience_seconds,
            max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels,
            webhooks=WebhookPolicy.of(settings),
        )
        lease = lease_seconds(spool, settings)
        reaper = Reaper(spool, max_attempts=settings.max_attempts, lease=lease)
        retirement = Retirement(spool, lease=lease)
        _warn_of_short_lease(spool, lease)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=task, name=task[0], daemon=True)
            for task in (
                ("admission", admission.run_once, ADMISSION_SECONDS),
                ("reaper", reaper.run_once, REAPER_SECONDS),
                ("sweep", partial(sweep, spool), SWEEP_SECONDS),
                ("retirement", retirement.run_once, RETIREMENT_SECONDS),
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


def lease_seconds(spool: Spool, settings: Settings) -> float:
    """After how many seconds of silence a worker of another host is dead."""
    if settings.lease_seconds is not None:
        return settings.lease_seconds
    return NETWORK_LEASE_SECONDS if spool.is_on_network else LEASE_SECONDS


def _settle_seconds(spool: Spool, settings: Settings) -> float:
    if settings.settle_seconds is not None:
        return settings.settle_seconds
    return NETWORK_SETTLE_SECONDS if spool.is_on_network else SETTLE_SECONDS


def _warn_of_short_lease(spool: Spool, lease: float) -> None:
    watchdog = 2 * (watchdog_interval() or 0)
    least = max(NETWORK_LEASE_SECONDS, watchdog)
    if spool.is_on_network and lease < least:
        log.warning(
            "the lease is %g s: the job of a worker that is at a long step, or that its file "
            "server does not answer, may be done twice; set I2II_LEASE_SECONDS to %g or more, the "
            "same on every host",
            *(lease, least),
        )
