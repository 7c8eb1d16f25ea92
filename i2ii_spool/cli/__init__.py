"""The `i2ii` command. A command is a few lines that call a part.

Parts are imported where they are used, so that `i2ii --help` answers at once.
"""

from i2ii_spool.cli import admin, daemons, jobs, service
from i2ii_spool.cli.base import errors_shown, main

__all__ = ["admin", "daemons", "errors_shown", "jobs", "main", "service"]
