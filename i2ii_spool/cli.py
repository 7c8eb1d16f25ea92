"""The `i2ii` command. A command is a few lines that call a part.

Parts are imported where they are used, so that `i2ii --help` answers at once.
"""

import faulthandler
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

import click

from i2ii_spool import __version__
from i2ii_spool.errors import (
    EngineError,
    I2iiError,
    InvalidRequest,
    NotFound,
    SettingsError,
    SpoolUnusable,
    WrongState,
    of_the_disk,
)
from i2ii_spool.notify import notify

if TYPE_CHECKING:
    from i2ii_spool.engines.qwen.presets import Version
    from i2ii_spool.settings import Settings
    from i2ii_spool.spool.layout import Spool

# sysexits(3); a unit lists EX_CONFIG in RestartPreventExitStatus, since starting again cures no setting.
EX_USAGE, EX_CONFIG = 64, 78

ACCESS = ("tokens", "private_jobs", "no_auth")
CLIENTS = ("max_connections", "client_uploads", "client_rate")
SERVER = ("host", "port", *ACCESS, *CLIENTS, "max_upload_mib", "max_megapixels", "max_queue", "min_free_mib")
EXACT = ("attention", "compile", "prompt_cache", "modulation_cache", "frame_vae")
LEVERS = ("memory", *EXACT, "step_cache", "fp8")
WORKER = ("engine", "model", "model_source", "max_side", *LEVERS, "drain", "max_attempts")
HOUSEKEEPING = ("settle", "guest_patience", "lease")


class Command(click.Command):
    """A command that takes some of the settings, or all of a request, as flags, with the help that they have there."""

    def __init__(self, *args: Any, settings: Sequence[str] = (), takes_request: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings
        self._takes_request = takes_request

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters, those of the request, and the settings."""
        own = super().get_params(ctx)
        return [*own[:-1], *(_request_flags() if self._takes_request else []), *map(_flag, self._settings), own[-1]]


def _flag(name: str) -> click.Option:
    from i2ii_spool.settings import PREFIX, Settings

    field = Settings.model_fields[name]
    default = "not set" if field.default is None else f"default {field.default}"
    text = f"{field.description}  [{PREFIX}{name.upper()}; {default}]"
    return _option(name, field.annotation, text)


def _request_flags() -> Iterator[click.Option]:
    from i2ii_spool.job import EditRequest

    for name, field in EditRequest.model_fields.items():
        if name == "prompt":
            yield click.Option(["-p", "--prompt"], help=field.description, required=True)
        else:
            default = f"  [default {field.default}]" if field.default != "" else ""
            yield _option(name, field.annotation, f"{field.description}{default}")


def _option(name: str, kind: Any, text: str) -> click.Option:
    """An option whose value is validated where it is defined; `kind` is only shown."""
    kinds = get_args(kind) or (kind,)
    metavar = "|".join(METAVARS.get(each, str(each)) for each in kinds if each is not NoneType)
    flag = name.replace("_", "-")
    is_switch = kind is bool
    spelt = f"--{flag}/--no-{flag}" if is_switch and not flag.startswith("no-") else f"--{flag}"
    return click.Option([spelt], help=text, is_flag=is_switch, default=None, metavar=None if is_switch else metavar)


METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="i2ii")
def main() -> None:
    """Edit pictures with Qwen-Image-Edit on several GPUs; the queue is a directory tree."""
    os.umask(0o007)  # what is in a spool is for its group, and for nobody else


def command(*settings: str, takes_request: bool = False) -> Callable[[Callable[..., None]], click.Command]:
    """Add a command; its function gets the settings in force first. `settings` are those that it takes as flags."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def call(**values: Any) -> None:
            from i2ii_spool.settings import load

            flags = {name: values.pop(name) for name in settings}
            with errors_shown():
                function(load(flags), **values)

        return main.command(cls=Command, settings=settings, takes_request=takes_request)(call)

    return decorate


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show an error as one line, to systemd too, and exit with its code."""
    try:
        yield
    except I2iiError as error:
        _show(error)
        is_wrong_call = isinstance(error, InvalidRequest | NotFound | WrongState)
        sys.exit(EX_CONFIG if isinstance(error, SettingsError) else EX_USAGE if is_wrong_call else 1)
    except OSError as error:
        if of_the_disk(error) is None:
            raise
        _show(error)
        sys.exit(1)
    except Exception as error:
        notify(STATUS=f"{type(error).__name__}: {error}")  # `systemctl status` shows it; the journal has the traceback
        raise


def _show(error: Exception) -> None:
    notify(STATUS=str(error))
    click.echo(f"i2ii: {error}", err=True)


# --- daemons ---------------------------------------------------------------------------------------------------------


@command("spool", *SERVER, *WORKER, *HOUSEKEEPING)
def up(settings: "Settings") -> None:
    """Run the whole service: the server and its workers.

    There is one worker for each visible GPU, or one classic worker where there is none.
    """
    from i2ii_spool import supervisor

    sys.exit(supervisor.run(settings))


@command("spool", *SERVER, "max_attempts", *HOUSEKEEPING)
def serve(settings: "Settings") -> None:
    """Run the HTTP server."""
    from i2ii_spool import logs
    from i2ii_spool.settings import load
    from i2ii_spool.web import server

    logs.set_up("http")
    faulthandler.enable()
    server.serve(settings, functools.partial(load, dict(click.get_current_context().params)))


@command("spool", *WORKER, *HOUSEKEEPING, "max_upload_mib", "max_megapixels")
@click.argument("gpu", metavar="N")
@click.option("--burst", is_flag=True, help="end when no job waits any more")
def gpu(settings: "Settings", gpu: str, *, burst: bool) -> None:
    """Run the worker of GPU N.

    N is an index within CUDA_VISIBLE_DEVICES, a GPU-<uuid> or a MIG-<uuid>.
    """
    from i2ii_spool import engines, gpus, logs
    from i2ii_spool.spool.workers import worker_name
    from i2ii_spool.worker.daemon import Worker

    chosen = gpus.choose(gpu)
    logs.set_up(chosen.unit, worker_name(chosen.unit))
    faulthandler.enable()  # systemd's watchdog aborts a worker that hangs: say where
    device = gpus.show_only(chosen)
    engine = engines.create(settings, has_gpu=device is not None)
    Worker(settings, engine, chosen, device, burst=burst).run()


# --- jobs ------------------------------------------------------------------------------------------------------------


@command("spool", "max_megapixels", takes_request=True)
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", help="submit to this server instead of straight into the spool")
@click.option("--wait", is_flag=True, help="wait until the job has ended, and write the picture")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="where to write it; with --wait  [default ID.png]"
)
def submit(
    settings: "Settings",
    images: tuple[Path, ...],
    *,
    url: str | None,
    wait: bool,
    output: Path | None,
    **fields: str | None,
) -> None:
    """Submit an edit of one to three IMAGES; print the job's id."""
    from i2ii_spool.client import Client, SpoolClient
    from i2ii_spool.job import EditRequest, parse
    from i2ii_spool.waiting import wait_and_write

    if output is not None and not wait:
        raise InvalidRequest("--output is written once the job has ended; say --wait as well")
    request = parse(EditRequest, {name: value for name, value in fields.items() if value is not None})
    with ExitStack() as stack:
        client: Client | SpoolClient
        if url is None:
            client = SpoolClient(_spool(settings), settings.max_pixels)
        else:
            client = stack.enter_context(Client(url, settings.bearer))
        id = client.submit(images, request)
        if wait:
            wait_and_write(client, id, output)
        else:
            click.echo(id)


@command("spool")
@click.argument("state", required=False)
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1), help="how many, newest first")
@click.option("--json", "as_json", is_flag=True, help="one JSON object per line")
def ls(settings: "Settings", state: str | None, *, limit: int, as_json: bool) -> None:
    """List the jobs, newest first.

    STATE is incoming, running, done or failed; without it, all are listed.
    """
    from i2ii_spool.spool.layout import parse_state
    from i2ii_spool.spool.lookup import list_jobs, waiting
    from i2ii_spool.spool.status import status_of

    spool = _spool(settings)
    queue = waiting(spool)
    for place in list_jobs(spool, parse_state(state), limit=limit):
        status = status_of(spool, place, queue=queue)
        if status is not None:
            click.echo(json.dumps(status.shown(), ensure_ascii=False) if as_json else status.line())


@command("spool")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
def show(settings: "Settings", id: str, *, as_json: bool) -> None:
    """Show all there is to say of a job."""
    from i2ii_spool.spool.status import read_status

    shown = read_status(_spool(settings), id).shown()
    if as_json:
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    for name, value in shown.items():
        click.echo(f"{name + ':':<18} {value}")


@command("spool")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def cancel(settings: "Settings", ids: tuple[str, ...]) -> None:
    """Stop jobs that wait or run."""
    from i2ii_spool.spool import actions
    from i2ii_spool.spool.layout import State

    for id in ids:
        state = actions.cancel(_spool(settings), id)
        click.echo(f"{id} {'stops at its next step' if state is State.RUNNING else 'cancelled'}")


@command("spool")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def retry(settings: "Settings", ids: tuple[str, ...]) -> None:
    """Send failed jobs back to the queue."""
    from i2ii_spool.spool import actions

    for id in ids:
        actions.retry(_spool(settings), id)
        click.echo(f"{id} queued")


@command("spool")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def rm(settings: "Settings", ids: tuple[str, ...]) -> None:
    """Delete jobs that have ended, for good."""
    from i2ii_spool.spool import actions

    for id in ids:
        actions.remove(_spool(settings), id)
        click.echo(f"{id} deleted")


@command("spool", "keep_days", "keep_jobs", "keep_free_mib")
def gc(settings: "Settings") -> None:
    """Delete ended jobs that have been kept long enough."""
    from i2ii_spool.spool.retention import Keep, collect

    days, free = settings.keep_days, settings.keep_free_mib
    keep = Keep(
        age=None if days is None else days * 86400,
        jobs=settings.keep_jobs,
        free=None if free is None else round(free * 2**20),
    )
    removed = collect(_spool(settings), keep)
    click.echo(f"{len(removed)} jobs deleted")
    if keep == Keep():
        click.echo("nothing limits how long jobs stay; set --keep-days, --keep-jobs or --keep-free-mib", err=True)


# --- the service -----------------------------------------------------------------------------------------------------


@command("host", "port")
@click.option("-n", "--jobs", default=32, show_default=True, type=click.IntRange(1), help="how many jobs")
@click.option("-c", "--concurrency", default=8, show_default=True, type=click.IntRange(1), help="how many at a time")
@click.option("-p", "--prompt", default="watercolour", show_default=True, help="the instruction")
@click.option("--url", help="the server  [default the host and port set]")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON")
def bench(settings: "Settings", *, jobs: int, concurrency: int, prompt: str, url: str | None, as_json: bool) -> None:
    """Load-test a running service, and report."""
    from i2ii_spool import bench

    url = url or f"http://{settings.host}:{settings.port}"
    report = bench.run(url, settings.bearer, jobs=jobs, concurrency=concurrency, prompt=prompt)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.as_text())
    sys.exit(0 if report.all_succeeded else 1)


@command("spool", "lease")
def top(settings: "Settings") -> None:
    """Watch the queue, the workers and the GPUs; Ctrl-C ends it. Into a file or a pipe, print them once."""
    from i2ii_spool import top

    top.run(_spool(settings), lease=settings.lease)


@main.group()
def model() -> None:
    """Fetch a model for the qwen engine, or make a tiny one."""


@model.command()
@click.argument("name", required=False)
def fetch(name: str | None) -> None:
    """Fetch the weights of NAME and the LoRA of the preset `fast`, going on where an earlier call stopped.

    They come from ModelScope into MODELSCOPE_CACHE, or with I2II_MODEL_SOURCE=huggingface from there into HF_HOME.
    NAME is the model that is set, if it is left out.
    """
    from i2ii_spool.engines.qwen import loading, presets
    from i2ii_spool.settings import load

    with errors_shown():
        settings = load()
        folder = loading.fetch(name or settings.model, settings.model_source)
        click.echo(folder)
        try:
            lightning = loading.fetch_lightning(presets.version_of(folder), settings.model_source)
        except EngineError as error:
            click.echo(f"i2ii: the model is complete, and without the preset fast: {error}", err=True)
        else:
            if lightning is not None:
                click.echo(lightning)


@model.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--like",
    type=click.Choice(["1", "2509", "2511", "2.1"]),
    default="2511",
    show_default=True,
    help="the Qwen-Image-Edit, or Qwen-Image-2.1, that it is built like; 1 takes one picture",
)
def tiny(folder: Path, *, like: "Version") -> None:
    """Make a complete model of random weights in FOLDER, a few megabytes large.

    It runs the whole service on a CPU within seconds, and what it makes of a picture is noise.
    """
    from i2ii_spool.engines.qwen import loading

    with errors_shown():
        loading.check_packages(*loading.PACKAGES)
        from i2ii_spool.engines.qwen.tiny import write

        write(folder, like)
    click.echo(f"{folder}: random weights; try them with --engine qwen --model {folder} --max-side 128")


@main.group()
def token() -> None:
    """Make and take away the tokens that let somebody use the service over HTTP."""


def token_command(function: Callable[..., None]) -> click.Command:
    """Add a command that works on the file of tokens; its function gets that."""
    option = click.option("--tokens", type=click.Path(path_type=Path), help="the file  [I2II_TOKENS]")

    @functools.wraps(function)
    def call(tokens: Path | None, **values: Any) -> None:
        from i2ii_spool.settings import load

        with errors_shown():
            file = tokens or load().tokens
            if file is None:
                raise InvalidRequest("which file? Set I2II_TOKENS, or say --tokens FILE", field="tokens")
            function(file, **values)

    return token.command()(option(call))


@token_command
@click.argument("name")
@click.option("--operator", is_flag=True, help="it may see and do everything, whoever submitted it")
def add(file: Path, name: str, *, operator: bool) -> None:
    """Make a token called NAME, and print it: this once, it is kept nowhere."""
    from i2ii_spool import tokens

    click.echo(tokens.add(file, name, is_operator=operator))


@token_command
@click.argument("name")
def revoke(file: Path, name: str) -> None:
    """Take the token called NAME away; a running server knows within two seconds."""
    from i2ii_spool import tokens

    tokens.remove(file, name)
    click.echo(f"{name} revoked")


@token_command
def names(file: Path) -> None:
    """Print the names of the tokens."""
    from i2ii_spool import tokens

    for token in tokens.read(file):
        click.echo(f"{token.name}{'  operator' if token.is_operator else ''}")


@main.group()
def units() -> None:
    """Install or remove the systemd units."""


PLACE = (
    click.option(
        "--prefix",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        default="/",
        show_default=True,
        help="the root of the system that they are for, like that of an image being built",
    ),
    click.option("--user-mode", is_flag=True, help="for your own systemd (systemctl --user), without the sandbox"),
    click.option("--dry-run", is_flag=True, help="only say what would be done"),
)


def _with_place(function: Callable[..., None]) -> Callable[..., None]:
    return functools.reduce(lambda decorated, option: option(decorated), reversed(PLACE), function)


@units.command()
@_with_place
def install(prefix: Path, *, user_mode: bool, dry_run: bool) -> None:
    """Write the units and enable them for the GPUs found; after an upgrade, write them again.

    The settings are written to /etc/i2ii/i2ii.env, each with its meaning, if there is no such file.
    """
    from i2ii_spool import units

    with errors_shown():
        place = units.place_for(prefix, user_mode=user_mode)
        instances = units.install(place, dry_run=dry_run)
    if not dry_run and place.is_this_system:
        start = " ".join(place.systemctl("start", "i2ii.target"))
        enabled = ", ".join(f"i2ii-gpu@{instance}" for instance in instances)
        click.echo(f"\nenabled {enabled}; next: i2ii model fetch, i2ii doctor, and {start}")


@units.command("remove")
@_with_place
def remove_units(prefix: Path, *, user_mode: bool, dry_run: bool) -> None:
    """Drain and stop what runs, and remove the units; settings and jobs stay."""
    from i2ii_spool import units

    with errors_shown():
        units.remove(units.place_for(prefix, user_mode=user_mode), dry_run=dry_run)


@command("spool", "host", "port", "no_auth", "min_free_mib", "engine", "model", "model_source", "lease")
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
def doctor(settings: "Settings", *, as_json: bool) -> None:
    """Check the installation; name the cure of what is wrong."""
    from i2ii_spool.doctor import examine
    from i2ii_spool.doctor.finding import Verdict

    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            colour = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.ERROR: "red"}[finding.verdict]
            cure = "" if finding.cure is None else f"\n{'':<23}-> {finding.cure}"
            click.echo(f"{click.style(f'{finding.verdict:<8}', fg=colour)} {finding.check:<13} {finding.message}{cure}")
    healthy = all(finding.verdict is not Verdict.ERROR for finding in findings)
    if as_json:
        click.echo(json.dumps({"healthy": healthy, "findings": [finding.shown() for finding in findings]}, indent=2))
    sys.exit(0 if healthy else 1)


@command("spool", *SERVER, *WORKER, *HOUSEKEEPING, "keep_days", "keep_jobs", "keep_free_mib")
def settings(settings: "Settings") -> None:
    """Print every setting in force, and where it comes from."""
    from i2ii_spool.settings import source

    flags = {name: value for name, value in click.get_current_context().params.items() if value is not None}
    for name, value in settings:
        click.echo(f"{name:<16} {value!s:<24} {source(name, flags)}")


def _spool(settings: "Settings") -> "Spool":
    from i2ii_spool.spool.layout import Spool

    spool = Spool(settings.spool)
    if not spool.incoming.is_dir():
        raise SpoolUnusable(f"there is no spool at {spool.root}; `i2ii up` makes one, or name another with --spool")
    return spool
