"""What the commands share: how they take settings as flags, find the spool, and show errors."""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

import click

from i2ii_spool.cli.main import main
from i2ii_spool.errors import (
    I2iiError,
    InvalidRequest,
    NotFound,
    SettingsError,
    SpoolUnusable,
    WrongState,
    from_os_error,
)
from i2ii_spool.host.systemd import sd_notify

if TYPE_CHECKING:
    from i2ii_spool.settings import Settings
    from i2ii_spool.spool.layout import Spool

# sysexits(3); a unit lists EX_CONFIG in RestartPreventExitStatus, since starting again cures no
# setting.
EX_USAGE, EX_CONFIG = 64, 78

ACCESS = ("tokens_file", "private_jobs", "no_auth")
CLIENTS = ("max_connections", "client_max_uploads", "client_submits_per_minute")
SERVER = (
    "host",
    "port",
    *ACCESS,
    *CLIENTS,
    "max_upload_mib",
    "max_megapixels",
    "max_queue",
    "min_free_mib",
)
EXACT = ("attention", "compile", "prompt_cache", "modulation_cache", "frame_vae")
LEVERS = ("offload", *EXACT, "step_cache", "fp8")
WORKER = ("engine", "model", "model_source", "max_side", *LEVERS, "drain_seconds", "max_attempts")
HOUSEKEEPING = ("settle_seconds", "guest_patience_seconds", "lease_seconds")


class Command(click.Command):
    """A command that takes some of the settings, or all of a request, as flags, with the help that
    they have there."""

    def __init__(
        self, *args: Any, settings: Sequence[str] = (), takes_request: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings
        self._takes_request = takes_request

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters, those of the request, and the settings."""
        own = super().get_params(ctx)
        return [
            *own[:-1],
            *(_request_flags() if self._takes_request else []),
            *map(_flag, self._settings),
            own[-1],
        ]


def _flag(name: str) -> click.Option:
    from i2ii_spool.settings import ENV_PREFIX, Settings

    field = Settings.model_fields[name]
    default = "not set" if field.default is None else f"default {field.default}"
    text = f"{field.description}  [{ENV_PREFIX}{name.upper()}; {default}]"
    return _option(name, field.annotation, text)


def _request_flags() -> Iterator[click.Option]:
    from i2ii_spool.jobs.request import EditRequest

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
    return click.Option(
        [spelt], help=text, is_flag=is_switch, default=None, metavar=None if is_switch else metavar
    )


METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def command(
    *settings: str, takes_request: bool = False
) -> Callable[[Callable[..., None]], click.Command]:
    """Add a command; its function gets the settings in force first. `settings` are those that it
    takes as flags."""

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
        sys.exit(
            EX_CONFIG if isinstance(error, SettingsError) else EX_USAGE if is_wrong_call else 1
        )
    except OSError as error:
        if from_os_error(error) is None:
            raise
        _show(error)
        sys.exit(1)
    except Exception as error:
        sd_notify(
            STATUS=f"{type(error).__name__}: {error}"
        )  # `systemctl status` shows it; the journal has the traceback
        raise


def _show(error: Exception) -> None:
    sd_notify(STATUS=str(error))
    click.echo(f"i2ii: {error}", err=True)


def open_spool(settings: "Settings") -> "Spool":
    """Return the spool that is set. Raises `SpoolUnusable` if there is none."""
    from i2ii_spool.spool.layout import Spool

    spool = Spool(settings.spool)
    if not spool.incoming.is_dir():
        raise SpoolUnusable(
            f"there is no spool at {spool.root}; `i2ii up` makes one, or name another with --spool"
        )
    return spool
