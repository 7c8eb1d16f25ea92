"""The `i2ii` command. A command is a few lines that call a part.

Parts are imported where they are used, so that `i2ii --help` answers at once.
"""

from i2ii_spool.cli import jobs, run, setup, watch
from i2ii_spool.cli.main import main
from i2ii_spool.cli.options import errors_shown

__all__ = ["errors_shown", "jobs", "main", "run", "setup", "watch"]
