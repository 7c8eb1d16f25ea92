"""`i2ii doctor` on both hosts, on a file system that hosts can share."""

import json
import sys
from typing import Any

import pytest

from tests.support.hosts import HostService, SharedFolder


def examined(service: HostService, **settings: str) -> dict[str, list[dict[str, Any]]]:
    """What the doctor finds on that host, by check."""
    process = service.start(
        *("sh", "-c", 'exec "$@" >"$0"', str(service.log.with_name("doctor.json"))),
        *(sys.executable, "-m", "i2ii_spool", "doctor", "--json"),
        **settings,
    )
    process.wait(120)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(service.log.with_name("doctor.json").read_text())["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["h1", "h2"])
def test_what_a_queue_needs_is_there(
    services: tuple[HostService, HostService], number: int
) -> None:
    found = examined(services[number])
    for check in ("spool", "ownership", "writing", "calls", "locks", "clock"):
        assert [each["verdict"] for each in found[check]] == ["ok"], found[check]


def test_a_lease_that_is_too_short_for_the_file_system_is_told(
    shared: SharedFolder, services: tuple[HostService, HostService]
) -> None:
    if shared.kind == "local":
        pytest.skip("no host shares it")
    said = {
        lease: " ".join(
            f"{each['verdict']}: {each.get('cure', '')}"
            for each in examined(services[0], lease_seconds=lease)["file system"]
        )
        for lease in ("29", "60", "180")
    }
    assert "error: set I2II_LEASE_SECONDS to 180 or more" in said["29"]
    assert "warning: set I2II_LEASE_SECONDS to 180 or more" in said["60"]
    assert "I2II_LEASE_SECONDS" not in said["180"]
