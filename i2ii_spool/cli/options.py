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
from i2ii_spool.errors import I2iiError, SpoolUnusable, from_os_error
from i2ii_spool.host.systemd import sd_notify

if TYPE_CHECKING:
    from i2ii_spool.settings import Settings
    from i2ii_spool.spool.layout import Spool


class Command(click.Command):
    """A command that takes settings, or all of a request, as flags.

    The flags, their types and their help come from the settings and from the request. They are
    looked up when the command runs, so that `i2ii --help` imports neither.
    """

    def __init__(
        self,
        *args: Any,
        settings: Callable[[], list[str]],
        takes_request: bool = False,
        **kwargs: Any,
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
            *map(_flag, self._settings()),
            own[-1],
        ]


def _flag(name: str) -> click.Option:
    from i2ii_spool.settings import Settings, about, variable

    field, unit = Settings.model_fields[name], about(name).unit
    default = "not set" if field.default is None else f"default {field.default}"
    text = f"{field.description}{f', in {unit}' if unit else ''}  [{variable(name)}; {default}]"
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
    *settings: str, of: Sequence[str] = (), takes_request: bool = False
) -> Callable[[Callable[..., None]], click.Command]:
    """Add a command; its function gets the settings in force first.

    It takes as flags the named `settings`, and those that the processes `of` read: `of=["worker"]`.
    """

    def names() -> list[str]:
        from i2ii_spool.settings import flags_of

        return list(dict.fromkeys((*flags_of(*of), *settings)))

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def call(**values: Any) -> None:
            from i2ii_spool.settings import load

            flags = {name: values.pop(name) for name in names()}
            with errors_shown():
                function(load(flags), **values)

        return main.command(cls=Command, settings=names, takes_request=takes_request)(call)

    return decorate


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show an error as one line, to systemd too, and exit with its code."""
    try:
        yield
    except I2iiError as error:
        _show(error)
        sys.exit(error.exit_code)
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
