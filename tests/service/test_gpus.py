"""A worker on a GPU of a made-up driver."""

import json
import re
from typing import Any

import pytest

from i2ii_spool.spool.liveness import worker_name
from tests.support import FAKE_DRIVER
from tests.support.jobs import SubmitJob, names_in
from tests.support.service import Service, cli, get_json

UUID, OTHER = "GPU-aaaa0000-1111", "GPU-bbbb0000-1111"
HANDLE, MEMORY, MINOR, USE = (
    f"nvmlDeviceGet{query}"
    for query in ("HandleByIndex", "MemoryInfo", "MinorNumber", "UtilizationRates")
)
NOT_SUPPORTED, LOST, DRIVER_MISMATCH, UNKNOWN = 3, 15, 18, 999


def install(service: Service, cards: Any) -> None:
    service.environment |= {"PYTHONPATH": str(FAKE_DRIVER), "FAKE_GPUS": json.dumps(cards)}


def test_a_worker_shows_how_busy_its_gpu_is(service: Service) -> None:
    service.environment |= {
        "PYTHONPATH": str(FAKE_DRIVER),
        "FAKE_GPUS": json.dumps([{"minor": 2, "uuid": UUID}]),
    }
    service.work("2")
    [status] = service.workers()
    assert (status["gpu_id"], status["use_percent"]) == (2, 97)
    assert (status["memory_used_mib"], status["memory_total_mib"]) == (30 * 1024, 80 * 1024)


def test_a_worker_whose_gpu_is_not_there_says_so(service: Service) -> None:
    service.environment |= {
        "PYTHONPATH": str(FAKE_DRIVER),
        "FAKE_GPUS": json.dumps([{"minor": 2, "uuid": UUID}]),
    }
    refused = cli(service, "gpu", "0", check=False)
    assert (refused.returncode, refused.stderr) == (
        78,
        f"i2ii: GPU 0 not found: this process may use 2 ({UUID})\n",
    )


def test_a_lost_gpu_stops_its_own_worker_alone(service: Service, submit_job: SubmitJob) -> None:
    lost = {"minor": 1, "uuid": OTHER, "errors": {HANDLE: LOST}}
    install(service, [{"minor": 0, "uuid": UUID}, lost])
    id = submit_job()
    worked = cli(service, "gpu", "0", "--burst")
    assert names_in(service.spool.done) == [id]
    assert "GPU 1 does not answer: GPU is lost" in worked.stderr

    refused = cli(service, "gpu", "1", "--burst", check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("i2ii: GPU 1 does not answer: GPU is lost")

    [*sick, well] = [
        finding
        for finding in json.loads(cli(service, "doctor", "--json", check=False).stdout)["findings"]
        if finding["check"] == "gpus"
    ]
    assert [each["message"] for each in sick] == ["GPU 1 does not answer: GPU is lost"]
    assert (well["verdict"], UUID in well["message"]) == ("ok", True)


@pytest.mark.parametrize("query", [MEMORY, USE, MINOR])
def test_a_gpu_of_which_not_all_is_known_works(
    service: Service, submit_job: SubmitJob, query: str
) -> None:
    install(service, [{"minor": 0, "uuid": UUID, "errors": {query: NOT_SUPPORTED}}])
    id = submit_job()
    cli(service, "gpu", "0", "--burst")
    assert names_in(service.spool.done) == [id]
    service.work("0")
    [status] = service.workers()
    assert (status["worker"], status["note"]) == (worker_name("gpu0"), "")
    memory = None if query == MEMORY else 80 * 1024
    assert (status["memory_total_mib"], status["use_percent"] is None) == (memory, query == USE)
    assert re.search(
        r"ready .*- +97 %" if query == MEMORY else "ready ", cli(service, "top").stdout
    )


def test_what_is_wrong_with_the_gpu_of_a_worker_is_shown_with_it(service: Service) -> None:
    install(service, [{"minor": 0, "uuid": UUID, "errors": {MEMORY: UNKNOWN}}])
    note = "GPU 0 does not tell how busy it is: Unknown Error"
    url = service.serve()
    service.work("0")
    assert note in cli(service, "top").stdout
    assert get_json(f"{url}/system/status")["workers"][0]["note"] == note
    assert f"{worker_name('gpu0')}: {note}" in cli(service, "doctor", check=False).stdout
    assert service.read_log().count(note) == 1


def test_the_classic_engine_works_beside_a_broken_driver(
    service: Service, submit_job: SubmitJob
) -> None:
    install(service, {"error": DRIVER_MISMATCH})
    id = submit_job()
    worked = cli(service, "gpu", "0", "--engine", "classic", "--burst")
    assert names_in(service.spool.done) == [id]
    assert "the NVIDIA driver does not work" in worked.stderr
    for engine in ("auto", "qwen"):
        refused = cli(service, "gpu", "0", "--engine", engine, "--burst", check=False)
        assert refused.returncode == 1
        assert "i2ii: the NVIDIA driver does not work" in refused.stderr


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "none"])
def test_without_a_visible_gpu_it_says_so(
    service: Service, submit_job: SubmitJob, visible: str
) -> None:
    install(service, [{"minor": 0, "uuid": UUID}])
    service.environment |= {"CUDA_VISIBLE_DEVICES": visible, "I2II_MODEL": "/nowhere"}
    id = submit_job()
    worked = cli(service, "gpu", "0", "--burst")
    assert names_in(service.spool.done) == [id]
    for shown in (worked, cli(service, "gpu", "0", "--engine", "qwen", "--burst", check=False)):
        assert f"no GPU is visible: CUDA_VISIBLE_DEVICES={visible}" in shown.stderr
