"""One job: read its pictures, have them edited, save the result."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from PIL.Image import Image

from i2ii_spool.engines.base import Engine
from i2ii_spool.errors import Cancelled, InvalidRequest
from i2ii_spool.images import codec
from i2ii_spool.jobs.records import Progress, Result, Timings
from i2ii_spool.jobs.request import MAX_IMAGES
from i2ii_spool.spool.claim import Claim, claim_lost_if_missing
from i2ii_spool.spool.folder_check import find_inputs
from i2ii_spool.spool.liveness import WorkerStatus

REPORT_SECONDS = 0.1


class SpoolFailed(OSError):
    """The spool's disk has failed under a job, which is not to blame."""


@contextmanager
def _blaming_the_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpoolFailed(error.errno, error.strerror, error.filename) from error


class JobRun:
    """What is known of one job while it is worked on. `prepare`, `edit`, `encode`, `save`."""

    def __init__(
        self, claim: Claim, on_step: Callable[[int, int, float], None], *, max_pixels: int
    ) -> None:
        self.claim = claim
        self._max_pixels = max_pixels
        self._on_step = on_step
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._next_report = 0.0
        self.edit_seconds = 0.0

    def prepare(self) -> list[Image]:
        """Read the request and return its pictures. Raises `InvalidRequest` where a guest has got
        them wrong, and `SpoolFailed`, `ClaimLost`."""
        with _blaming_the_disk(), claim_lost_if_missing(self.claim.folder):
            return self._prepare()

    def _prepare(self) -> list[Image]:
        self.claim.report(Progress(phase="loading", step=0, steps=0))
        self._job = self.claim.job()
        folder = self.claim.folder
        names = self._job.inputs or find_inputs([path.name for path in folder.iterdir()])
        if not names:
            raise InvalidRequest("there is no picture in the job folder", field="inputs")
        if len(names) > MAX_IMAGES:
            raise InvalidRequest(
                f"there are {len(names)} pictures; a job has one to {MAX_IMAGES}", field="inputs"
            )
        images = [self._read(folder, name) for name in names]
        self.load_seconds = time.monotonic() - self._started
        return images

    def _read(self, folder: Path, name: str) -> Image:
        try:
            return codec.read(folder / name, max_pixels=self._max_pixels)
        except FileNotFoundError:
            if folder.exists():
                message = f"inputs names {name!r}, which is not in the job folder"
                raise InvalidRequest(message, field="inputs") from None
            raise

    def edit(self, engine: Engine, images: list[Image]) -> list[Image]:
        """Return the edited pictures. Raises what the engine raises, and `SpoolFailed`."""
        self._edit_started = time.monotonic()
        edited = engine.edit(images, self._job, self._step)
        self._info = engine.info  # of this edit: it is saved while the engine is at the next
        self.edit_seconds = time.monotonic() - self._edit_started
        return edited

    def _step(self, step: int, steps: int) -> None:
        with _blaming_the_disk():
            self._take_step(step, steps)

    def _take_step(self, step: int, steps: int) -> None:
        now = time.monotonic()
        eta = (now - self._edit_started) / step * (steps - step)
        if now >= self._next_report or step == steps:
            self._next_report = now + REPORT_SECONDS
            self.claim.report(
                Progress(phase="editing", step=step, steps=steps, eta_seconds=round(eta, 2))
            )
        if self.claim.is_cancelled():
            raise Cancelled(f"cancelled at step {step} of {steps}")
        self._on_step(step, steps, eta)

    def encode(self, edited: list[Image]) -> dict[str, bytes]:
        """Return the result's files: their names and contents."""
        self._save_started = time.monotonic()
        self._sides = edited[0].size
        kind = self._job.output_format
        return {
            _output_name(index, kind): codec.encode(image, kind)
            for index, image in enumerate(edited)
        }

    def save(self, files: dict[str, bytes], worker: WorkerStatus) -> Timings:
        """Commit; return where the time went. Raises `ClaimLost`."""
        for name, data in files.items():
            self.claim.save(name, data)
        timings = Timings(
            queue=round(self._queue_seconds(), 3),
            load=round(self.load_seconds, 4),
            edit=round(self.edit_seconds, 4),
            save=round(time.monotonic() - self._save_started, 4),
        )
        self.claim.commit(self._result(tuple(files), timings, worker))
        return timings

    def _queue_seconds(self) -> float:
        submitted = self._job.submitted_at or self._started_at
        return max(0.0, (self._started_at - submitted).total_seconds())

    def _result(self, outputs: tuple[str, ...], timings: Timings, worker: WorkerStatus) -> Result:
        return Result(
            outputs=outputs,
            width=self._sides[0],
            height=self._sides[1],
            seed=self._job.seed,
            attempt=self.claim.attempt,
            worker=worker.worker,
            gpu_id=worker.gpu_id,
            completed_at=datetime.now(UTC),
            timings=timings,
            engine=self._info.engine,
            model=self._info.model,
            revision=self._info.revision,
            versions=dict(self._info.versions),
            details=dict(self._info.details),
        )


def _output_name(index: int, output_format: str) -> str:
    extension = "jpg" if output_format == "jpeg" else output_format
    return f"result.{extension}" if index == 0 else f"result-{index + 1}.{extension}"
