"""Jobs moved on through the spool package, as a worker does it.

    claim = claim_next(spool)
    finish(claim)
    assert names_in(spool.done) == [claim.id]

`result_of` makes the record that `finish` writes.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from i2ii_spool.jobs.records import Result, Timings
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import worker_name
from i2ii_spool.spool.submit import submit

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
    record: dict[str, Any] = {
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


def complete_many(spool: Spool, picture: Path, count: int) -> None:
    """Put so many completed jobs into the spool, whose results are the picture itself."""
    first = datetime.now(UTC) - timedelta(milliseconds=count)
    submit(spool, [picture], EditRequest(prompt="sepia"), max_pixels=10**7)
    claim = claim_next(spool)
    with Image.open(picture) as image:
        width, height = image.size
    name = f"result{picture.suffix}"
    claim.save(name, picture.read_bytes())
    claim.commit(result_of(claim, name, width=width, height=height))
    done = spool.done / claim.id
    for number in range(count - 1):
        at = first + timedelta(milliseconds=number)
        id = f"{at:%Y%m%d-%H%M%S}-{at.microsecond // 1000:03d}-k7m2qf"
        folder = spool.done / id
        folder.mkdir()
        for file in done.iterdir():
            os.link(file, folder / file.name)
