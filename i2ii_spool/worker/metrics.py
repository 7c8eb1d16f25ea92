"""What a worker counts, for its status file."""

import threading
import time
from collections import defaultdict
from functools import partial

from i2ii_spool.host.logging import EventCounter
from i2ii_spool.jobs.records import Timings
from i2ii_spool.spool.metrics import Buckets, WorkerMetrics

QUEUE_BOUNDS = (0.05, 0.25, 1, 5, 15, 60, 300, 900, 3600)
RUN_BOUNDS = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
STEP_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
STAGES = ("load", "edit", "save")
MAX_PRESETS = 50
"""Told apart; the jobs of more of them count as of none."""


class Metrics:
    """Counts for one worker. The thread that saves results counts, too."""

    def __init__(self, events: EventCounter, gpu_uuid: str = "") -> None:
        self._events = events
        self._gpu_uuid = gpu_uuid
        self._started_at = time.time()
        self._lock = threading.Lock()
        self._last_step: float | None = None
        self.load_seconds: float | None = None
        self._images = 0
        self._queue = Buckets(QUEUE_BOUNDS)
        self._step = Buckets(STEP_BOUNDS)
        self._run: dict[str, Buckets] = defaultdict(
            partial(Buckets, RUN_BOUNDS), {"": Buckets(RUN_BOUNDS)}
        )
        self._stages = {stage: Buckets(RUN_BOUNDS) for stage in STAGES}

    def begin(self, queue_seconds: float) -> None:
        """Count a job whose edit begins, and that has waited for so long."""
        with self._lock:
            self._queue.observe(queue_seconds)
            self._last_step = None

    def step(self) -> None:
        """Count a step that has ended. The first of an edit has no beginning: the pictures and the
        prompt are encoded before it."""
        now = time.monotonic()
        with self._lock:
            if self._last_step is not None:
                self._step.observe(now - self._last_step)
            self._last_step = now

    def complete(self, timings: Timings, run_seconds: float, preset: str, images: int) -> None:
        """Count a job that is completed."""
        with self._lock:
            is_known = preset in self._run or len(self._run) < MAX_PRESETS
            self._run[preset if is_known else ""].observe(run_seconds)
            for stage, buckets in self._stages.items():
                buckets.observe(getattr(timings, stage))
            self._images += images

    def snapshot(self) -> WorkerMetrics:
        """Return all that was counted."""
        with self._lock:
            return WorkerMetrics(
                started_at=round(self._started_at, 3),
                gpu_uuid=self._gpu_uuid,
                load_seconds=self.load_seconds,
                events=self._events.events,
                failures=self._events.failures,
                images=self._images,
                queue=self._queue.snapshot(),
                run={preset: buckets.snapshot() for preset, buckets in self._run.items()},
                stages={stage: buckets.snapshot() for stage, buckets in self._stages.items()},
                step=self._step.snapshot(),
            )
