"""Jobs moved on through the spool package, as a worker does it.

    claim = claim_next(spool)
    finish(claim)
    assert names_in(spool.done) == [claim.id]

`result_of` makes the record that `finish` writes.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from i2ii_spool.jobs.records import Result, Timings
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import worker_name

SubmitJob = Callable[..., str]
"""The fixture `submit_job`: submits the picture with these fields, returns the id."""
ME = worker_name("gpu0")


def claims_of(spool: Spool, worker: str = ME, max_attempts: int = 3) -> Claims:
    (spool.running / worker).mkdir(exist_ok=True)
    return Claims(spool, worker, max_attempts=max_attempts)


def claim_next(spool: Spool, worker: str = ME) -> Claim:
    claim = claims_of(spool, worker).next()
    assert claim is not None
    return claim


def result_of(claim: Claim, *outputs: str, **fields: Any) -> Result:
    """The record of a finished job with these pictures, `result.png` if none are named; `fields`
    replace what it says else."""
    record = {
        "outputs": outputs or ("result.png",),
        "width": 64,
        "height": 48,
        "seed": 0,
        "attempt": claim.attempt,
        "worker": claim.folder.parent.name,
        "gpu_id": 0,
        "completed_at": datetime.now(UTC),
        "timings": Timings(queue=0, load=0, edit=1, save=0),
        "engine": "none",
        "model": "none",
        "revision": "0",
        "versions": {},
    }
    return Result(**(record | fields))


def finish(claim: Claim) -> None:
    claim.save("result.png", b"a picture")
    claim.commit(result_of(claim))


def names_in(folder: Path) -> list[str]:
    """The names of all entries, sorted."""
    return sorted(path.name for path in folder.iterdir())
