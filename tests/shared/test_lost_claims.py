"""A worker that was taken for dead goes on: nothing of what it does reaches the job's next holder.

A network file system may let it: its client knows the folder of the job by a cached name, and
follows the folder to wherever it has been moved.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from i2ii_spool.errors import ClaimLost, EngineError
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.records import Progress
from i2ii_spool.spool import actions
from i2ii_spool.spool.claim import Claim
from i2ii_spool.spool.failure import write_failure
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.recovery import recover
from tests.support.chaos import places
from tests.support.jobs import claim_next, finish, result_of
from tests.support.promises import submit_one

H1, H2 = "h1.gpu0", "h2.gpu0"
Ending = Callable[[Claim], object]

ENDINGS: dict[str, Ending] = {
    "save": lambda claim: claim.save("result.png", b"of the first attempt"),
    "commit": lambda claim: claim.commit(result_of(claim)),
    "fail": lambda claim: claim.fail(EngineError("of the first attempt")),
    "release": lambda claim: claim.release(uncount_attempt=True),
    "release counted": lambda claim: claim.release(uncount_attempt=False),
    "report": lambda claim: claim.report(Progress(phase="editing", step=1, steps=2)),
}


@dataclass
class Taken:
    """A job that a worker of h1 has lost to one of h2."""

    here: Spool
    there: Spool
    lost: Claim
    held: Claim

    @classmethod
    def over(cls, here: Spool, there: Spool) -> "Taken":
        """Have the worker of h1 claim a job, and that of h2 take it over."""
        submit_one(here)
        lost = claim_next(here, H1)
        assert lost.job().prompt == "sepia"
        assert not lost.is_cancelled()
        recover(there, H1, max_attempts=3)
        held = claim_next(there, H2)
        assert (held.id, held.attempt) == (lost.id, 2)
        return cls(here, there, lost, held)

    def contents(self) -> dict[str, bytes]:
        """The files of the job, as its holder sees them."""
        return {path.name: path.read_bytes() for path in self.held.folder.iterdir()}


@pytest.fixture
def taken(spools: tuple[Spool, Spool]) -> Taken:
    return Taken.over(*spools)


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_what_the_worker_does_that_lost_the_job_reaches_no_one(
    taken: Taken, ending: Ending
) -> None:
    before = taken.contents()
    with pytest.raises(ClaimLost):
        ending(taken.lost)
    assert taken.contents() == before
    finish(taken.held)
    assert list(places(taken.here)) == [("done", taken.held.id)]
    assert set(before) < {path.name for path in (taken.here.done / taken.held.id).iterdir()}


def test_a_file_that_the_worker_could_not_rename_does_not_stay(taken: Taken) -> None:
    if not taken.there.is_on_network:
        pytest.skip("a local file system follows no folder to where it was moved")
    (taken.held.folder / ".progress.json.0123abcd.tmp").touch()
    finish(taken.held)
    assert not list((taken.there.done / taken.held.id).glob(".*"))


def test_worker_that_lost_the_job_leaves_its_attempt_on_record(taken: Taken) -> None:
    before = taken.contents()
    with suppress(ClaimLost):
        taken.lost.uncount()
    assert taken.contents() == before


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_next_holder_that_dies_leaves_the_job_its_attempts(taken: Taken, ending: Ending) -> None:
    with pytest.raises(ClaimLost):
        ending(taken.lost)
    recover(taken.here, H2, max_attempts=3)
    assert list(places(taken.there)) == [("incoming", taken.held.id)]
    claim = claim_next(taken.there, H2)
    assert claim.attempt == 3
    finish(claim)
    assert list(places(taken.here)) == [("done", claim.id)]


def test_cancel_of_the_next_holder_leaves_one_ending(taken: Taken) -> None:
    with pytest.raises(ClaimLost):
        ENDINGS["commit"](taken.lost)
    actions.cancel(taken.here, taken.held.id)
    recover(taken.here, H2, max_attempts=3)
    failed = find(taken.there, taken.held.id).folder
    assert failed.parent.name == "failed"
    assert not (failed / "result.json").exists()


@pytest.mark.parametrize("record", ["error", "result"])
def test_record_that_an_earlier_attempt_writes_at_the_last_moment_is_no_ending(
    taken: Taken, record: str
) -> None:
    """Between the look at the folder and the write lies a moment in which the job may be taken."""
    job = JobFolder(taken.held.folder)
    if record == "error":
        write_failure(job.path, EngineError("of the first attempt"), attempt=1, worker=H1)
    else:
        (job.path / "result.png").write_bytes(b"of the first attempt")
        job.result.write_bytes(result_of(taken.lost).to_json())
    recover(taken.here, H2, max_attempts=3)
    assert list(places(taken.there)) == [("incoming", taken.held.id)]
    claim = claim_next(taken.there, H2)
    assert claim.attempt == 3
    finish(claim)
    done = taken.here.done / claim.id
    assert (done / "result.png").read_bytes() == b"a picture"
    assert not (done / "error.json").exists()
