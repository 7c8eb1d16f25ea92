"""The group of all commands."""

import os

import click

from i2ii_spool import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="i2ii")
def main() -> None:
    """Edit pictures with Qwen-Image-Edit on several GPUs; the queue is a directory tree."""
    os.umask(0o007)  # what is in a spool is for its group, and for nobody else
