"""`i2ii submit`, into the spool and over a server."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tests.support.cli import run_in, the_error, usage_error
from tests.support.jobs import names_in
from tests.support.pictures import make_picture
from tests.support.service import Service, cli, get_json


def test_submit_prints_the_id_of_a_job_in_incoming(service: Service, picture: Path) -> None:
    answer = cli(
        service,
        "submit",
        str(picture),
        "-p",
        "将图像转换为水彩画风格",
        "--seed",
        "42",
        "--name",
        "wedding 042",
    )

    id = answer.stdout.strip()
    assert id.endswith("_wedding-042")
    assert names_in(service.spool.incoming) == [id]
    job = service.spool.incoming / id
    assert names_in(job) == ["input.jpg", "job.json"]
    assert (job / "input.jpg").read_bytes() == picture.read_bytes()
    request = json.loads((job / "job.json").read_text())
    assert (request["prompt"], request["seed"]) == ("将图像转换为水彩画风格", 42)


def test_submit_takes_three_pictures_in_the_order_given(service: Service, tmp_path: Path) -> None:
    pictures = [make_picture(tmp_path / name) for name in ("c.png", "a.jpg", "b.webp")]

    id = cli(service, "submit", *map(str, pictures), "-p", "sepia").stdout.strip()

    assert names_in(service.spool.incoming / id) == [
        "input-2.jpg",
        "input-3.webp",
        "input.png",
        "job.json",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "  "),
        ("prompt", "x" * 4001),
        ("seed", "-2"),
        ("seed", "many"),
        ("num_inference_steps", "9"),
        ("true_cfg_scale", "10.5"),
        ("size", "8x8"),
        ("output_format", "gif"),
        ("n", "5"),
    ],
)
def test_submit_refuses_a_bad_field_and_names_it(
    service: Service, picture: Path, field: str, value: str
) -> None:
    prompt = [] if field == "prompt" else ["--prompt=sepia"]

    answer = cli(
        service,
        "submit",
        str(picture),
        *prompt,
        f"--{field.replace('_', '-')}={value}",
        check=False,
    )

    assert the_error(answer).startswith(f"i2ii: {field} ")
    assert names_in(service.spool.incoming) == names_in(service.spool.staging) == []


def test_submit_without_a_prompt_says_so(service: Service, picture: Path) -> None:
    assert "--prompt" in usage_error(cli(service, "submit", str(picture), check=False))
    assert names_in(service.spool.incoming) == []


def test_submit_of_a_file_that_is_not_there_names_it(service: Service) -> None:
    assert "missing.jpg" in usage_error(
        cli(service, "submit", "missing.jpg", "-p", "sepia", check=False)
    )


@pytest.mark.parametrize("case", ["text", "empty", "truncated", "too large"])
def test_submit_refuses_a_bad_picture(service: Service, tmp_path: Path, case: str) -> None:
    whole = make_picture(tmp_path / "whole.jpg", (200, 150)).read_bytes()
    contents = {
        "text": b"hello",
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "too large": whole,
    }[case]
    picture = tmp_path / "bad.jpg"
    picture.write_bytes(contents)

    answer = cli(
        service, "submit", str(picture), "-p", "sepia", "--max-megapixels", "0.02", check=False
    )

    assert the_error(answer).startswith("i2ii: image ")
    assert names_in(service.spool.incoming) == names_in(service.spool.staging) == []


def test_submit_refuses_an_eleventh_picture(service: Service, picture: Path) -> None:
    assert "at most 10" in the_error(
        cli(service, "submit", *[str(picture)] * 11, "-p", "sepia", check=False)
    )
    assert names_in(service.spool.incoming) == names_in(service.spool.staging) == []


def test_submit_wait_writes_every_picture(service: Service, picture: Path, tmp_path: Path) -> None:
    service.work()
    output = tmp_path / "out.png"

    answer = cli(
        service, "submit", str(picture), "-p", "sepia", "--n", "2", "--wait", "-o", str(output)
    )

    second = tmp_path / "out-2.png"
    assert answer.stdout.split() == [str(output), str(second)]
    for written in (output, second):
        with Image.open(written) as image:
            assert (image.format, image.size) == ("PNG", (64, 48))
    with Image.open(output) as edited, Image.open(picture) as original:
        assert edited.convert("RGB").tobytes() != original.convert("RGB").tobytes()


def test_submit_wait_names_the_output_after_job_and_format(
    service: Service, picture: Path, tmp_path: Path
) -> None:
    service.work()
    here = tmp_path / "here"
    here.mkdir()

    answer = run_in(
        here, service, "submit", str(picture), "-p", "sepia", "--output-format", "jpeg", "--wait"
    )

    [id] = names_in(service.spool.done)
    assert names_in(here) == answer.stdout.split() == [f"{id}.jpg"]


def test_submit_wait_of_a_job_that_fails_says_why(
    service: Service, picture: Path, tmp_path: Path
) -> None:
    service.work()
    output = tmp_path / "out.png"

    answer = cli(
        service,
        "submit",
        str(picture),
        "-p",
        "qwertyuiop",
        "--wait",
        "-o",
        str(output),
        check=False,
    )

    [id] = names_in(service.spool.failed)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert f"i2ii: job {id} failed: " in answer.stderr
    assert "watercolour" in answer.stderr  # what would have been understood
    assert not output.exists()


def test_submit_does_not_promise_an_output_that_it_will_not_write(
    service: Service, picture: Path
) -> None:
    assert "--wait" in the_error(
        cli(service, "submit", str(picture), "-p", "sepia", "-o", "out.png", check=False)
    )
    assert names_in(service.spool.incoming) == []


def test_submit_over_a_server(service: Service, picture: Path, tmp_path: Path) -> None:
    url = service.serve()
    elsewhere = str(tmp_path / "no-spool-here")

    id = run_in(
        tmp_path, service, "submit", str(picture), "-p", "sepia", "--url", url, I2II_SPOOL=elsewhere
    )

    assert get_json(f"{url}/status/{id.stdout.strip()}")["status"] == "queued"


def test_submit_wait_over_a_server_writes_every_picture(
    service: Service, picture: Path, tmp_path: Path
) -> None:
    url = service.serve()
    service.work()
    output = tmp_path / "out.png"

    cli(
        service,
        "submit",
        str(picture),
        "-p",
        "sepia",
        "--n=2",
        "--url",
        url,
        "--wait",
        "-o",
        str(output),
    )

    [id] = names_in(service.spool.done)
    assert output.read_bytes() == (service.spool.done / id / "result.png").read_bytes()
    assert (tmp_path / "out-2.png").read_bytes() == (
        service.spool.done / id / "result-2.png"
    ).read_bytes()


def test_submit_shows_what_the_server_refuses(service: Service, tmp_path: Path) -> None:
    url = service.serve()
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")

    assert "image " in the_error(
        cli(service, "submit", str(bad), "-p", "sepia", "--url", url, check=False)
    )


def test_submit_says_that_no_server_answers(service: Service, picture: Path) -> None:
    with socket.socket() as bound_but_deaf:
        bound_but_deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound_but_deaf.getsockname()[1]}"
        answer = cli(service, "submit", str(picture), "-p", "sepia", "--url", url, check=False)
    assert f"no server answers at {url}" in the_error(answer)


@pytest.mark.parametrize("url", ["nonsense", "localhost:8000", "ftp://127.0.0.1/"])
def test_submit_refuses_what_is_not_a_url(service: Service, picture: Path, url: str) -> None:
    assert url.rstrip("/") in the_error(
        cli(service, "submit", str(picture), "-p", "sepia", "--url", url, check=False)
    )


class _AnotherService(BaseHTTPRequestHandler):
    """Answers everything with a page, as a proxy does that cannot reach what is behind it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(502)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<h1>Bad Gateway</h1>")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def another_service() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _AnotherService) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_submit_says_that_another_service_answers(service: Service, picture: Path) -> None:
    with another_service() as url:
        answer = cli(service, "submit", str(picture), "-p", "sepia", "--url", url, check=False)
    assert "502" in the_error(answer)
