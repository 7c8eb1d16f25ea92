"""What was promised to clients and operators, and a check after the service has started again.

    promised = Promises()
    promised.end(id, "done", "failed:cancelled")
    check(spool, promised)

`Promises.told` reads what a process promised before it was killed.
"""

import io
import json
import os
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from PIL import Image

from i2ii_spool.errors import Deleted, NotFound
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import retention
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.durable_io import create_file
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.outputs import output_names
from i2ii_spool.spool.recovery import recover
from i2ii_spool.spool.submit import Submission
from tests.support.jobs import result_of

WORKER = "here.gpu0"
MAX_ATTEMPTS = 3
OUTPUT = b"a picture, as far as the spool is concerned " * 8


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((12, 9)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _picture()


def _mask() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (12, 9)).save(buffer, "PNG")
    return buffer.getvalue()


MASK = _mask()


def write_upload(path: str, data: bytes) -> None:
    """What the server does with a picture that arrives."""
    descriptor = create_file(path)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def submit_one(spool: Spool, *, key: str | None = None, with_mask: bool = False) -> str:
    submission = Submission(spool)
    write_upload(submission.add_file(), PICTURE)
    if with_mask:
        write_upload(submission.add_file(is_mask=True), MASK)
    return submission.publish(EditRequest(prompt="sepia"), max_pixels=10**6, key=key)


def start_worker(spool: Spool) -> None:
    """What a worker does before all else; the folder outlives it."""
    spool.create_worker(WORKER)


def commit(claim: Claim) -> None:
    (name,) = output_names(1, "png", taken=claim.kept)
    claim.save(name, OUTPUT)
    claim.commit(result_of(claim, name))


class Promises:
    """What has been promised so far. `tell` hears of each change, since the process that promises
    may die at the next call."""

    def __init__(self, tell: Callable[[bytes], object] | None = None) -> None:
        self._tell = tell
        self.ends: dict[str, tuple[str, ...]] = {}
        self.attempts: dict[str, int] = {}
        self.counted: dict[str, int] = {}
        self.done: set[str] = set()
        self.copied: set[str] = set()
        self.paths: set[str] = set()
        self.files: dict[str, str] = {}
        self.jobs: int | None = None
        self.key: str | None = None

    def _say(self) -> None:
        if self._tell is not None:
            self._tell(pickle.dumps({**self.__dict__, "_tell": None}))

    @classmethod
    def told(cls, said: bytes) -> "Promises":
        """What has been promised when `tell` heard this."""
        promises = cls()
        promises.__dict__.update(pickle.loads(said) if said else {})
        return promises

    def end(self, id: str, *ends: str) -> None:
        """The job (or the guest of that name) will end as one of these: done, failed:CODE, gone."""
        self.ends[id] = ends
        self._say()

    def forget(self, id: str) -> None:
        del self.ends[id]
        self._say()

    def begun(self, id: str, attempts: int) -> None:
        """The job has been begun so often."""
        self.attempts[id] = attempts
        self._say()

    def count_attempts(self, id: str, attempts: int) -> None:
        """So many attempts are on record, no more and no less."""
        self.counted[id] = attempts
        self.begun(id, attempts)

    def finished(self, id: str) -> None:
        """The job is done now, and will not be begun again."""
        self.done.add(id)
        self.end(id, "done")

    def copy(self, id: str) -> None:
        """An operator has copied the job under its own id: it is in two places until both have
        ended."""
        self.copied.add(id)
        self._say()

    def send_again(self, key: str) -> None:
        """The client that sent a job with this key got no answer, and will send it again."""
        self.key = key
        self.count(1)

    def stay(self, path: str) -> None:
        """The file at this path below the root stays, and is not empty."""
        self.paths.add(path)
        self._say()

    def keep(self, id: str, name: str) -> None:
        """The job keeps this file, a copy of `PICTURE`, which is the user's."""
        self.files[id] = name
        self._say()

    def count(self, jobs: int) -> None:
        """There will be so many jobs."""
        self.jobs = jobs
        self._say()


# --- after the blow -------------------------------------------------------------------------------


def start_again(spool: Spool) -> Counter[str]:
    """Do what servers and workers do until nothing is left to do; return how often each job was
    begun."""
    spool.create()
    start_worker(spool)
    recover(spool, WORKER, max_attempts=MAX_ATTEMPTS)
    with mock.patch.object(retention, "STALE_SUBMISSION_SECONDS", -1.0):  # an hour later
        retention.sweep(spool)
    admission = Admission(spool, settle=0, patience=0, max_bytes=10**6, max_pixels=10**6)
    admission.run_once()
    begun: Counter[str] = Counter()
    claims = Claims(spool, WORKER, max_attempts=MAX_ATTEMPTS)
    while (claim := claims.next()) is not None:
        begun[claim.id] += 1
        job = claim.job()
        for name in job.inputs:
            assert (claim.folder / name).read_bytes() == PICTURE, "an accepted picture is torn"
        if job.mask:
            assert (claim.folder / job.mask).read_bytes() == MASK, "an accepted mask is torn"
        commit(claim)
    admission.run_once()
    return begun


def places(spool: Spool) -> Counter[str]:
    """In how many places each job or guest is."""
    folders = [spool.incoming, spool.done, spool.failed, *spool.running.iterdir()]
    return Counter(path.name for folder in folders for path in folder.iterdir())


def check(spool: Spool, promised: Promises) -> None:
    """Raise `AssertionError` unless the service, started again, keeps what was promised and what
    always holds."""
    doubled = [
        name for name, places in places(spool).items() if places > 1 and name not in promised.copied
    ]
    assert not doubled, f"in two states: {doubled}"
    for id, attempts in promised.counted.items():
        on_record = [
            path
            for path in spool.root.rglob(f"{id}/attempt-*.json")
            if json.loads(path.read_text())
        ]
        assert len(on_record) == attempts, f"{len(on_record)} attempts on record, not {attempts}"
    begun = start_again(spool)
    if promised.key is not None:
        submit_one(spool, key=promised.key)
        start_again(spool)
    left = [*spool.incoming.iterdir(), *spool.running.glob("*/*"), *spool.staging.iterdir()]
    assert not left, f"left where no process looks: {left}"
    assert not [path for path in spool.trash.iterdir() if is_id(path.name)], "not deleted"
    orphans = {path.name for path in spool.thumbnails.iterdir()} - places(spool).keys()
    assert not orphans, f"thumbnails of jobs that are gone: {orphans}"
    for folder in (*spool.done.iterdir(), *spool.failed.iterdir()):
        check_ended(folder)
    for name, ends in promised.ends.items():
        assert (end := how_it_ended(spool, name)) in ends, f"{name} is {end}, not one of {ends}"
    for id, attempts in promised.attempts.items():
        assert attempts + begun[id] <= MAX_ATTEMPTS, (
            f"{id} was begun {attempts} and {begun[id]} times"
        )
    for id in promised.done:
        assert not begun[id], f"{id} was done, and begun again"
    for path in promised.paths:
        assert (spool.root / path).exists(), f"{path} is gone"
        assert (spool.root / path).read_bytes(), f"{path} is torn"
    for id, name in promised.files.items():
        assert (find(spool, id).folder / name).read_bytes() == PICTURE, f"{name} was overwritten"
    if promised.jobs is not None:
        assert sum(places(spool).values()) == promised.jobs, "too many jobs, or too few"


def check_ended(folder: Path) -> None:
    if folder.parent.name == "done":
        result = json.loads((JobFolder(folder).result).read_text())
        assert all((folder / name).read_bytes() == OUTPUT for name in result["outputs"]), (
            "a result is torn"
        )
        assert (folder / "input.png").exists() or (folder / "photo.png").exists()
        assert not (JobFolder(folder).error).exists(), "both done and failed"
    else:
        assert (JobFolder(folder).error_text).read_text(), "failed, and nothing says why"
        assert not (JobFolder(folder).result).exists(), "both done and failed"
        if (JobFolder(folder).cancel).exists() and not (JobFolder(folder).error).exists():
            return  # its canceller died before the last step: the file `cancel` says so
        assert json.loads((JobFolder(folder).error).read_text())["code"]
    assert not list(folder.glob(".*.tmp")), "half-written files are left"


def how_it_ended(spool: Spool, name: str) -> str:
    """`done`, `failed:CODE`, `failed` without a record, `gone` or `lost`; `name` is an id, or that
    of a guest."""
    ids = [name] if is_id(name) else [id for id in places(spool) if id.endswith(f"_{name}")]
    if len(ids) != 1:
        return f"{len(ids)} times"
    try:
        place = find(spool, ids[0])
    except Deleted:
        return "gone"
    except NotFound:
        return "lost"
    if place.state != "failed":
        return place.state
    if not (JobFolder(place.folder).error).exists():
        return "failed"
    return f"failed:{json.loads((JobFolder(place.folder).error).read_text())['code']}"
