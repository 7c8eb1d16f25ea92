"""A server as a process of its own: how it stops, and what it may open."""

import http.client
import socket
import sys
from contextlib import ExitStack, closing

from tests.support.raw_http import Wire
from tests.support.service import Service, get_json, wait_until


def test_stopping_server_answers_a_client_that_just_connected(service: Service) -> None:
    host, _, port = service.serve().removeprefix("http://").partition(":")
    [server] = service.processes
    with closing(http.client.HTTPConnection(host, int(port), timeout=20)) as client:
        client.connect()
        server.terminate()
        wait_until(lambda: is_refused(host, int(port)))
        client.request("GET", "/livez")
        assert client.getresponse().status == 200
    assert server.wait(20) == 0


def is_refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_connections_fit_into_the_files_that_a_process_may_open(service: Service) -> None:
    service.start(
        *("sh", "-c", 'ulimit -n 256; exec "$@"', "sh"),
        *(sys.executable, "-m", "i2ii_spool", "serve", "--port", "0"),
    )
    wait_until(lambda: "listening on" in service.read_log())
    assert "at most 64 connections: only 256 files" in service.read_log()
    url = service.read_log().rpartition("listening on ")[2].split(",")[0]
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(Wire(url))
        assert get_json(f"{url}/livez") == {"status": "alive"}
        assert get_json(f"{url}/jobs")["jobs"] == []
    assert "out of system resource" not in service.read_log()
