"""The `i2ii` command, as people and scripts call it: in a process of its own."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from i2ii_spool.cli import main
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from tests.support.pictures import make_picture
from tests.support.service import Service, cli, get_json, wait_until

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(main.commands)
UNKNOWN_ID = "20261123-101530-482-k7m2qf"


def run_in(
    folder: Path, service: Service, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command with `folder` as the working directory and more variables in its environment."""
    command = [sys.executable, "-m", "i2ii_spool", *arguments]
    environment = {**service.environment, **variables}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def the_error(answer: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says why it failed."""
    assert answer.returncode != 0
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert answer.stderr.startswith("i2ii: ")
    return answer.stderr


def usage_error(answer: subprocess.CompletedProcess[str]) -> str:
    """The last line of what a wrong call gets: the usage, and what is wrong."""
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    return answer.stderr.splitlines()[-1]


def fail_one(service: Service, picture: Path) -> str:
    """Return the id of a job that has failed."""
    id = cli(service, "submit", str(picture), "-p", "qwertyuiop").stdout.strip()
    cli(service, "gpu", "0", "--burst")
    assert (service.spool.failed / id).is_dir()
    return id


# --- help and documentation -----------------------------------------------------------------------


def test_help_lists_every_command_with_a_whole_line(service: Service, tmp_path: Path) -> None:
    shown = run_in(tmp_path, service, "--help", COLUMNS="80").stdout.partition("Commands:\n")[2]

    lines = dict(re.findall(r"^  (\S+)  +(.+)$", shown, re.MULTILINE))
    assert sorted(lines) == COMMANDS
    assert [name for name, line in lines.items() if "..." in line] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_and_each_of_its_options(
    service: Service, command: str
) -> None:
    answer = cli(service, command, "--help")

    assert answer.stdout.startswith("Usage: ")
    parameters = main.commands[command].params
    options = re.findall(r"^  (-\S.*)$", answer.stdout, re.MULTILINE)
    assert len(options) > len([each for each in parameters if each.param_type_name == "option"])
    assert [line for line in options if re.fullmatch(r"-\S+(, --\S+)?( [A-Z]+)?  +", line)] == []


def test_a_setting_is_explained_in_the_help_with_its_variable_and_default(service: Service) -> None:
    assert "[I2II_PORT; default 8000]" in " ".join(cli(service, "serve", "--help").stdout.split())


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_every_command_is_documented(readme: str) -> None:
    text = (ROOT / readme).read_text()
    assert [name for name in COMMANDS if not re.search(rf"\bi2ii {name}\b", text)] == []


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_every_setting_is_documented(readme: str) -> None:
    text = (ROOT / readme).read_text()
    assert [
        name
        for name in Settings.model_fields
        if not re.search(rf"\bI2II_{name.upper()}\b|`{name}`", text)
    ] == []


def test_the_installed_command_is_the_same() -> None:
    installed = Path(sys.executable).with_name("i2ii")
    if not installed.exists():
        pytest.skip("the package is not installed in this environment")
    command = [[str(installed), "--version"], [sys.executable, "-m", "i2ii_spool", "--version"]]
    first, second = (
        subprocess.run(each, capture_output=True, text=True, check=True).stdout for each in command
    )
    assert first == second


# --- submit ---------------------------------------------------------------------------------------


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
        ("seed", "-1"),
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


def test_submit_refuses_a_fourth_picture(service: Service, picture: Path) -> None:
    assert "at most 3" in the_error(
        cli(service, "submit", *[str(picture)] * 4, "-p", "sepia", check=False)
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


def test_submit_wait_names_the_picture_after_the_job_and_its_format(
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


# --- gpu ------------------------------------------------------------------------------------------


def test_a_worker_works_where_nvidia_smi_may_not_be_run(
    service: Service, submit_job: Callable[..., str], tmp_path: Path
) -> None:
    id = submit_job()
    (tmp_path / "nvidia-smi").write_text("only its owner may run it")

    run_in(tmp_path, service, "gpu", "0", "--burst", PATH=str(tmp_path))

    assert names_in(service.spool.done) == [id]


# --- ls and show ----------------------------------------------------------------------------------


def test_ls_shows_the_newest_first_with_state_and_prompt(
    service: Service, submit_job: Callable[..., str]
) -> None:
    first, second = submit_job(prompt="sepia"), submit_job(prompt="a\nb")

    lines = [line.split() for line in cli(service, "ls").stdout.splitlines()]

    assert lines == [
        [second, "queued", "position", "2", "a", "b"],
        [first, "queued", "position", "1", "sepia"],
    ]
    assert cli(service, "ls", "-n", "1").stdout.split()[0] == second


def test_ls_of_a_state_shows_its_jobs_alone(
    service: Service, picture: Path, submit_job: Callable[..., str]
) -> None:
    done = submit_job()
    failed = fail_one(service, picture)
    waiting = submit_job()

    def ids(*arguments: str) -> list[str]:
        return [line.split()[0] for line in cli(service, "ls", *arguments).stdout.splitlines()]

    assert ids() == [waiting, failed, done]
    assert ids("incoming") == [waiting]
    assert ids("running") == []
    assert ids("done") == [done]
    assert ids("failed") == [failed]


def test_ls_as_json_is_one_object_per_line(
    service: Service, submit_job: Callable[..., str]
) -> None:
    ids = [submit_job(prompt="水彩\n画"), submit_job()]

    shown = [json.loads(line) for line in cli(service, "ls", "--json").stdout.splitlines()]

    assert [(job["request_id"], job["status"]) for job in shown] == [
        (ids[1], "queued"),
        (ids[0], "queued"),
    ]
    assert shown[1]["prompt"] == "水彩\n画"


def test_ls_of_no_state_names_the_states(service: Service) -> None:
    assert "incoming, running, done, failed" in the_error(
        cli(service, "ls", "finished", check=False)
    )


def test_show_tells_of_a_finished_job(service: Service, submit_job: Callable[..., str]) -> None:
    id = submit_job(seed=7)
    cli(service, "gpu", "0", "--burst")

    shown = json.loads(cli(service, "show", id, "--json").stdout)

    assert (shown["request_id"], shown["status"], shown["seed"]) == (id, "completed", 7)
    assert (shown["outputs"], shown["width"], shown["height"]) == (["result.png"], 64, 48)
    lines = dict(line.split(maxsplit=1) for line in cli(service, "show", id).stdout.splitlines())
    assert (lines["request_id:"], lines["status:"], lines["prompt:"]) == (id, "completed", "sepia")


def test_show_tells_why_a_job_failed(service: Service, picture: Path) -> None:
    id = fail_one(service, picture)

    shown = json.loads(cli(service, "show", id, "--json").stdout)

    assert shown["status"] == "failed"
    assert "watercolour" in shown["error"]["message"]


# --- cancel, retry, rm ----------------------------------------------------------------------------


def test_cancel_of_waiting_jobs_moves_them_to_failed(
    service: Service, submit_job: Callable[..., str]
) -> None:
    ids = [submit_job(), submit_job()]

    answer = cli(service, "cancel", *ids)

    assert answer.stdout.splitlines() == [f"{id} cancelled" for id in ids]
    assert names_in(service.spool.incoming) == []
    assert names_in(service.spool.failed) == ids
    assert json.loads(cli(service, "show", ids[0], "--json").stdout)["status"] == "cancelled"


def test_cancel_of_a_running_job_stops_it_between_steps(
    service: Service, submit_job: Callable[..., str]
) -> None:
    service.work(engine="slow")
    id = submit_job(num_inference_steps=100)
    wait_until(lambda: list(service.spool.running.glob(f"*/{id}")))

    assert cli(service, "cancel", id).stdout == f"{id} stops at its next step\n"

    wait_until((service.spool.failed / id).is_dir)
    assert json.loads(cli(service, "show", id, "--json").stdout)["status"] == "cancelled"


def test_retry_sends_a_failed_job_back_to_the_queue(
    service: Service, submit_job: Callable[..., str]
) -> None:
    id = submit_job()
    cli(service, "cancel", id)

    assert cli(service, "retry", id).stdout == f"{id} queued\n"

    assert names_in(service.spool.incoming) == [id]
    cli(service, "gpu", "0", "--burst")
    assert names_in(service.spool.done) == [id]


def test_rm_deletes_for_good_and_show_remembers_that_it_did(
    service: Service, submit_job: Callable[..., str]
) -> None:
    id = submit_job()
    cli(service, "cancel", id)

    assert cli(service, "rm", id).stdout == f"{id} deleted\n"

    assert names_in(service.spool.failed) == []
    assert not (service.spool.trash / id).exists()
    assert "deleted" in the_error(cli(service, "show", id, check=False))


@pytest.mark.parametrize(
    ("command", "id"),
    [
        ("show", UNKNOWN_ID),
        ("cancel", UNKNOWN_ID),
        ("retry", UNKNOWN_ID),
        ("rm", UNKNOWN_ID),
        ("show", "nonsense"),
        ("rm", "../../etc/passwd"),
    ],
)
def test_a_wrong_id_is_named(service: Service, command: str, id: str) -> None:
    assert id in the_error(cli(service, command, id, check=False))


def test_what_a_jobs_state_does_not_allow_is_refused(
    service: Service, submit_job: Callable[..., str]
) -> None:
    waiting, done = submit_job(), submit_job()
    (service.spool.incoming / done).rename(service.spool.done / done)

    for command, id, state in (
        ("retry", waiting, "incoming"),
        ("rm", waiting, "incoming"),
        ("cancel", done, "done"),
    ):
        error = the_error(cli(service, command, id, check=False))
        assert id in error
        assert state in error
    assert (names_in(service.spool.incoming), names_in(service.spool.done)) == ([waiting], [done])


def test_what_a_running_jobs_state_does_not_allow_is_refused(
    service: Service, submit_job: Callable[..., str]
) -> None:
    running = run_by_hand(service.spool, submit_job())

    for command in ("retry", "rm"):
        assert "running" in the_error(cli(service, command, running, check=False))


@pytest.mark.parametrize("command", ["ls", "show", "cancel", "retry", "rm", "gc", "submit"])
def test_a_missing_spool_is_named_with_the_cure(
    service: Service, picture: Path, tmp_path: Path, command: str
) -> None:
    arguments = {"ls": [], "gc": [], "submit": [str(picture), "-p", "sepia"]}.get(
        command, [UNKNOWN_ID]
    )
    missing = tmp_path / "nowhere"

    error = the_error(cli(service, command, *arguments, "--spool", str(missing), check=False))

    assert str(missing) in error
    assert "i2ii up" in error
    assert not missing.exists()


# --- gc -------------------------------------------------------------------------------------------


def run_by_hand(spool: Spool, id: str) -> str:
    """Put a waiting job where another host's worker would hold it."""
    folder = spool.running / "elsewhere.gpu0"
    folder.mkdir(exist_ok=True)
    (spool.incoming / id).rename(folder / id)
    return id


@pytest.fixture
def ended(service: Service, submit_job: Callable[..., str]) -> list[str]:
    """Five jobs that ended one, two... five days ago, the last three in `failed/`; older ones wait
    and run."""
    spool = service.spool
    ids = [submit_job() for _ in range(2)]
    cli(service, "gpu", "0", "--burst")
    assert names_in(spool.done) == ids
    ids += [submit_job() for _ in range(3)]
    cli(service, "cancel", *ids[2:])
    for days, id in enumerate(ids, start=1):
        folder = spool.done / id if days <= 2 else spool.failed / id
        record = folder / ("result.json" if days <= 2 else "error.json")
        for path in (record, folder):
            os.utime(path, (time.time() - days * 86400,) * 2)
    run_by_hand(spool, submit_job())
    submit_job()
    for folder in (*spool.incoming.iterdir(), *spool.running.glob("*/*")):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - 10 * 86400,) * 2)
    return ids


def left(spool: Spool) -> list[str]:
    return sorted(names_in(spool.done) + names_in(spool.failed))


def assert_untouched(spool: Spool) -> None:
    for folder in (*spool.incoming.iterdir(), *spool.running.glob("*.gpu0/*")):
        assert names_in(folder) == ["input.jpg", "job.json"]
    assert (
        len(list(spool.incoming.iterdir()))
        == len(list(spool.running.glob("elsewhere.gpu0/*")))
        == 1
    )


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["--keep-jobs", "2"], 2),
        (["--keep-jobs", "0"], 0),
        (["--keep-days", "3.5"], 3),
        (["--keep-jobs", "4", "--keep-days", "1.5"], 1),
    ],
)
def test_gc_deletes_the_longest_ended_jobs(
    service: Service, ended: list[str], flags: list[str], kept: int
) -> None:
    answer = cli(service, "gc", *flags)

    assert answer.stdout == f"{5 - kept} jobs deleted\n"
    assert left(service.spool) == sorted(ended[:kept])
    assert_untouched(service.spool)


def test_gc_without_a_limit_deletes_nothing_and_names_the_limits(
    service: Service, ended: list[str]
) -> None:
    answer = cli(service, "gc")

    assert left(service.spool) == sorted(ended)
    for flag in ("--keep-days", "--keep-jobs", "--keep-free-mib"):
        assert flag in answer.stderr


# --- settings -------------------------------------------------------------------------------------


def test_settings_prints_each_with_its_source(service: Service, tmp_path: Path) -> None:
    answer = run_in(
        tmp_path,
        service,
        "settings",
        "--port",
        "8123",
        "--no-auth",
        I2II_PORT="9000",
        I2II_MAX_QUEUE="77",
    )

    shown = {
        name: (value, where) for name, value, where in map(_fields, answer.stdout.splitlines())
    }
    assert set(shown) == set(Settings.model_fields)
    assert shown["port"] == ("8123", "a flag")
    assert shown["no_auth"] == ("True", "a flag")
    assert shown["max_queue"] == ("77", "I2II_MAX_QUEUE")
    assert shown["spool"] == (str(service.spool.root), "I2II_SPOOL")
    assert shown["host"] == ("127.0.0.1", "the default")
    assert shown["max_attempts"] == ("3", "the default")


def _fields(line: str) -> list[str]:
    return line.split(maxsplit=2)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("I2II_PORT", "http"),
        ("I2II_PORT", "65536"),
        ("I2II_ENGINE", "banana"),
        ("I2II_MAX_QUEUE", "0"),
        ("I2II_SETTLE_SECONDS", "-1"),
    ],
)
def test_a_wrong_variable_is_named_and_exits_as_a_matter_of_configuration(
    service: Service, tmp_path: Path, variable: str, value: str
) -> None:
    answer = run_in(tmp_path, service, "settings", **{variable: value})

    assert answer.returncode == 78
    error = the_error(answer)
    assert variable in error
    assert repr(value) in error


def test_a_wrong_flag_is_named_and_exits_as_a_matter_of_configuration(service: Service) -> None:
    answer = cli(service, "serve", "--port", "http", check=False)

    assert answer.returncode == 78
    assert "port" in the_error(answer)
    assert "a flag" in answer.stderr


@pytest.mark.parametrize("command", ["serve", "up", "settings"])
def test_listening_beyond_loopback_is_refused(service: Service, command: str) -> None:
    answer = cli(service, command, "--host", "0.0.0.0", "--port", "0", check=False)

    assert answer.returncode == 78
    assert "0.0.0.0" in the_error(answer)
    assert "--no-auth" in answer.stderr


def test_listening_beyond_loopback_is_done_when_said_aloud(service: Service) -> None:
    url = service.serve(host="0.0.0.0", no_auth="true")

    assert get_json(f"{url.replace('0.0.0.0', '127.0.0.1')}/livez") == {"status": "alive"}


def test_a_port_that_is_taken_is_a_matter_of_configuration(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = cli(service, "serve", "--port", port, check=False)

    assert answer.returncode == 78
    assert port in the_error(answer)
