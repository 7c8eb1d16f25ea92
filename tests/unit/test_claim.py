"""Claiming a job and ending it."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from i2ii_spool.errors import (
    ClaimLost,
    EngineError,
)
from i2ii_spool.jobs.ids import new_id
from i2ii_spool.jobs.records import Progress
from i2ii_spool.spool.claim import Backlog, Claim
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import worker_name
from i2ii_spool.spool.lookup import count, find, queued_ids
from i2ii_spool.spool.recovery import recover
from tests.support.jobs import ME, SubmitJob, claim_next, claims_of, finish, names_in
from tests.support.seams import drawing_the_youngest, lost_rename_reply


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(6)), st.integers(0, 6))
def test_jobs_are_claimed_in_queue_order(spool: Spool, order: list[int], hinted: int) -> None:
    ids = sorted(new_id() for _ in order)
    backlog = Backlog(spool)
    for index in order[hinted:]:
        (spool.incoming / ids[index]).mkdir()
    backlog.scan()
    for index in order[:hinted]:  # these arrive after the scan, by event
        (spool.incoming / ids[index]).mkdir()
        backlog.hint(ids[index])
    assert [backlog.pop() for _ in ids] == ids
    for id in ids:
        (spool.incoming / id).rmdir()


def test_a_claim_is_counted_before_work_starts(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    claim = claim_next(spool)
    assert claim.id == id
    assert names_in(spool.running / ME / id) == ["attempt-1.json", "input.jpg", "job.json"]
    assert find(spool, id).worker == ME


def test_each_job_is_claimed_once_by_many_workers(spool: Spool, submit_job: SubmitJob) -> None:
    ids = [submit_job() for _ in range(40)]

    def claim_all(worker: str) -> list[str]:
        claims = claims_of(spool, worker)
        claimed = []
        while (claim := claims.next()) is not None:
            claimed.append(claim.id)
        return claimed

    with ThreadPoolExecutor(8) as pool:
        claimed = pool.map(claim_all, [worker_name(f"gpu{n}") for n in range(8)])
    assert sorted(id for each in claimed for id in each) == ids


def claim_after(taken: int, spool: Spool) -> list[str]:
    """Claim all jobs with a backlog that is older than another worker's claims of so many."""
    mine, theirs = claims_of(spool), claims_of(spool, worker_name("gpu1"))
    mine.backlog.scan()
    for _ in range(taken):
        assert theirs.next() is not None
    claimed = []
    while (claim := mine.next()) is not None:
        claimed.append(claim.id)
    return claimed


@pytest.mark.parametrize("taken", [0, 6])
def test_on_one_host_the_oldest_job_is_claimed(
    spool: Spool, submit_job: SubmitJob, taken: int
) -> None:
    ids = [submit_job() for _ in range(12)]
    with drawing_the_youngest():
        assert claim_after(taken, spool) == ids[taken:]


def test_on_a_network_the_oldest_job_is_claimed_while_no_race_is_lost(
    spool: Spool, submit_job: SubmitJob
) -> None:
    spool.is_on_network = True
    ids = [submit_job() for _ in range(12)]
    with drawing_the_youngest():
        assert claim_after(0, spool) == ids


def test_on_a_network_each_lost_race_spreads_the_claims_and_each_claim_gathers_them(
    spool: Spool, submit_job: SubmitJob
) -> None:
    spool.is_on_network = True
    ids = [submit_job() for _ in range(12)]
    with drawing_the_youngest():
        claimed = claim_after(6, spool)
    # It loses 0, then 2 of two, then 5 of four, and claims 10, the youngest of the oldest eight
    # that it has not tried; then 6 of four. It loses 3 of two, and claims 8 of four.
    assert claimed[:3] == [ids[10], ids[6], ids[8]]
    assert sorted(claimed) == ids[6:]


def test_what_is_left_of_an_old_scan_spreads_no_claims(spool: Spool, submit_job: SubmitJob) -> None:
    spool.is_on_network = True
    mine, theirs = claims_of(spool), claims_of(spool, worker_name("gpu1"))
    for _ in range(12):
        submit_job()
    mine.backlog.scan()
    while theirs.next() is not None:
        pass
    assert mine.next() is None
    ids = [submit_job() for _ in range(12)]
    mine.backlog.scan()
    with drawing_the_youngest():
        assert [claim.id for claim in iter(mine.next, None)] == ids


def test_rename_with_a_lost_reply_is_still_a_claim(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    with lost_rename_reply(id):
        claim = claims_of(spool).next()
    assert claim is not None
    assert claim.id == id


def test_a_committed_job_has_its_result(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    finish(claim_next(spool))
    assert set(names_in(spool.done / id)) >= {"result.json", "result.png"}
    assert count(spool) == {State.INCOMING: 0, State.RUNNING: 0, State.DONE: 1, State.FAILED: 0}


def test_a_failed_job_says_why_to_people_and_programs(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    claim_next(spool).fail(EngineError("out of paint"), "Traceback: ...")
    assert (
        spool.failed / id / "error.txt"
    ).read_text() == "engine_error: out of paint\n\nTraceback: ..."
    assert json.loads((spool.failed / id / "error.json").read_text())["attempt"] == 1


def test_released_job_keeps_its_place_and_its_attempts(spool: Spool, submit_job: SubmitJob) -> None:
    first, second = submit_job(), submit_job()
    claim_next(spool).release(uncount_attempt=True)
    assert queued_ids(spool) == [first, second]
    assert claim_next(spool).attempt == 1
    recover(spool, ME, max_attempts=3)
    claim_next(spool).release(uncount_attempt=False)
    assert claim_next(spool).attempt == 3


@pytest.mark.parametrize(
    "ending",
    [
        finish,
        lambda claim: claim.fail(EngineError("x")),
        lambda claim: claim.release(uncount_attempt=True),
        lambda claim: claim.report(Progress(phase="editing", step=1, steps=2)),
    ],
    ids=["commit", "fail", "give back", "report"],
)
def test_worker_that_lost_its_claim_drops_the_job(
    spool: Spool, submit_job: SubmitJob, ending: Callable[[Claim], None]
) -> None:
    submit_job()
    claim = claim_next(spool)
    recover(spool, ME, max_attempts=3)  # it was taken for dead
    other = claim_next(spool, worker_name("gpu1"))
    with pytest.raises(ClaimLost):
        ending(claim)
    finish(other)
    assert count(spool)[State.DONE] == 1


def test_a_job_copied_in_under_its_own_id_overwrites_nothing(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    finish(claim_next(spool))
    (spool.incoming / id).mkdir()
    (spool.incoming / id / "job.json").write_text('{"prompt": "again"}')
    finish(claim_next(spool))
    assert count(spool)[State.DONE] == 2
    assert all((spool.done / name / "result.json").exists() for name in names_in(spool.done))
