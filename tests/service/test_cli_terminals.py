"""The `i2ii` command at terminals of other encodings, in pipes that end, with text of clients."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import run_in, the_error
from tests.support.jobs import SubmitJob, names_in
from tests.support.service import Service, cli

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TERMINALS: dict[str, dict[str, str]] = {
    "ascii": C_LOCALE,
    "gbk": {"PYTHONIOENCODING": "gbk"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
}
PROMPT = "水彩 \N{ROCKET} é \N{ZERO WIDTH JOINER}\x1b]0;title\x07 \x9b31m\ntwo"


def at(
    service: Service, encoding: str, *arguments: str | bytes, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command at a terminal of this encoding, to which it must write no other bytes."""
    environment = {**service.environment, **TERMINALS[encoding], **variables}
    command = [sys.executable, "-m", "i2ii_spool", *arguments]
    answer = subprocess.run(
        command, env=environment, capture_output=True, encoding=encoding, timeout=60
    )
    assert "Traceback" not in answer.stderr
    return answer


@pytest.mark.parametrize("encoding", TERMINALS)
def test_every_terminal_is_shown_every_prompt(
    service: Service, submit_job: SubmitJob, encoding: str
) -> None:
    id = submit_job(prompt=PROMPT)
    for command in (["ls"], ["show", id], ["ls", "--json"], ["show", id, "--json"], ["top"]):
        answer = at(service, encoding, *command)
        assert answer.returncode == 0, command
        assert id in answer.stdout
        for letter in answer.stdout:
            assert letter.isprintable() or letter == "\n", (command, letter)
    for command in (["ls", "--json"], ["show", id, "--json"]):
        assert json.loads(at(service, encoding, *command).stdout)["prompt"] == PROMPT
    shown = at(service, encoding, "ls").stdout
    assert ("水彩" if encoding in ("gbk", "utf-8") else r"\u6c34\u5f69") in shown


def test_no_line_of_a_prompt_can_be_taken_for_a_line_of_show(
    service: Service, submit_job: SubmitJob
) -> None:
    shown = cli(service, "show", submit_job(prompt="sepia\nstatus: completed")).stdout
    assert "prompt:            sepia\n                   status: completed\n" in shown
    assert [line for line in shown.splitlines() if line.startswith("status:")] == [
        "status:            queued"
    ]


@pytest.mark.parametrize("encoding", TERMINALS)
@pytest.mark.parametrize("command", ["settings", "doctor", "--help"])
def test_every_terminal_is_shown_the_installation(
    service: Service, tmp_path: Path, command: str, encoding: str
) -> None:
    answer = at(service, encoding, command, I2II_TOKENS_FILE=str(tmp_path / "令牌"))
    assert answer.stdout
    assert answer.stderr == ""


@pytest.mark.parametrize("encoding", TERMINALS)
def test_every_terminal_is_shown_an_error(service: Service, picture: Path, encoding: str) -> None:
    service.work()
    answer = at(service, encoding, "submit", picture.name, "-p", "x", "--url", "水\x1b[2J\udcff")
    assert answer.returncode != 0
    assert "\x1b" not in answer.stderr
    error = the_error(at(service, encoding, "show", "水\x1b[2J"))
    assert "\x1b" not in error


@pytest.mark.parametrize("flag", ["-p", "--name", "--negative-prompt"])
@pytest.mark.parametrize(
    ("encoding", "argument"), [("utf-8", b"\xb1\xe4\xbb\xd2"), ("ascii", "水彩".encode())]
)
def test_an_argument_that_is_not_text_is_refused(
    service: Service, picture: Path, flag: str, encoding: str, argument: bytes
) -> None:
    more = [] if flag == "-p" else ["-p", "sepia"]
    refused = at(service, encoding, "submit", str(picture), flag, argument, *more)
    assert refused.returncode == 64
    assert f" is not {encoding} at character 1; " in the_error(refused)
    assert names_in(service.spool.incoming) == []


def test_bench_refuses_a_prompt_that_a_job_could_not_have(service: Service) -> None:
    url = service.serve()
    service.work()
    refused = cli(service, "bench", "-p", "", "--url", url, check=False)
    assert "prompt must not be empty" in the_error(refused)


@pytest.mark.parametrize(
    "command", [["ls"], ["ls", "--json"], ["top"], ["settings"], ["doctor"], ["--help"]]
)
def test_a_pipe_whose_reader_has_ended_is_no_error_to_show(
    service: Service, submit_job: SubmitJob, command: list[str]
) -> None:
    for _ in range(3):
        submit_job()
    assert into_a_closed_pipe(service, command) == b""


def into_a_closed_pipe(service: Service, command: list[str]) -> bytes:
    """What the command says when nothing reads its output."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process: Any = subprocess.run(
            [sys.executable, "-m", "i2ii_spool", *command],
            env=service.environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(writer)
    said: bytes = process.stderr
    return said


def test_the_picture_is_written_with_the_rights_that_the_user_wants(
    service: Service, picture: Path, tmp_path: Path
) -> None:
    service.work()
    before = os.umask(0o022)
    try:
        run_in(tmp_path, service, "submit", str(picture), "-p", "sepia", "--wait", "-o", "out.png")
    finally:
        os.umask(before)
    assert (tmp_path / "out.png").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("output", "says"), [("none/out.png", "there is no folder none"), ("here", "here is a folder")]
)
def test_an_output_that_cannot_be_written_is_found_before_the_submit(
    service: Service, picture: Path, tmp_path: Path, output: str, says: str
) -> None:
    (tmp_path / "here").mkdir()
    refused = run_in(
        tmp_path, service, "submit", str(picture), "-p", "sepia", "--wait", "-o", output
    )
    assert says in the_error(refused)
    assert names_in(service.spool.incoming) == []


@pytest.mark.parametrize(
    ("command", "done"), [("cancel", "cancelled"), ("retry", "queued"), ("rm", "deleted")]
)
def test_a_job_that_cannot_be_met_concerns_no_other(
    service: Service, submit_job: SubmitJob, command: str, done: str
) -> None:
    ids = [submit_job(), submit_job()]
    if command != "cancel":
        cli(service, "cancel", *ids)
    answer = cli(service, command, ids[0], "nonsense", ids[1], check=False)
    assert answer.returncode == 64
    assert answer.stdout.splitlines() == [f"{id} {done}" for id in ids]
    assert "nonsense" in answer.stderr
