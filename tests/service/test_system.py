"""GET /system/status, /health and /livez."""

import asyncio
import time

import pytest

from i2ii_spool.server.app import WORKERS_AGE_SECONDS
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    WorkerState,
)
from tests.support.app import Connect, HandWorker, get, is_empty
from tests.support.jobs import SubmitJob
from tests.support.workers import write_worker


async def test_the_system_status_counts_jobs_and_workers(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    for _ in range(7):
        submit_job()
    for end in (worker.finish, worker.finish, worker.fail):
        end()
    running = worker.claim().id
    worker.show(WorkerState.RUNNING, job=running, step=3, steps=50, jobs_done=2, jobs_failed=1)
    shown = await get(await connect(), "/system/status")
    (gpu,) = shown.pop("workers")
    assert gpu.pop("heartbeat_age") >= 0
    assert (gpu["worker"], gpu["gpu_id"], gpu["state"], gpu["alive"]) == (
        worker.name,
        0,
        "running",
        True,
    )
    assert (gpu["job"], gpu["step"], gpu["steps"]) == (running, 3, 50)
    assert (gpu["jobs_done"], gpu["jobs_failed"]) == (2, 1)
    (host,) = shown.pop("hosts")
    assert host.pop("heartbeat_age") >= 0
    assert host == {
        "host": worker.name.partition(".")[0],
        "alive": True,
        "workers": 1,
        "alive_workers": 1,
        "ready_workers": 1,
        "running_requests": 1,
        "versions": ["unknown"],
    }
    disk = shown.pop("spool")
    assert disk["path"] == str(spool.root)
    assert disk["free_bytes"] > 0
    assert disk["oldest_waiting_seconds"] >= 0
    assert shown == {
        "total_gpus": 1,
        "alive_processes": 1,
        "ready_workers": 1,
        "total_requests": 7,
        "queued_requests": 3,
        "running_requests": 1,
        "completed_requests": 2,
        "failed_requests": 1,
    }


async def test_the_system_status_of_an_empty_spool_is_all_noughts(connect: Connect) -> None:
    shown = await get(await connect(), "/system/status")
    assert shown.pop("spool")["oldest_waiting_seconds"] is None
    assert shown.pop("workers") == []
    assert shown.pop("hosts") == []
    assert set(shown.values()) == {0}


async def test_a_dead_worker_is_shown_and_not_counted_as_alive(
    connect: Connect, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY)
    client = await connect()
    worker.die()
    shown = await get(client, "/system/status")
    assert (shown["total_gpus"], shown["alive_processes"], shown["ready_workers"]) == (0, 0, 0)
    assert shown["workers"][0]["alive"] is False
    assert (shown["hosts"][0]["alive"], shown["hosts"][0]["workers"]) == (False, 1)


@pytest.mark.parametrize("state", [WorkerState.READY, WorkerState.RUNNING])
async def test_a_service_with_a_ready_worker_is_healthy(
    connect: Connect, worker: HandWorker, state: WorkerState
) -> None:
    worker.show(state)
    assert await get(await connect(), "/health") == {"status": "healthy", "ready_workers": 1}


@pytest.mark.parametrize("state", [WorkerState.LOADING, WorkerState.DEGRADED, WorkerState.STOPPING])
async def test_a_service_whose_workers_take_no_jobs_is_degraded(
    connect: Connect, worker: HandWorker, state: WorkerState
) -> None:
    worker.show(state)
    answer = await get(await connect(), "/health", 503)
    assert answer["status"] == "degraded"
    assert f"{worker.name} is {state}" in answer["reason"]


async def test_a_service_without_workers_is_unhealthy(connect: Connect) -> None:
    answer = await get(await connect(), "/health", 503)
    assert answer["status"] == "unhealthy"
    assert "no worker" in answer["reason"]


async def test_a_service_whose_worker_is_dead_is_unhealthy(
    connect: Connect, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY)
    client = await connect()
    worker.die()
    assert (await get(client, "/health", 503))["status"] == "unhealthy"


async def test_a_service_whose_hosts_have_other_clocks_is_healthy(
    connect: Connect, spool: Spool
) -> None:
    """A lease is a minute, and the clock of the worker's host is an hour behind."""
    client, written = await connect(), time.time() - 3600

    def beat(second: int) -> None:
        write_worker(spool, "elsewhere.gpu0", at=written + second)

    beat(0)
    await get(client, "/health", 503)  # it may be dead: no change was seen yet
    for second in range(1, 4):
        beat(second)
        await asyncio.sleep(WORKERS_AGE_SECONDS)
        assert (await get(client, "/health"))["ready_workers"] == 1


async def test_a_service_on_a_full_disk_is_unhealthy(connect: Connect, worker: HandWorker) -> None:
    worker.show(WorkerState.READY)
    answer = await get(await connect(min_free_mib=10**12), "/health", 503)
    assert answer["status"] == "unhealthy"
    assert "MiB free" in answer["reason"]


async def test_a_service_that_cannot_write_to_its_spool_is_unhealthy(
    connect: Connect, spool: Spool, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY)
    client = await connect()
    spool.staging.rmdir()
    answer = await get(client, "/health", 503)
    assert answer["status"] == "unhealthy"
    assert "cannot be written to" in answer["reason"]


async def test_asking_for_the_health_leaves_nothing_in_the_spool(
    connect: Connect, spool: Spool
) -> None:
    await get(await connect(), "/health", 503)
    assert is_empty(spool)


async def test_a_server_lives_whatever_its_workers_do(connect: Connect) -> None:
    assert await get(await connect(), "/livez") == {"status": "alive"}
