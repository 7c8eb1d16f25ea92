"""One job: load its pictures, edit them, save the result."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from PIL.Image import Image

from i2ii_spool.engines.base import Engine
from i2ii_spool.errors import Cancelled, InvalidRequest, JobTooSlow
from i2ii_spool.images import codec
from i2ii_spool.images.mask import check_mask, least_alpha, paste_back
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.records import Progress, Result, Timings
from i2ii_spool.jobs.request import RANDOM_SEED
from i2ii_spool.settings import Settings
from i2ii_spool.spool.claim import Claim, claim_lost_if_missing
from i2ii_spool.spool.job_request import find_pictures
from i2ii_spool.spool.liveness import WorkerStatus
from i2ii_spool.spool.outputs import output_names, workers_pictures

REPORT_SECONDS = 0.1
NETWORK_REPORT_SECONDS = 1.0
"""Each look and each write waits for a file server, and the GPU with it."""


class SpoolFailed(OSError):
    """The disk of the spool failed during a job. The job is not at fault."""


@contextmanager
def _spool_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpoolFailed(error.errno, error.strerror, error.filename) from error


@contextmanager
def _closed_files() -> Iterator[None]:
    """Raise `InvalidRequest` for a file that its user has closed to others: the disk is well."""
    try:
        yield
    except PermissionError as error:
        name = os.path.basename(error.filename or "a file of the job")
        raise InvalidRequest(
            f"{name} is closed to the worker; chmod -R g+rwX the job's folder, and retry the job"
        ) from None


class JobRun:
    """One job while it is worked on: `load`, `edit`, `encode`, `save`."""

    def __init__(
        self,
        claim: Claim,
        on_step: Callable[[int, int, float], None],
        settings: Settings,
        *,
        is_on_network: bool,
    ) -> None:
        self.claim = claim
        self._looks_at_each_step = not is_on_network
        self._report_seconds = NETWORK_REPORT_SECONDS if is_on_network else REPORT_SECONDS
        self._settings = settings
        self._on_step = on_step
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._next_report = 0.0
        self._masked: tuple[Image, Image] | None = None
        """The first picture and its mask, if it has one."""
        self.edit_seconds = 0.0

    def load(self) -> list[Image]:
        """Read the request and return its pictures.

        Raises `InvalidRequest` where a guest has them wrong, and `SpoolFailed`, `ClaimLost`.
        """
        folder = self.claim.folder
        with _spool_errors(), claim_lost_if_missing(folder), _closed_files():
            self.claim.report(Progress(phase="loading", step=0, steps=0))
            self._job = self.claim.job()
            if self._job.seed == RANDOM_SEED:
                drawn = secrets.randbelow(2**32)  # exact in JavaScript, too
                self._job = self._job.model_copy(update={"seed": drawn})
            names = set(os.listdir(folder)) - workers_pictures(JobFolder(folder))
            inputs, mask = find_pictures(folder, names, self._job)
            self._job = self._job.model_copy(update={"inputs": inputs, "mask": mask})
            images = [self._read(name, "inputs") for name in inputs]
            if mask:
                self._masked = images[0], self._read_mask(mask, images[0])
                self._job = self._job.model_copy(update={"size": "input"})
            self.load_seconds = time.monotonic() - self._started
            return images

    @property
    def queue_seconds(self) -> float:
        """How long the job has waited. It must be loaded."""
        submitted_at = self._job.submitted_at or self._started_at
        return max(0.0, (self._started_at - submitted_at).total_seconds())

    @property
    def seconds(self) -> float:
        """For how long the job has been worked on."""
        return time.monotonic() - self._started

    @property
    def preset(self) -> str:
        """The preset that it asks for. It must be loaded."""
        return self._job.preset

    def _read(self, name: str, field: str) -> Image:
        folder = self.claim.folder
        try:
            return codec.read(folder / name, max_pixels=self._settings.max_pixels)
        except FileNotFoundError:
            if not folder.exists():
                raise
            message = f"{field} names {name!r}, which is not in the job folder"
            raise InvalidRequest(message, field=field) from None

    def _read_mask(self, name: str, picture: Image) -> Image:
        mask = self._read(name, "mask")
        check_mask(mask.size, picture.size, least_alpha(mask), name)
        return mask

    def edit(self, engine: Engine, images: list[Image]) -> list[Image]:
        """Return the edited pictures. Raises what the engine raises, and `SpoolFailed`."""
        self._edit_started = time.monotonic()
        edited = engine.edit(images, self._job, self._step)
        self._info = engine.info  # of this edit: it is saved while the engine does the next
        self.edit_seconds = time.monotonic() - self._edit_started
        return edited

    def _step(self, step: int, steps: int) -> None:
        now = time.monotonic()
        eta = (now - self._edit_started) / step * (steps - step)
        with _spool_errors():
            is_due = now >= self._next_report or step == steps
            if is_due:
                self._next_report = now + self._report_seconds
                progress = Progress(
                    phase="editing", step=step, steps=steps, eta_seconds=round(eta, 2)
                )
                self.claim.report(progress)
            if (is_due or self._looks_at_each_step) and self.claim.is_cancelled():
                raise Cancelled(f"cancelled at step {step} of {steps}")
            self._on_step(step, steps, eta)
        most = self._settings.job_timeout_seconds
        if now - self._edit_started > most and step < steps:
            raise JobTooSlow(
                f"step {step} of {steps} came after {now - self._edit_started:.0f} s, and an edit "
                f"may take {most:g} s: ask for fewer steps, a smaller size or a smaller n, or have "
                "the operator raise job_timeout_seconds"
            )

    def encode(self, edited: list[Image]) -> dict[str, bytes]:
        """Return the files of the result: their names and contents.

        Raises `Cancelled`, `InvalidRequest` for a picture that its format cannot hold, and
        `SpoolFailed`.
        """
        self._save_started = time.monotonic()
        self._sides = edited[0].size if self._masked is None else self._masked[0].size
        kind = self._job.output_format
        taken = {*self.claim.kept, *self._job.pictures}
        names = output_names(len(edited), kind, taken=taken)
        files = {}
        for index, (name, image) in enumerate(zip(names, edited, strict=True)):
            with _spool_errors():
                self.claim.report(Progress(phase="saving", step=index, steps=len(edited)))
                if self.claim.is_cancelled():
                    raise Cancelled(f"cancelled when {index} of {len(edited)} results were encoded")
            if self._masked is not None:
                image = paste_back(image, *self._masked, self._settings.mask_feather)
            files[name] = codec.encode(image, kind, self._job.output_compression)
        return files

    def save(self, files: dict[str, bytes], worker: WorkerStatus) -> Timings:
        """Write the files and commit; return where the time went. Raises `ClaimLost`."""
        for name, data in files.items():
            self.claim.save(name, data)
        timings = Timings(
            queue=round(self.queue_seconds, 3),
            load=round(self.load_seconds, 4),
            edit=round(self.edit_seconds, 4),
            save=round(time.monotonic() - self._save_started, 4),
        )
        result = Result(
            outputs=tuple(files),
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
            details=self._details(),
        )
        self.claim.commit(result)
        return timings

    def _details(self) -> dict[str, Any]:
        details = dict(self._info.details)
        if self._masked is not None:
            details["mask"] = {"feather": self._settings.mask_feather}
        return details
