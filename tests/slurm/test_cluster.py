"""Workers as jobs of a real Slurm, which drains, kills, preempts and requeues them: the spool loses
no job, and no job is done twice."""

from pathlib import Path

import pytest

from i2ii_spool.spool.liveness import list_workers
from tests.slurm.conftest import LEASE
from tests.support.jobs import names_in
from tests.support.service import Service, wait_until
from tests.support.slurm import CONSTRAINS, Cluster
from tests.support.workers import is_done, read, step_of, submit_into, wait_done

STEPS = 100
"""Of a job that takes longer than `KILL_WAIT`: 5 s."""
DRAIN = ("scancel", "--batch", "--signal=USR1")


def ready(service: Service) -> set[str]:
    """The names of the workers that take jobs."""
    workers = list_workers(service.spool, lease=LEASE)
    return {worker.status.worker for worker in workers if worker.ready}


def wait_ready(service: Service, *names: str) -> None:
    wait_until(lambda: ready(service) == set(names), seconds=40)


def wait_at_work(service: Service, id: str, worker: str) -> None:
    wait_until(lambda: step_of(service.spool, id, worker) > 0, seconds=60)


def check_ended_once(service: Service, *ids: str) -> None:
    """Each job is in `done/` and nowhere else; it was finished once."""
    spool = service.spool
    assert names_in(spool.done) == sorted(ids)
    assert [*spool.incoming.iterdir(), *spool.failed.iterdir()] == []
    assert [*spool.running.glob("*/*")] == []
    for id in ids:  # a worker logs it after the rename
        wait_until(lambda line=f"job {id} done in": line in service.read_log())
    assert [id for id in ids if service.read_log().count(f"job {id} done in") != 1] == []


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["--ntasks-per-node=2", "--array=0-1"])
def test_two_workers_on_a_node_have_two_names(
    cluster: Cluster, service: Service, picture: Path, shape: str
) -> None:
    cluster.sbatch(shape, "--nodelist=node1")
    wait_ready(service, "node1.gpu0", "node1.gpu1")
    assert sorted(worker["gpu_id"] for worker in service.workers()) == [0, 1]
    ids = [submit_into(service, picture) for _ in range(6)]
    for id in ids:
        wait_done(service, id)
    check_ended_once(service, *ids)


@pytest.mark.skipif(not CONSTRAINS, reason="Slurm cannot constrain devices without cgroup v1")
def test_each_task_has_a_gpu_0_of_its_own(cluster: Cluster) -> None:
    """Why the number among the visible GPUs names no worker."""
    seen = cluster.run(
        *("srun", "--nodelist=node0", "--ntasks=2", "--gpus-per-task=1"),
        *("sh", "-c", "echo $CUDA_VISIBLE_DEVICES"),
    )
    assert seen.split() == ["0", "0"]


def test_an_array_per_type_of_gpu_shares_the_spool(
    cluster: Cluster, service: Service, picture: Path
) -> None:
    cluster.sbatch("--array=0-1", "--gpus-per-task=a100:1")
    cluster.sbatch("--array=0", "--gpus-per-task=h200:1")
    wait_ready(service, "node0.gpu0", "node2.gpu0", "node2.gpu1")
    ids = [submit_into(service, picture) for _ in range(6)]
    for id in ids:
        wait_done(service, id)
    check_ended_once(service, *ids)


# --- up and down ----------------------------------------------------------------------------------


def test_workers_come_and_go_while_jobs_flow(
    cluster: Cluster, service: Service, picture: Path
) -> None:
    ids: list[str] = []

    def flow(workers: int) -> bool:
        """Keep a queue until so many workers have taken part."""
        if len(names_in(service.spool.incoming)) < workers:
            ids.append(submit_into(service, picture, num_inference_steps=10))
        return len(workers_of(service, ids)) >= workers

    first = cluster.sbatch("--array=0-1", engine="slow")
    wait_until(lambda: flow(2), seconds=40)
    second = cluster.sbatch("--array=0-2", engine="slow")
    wait_until(lambda: flow(5), seconds=40)
    cluster.run(*DRAIN, first)
    wait_until(lambda: flow(1) and len(ready(service)) == 3, seconds=40)
    for id in ids:
        wait_done(service, id)
    cluster.run(*DRAIN, second)
    wait_until(lambda: cluster.run("squeue", "-h") == "")
    assert [cluster.shown(f"{job}_0", "JobState") for job in (first, second)] == ["COMPLETED"] * 2
    check_ended_once(service, *ids)
    assert {read(service.spool.done / id / "result.json")["attempt"] for id in ids} == {1}


def workers_of(service: Service, ids: list[str]) -> set[str]:
    done = [id for id in ids if is_done(service, id)]
    return {read(service.spool.done / id / "result.json")["worker"] for id in done}


def test_a_drained_worker_finishes_its_job(
    cluster: Cluster, service: Service, picture: Path
) -> None:
    """However long that takes: `KillWait` does not count."""
    job = cluster.sbatch("--nodelist=node0", engine="slow")
    id = submit_into(service, picture, num_inference_steps=STEPS)
    waiting = submit_into(service, picture)
    wait_at_work(service, id, "node0.gpu0")
    cluster.run(*DRAIN, job)
    cluster.wait_state(job, "COMPLETED")
    assert wait_done(service, id)["attempt"] == 1
    assert names_in(service.spool.incoming) == [waiting]


@pytest.mark.parametrize(
    ("drain_seconds", "attempt"),
    [("0", 1), ("60", 2)],
    ids=["released before KillWait", "killed after KillWait"],
)
def test_the_job_of_a_cancelled_worker_goes_to_another(
    cluster: Cluster, service: Service, picture: Path, drain_seconds: str, attempt: int
) -> None:
    job = cluster.sbatch("--nodelist=node0", engine="slow", drain_seconds=drain_seconds)
    id = submit_into(service, picture, num_inference_steps=STEPS)
    wait_at_work(service, id, "node0.gpu0")
    cluster.run("scancel", job)
    cluster.wait_state(job, "CANCELLED")
    assert not is_done(service, id)
    cluster.sbatch("--nodelist=node1", engine="slow")
    wait_until(lambda: is_done(service, id), seconds=60)
    result = wait_done(service, id)
    assert (result["worker"], result["attempt"]) == ("node1.gpu0", attempt)
    check_ended_once(service, id)


def test_a_wrong_setting_is_not_tried_again(cluster: Cluster) -> None:
    job = cluster.sbatch(max_attempts="none")
    cluster.wait_state(job, "FAILED")
    assert cluster.shown(job, "ExitCode") == "78:0"


# --- away and back --------------------------------------------------------------------------------


def test_the_jobs_of_a_dead_node_go_to_another_and_its_worker_comes_back(
    cluster: Cluster, service: Service, picture: Path
) -> None:
    dead, living = (
        cluster.sbatch(f"--nodelist={node}", engine="slow") for node in ("node0", "node1")
    )
    wait_ready(service, "node0.gpu0", "node1.gpu0")
    ids = [submit_into(service, picture, num_inference_steps=STEPS) for _ in range(2)]
    wait_until(lambda: len(names_in(service.spool.running / "node0.gpu0")) == 1)
    [lost] = names_in(service.spool.running / "node0.gpu0")
    wait_at_work(service, lost, "node0.gpu0")
    cluster.kill_node("node0")
    cluster.report_down("node0")
    wait_until(lambda: all(is_done(service, id) for id in ids), seconds=60)
    result = wait_done(service, lost)
    assert (result["worker"], result["attempt"]) == ("node1.gpu0", 2)

    cluster.start_node("node0")
    wait_ready(service, "node0.gpu0", "node1.gpu0")
    assert cluster.shown(dead, "Restarts") != "0"
    assert cluster.shown(living, "Restarts") == "0"
    check_ended_once(service, *ids)


@pytest.mark.parametrize(
    ("partition", "finishes"),
    [("patient", True), ("gpu", False)],
    ids=["finishes its job in GraceTime", "releases its job"],
)
def test_a_preempted_worker_comes_back(
    cluster: Cluster,
    service: Service,
    picture: Path,
    tmp_path: Path,
    partition: str,
    finishes: bool,
) -> None:
    """Without a GraceTime, Slurm sends SIGTERM twice: the second has it release the job."""
    job = cluster.sbatch(f"--partition={partition}", "--nodelist=node0", engine="slow")
    id = submit_into(service, picture, num_inference_steps=STEPS)
    wait_at_work(service, id, "node0.gpu0")
    until = f"until [ -e {tmp_path}/over ]; do sleep 0.1; done"
    urgent = cluster.run(
        *("sbatch", "--parsable", "--partition=urgent", "--nodelist=node0"),
        *("--gpus-per-node=2", "--output=/dev/null", f"--wrap={until}"),
    )
    cluster.wait_state(urgent, "RUNNING")
    assert cluster.shown(job, "JobState") == "PENDING"
    assert is_done(service, id) == finishes
    later = submit_into(service, picture, num_inference_steps=10)

    (tmp_path / "over").touch()
    wait_until(lambda: is_done(service, id) and is_done(service, later), seconds=60)
    assert wait_done(service, id)["attempt"] == 1
    assert cluster.shown(job, "Restarts") == "1"
    check_ended_once(service, id, later)


def test_a_worker_at_its_time_limit_drains_and_comes_back(
    cluster: Cluster, service: Service, picture: Path
) -> None:
    job = cluster.sbatch("--time=2", "--signal=B:TERM@119", engine="slow")
    id = submit_into(service, picture, num_inference_steps=STEPS)
    cluster.wait_state(job, "RUNNING")
    wait_until(lambda: cluster.shown(job, "Restarts") == "1", seconds=60)
    assert wait_done(service, id)["attempt"] == 1
    check_ended_once(service, id)
