"""`i2ii`: the list of all commands, in the order and under the headings of `i2ii --help`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from i2ii_spool import __version__
from i2ii_spool.cli import jobs, run, setup, terminal, watch
from i2ii_spool.errors import EX_USAGE

COMMANDS: dict[str, Sequence[click.Command]] = {
    "Run": (run.up, run.serve, run.gpu, run.webhooks),
    "Jobs": (jobs.submit, jobs.ls, jobs.show, jobs.cancel, jobs.retry, jobs.rm, jobs.gc),
    "Watch": (watch.top, watch.bench, watch.doctor, watch.settings),
    "Set up": (setup.model, setup.token, setup.units),
}


class GroupedCommands(click.Group):
    """A group that lists its commands under headings, in the order given."""

    def __init__(self, *args: Any, by_heading: Mapping[str, Sequence[click.Command]], **rest: Any):
        super().__init__(*args, **rest)
        self.by_heading = by_heading
        for commands in by_heading.values():
            for command in commands:
                self.add_command(command)

    def main(self, *args: Any, **rest: Any) -> Any:
        """Run a command at a terminal of any encoding."""
        terminal.prepare()
        click.UsageError.exit_code = EX_USAGE  # click's own is 2
        return super().main(*args, **rest)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each heading with its commands, all in the same columns."""
        width = max(map(len, self.commands))
        for heading, commands in self.by_heading.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (str(command.name).ljust(width), command.get_short_help_str(limit=80))
                        for command in commands
                    ]
                )


@click.group(
    cls=GroupedCommands,
    by_heading=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="i2ii")
@click.pass_context
def main(context: click.Context) -> None:
    """Edit pictures with Qwen-Image-Edit on several GPUs; the queue is a directory tree."""
    context.obj = os.umask(0o007)  # a spool is for its owner and its group
