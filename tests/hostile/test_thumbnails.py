"""Pictures that are swapped for hostile ones once their job is accepted: the server that makes
thumbnails of them answers, and stays small."""

import os
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from i2ii_spool.jobs.folder import JobFolder
from tests.hostile.test_pictures import MEMORY, peak_memory
from tests.support import hostile_pictures as bombs
from tests.support.http import Answer, ask, error_of, post
from tests.support.pictures import encoded
from tests.support.service import Service

pytestmark = pytest.mark.xdist_group("thumbnails")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server without a worker; in the end it has never taken much memory."""
    service = Service(tmp_path_factory.mktemp("live"))
    service.serve()
    yield service
    assert peak_memory(service.processes[0].pid) < MEMORY
    service.stop_all()


def submitted(service: Service) -> Path:
    """The picture of a job that waits."""
    id = post(service.url, encoded()).json()["request_id"]
    return JobFolder(service.spool.incoming / id).path / "input.png"


def thumbnail(service: Service, path: Path) -> Answer:
    with closing(HTTPConnection(urlsplit(service.url).netloc, timeout=120)) as connection:
        return ask(connection, "GET", f"/thumbnails/{path.parent.name}?of=input")


@pytest.mark.parametrize(
    "bomb", [bombs.png_of_60_000_squared, bombs.png_with_a_profile_of_100_megabytes]
)
def test_a_bomb_is_refused_or_shown(live: Service, bomb: bombs.Bomb) -> None:
    path = submitted(live)
    path.write_bytes(bomb())
    answer = thumbnail(live, path)
    if answer.status != 200:
        assert error_of(answer) == (400, "unsupported_picture")
        assert not (live.spool.thumbnails / path.parent.name).exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", encoded()[:-200], b"\x89PNG\r\n\x1a\n" * 99],
    ids=["empty", "HTML", "cut off", "signatures"],
)
def test_what_is_no_picture_is_an_error(live: Service, content: bytes) -> None:
    path = submitted(live)
    path.write_bytes(content)
    assert error_of(thumbnail(live, path)) == (400, "unsupported_picture")


def test_a_link_is_not_followed(live: Service, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded())
    path = submitted(live)
    path.unlink()
    path.symlink_to(secret)
    assert error_of(thumbnail(live, path)) == (404, "not_found")
    path.unlink()
    os.mkfifo(path)
    assert error_of(thumbnail(live, path)) == (404, "not_found")


@pytest.mark.parametrize("id", ["..", "%2e%2e%2fdone", ".trash", "20200101-000000-000-aaaaaa%2f.."])
def test_no_path_is_made_of_what_is_no_id(live: Service, id: str) -> None:
    with closing(HTTPConnection(urlsplit(live.url).netloc, timeout=60)) as connection:
        assert ask(connection, "GET", f"/thumbnails/{id}?of=input").status in (400, 404)
