"""The commands that prepare the service: the model, the tokens, the units."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from i2ii_spool.cli.options import errors_shown, restore_umask
from i2ii_spool.cli.terminal import echo
from i2ii_spool.errors import DownloadFailed, InvalidRequest

if TYPE_CHECKING:
    from i2ii_spool.engines.diffusers.presets import Version


# --- the model ------------------------------------------------------------------------------------


@click.group()
def model() -> None:
    """Fetch a model for the qwen engine, or make a tiny one."""


@model.command()
@click.argument("name", required=False)
def fetch(name: str | None) -> None:
    """Fetch the weights of the model NAME, and the LoRA of the preset `fast`.

    An interrupted download continues where it stopped. The weights come from ModelScope into
    MODELSCOPE_CACHE; with I2II_MODEL_SOURCE=huggingface, from Hugging Face into HF_HOME. Without
    NAME, the command fetches the model of I2II_MODEL.
    """
    from i2ii_spool.engines.diffusers import loading, presets
    from i2ii_spool.settings import load

    restore_umask()
    with errors_shown():
        settings = load()
        folder = loading.fetch(name or settings.model, settings.model_source)
        echo(folder)
        try:
            lightning = loading.fetch_lightning(presets.version_of(folder), settings.model_source)
        except DownloadFailed as error:
            echo(f"i2ii: the model is complete, but without the preset fast: {error}", err=True)
        else:
            if lightning is not None:
                echo(lightning)


@model.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--like",
    type=click.Choice(["1", "2509", "2511", "2.1"]),
    default="2511",
    show_default=True,
    help="architecture: a version of Qwen-Image-Edit (1 takes one picture), or 2.1 for "
    "Qwen-Image-2.1",
)
def tiny(folder: Path, *, like: "Version") -> None:
    """Make a complete model of random weights in FOLDER, a few megabytes large.

    With it, the whole service runs on a CPU within seconds; the results are noise.
    """
    from i2ii_spool.engines.diffusers import loading

    restore_umask()
    with errors_shown():
        loading.check_packages(*loading.PACKAGES)
        if folder.exists() and any(folder.iterdir()):
            raise InvalidRequest(f"{folder} is not empty; name a new folder", field="folder")
        from i2ii_spool.engines.diffusers.testing.tiny_edit import write

        write(folder, like)
    echo(f"{folder}: random weights; try them with --engine qwen --model {folder} --max-side 128")


# --- tokens ---------------------------------------------------------------------------------------


@click.group()
def token() -> None:
    """Add, revoke and list the tokens of the HTTP API."""


def token_command(function: Callable[..., None]) -> click.Command:
    """Add a command to `i2ii token`; its function gets the tokens file as its first argument."""
    option = click.option(
        "--tokens-file",
        type=click.Path(path_type=Path),
        help="path of the tokens file  [I2II_TOKENS_FILE]",
    )

    @functools.wraps(function)
    def call(tokens_file: Path | None, **values: Any) -> None:
        from i2ii_spool.settings import load

        with errors_shown():
            file = tokens_file or load().tokens_file
            if file is None:
                raise InvalidRequest(
                    "no tokens file is set: use --tokens-file FILE, or set I2II_TOKENS_FILE",
                    field="tokens_file",
                )
            function(file, **values)

    return token.command()(option(call))


@token_command
@click.argument("name")
@click.option("--operator", is_flag=True, help="an operator may see and change every job")
def add(file: Path, name: str, *, operator: bool) -> None:
    """Add a token called NAME and print it. The file keeps only its hash."""
    from i2ii_spool.server.auth import tokens

    echo(tokens.add(file, name, is_operator=operator))


@token_command
@click.argument("name")
def revoke(file: Path, name: str) -> None:
    """Revoke the token NAME (takes effect within 2 s)."""
    from i2ii_spool.server.auth import tokens

    tokens.revoke(file, name)
    echo(f"{name} revoked")


@token_command
def names(file: Path) -> None:
    """Print the names of the tokens."""
    from i2ii_spool.server.auth import tokens

    valid, faults = tokens.parse(file)
    for token in valid:
        echo(f"{token.name}{'  operator' if token.is_operator else ''}")
    for fault in faults:
        echo(f"i2ii: {fault}", err=True)


# --- units ----------------------------------------------------------------------------------------


@click.group()
def units() -> None:
    """Install or remove the systemd units."""


TARGET_OPTIONS = (
    click.option(
        "--prefix",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        default="/",
        show_default=True,
        help="root of the system to install into, for example of an image that is being built",
    ),
    click.option(
        "--user-mode",
        is_flag=True,
        help="install for your own systemd (systemctl --user), without the sandbox",
    ),
    click.option("--dry-run", is_flag=True, help="print what would be done, and do nothing"),
)


def _with_target(function: Callable[..., None]) -> Callable[..., None]:
    return functools.reduce(
        lambda decorated, option: option(decorated), reversed(TARGET_OPTIONS), function
    )


@units.command()
@_with_target
def install(prefix: Path, *, user_mode: bool, dry_run: bool) -> None:
    """Write the units and enable them for the GPUs found. Run it again after an upgrade.

    If there is no /etc/i2ii/i2ii.env, it is written too, with every setting and its meaning.
    """
    from i2ii_spool.ops.installer import InstallTarget, install

    with errors_shown():
        target = InstallTarget.at(prefix, user_mode=user_mode)
        instances = install(target, dry_run=dry_run)
    if not dry_run and target.is_this_system:
        start = " ".join(target.systemctl("start", "i2ii.target"))
        enabled = ", ".join(f"i2ii-gpu@{instance}" for instance in instances)
        echo(f"\nenabled {enabled}; next: i2ii model fetch, i2ii doctor, and {start}")


@units.command("remove")
@_with_target
def remove_units(prefix: Path, *, user_mode: bool, dry_run: bool) -> None:
    """Drain and stop the service, and remove the units. Settings and jobs stay."""
    from i2ii_spool.ops.installer import InstallTarget, remove

    with errors_shown():
        remove(InstallTarget.at(prefix, user_mode=user_mode), dry_run=dry_run)
