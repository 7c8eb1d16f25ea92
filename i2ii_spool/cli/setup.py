"""What is made before the service runs: the model, the tokens, the units."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from i2ii_spool.cli.main import main
from i2ii_spool.cli.options import errors_shown
from i2ii_spool.errors import EngineError, InvalidRequest

if TYPE_CHECKING:
    from i2ii_spool.engines.diffusers.presets import Version


@main.group()
def model() -> None:
    """Fetch a model for the qwen engine, or make a tiny one."""


@model.command()
@click.argument("name", required=False)
def fetch(name: str | None) -> None:
    """Fetch the weights of NAME and the LoRA of the preset `fast`, going on where an earlier call
    stopped.

    They come from ModelScope into MODELSCOPE_CACHE, or with I2II_MODEL_SOURCE=huggingface from
    there into HF_HOME. NAME is the model that is set, if it is left out.
    """
    from i2ii_spool.engines.diffusers import loading, presets
    from i2ii_spool.settings import load

    with errors_shown():
        settings = load()
        folder = loading.fetch(name or settings.model, settings.model_source)
        click.echo(folder)
        try:
            lightning = loading.fetch_lightning(presets.version_of(folder), settings.model_source)
        except EngineError as error:
            click.echo(
                f"i2ii: the model is complete, and without the preset fast: {error}", err=True
            )
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
    from i2ii_spool.engines.diffusers import loading

    with errors_shown():
        loading.check_packages(*loading.PACKAGES)
        from i2ii_spool.engines.diffusers.testing.tiny_edit import write

        write(folder, like)
    click.echo(
        f"{folder}: random weights; try them with --engine qwen --model {folder} --max-side 128"
    )


@main.group()
def token() -> None:
    """Make tokens for HTTP, and take them away."""


def token_command(function: Callable[..., None]) -> click.Command:
    """Add a command that works on the file of tokens; its function gets that."""
    option = click.option(
        "--tokens-file", type=click.Path(path_type=Path), help="the file  [I2II_TOKENS_FILE]"
    )

    @functools.wraps(function)
    def call(tokens_file: Path | None, **values: Any) -> None:
        from i2ii_spool.settings import load

        with errors_shown():
            file = tokens_file or load().tokens_file
            if file is None:
                raise InvalidRequest(
                    "which file? Set I2II_TOKENS_FILE, or say --tokens-file FILE",
                    field="tokens_file",
                )
            function(file, **values)

    return token.command()(option(call))


@token_command
@click.argument("name")
@click.option("--operator", is_flag=True, help="it may see and do everything, whoever submitted it")
def add(file: Path, name: str, *, operator: bool) -> None:
    """Make a token called NAME, and print it: this once, it is kept nowhere."""
    from i2ii_spool.server.auth import tokens

    click.echo(tokens.add(file, name, is_operator=operator))


@token_command
@click.argument("name")
def revoke(file: Path, name: str) -> None:
    """Take the token called NAME away; a running server knows within two seconds."""
    from i2ii_spool.server.auth import tokens

    tokens.revoke(file, name)
    click.echo(f"{name} revoked")


@token_command
def names(file: Path) -> None:
    """Print the names of the tokens."""
    from i2ii_spool.server.auth import tokens

    for token in tokens.read(file):
        click.echo(f"{token.name}{'  operator' if token.is_operator else ''}")


@main.group()
def units() -> None:
    """Install or remove the systemd units."""


TARGET_OPTIONS = (
    click.option(
        "--prefix",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        default="/",
        show_default=True,
        help="the root of the system that they are for, like that of an image being built",
    ),
    click.option(
        "--user-mode",
        is_flag=True,
        help="for your own systemd (systemctl --user), without the sandbox",
    ),
    click.option("--dry-run", is_flag=True, help="only say what would be done"),
)


def _with_target(function: Callable[..., None]) -> Callable[..., None]:
    return functools.reduce(
        lambda decorated, option: option(decorated), reversed(TARGET_OPTIONS), function
    )


@units.command()
@_with_target
def install(prefix: Path, *, user_mode: bool, dry_run: bool) -> None:
    """Write the units and enable them for the GPUs found; after an upgrade, write them again.

    The settings are written to /etc/i2ii/i2ii.env, each with its meaning, if there is no such file.
    """
    from i2ii_spool.ops import installer

    with errors_shown():
        target = installer.target_for(prefix, user_mode=user_mode)
        instances = installer.install(target, dry_run=dry_run)
    if not dry_run and target.is_this_system:
        start = " ".join(target.systemctl("start", "i2ii.target"))
        enabled = ", ".join(f"i2ii-gpu@{instance}" for instance in instances)
        click.echo(f"\nenabled {enabled}; next: i2ii model fetch, i2ii doctor, and {start}")


@units.command("remove")
@_with_target
def remove_units(prefix: Path, *, user_mode: bool, dry_run: bool) -> None:
    """Drain and stop what runs, and remove the units; settings and jobs stay."""
    from i2ii_spool.ops import installer

    with errors_shown():
        installer.remove(installer.target_for(prefix, user_mode=user_mode), dry_run=dry_run)
