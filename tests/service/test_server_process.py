"""A server as a process of its own: how it stops."""

import http.client
import socket
from contextlib import closing

from tests.support.service import Service, wait_until


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
