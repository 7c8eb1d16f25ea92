"""What the commands share: settings and requests as flags, the spool, errors, exit codes."""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

import click

from i2ii_spool.cli.terminal import echo
from i2ii_spool.errors import EX_FAILED, I2iiError, InvalidRequest, SpoolUnusable, from_os_error
from i2ii_spool.host.systemd import sd_notify

if TYPE_CHECKING:
    from i2ii_spool.settings import Settings
    from i2ii_spool.spool.layout import Spool

METAVARS = {
    "bool": "true|false",
    "int": "INTEGER",
    "float": "NUMBER",
    "str": "TEXT",
    "SecretStr": "TEXT",
    "Path": "PATH",
}


class HeadedOption(click.Option):
    """An option that the help lists under a heading of its own."""

    def __init__(self, *args: Any, heading: str, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.heading = heading


class Command(click.Command):
    """A command that takes settings, or all fields of a request, as flags.

    The flags, their types and their help come from the settings and from the request. Both are
    looked up when the command runs, so that `i2ii --help` does not import them.
    """

    def __init__(
        self,
        *args: Any,
        settings: Callable[[], list[str]],
        takes_request: bool = False,
        **rest: Any,
    ) -> None:
        super().__init__(*args, **rest)
        self._settings = settings
        self._takes_request = takes_request

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, those of the request, the settings, and --help."""
        *own, show_help = super().get_params(ctx)
        request = _request_options() if self._takes_request else ()
        return [*own, *request, *map(_setting_option, self._settings()), show_help]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the settings under the heading of their group."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            described = parameter.get_help_record(ctx)
            if described is not None and isinstance(parameter, click.Option):
                heading = parameter.heading if isinstance(parameter, HeadedOption) else "Options"
                sections.setdefault(heading, []).append(described)
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)


def _setting_option(name: str) -> HeadedOption:
    from i2ii_spool.settings import Settings, about, meaning, variable

    field = Settings.model_fields[name]
    default = "not set" if field.default is None else f"default {field.default}"
    text = f"{meaning(name)}  [{variable(name)}; {default}]"
    return _option(name, field.annotation, text, heading=about(name).group)


def _request_options() -> Iterator[HeadedOption]:
    from i2ii_spool.jobs.request import EditRequest

    heading = "Request"
    for name, field in EditRequest.model_fields.items():
        if name == "prompt":
            spelt = ["-p", "--prompt"]
            yield HeadedOption(spelt, help=field.description, required=True, heading=heading)
        else:
            default = f"  [default {field.default}]" if field.default not in ("", None) else ""
            yield _option(name, field.annotation, f"{field.description}{default}", heading=heading)


def _option(name: str, kind: Any, text: str, *, heading: str) -> HeadedOption:
    """Return an option of any value: the model that it belongs to validates it, not click.

    `kind` is the type that the help shows.
    """
    flag = name.replace("_", "-")
    is_switch = kind is bool
    spelt = f"--{flag}/--no-{flag}" if is_switch and not flag.startswith("no-") else f"--{flag}"
    return HeadedOption(
        [spelt],
        help=text,
        is_flag=is_switch,
        default=None,
        metavar=None if is_switch else metavar_of(kind),
        heading=heading,
    )


def metavar_of(kind: Any) -> str:
    """Return what the help shows for a value of a type: `INTEGER`, or `png|jpeg|webp`."""
    kinds = [each for each in get_args(kind) or (kind,) if each is not NoneType]
    return "|".join(METAVARS[each.__name__] if isinstance(each, type) else each for each in kinds)


def command(
    *settings: str, processes: Sequence[str] = (), takes_request: bool = False
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function, which gets the settings in force as its first argument.

    The command takes as flags the named `settings`, and those that `processes` read:
    `processes=["worker"]`.
    """

    def names() -> list[str]:
        from i2ii_spool.settings import flags_of

        return list(dict.fromkeys((*flags_of(*processes), *settings)))

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def call(**values: Any) -> None:
            from i2ii_spool.settings import load

            flags = {name: values.pop(name) for name in names()}
            with errors_shown():
                function(load(flags), **values)

        return click.command(cls=Command, settings=names, takes_request=takes_request)(call)

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
        sys.exit(EX_FAILED)
    except Exception as error:
        # `systemctl status` shows this line; the journal has the traceback.
        sd_notify(STATUS=f"{type(error).__name__}: {error}")
        raise


def for_each(ids: Sequence[str], act: Callable[[str], str]) -> None:
    """Act on each job, and print what came of it; the error of one job concerns no other."""
    exit_code = 0
    for id in ids:
        try:
            echo(f"{id} {act(id)}")
        except I2iiError as error:
            _show(error)
            exit_code = error.exit_code
    sys.exit(exit_code)


def check_text(name: str, value: str) -> None:
    """Raise `InvalidRequest` for an argument with bytes that are not text in the locale."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        raise InvalidRequest(
            f"{name} is not {encoding} at character {error.start + 1}; write it in the encoding of "
            "the locale, or set LC_ALL to that of the terminal, for example C.UTF-8",
            field=name,
        ) from None


def restore_umask() -> None:
    """Give the files that follow the rights that the user wants: they are not of the spool."""
    os.umask(click.get_current_context().find_root().obj)


def _show(error: Exception) -> None:
    sd_notify(STATUS=str(error))
    echo(f"i2ii: {error}", err=True)


def open_spool(settings: "Settings") -> "Spool":
    """Return the spool that is set. Raises `SpoolUnusable` if there is none, and `NewerSpool`."""
    from i2ii_spool.spool.layout import Spool

    spool = Spool(settings.spool)
    if not spool.incoming.is_dir():
        raise SpoolUnusable(
            f"there is no spool at {spool.root}: start `i2ii up`, which makes one, "
            "or name another with --spool"
        )
    spool.check_format()
    return spool
