"""The `i2ii` command: help, documentation and settings."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from i2ii_spool.cli.main import main
from i2ii_spool.settings import Settings, about, flags_of, variable
from tests.support.cli import run_in, the_error
from tests.support.service import Service, cli, get_json

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(main.commands)


def test_help_lists_every_command_with_a_whole_line(service: Service, tmp_path: Path) -> None:
    shown = run_in(tmp_path, service, "--help", COLUMNS="80").stdout.partition("Run:\n")[2]

    lines = dict(re.findall(r"^  (\S+)  +(.+)$", shown, re.MULTILINE))
    assert sorted(lines) == COMMANDS
    assert [name for name, line in lines.items() if "..." in line] == []


def test_help_lists_the_commands_under_headings_in_the_order_of_use(service: Service) -> None:
    lines = cli(service, "--help").stdout.partition("Run:\n")[2].splitlines()

    assert [line for line in lines if line.endswith(":")] == ["Jobs:", "Watch:", "Set up:"]
    assert [line.split()[0] for line in lines[:4]] == ["up", "serve", "gpu", "webhooks"]


def test_the_help_of_a_command_lists_the_settings_under_their_groups(service: Service) -> None:
    shown = cli(service, "gpu", "--help").stdout

    sections = dict(re.findall(r"^(\w.*):\n((?:  .*\n)+)", shown, re.MULTILINE))
    flags = {
        heading: re.findall(r"^  --([a-z0-9-]+)", text, re.M) for heading, text in sections.items()
    }
    assert list(flags)[:2] == ["Options", "Spool"]
    for name in flags_of("worker"):
        assert name.replace("_", "-") in flags[about(name).group], name
    assert "--presets PATH" in sections["Engine"]
    assert len(flags["Tuning of the qwen engine (docs/engines/qwen.md)"]) == 8


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


def test_help_explains_a_setting_with_its_variable_and_default(service: Service) -> None:
    assert "[I2II_PORT; default 8000]" in " ".join(cli(service, "serve", "--help").stdout.split())


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert [name for name in COMMANDS if not re.search(rf"\bi2ii {name}\b", text)] == []


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs/settings.md").read_text()
    assert [name for name in Settings.model_fields if f"`{variable(name)}`" not in text] == []


def test_the_installed_command_is_the_same() -> None:
    installed = Path(sys.executable).with_name("i2ii")
    if not installed.exists():
        pytest.skip("the package is not installed in this environment")
    command = [[str(installed), "--version"], [sys.executable, "-m", "i2ii_spool", "--version"]]
    first, second = (
        subprocess.run(each, capture_output=True, text=True, check=True).stdout for each in command
    )
    assert first == second


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
def test_invalid_variable_is_named_and_exits_78(
    service: Service, tmp_path: Path, variable: str, value: str
) -> None:
    answer = run_in(tmp_path, service, "settings", **{variable: value})

    assert answer.returncode == 78
    error = the_error(answer)
    assert variable in error
    assert repr(value) in error


def test_a_file_of_settings_in_another_encoding_is_named(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "i2ii/i2ii.env"
    file.parent.mkdir()
    file.write_bytes(b"I2II_PORT=8123\n# \xb0\xae\n")
    answer = run_in(tmp_path, service, "settings", XDG_CONFIG_HOME=str(tmp_path))
    assert answer.returncode == 78
    assert f"line 2 of {file} is not UTF-8" in the_error(answer)
    file.write_text("I2II_PORT=8123\n# 水彩\n", encoding="utf-8")
    answer = run_in(tmp_path, service, "settings", XDG_CONFIG_HOME=str(tmp_path))
    assert "8123" in answer.stdout


def test_what_is_no_setting_in_a_file_is_passed_over_with_a_warning(
    service: Service, tmp_path: Path
) -> None:
    """It is of a newer version, or of a program that i2ii starts; or it is misspelt."""
    file = tmp_path / "i2ii/i2ii.env"
    file.parent.mkdir()
    file.write_text("MODELSCOPE_CACHE=/models\nI2II_FUTURE=1\nI2II_SPOL=/x\nI2II_PORT=8123\n")
    answer = run_in(tmp_path, service, "settings", XDG_CONFIG_HOME=str(tmp_path))
    assert (answer.returncode, "8123" in answer.stdout) == (0, True)
    for name in ("MODELSCOPE_CACHE", "I2II_FUTURE", "I2II_SPOL"):
        assert f"{file} has {name}, which is no setting" in answer.stderr
    assert "do you mean I2II_SPOOL?" in answer.stderr


@pytest.mark.parametrize(
    "arguments", [["serve", "--no-such-flag"], ["submit"], ["nonsense"], ["submit", "missing.jpg"]]
)
def test_a_wrong_call_exits_64(service: Service, arguments: list[str]) -> None:
    assert cli(service, *arguments, check=False).returncode == 64


def test_invalid_flag_is_named_and_exits_78(service: Service) -> None:
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


def test_listening_beyond_loopback_needs_no_auth(service: Service) -> None:
    url = service.serve(host="0.0.0.0", no_auth="true")

    assert get_json(f"{url.replace('0.0.0.0', '127.0.0.1')}/livez") == {"status": "alive"}


def test_taken_port_exits_78(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = cli(service, "serve", "--port", port, check=False)

    assert answer.returncode == 78
    assert port in the_error(answer)
