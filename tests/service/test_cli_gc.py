"""`i2ii gc`: which ended jobs it deletes."""

import os
import time

import pytest

from i2ii_spool.spool.layout import Spool
from tests.support.cli import run_by_hand
from tests.support.jobs import SubmitJob, names_in
from tests.support.service import Service, cli


@pytest.fixture
def ended(service: Service, submit_job: SubmitJob) -> list[str]:
    """Five jobs that ended one, two... five days ago, the last three in `failed/`; older ones wait
    and run."""
    spool = service.spool
    ids = [submit_job() for _ in range(2)]
    cli(service, "gpu", "0", "--burst")
    assert names_in(spool.done) == ids
    ids += [submit_job() for _ in range(3)]
    cli(service, "cancel", *ids[2:])
    for days, id in enumerate(ids, start=1):
        folder = spool.done / id if days <= 2 else spool.failed / id
        record = folder / ("result.json" if days <= 2 else "error.json")
        for path in (record, folder):
            os.utime(path, (time.time() - days * 86400,) * 2)
    run_by_hand(spool, submit_job())
    submit_job()
    for folder in (*spool.incoming.iterdir(), *spool.running.glob("*/*")):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - 10 * 86400,) * 2)
    return ids


def left(spool: Spool) -> list[str]:
    return sorted(names_in(spool.done) + names_in(spool.failed))


def assert_untouched(spool: Spool) -> None:
    for folder in (*spool.incoming.iterdir(), *spool.running.glob("*.gpu0/*")):
        assert names_in(folder) == ["input.jpg", "job.json"]
    assert (
        len(list(spool.incoming.iterdir()))
        == len(list(spool.running.glob("elsewhere.gpu0/*")))
        == 1
    )


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["--keep-jobs", "2"], 2),
        (["--keep-jobs", "0"], 0),
        (["--keep-days", "3.5"], 3),
        (["--keep-jobs", "4", "--keep-days", "1.5"], 1),
    ],
)
def test_gc_deletes_the_longest_ended_jobs(
    service: Service, ended: list[str], flags: list[str], kept: int
) -> None:
    answer = cli(service, "gc", *flags)

    assert answer.stdout == f"{5 - kept} jobs deleted\n"
    assert left(service.spool) == sorted(ended[:kept])
    assert_untouched(service.spool)


def test_gc_without_a_limit_deletes_nothing_and_names_the_limits(
    service: Service, ended: list[str]
) -> None:
    answer = cli(service, "gc")

    assert left(service.spool) == sorted(ended)
    for flag in ("--keep-days", "--keep-jobs", "--keep-free-mib"):
        assert flag in answer.stderr
