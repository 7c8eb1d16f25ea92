"""A spool of a later version of i2ii is left alone by every command."""

import json
import os
from pathlib import Path

import pytest

from i2ii_spool.errors import NewerSpool, SpoolUnusable
from i2ii_spool.spool.layout import FORMAT, Spool
from tests.support.seams import failing_call
from tests.support.service import Service, cli, get_json

COMMANDS = [
    ("gpu", "0"),
    ("serve", "--port", "0"),
    ("ls",),
    ("show", "20260101-000000-000-aaaaaa"),
    ("cancel", "20260101-000000-000-aaaaaa"),
    ("retry", "20260101-000000-000-aaaaaa"),
    ("rm", "20260101-000000-000-aaaaaa"),
    ("gc",),
    ("top",),
]


def tree(spool: Spool) -> list[str]:
    return sorted(str(path.relative_to(spool.root)) for path in spool.root.rglob("*"))


def refused(service: Service, *command: str) -> str:
    """The one line that a command says which must end with the exit code of a configuration."""
    done = cli(service, *command, check=False)
    assert done.returncode == 78, (command, done.stderr)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("i2ii: ")]
    assert "Traceback" not in done.stderr
    return line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_newer_format_is_refused_by_each_command(
    service: Service, command: tuple[str, ...]
) -> None:
    service.spool.format.write_text(f"{FORMAT + 1}\n")
    before = tree(service.spool)
    line = refused(service, *command)
    assert f"{service.spool.format} says '{FORMAT + 1}'" in line
    assert f"knows formats up to {FORMAT}: upgrade i2ii on this host" in line
    assert tree(service.spool) == before


def test_a_submit_into_a_newer_spool_is_refused(service: Service, picture: Path) -> None:
    service.spool.format.write_text("99\n")
    assert "says '99'" in refused(service, "submit", str(picture), "-p", "sepia")


def test_the_doctor_names_the_cure(service: Service) -> None:
    def finding() -> dict[str, str]:
        report = json.loads(cli(service, "doctor", "--json", check=False).stdout)
        (found,) = [each for each in report["findings"] if each["check"] == "format"]
        return found

    assert finding()["verdict"] == "ok"
    service.spool.format.write_text("99\n")
    assert (finding()["verdict"], "upgrade" in finding()["cure"]) == ("error", True)


@pytest.mark.parametrize("text", ["", "two", "-1", "2.0", "\x1b[2J", "9" * 5000])
def test_what_is_no_known_format_is_refused(spool: Spool, text: str) -> None:
    spool.format.write_text(text)
    with pytest.raises(NewerSpool, match="format says") as refusal:
        spool.check_format()
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


def make_unreadable(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("kind", ["folder", "FIFO", "link"])
def test_a_format_that_cannot_be_read_is_told_in_a_line(service: Service, kind: str) -> None:
    make_unreadable(service.spool.format, kind)
    done = cli(service, "ls", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"i2ii: {service.spool.format} cannot be read (")
    assert "Traceback" not in done.stderr


def test_a_format_of_another_user_is_told(spool: Spool) -> None:
    with failing_call(os, "open", "EACCES"), pytest.raises(SpoolUnusable, match="cannot be read"):
        spool.check_format()


def test_a_new_spool_says_its_format_and_an_old_one_without_is_used(
    service: Service, tmp_path: Path
) -> None:
    assert service.spool.format.read_text() == f"{FORMAT}\n"
    service.spool.format.unlink()
    url = service.serve()
    service.work()
    assert get_json(f"{url}/health")["status"] == "healthy"
    assert not service.spool.format.exists()
    made = Spool(tmp_path / "another")
    made.root.mkdir()
    made.create()
    assert made.format.read_text() == f"{FORMAT}\n"
