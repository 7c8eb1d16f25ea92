"""The `i2ii` command: `main` lists its commands, and each command is a few lines that call a part.

Parts are imported where they are used, so that `i2ii --help` answers at once.
"""
