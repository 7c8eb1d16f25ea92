"""`python -m i2ii_spool` is the `i2ii` command."""

from i2ii_spool.cli.main import main

main()
