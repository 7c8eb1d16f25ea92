"""A server in the test's loop, a worker played by hand, and a live service for a whole file."""

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from i2ii_spool.server.app import create_app
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from tests.support.app import Client, Connect, HandWorker
from tests.support.service import Service


@pytest.fixture
def worker(spool: Spool) -> Iterator[HandWorker]:
    worker = HandWorker(spool)
    yield worker
    worker.die()


@pytest.fixture
def connect(spool: Spool, aiohttp_client: AiohttpClient) -> Connect:
    """Start a server on the spool; the arguments are settings."""

    async def start(**settings: Any) -> Client:
        return await aiohttp_client(
            create_app(
                Settings(**{"spool": spool.root, "min_free_mib": 0, "_env_file": None, **settings})
            )
        )

    return start


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One server and one classic worker for all tests of a file; each uses names of its own."""
    service = Service(tmp_path_factory.mktemp("live"))
    service.environment["I2II_GUEST_PATIENCE_SECONDS"] = "0.5"
    service.serve()
    service.work()
    yield service
    service.stop_all()
