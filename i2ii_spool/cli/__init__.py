"""The `i2ii` command. A command is a few lines that call a part.

Parts are imported where they are used, so that `i2ii --help` answers at once.
"""

from i2ii_spool.cli import jobs
from i2ii_spool.cli import run as daemons
from i2ii_spool.cli import setup as admin
from i2ii_spool.cli import watch as service
from i2ii_spool.cli.main import main
from i2ii_spool.cli.options import errors_shown

__all__ = ["admin", "daemons", "errors_shown", "jobs", "main", "service"]
