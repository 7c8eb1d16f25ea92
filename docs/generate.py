"""Write settings.md, cli.md, errors.md, logs.md and the tables of inputs.md, from the code.

python docs/generate.py             # write them
python docs/generate.py --check     # only say which are not current; exit 1 if any
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from i2ii_spool import errors
from i2ii_spool.cli import options
from i2ii_spool.cli.main import COMMANDS, main
from i2ii_spool.cli.progress import EX_INTERRUPTED
from i2ii_spool.events import JobEvent
from i2ii_spool.images.kinds import COLOURS, KINDS, ORIENTATION
from i2ii_spool.server.openapi import docstrings_below
from i2ii_spool.settings import Process, Settings, about, groups, variable

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py: change the code, then run `python docs/generate.py`. -->"
TABLES_NOTE = "<!-- Written by docs/generate.py from i2ii_spool/images/kinds.py. -->"
END_NOTE = "<!-- Until here. -->"

READERS = {
    Process.SERVER: "server",
    Process.WORKER: "workers",
    Process.GC: "`i2ii gc`",
    Process.CLIENT: "client",
    Process.WEBHOOKS: "webhooks",
}
EXIT_CODES = {
    0: "The command has done what it was asked to do.",
    errors.EX_FAILED: "It failed; `i2ii doctor` found an error; a job of `i2ii bench` failed.",
    errors.EX_USAGE: "The command line is wrong, or the request cannot be met: it is invalid, or "
    "the job is not there or in "
    "another state.",
    errors.EX_CONFIG: "A setting, the name of the host or the version is wrong: a restart does "
    "not cure it.",
    EX_INTERRUPTED: (
        "Ctrl-C ended the wait of `i2ii submit --wait`, and the job continues; or `i2ii bench`, "
        "which has cancelled its jobs and reported those that had ended."
    ),
}
HTTP, JOB, COMMAND, LOG = "HTTP", "job", "command", "log"
WHERE: dict[type[errors.I2iiError], tuple[str, ...]] = {
    errors.I2iiError: (HTTP,),
    errors.InvalidRequest: (HTTP, JOB, COMMAND),
    errors.UnsupportedMediaType: (HTTP,),
    errors.UnknownInstruction: (JOB,),
    errors.MalformedHttp: (HTTP,),
    errors.NotFound: (HTTP, COMMAND),
    errors.MethodNotAllowed: (HTTP,),
    errors.ExpectationFailed: (HTTP,),
    errors.PreconditionFailed: (HTTP,),
    errors.RangeNotSatisfiable: (HTTP,),
    errors.WrongState: (HTTP, COMMAND),
    errors.Unauthorized: (HTTP,),
    errors.Forbidden: (HTTP,),
    errors.MisdirectedRequest: (HTTP,),
    errors.TooSlow: (HTTP,),
    errors.TryLater: (HTTP,),
    errors.QueueFull: (HTTP,),
    errors.DiskFull: (HTTP, COMMAND),
    errors.SpoolUnusable: (HTTP, COMMAND),
    errors.NewerSpool: (COMMAND,),
    errors.SettingsError: (COMMAND,),
    errors.EngineError: (JOB,),
    errors.EngineBroken: (LOG,),
    errors.DownloadFailed: (COMMAND,),
    errors.Unreadable: (JOB,),
    errors.ClaimLost: (LOG,),
    errors.WorkerNameTaken: (COMMAND,),
    errors.NoServer: (COMMAND,),
    errors.NoWorker: (COMMAND,),
    errors.BadResult: (COMMAND,),
}
"""Where an error appears; a class that is not listed appears where its base does."""


def settings_page() -> Iterator[str]:
    """The settings, a table per group."""
    yield "# Settings\n"
    yield (
        "A flag (`--port`) beats the environment (`I2II_PORT`), the environment beats "
        "`~/.config/i2ii/i2ii.env`, that beats `/etc/i2ii/i2ii.env`, and that beats the default. "
        "`i2ii settings` prints each value in force and its source.\n"
    )
    yield (
        "The processes read the files themselves, when they start. *Reload* marks what "
        "`systemctl reload i2ii-http` applies to the server; all else needs a restart. *Lossy* "
        "marks what changes results; `result.json` records it. A setting is a flag of the commands "
        "that read it: `i2ii serve` (server), `i2ii gpu` (workers), `i2ii up` (both), "
        "`i2ii submit` (client), `i2ii webhooks` and `i2ii gc`. `I2II_API_TOKEN` and "
        "`I2II_WEBHOOK_SECRETS` are never flags.\n"
    )
    for group, names in groups().items():
        yield f"## {without_path(group)}\n"
        yield from table_head(
            "variable", "value", "unit", "default", "read by", "reload", "lossy", "meaning"
        )
        for name in names:
            known, field = about(name), Settings.model_fields[name]
            readers = [READERS[each] for each in Process if each in known.processes]
            yield row(
                f"`{variable(name)}`",
                options.metavar_of(field.annotation),
                known.unit,
                "" if field.default is None else f"`{shown(field.default)}`",
                ", ".join(readers),
                "yes" if known.reloadable else "",
                "yes" if known.lossy else "",
                linked(str(field.description)),
            )
        yield ""


def cli_page() -> Iterator[str]:
    """The commands, under the headings of `i2ii --help`, and the exit codes."""
    yield "# The `i2ii` command\n"
    yield (
        f"{main.help} `i2ii COMMAND --help` prints the flags of a command with their meanings, "
        "variables and defaults. [settings.md](settings.md) explains the flags that are settings.\n"
    )
    for heading, commands in COMMANDS.items():
        yield f"## {heading}\n"
        for command in commands:
            yield from command_section("i2ii", command)
    yield "## Exit codes\n"
    yield from table_head("code", "meaning")
    yield from (row(f"`{code}`", meaning) for code, meaning in EXIT_CODES.items())
    yield "\n[errors.md](errors.md) has the exit code of every error."


def command_section(parent: str, command: click.Command) -> Iterator[str]:
    """A command, or each command of a group: its call, its help, its flags."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from command_section(f"{parent} {command.name}", each)
        return
    ctx = click.Context(command, info_name=command.name)
    arguments, flags = [], []
    settings: dict[str, list[str]] = {}
    for parameter in command.get_params(ctx):
        if isinstance(parameter, click.Argument):
            name = (parameter.metavar or str(parameter.name)).upper().removesuffix("...")
            name += "..." if parameter.nargs == -1 else ""
            arguments.append(name if parameter.required else f"[{name}]")
        elif (
            isinstance(parameter, options.HeadedOption) and parameter.name in Settings.model_fields
        ):
            settings.setdefault(without_path(parameter.heading), []).append(parameter.opts[0])
        elif isinstance(parameter, click.Option) and "--help" not in parameter.opts:
            flags.append(row(f"`{spelt(parameter)}`", explained(parameter)))
    yield f"### `{' '.join([parent, str(command.name), *arguments])}`\n"
    yield linked(inspect.cleandoc(command.help or "")) + "\n"
    if flags:
        yield from table_head("flag", "meaning")
        yield from flags
        yield ""
    if len(settings) < 3:
        names = [f"`{name}`" for group in settings.values() for name in group]
        yield f"Settings: {', '.join(names)}\n" if names else ""
    else:
        yield "Settings:\n"
        for group, names in settings.items():
            yield f"- {group}: {', '.join(f'`{name}`' for name in names)}"
        yield ""


def spelt(option: click.Option) -> str:
    """`-o, --output PATH`."""
    names = ", ".join(option.opts)
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {'|'.join(option.type.choices)}"
    return f"{names} {option.metavar or option.type.name.split()[0].upper()}"


def explained(option: click.Option) -> str:
    """The help of a flag, and whether it is required, or its default."""
    text = linked(re.sub(r"  (\[.*\])$", r" \1", option.help or ""))
    if option.required:
        return f"{text} [required]"
    return f"{text} [default {option.default}]" if option.show_default else text


def errors_page() -> Iterator[str]:
    """The codes of the register."""
    yield "# Errors\n"
    yield (
        'Every error has one shape, `{"code", "message", "field"?}`: in an HTTP answer under '
        "`error`, in `error.json` of a failed job, and in the `error` of its status. The code is "
        "stable; the message is for people and names the cure.\n"
    )
    yield (
        "*Where*: **HTTP**: the server answers a request with it, and a command with `--url` ends "
        "with it. **job**: it is in the folder or the status of a job. **command**: an `i2ii` "
        "command or a daemon ends with it. **log**: it stays in a worker, whose log has it. A "
        "command that ends with an error prints its message and returns its exit code.\n"
    )
    yield from table_head("code", "HTTP", "exit code", "where", "meaning")
    for code, kind in errors.REGISTER.items():
        where = next(WHERE[base] for base in bases(kind) if base in WHERE)
        meaning = " ".join(inspect.cleandoc(kind.__doc__ or "").split())
        status = str(kind.http_status) if HTTP in where else ""
        yield row(f"`{code}`", status, str(kind.exit_code), ", ".join(where), meaning)


def kinds_tables() -> Iterator[str]:
    """The kinds of pictures, and what states their colours and orientation."""
    yield from table_head("format", "numbers", "bits", "transparency", "ICC profile", "becomes")
    for kind in KINDS:
        yield row(
            kind.format,
            kind.colours,
            ", ".join(map(str, kind.bits)),
            kind.transparency,
            ", ".join(kind.profiles),
            {"": "RGB", "alpha": "RGBA"}.get(kind.transparency, "RGB, or RGBA if it has that"),
        )
    yield ""
    yield from table_head("format", "its colours are stated by", "it is turned as stated by")
    yield from (row(name, COLOURS[name], turned) for name, turned in ORIENTATION.items())


def bases(kind: type[errors.I2iiError]) -> Iterator[type[errors.I2iiError]]:
    """A class and its bases; of them `I2iiError` only for itself, as it says nothing of others."""
    for base in kind.__mro__:
        if issubclass(base, errors.I2iiError) and (base is kind or base is not errors.I2iiError):
            yield base


def table_head(*names: str) -> Iterator[str]:
    """The head of a table."""
    yield row(*names)
    yield "|" + "---|" * len(names)


def row(*cells: str) -> str:
    """A line of a table."""
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def shown(value: object) -> str:
    """A default as an operator writes it in a file of settings."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def linked(text: str) -> str:
    """A text whose `docs/PAGE.md` are links."""
    return re.sub(r"docs/([\w/]+\.md)", r"[\1](\1)", text)


def without_path(heading: str) -> str:
    """A heading without the page that it names."""
    return re.sub(r" \(docs/.*\)$", "", heading)


TABLES = {"inputs.md": kinds_tables}
"""What stands in a page between two comments."""


def logs_page() -> Iterator[str]:
    """What is logged of a job."""
    yield "# Logs\n"
    yield (
        "Each process writes one line for each thing that happens: to the journal where systemd "
        "has started it, else to standard error. `I2II_LOG_FORMAT=json` (`--log-format json`), for "
        "containers, writes each line as a JSON object:\n"
    )
    yield "```json"
    yield (
        '{"time": "2026-11-26T02:14:38.024+00:00", "level": "info", "process": "gpu0", "worker": '
        '"node7.gpu0", "action": "completed", "job": "20261126-021433-466-cwjnks", "message": "job '
        '20261126-021433-466-cwjnks done in 3.70 s ..."}'
    )
    yield "```\n"
    yield (
        "A line about a job has three fields: the action, the job, and the worker if one is "
        "concerned. In JSON they are `action`, `job` and `worker`; in the journal `I2II_ACTION`, "
        "`I2II_JOB` and `I2II_WORKER`, so that `journalctl I2II_JOB=ID` finds the lines of one job "
        "from every process. The message is for people; its words may change.\n"
    )
    yield from table_head("action", "what has happened")
    for name, text in docstrings_below(JobEvent):
        yield row(f"`{JobEvent[name]}`", text)


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "settings.md": settings_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "logs.md": logs_page,
}


def outdated() -> dict[str, str]:
    """The pages that are not current, by name, with the text that they should have."""
    texts = {name: "\n".join([NOTE, "", *page()]).rstrip() + "\n" for name, page in PAGES.items()}
    for name, tables in TABLES.items():
        head, _, rest = (DOCS / name).read_text().partition(TABLES_NOTE)
        tail = rest.partition(END_NOTE)[2]
        texts[name] = "\n".join([f"{head}{TABLES_NOTE}", "", *tables(), "", f"{END_NOTE}{tail}"])
    return {
        name: text
        for name, text in texts.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text() != text
    }


@click.command()
@click.option("--check", is_flag=True, help="write nothing; exit 1 if a page is not current")
def generate(check: bool) -> None:
    """Write settings.md, cli.md, errors.md, logs.md and the tables of inputs.md, from the code."""
    changed = outdated()
    for name, text in changed.items():
        click.echo(f"docs/{name} is not current" if check else f"docs/{name} written")
        if not check:
            (DOCS / name).write_text(text)
    sys.exit(1 if check and changed else 0)


if __name__ == "__main__":
    generate()
