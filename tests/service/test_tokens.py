"""The file of tokens, `i2ii token`, and a running server that reads the file again."""

import http.client
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from i2ii_spool.errors import SettingsError
from i2ii_spool.server.auth import tokens
from i2ii_spool.settings import load
from tests.support.jobs import SubmitJob
from tests.support.raw_http import Wire, get
from tests.support.service import Service, cli, wait_until

SECRET = "a-token-from-the-environment"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_is_printed_once_and_kept_nowhere(service: Service, file: Path) -> None:
    printed = cli(service, "token", "add", "alice", "--tokens-file", str(file)).stdout.strip()
    cli(service, "token", "add", "ops", "--operator", "--tokens-file", str(file))
    assert re.fullmatch(r"i2ii_[A-Za-z0-9_-]{43}", printed)
    assert printed not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (
        cli(service, "token", "names", "--tokens-file", str(file)).stdout
        == "alice\nops  operator\n"
    )
    twice = cli(service, "token", "add", "alice", "--tokens-file", str(file), check=False)
    assert (twice.returncode, "take another name" in twice.stderr) == (64, True)
    cli(service, "token", "revoke", "alice", "--tokens-file", str(file))
    assert cli(service, "token", "names", "--tokens-file", str(file)).stdout == "ops  operator\n"
    assert (
        cli(service, "token", "revoke", "alice", "--tokens-file", str(file), check=False).returncode
        == 64
    )


def test_what_an_operator_wrote_into_the_file_stays(file: Path) -> None:
    tokens.add(file, "alice", is_operator=False)
    file.write_text(f"# alice asked on Tuesday\n{file.read_text()}\n")
    file.chmod(0o600)
    tokens.add(file, "bob", is_operator=False)
    tokens.revoke(file, "alice")
    assert file.read_text().startswith("# alice asked on Tuesday\n\nbob  ")


BROKEN = {
    "alice\n": "line 1 of",
    "alice secret\n": "line 1 of",
    "# fine\n\nalice " + "a" * 63 + "\n": "line 3 of",
    f"alice {'a' * 64} admin\n": "line 1 of",
    f"../alice {'a' * 64}\n": "line 1 of",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_named_with_the_line_and_never_quoted(
    service: Service, file: Path, text: str
) -> None:
    file.write_text(text)
    file.chmod(0o640)
    refused = cli(service, "serve", "--tokens-file", str(file), check=False)
    assert refused.returncode == 78
    assert BROKEN[text] in refused.stderr
    assert "secret" not in refused.stderr


def test_commands_at_once_keep_each_others_changes(service: Service, file: Path) -> None:
    tokens.add(file, "old", is_operator=False)
    i2ii = (sys.executable, "-m", "i2ii_spool", "token")
    changes = [("add", f"name{number}") for number in range(5)] + [("revoke", "old")]
    running = [service.start(*i2ii, *change, "--tokens-file", str(file)) for change in changes]
    assert [process.wait(30) for process in running] == [0] * 6
    assert sorted(token.name for token in tokens.read(file)) == [f"name{n}" for n in range(5)]


def test_a_name_that_comes_back_is_another_owner(file: Path) -> None:
    tokens.add(file, "alice", is_operator=False)
    (before,) = tokens.read(file)
    tokens.revoke(file, "alice")
    tokens.add(file, "alice", is_operator=True)
    (after,) = tokens.read(file)
    assert before.owner != after.owner
    assert after.is_operator


def test_a_line_without_an_id_owns_the_jobs_of_its_name(file: Path) -> None:
    file.write_text(f"alice {'a' * 64}\nops {'b' * 64} operator\n")
    file.chmod(0o640)
    assert [token.owner for token in tokens.read(file)] == ["alice", "ops"]


def test_the_name_of_the_api_token_is_no_other_s(service: Service, file: Path) -> None:
    added = cli(service, "token", "add", "environment", "--tokens-file", str(file), check=False)
    assert (added.returncode, "I2II_API_TOKEN" in added.stderr) == (64, True)
    file.write_text(f"environment {'a' * 64}\nalice {'b' * 64}\n")
    file.chmod(0o640)
    valid, faults = tokens.parse(file)
    assert [token.name for token in valid] == ["alice"]
    assert "line 1 of" in faults[0].message


WRONG_LINES = {
    b"carol\n": "line 3 of",
    b"carol secret\n": "line 3 of",
    b"\n  \n# for carol\n{\n": "line 6 of",
    b"# \xb0\xae\n\xb0\xae secret\n": "line 4 of",  # not UTF-8
    b"alice " + b"a" * 64 + b" operator\n": "line 3 of",  # a name that is taken
    b"carol " + b"a" * 64 + b" admin": "line 3 of",
}


@pytest.mark.parametrize("line", WRONG_LINES)
def test_a_wrong_line_concerns_no_other_token(service: Service, file: Path, line: bytes) -> None:
    alice = tokens.add(file, "alice", is_operator=False)
    bob = tokens.add(file, "bob", is_operator=False)
    with file.open("ab") as end:
        end.write(line)
    url = service.serve(tokens_file=str(file))
    assert [ask(url, "/jobs", token) for token in (alice, bob, None)] == [200, 200, 401]
    listed = cli(service, "token", "names", "--tokens-file", str(file))
    assert listed.stdout == "alice\nbob\n"
    doctor = cli(service, "doctor", "--tokens-file", str(file), check=False)
    for shown in (service.read_log(), listed.stderr, doctor.stdout):
        assert shown.count(f"{WRONG_LINES[line]} {file}") == 1
        assert "secret" not in shown
        assert "a" * 64 not in shown
    assert "has 2, 0 of operators" in doctor.stdout

    dora = tokens.add(file, "dora", is_operator=False)
    tokens.revoke(file, "bob")
    wait_until(lambda: ask(url, "/jobs", dora) == 200)
    assert [ask(url, "/jobs", token) for token in (alice, bob)] == [200, 401]
    assert line in file.read_bytes()


def test_a_file_of_an_editor_that_marks_it_is_read(file: Path) -> None:
    file.write_text(f"alice {'a' * 64}\r\nbob {'b' * 64}", encoding="utf-8-sig")
    file.chmod(0o640)
    tokens.add(file, "carol", is_operator=False)
    assert [token.name for token in tokens.read(file)] == ["alice", "bob", "carol"]
    tokens.revoke(file, "alice")
    assert [token.name for token in tokens.read(file)] == ["bob", "carol"]


def test_a_file_that_is_too_large_is_not_read_in_part(file: Path) -> None:
    tokens.add(file, "alice", is_operator=False)
    with file.open("a") as end:
        end.write(f"#{' ' * 2**20}\n")
    with pytest.raises(SettingsError, match="at most 1048576"):
        tokens.read(file)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o666])
def test_a_file_that_others_may_use_is_not_used(service: Service, file: Path, mode: int) -> None:
    tokens.add(file, "alice", is_operator=False)
    file.chmod(mode)
    refused = cli(service, "serve", "--tokens-file", str(file), check=False)
    assert refused.returncode == 78
    assert f"chmod 640 {file}" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_of_another_user_is_not_used(file: Path) -> None:
    tokens.add(file, "alice", is_operator=False)
    os.chown(file, 12345, 0)
    with pytest.raises(SettingsError, match="belongs to another user"):
        tokens.read(file)


def test_a_link_to_a_file_is_not_followed(file: Path, tmp_path: Path) -> None:
    tokens.add(tmp_path / "real", "alice", is_operator=False)
    file.symlink_to(tmp_path / "real")
    with pytest.raises(SettingsError, match="not a regular file"):
        tokens.read(file)


# --- a running server -----------------------------------------------------------------------------


def ask(url: str, path: str, token: str | None = None) -> int:
    """The status of a GET."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", path, headers=bearing(token) if token else {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_tokens_come_and_go_without_a_restart(service: Service, file: Path) -> None:
    alice = tokens.add(file, "alice", is_operator=False)
    url = service.serve(tokens_file=str(file), host="0.0.0.0").replace("0.0.0.0", "127.0.0.1")
    assert (ask(url, "/jobs", alice), ask(url, "/jobs"), ask(url, "/livez")) == (200, 401, 200)
    bob = tokens.add(file, "bob", is_operator=False)
    wait_until(lambda: ask(url, "/jobs", bob) == 200)
    tokens.revoke(file, "alice")
    wait_until(lambda: ask(url, "/jobs", alice) == 401)
    file.write_text("nonsense\n")
    wait_until(lambda: "the tokens stay as they were" in service.read_log())
    assert ask(url, "/jobs", bob) == 200
    file.write_text("# nobody\n")
    wait_until(lambda: ask(url, "/jobs", bob) == 401)


def test_a_poll_ends_when_its_token_is_revoked(
    service: Service, file: Path, submit_job: SubmitJob
) -> None:
    alice = tokens.add(file, "alice", is_operator=True)
    with Wire(service.serve(tokens_file=str(file))) as wire:
        wire.send(get(f"/status/{submit_job()}?wait=300", f"Authorization: Bearer {alice}"))
        assert ask(service.url, "/jobs", alice) == 200  # so the poll waits by now
        tokens.revoke(file, "alice")
        assert wire.answer().status == 401


def test_no_secret_stands_in_logs_settings_or_command_lines(
    service: Service, file: Path, picture: Path
) -> None:
    alice = tokens.add(file, "alice", is_operator=False)
    service.environment["I2II_API_TOKEN"] = SECRET
    up = service.start(
        sys.executable, "-m", "i2ii_spool", "up", "--port", "0", "--tokens-file", str(file)
    )
    url = wait_until(lambda: re.search(r"listening on (http://\S+),", service.read_log()))[1]
    service.environment["I2II_API_TOKEN"] = alice
    id = cli(service, "submit", str(picture), "-p", "sepia", "--url", url).stdout.strip()
    wait_until((service.spool.done / id).exists)
    lines = [
        (process / "cmdline").read_bytes().decode(errors="replace")
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and is_child(process, up.pid)
    ]
    assert len(lines) == 2
    shown = cli(service, "settings").stdout
    written = "".join(
        path.read_text(errors="replace") for path in service.spool.root.rglob("*") if path.is_file()
    )
    for place in (service.read_log(), shown, "".join(lines), written):
        assert SECRET not in place
        assert alice not in place
    assert f"job {id} submitted by alice (127.0.0.1)" in service.read_log()


def is_child(process: Path, parent: int) -> bool:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_command_says_what_is_wrong_with_its_token(
    service: Service, file: Path, picture: Path
) -> None:
    tokens.add(file, "alice", is_operator=False)
    url = service.serve(tokens_file=str(file))
    submit = ("submit", str(picture), "-p", "sepia", "--url", url)
    refused = cli(service, *submit, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "send `Authorization: Bearer TOKEN`" in refused.stderr
    service.environment["I2II_API_TOKEN"] = "i2ii_this-one-is-wrong"
    assert "not valid" in cli(service, *submit, check=False).stderr


# --- settings -------------------------------------------------------------------------------------


@pytest.fixture
def settings_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "i2ii.env"
    path.write_text(f"I2II_API_TOKEN={SECRET}\n")
    return path


def test_a_token_in_a_file_that_others_read_is_refused(settings_file: Path) -> None:
    settings_file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 640"):
        load(files=[settings_file])
    settings_file.chmod(0o640)
    assert load(files=[settings_file]).client_token == SECRET


def test_a_token_that_could_be_guessed_is_refused_and_not_quoted(service: Service) -> None:
    service.environment["I2II_API_TOKEN"] = "hunter2"
    refused = cli(service, "serve", check=False)
    assert refused.returncode == 78
    assert "at least 16 characters" in refused.stderr
    assert "hunter2" not in refused.stderr


def test_public_address_needs_tokens_or_no_auth(file: Path) -> None:
    with pytest.raises(SettingsError, match="i2ii token add"):
        load({"host": "0.0.0.0"}, files=[])
    load({"host": "0.0.0.0", "tokens_file": file}, files=[])
    load({"host": "0.0.0.0", "no_auth": True}, files=[])
    with pytest.raises(SettingsError, match="contradict"):
        load({"host": "0.0.0.0", "tokens_file": file, "no_auth": True}, files=[])
