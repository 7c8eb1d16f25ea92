"""A worker on a GPU of a made-up driver."""

import json

from tests.support import FAKE_DRIVER
from tests.support.service import Service, cli

UUID = "GPU-aaaa0000-1111"


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
