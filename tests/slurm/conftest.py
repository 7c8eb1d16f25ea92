"""A Slurm for each test, and a spool that all its nodes share."""

from collections.abc import Iterator

import pytest

from tests.support.service import Service
from tests.support.slurm import Cluster, why_not

LEASE = 4
"""Seconds. Its nodes are hosts to each other: a test need not wait a minute for a dead one."""


@pytest.fixture
def cluster(service: Service) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(f"no Slurm: {reason}")
    service.environment["I2II_LEASE_SECONDS"] = str(LEASE)
    with Cluster(service) as cluster:
        yield cluster
