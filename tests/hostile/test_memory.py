"""Many hostile uploads at once: the server stays small, and answers others meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import hostile_pictures as bombs
from tests.support.hostile_pictures import Bomb
from tests.support.http import ask, post
from tests.support.service import Service, get_json

AT_ONCE = 20
MEMORY = 250
"""MiB of the server at most. Pillow itself would take up to 2.7 GB for these."""
ATTACKS: list[Bomb] = [
    bombs.png_with_64_texts_of_a_megabyte,
    bombs.png_with_45_megabytes_of_exif,
    bombs.jpeg_with_700_exif_segments,
    bombs.jpeg_with_700_profile_segments,
    bombs.png_of_a_million_chunks,
    bombs.jpeg_of_a_million_segments,
]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The URL and the process of a server."""
    service = Service(tmp_path_factory.mktemp("attacked"))
    url = service.serve(min_free_mib="0")
    (server,) = service.processes
    yield url, server.pid
    service.stop_all()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_server_stays_small_and_answers_under_attack(
    attacked: tuple[str, int], attack: Bomb
) -> None:
    url, pid = attacked
    bomb = attack()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        uploads = [pool.submit(post, url, bomb) for _ in range(AT_ONCE)]
        while not all(upload.done() for upload in uploads):
            assert get_json(f"{url}/livez")["status"] == "alive"
            get_json(f"{url}/jobs")
    assert {upload.result().status for upload in uploads} <= {202, 400, 413}
    assert peak_memory(pid) < MEMORY


def json_body(url: str) -> bytes:
    return f'{{"prompt": "sepia", "images": [{{"image_url": "{url}"}}]}}'.encode()


HEAD = "data:image/png;base64,"
JSON_ATTACKS = {
    "a picture of 30 MB": json_body(HEAD + "AAAA" * 10**7),
    "escapes": json_body(HEAD + r"\u002F" * 7 * 10**6),
    "white space in base64": json_body(HEAD + " " * 4 * 10**7),
    "a text of 10 MB": json_body("x" * 10**7),
    "a million strings": b'{"images": [' + b'"",' * 10**6,
    "a thousand pictures": json_body(f'{HEAD}AAAA"}}, {{"image_url": "' * 1000),
}


@pytest.mark.parametrize("attack", JSON_ATTACKS)
def test_bodies_in_json_take_no_memory(attacked: tuple[str, int], attack: str) -> None:
    url, pid = attacked
    headers = {"Content-Type": "application/json"}

    def send() -> int:
        with closing(HTTPConnection(urlsplit(url).netloc, timeout=120)) as connection:
            body = JSON_ATTACKS[attack]
            return ask(connection, "POST", "/v1/images/edits", body, headers).status

    with ThreadPoolExecutor(AT_ONCE) as pool:
        uploads = [pool.submit(send) for _ in range(AT_ONCE)]
        while not all(upload.done() for upload in uploads):
            assert get_json(f"{url}/livez")["status"] == "alive"
    assert {upload.result() for upload in uploads} == {400}
    assert peak_memory(pid) < MEMORY


def peak_memory(pid: int) -> int:
    """The most that a process has had resident, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
