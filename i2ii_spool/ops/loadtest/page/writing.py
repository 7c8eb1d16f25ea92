"""Write the page, whole or not at all."""

import os
import secrets
from pathlib import Path

from i2ii_spool.errors import InvalidRequest


def check_path(path: Path) -> None:
    """Raise `InvalidRequest` if the page could not be written there: asked before the load."""
    cure = "name another with --report"
    folder = path.parent
    if not folder.is_dir():
        raise InvalidRequest(f"report: there is no folder {folder}; create it first")
    if path.exists() and not path.is_file():
        raise InvalidRequest(f"report: {path} is not a file; {cure}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidRequest(f"report: {folder.absolute()} cannot be written; {cure}")


def write(path: Path, html: str) -> None:
    """Write the page; a reader sees the old file or all of the new one."""
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temp.open("xb") as file:
            file.write(html.encode())
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
