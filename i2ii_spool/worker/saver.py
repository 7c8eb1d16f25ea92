"""Results are encoded and saved while the next job is edited: the GPU does not wait for a PNG."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress

from i2ii_spool.errors import ClaimLost
from i2ii_spool.spool.claim import Claim
from i2ii_spool.worker.heartbeat import Heartbeat

LOOK_SECONDS = 1.0
UNCOUNT_SECONDS = 10.0


class Saving:
    """One result that is being saved, in a thread that does not keep the process alive."""

    def __init__(self, claim: Claim, save: Callable[["Saving"], None]) -> None:
        self.claim = claim
        self.done: Future[None] = Future()
        self._save = save
        self._ending = threading.Lock()
        self._is_released = False
        threading.Thread(target=self._run, name="save", daemon=True).start()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Hold this to end the job. Raises `ClaimLost` if it has been released."""
        with self._ending:
            if self._is_released:
                raise ClaimLost(f"job {self.claim.id} was released before its result was encoded")
            yield

    def release(self) -> None:
        """Release the job; its attempt does not count. Raises `ClaimLost` if it has ended."""
        with self._ending:
            self._is_released = True
            self.claim.release(uncount_attempt=True)

    def ends_within(self, seconds: float) -> bool:
        """Wait so long for its end."""
        return bool(wait([self.done], seconds).done)

    def _run(self) -> None:
        try:
            self._save(self)
        except BaseException as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


class Saver:
    """Saves one result at a time. A result that waits for it keeps the worker's heart beating, as
    long as the other one gets on."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._current: Saving | None = None

    @property
    def may_kill(self) -> bool:
        """Whether a result is being saved whose job has cost a worker its life: no other job may be
        at work then, lest it be blamed."""
        return self._current is not None and self._current.claim.attempt > 1

    def begin(self, claim: Claim, save: Callable[[Saving], None]) -> None:
        """Save a result in the background. The one before must have been saved."""
        self._current = Saving(claim, save)

    def raise_if_failed(self) -> None:
        """Raise what went wrong in a save that has ended."""
        if self._current is not None and self._current.done.done():
            ended, self._current = self._current, None
            ended.done.result()

    def finish(self, deadline: Callable[[], float], waiting: Claim | None = None) -> None:
        """Wait until the result is saved. Raises what went wrong.

        At the `deadline`, on the monotonic clock, its job is released. The attempt of a job that is
        `waiting` meanwhile does not count: should the worker die now, it is not of that job.
        """
        saving = self._current
        if saving is None:
            return
        if not saving.ends_within(LOOK_SECONDS):
            with self._heartbeat.ticking_while("saving", lambda: True):
                self._wait(saving, deadline, waiting)
        self._current = None
        if saving.done.done():
            saving.done.result()

    def _wait(self, saving: Saving, deadline: Callable[[], float], waiting: Claim | None) -> None:
        uncount_at = time.monotonic() + UNCOUNT_SECONDS
        with ExitStack() as afterwards:
            while not saving.ends_within(LOOK_SECONDS):
                now = time.monotonic()
                if now > deadline():
                    with suppress(ClaimLost):  # it has ended at this moment
                        saving.release()
                    return
                if waiting is not None and now > uncount_at:
                    waiting.uncount()
                    afterwards.callback(waiting.count)
                    waiting = None
