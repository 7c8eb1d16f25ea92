"""i2ii: a multi-GPU image-editing service whose queue is a directory tree.

    from i2ii_spool import Client, EditRequest

The public names are `Client`, `AsyncClient`, `SpoolClient`, `EditRequest` and the module `errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2ii_spool import errors
    from i2ii_spool.client import AsyncClient, Client, SpoolClient
    from i2ii_spool.jobs.request import EditRequest

__all__ = ["AsyncClient", "Client", "EditRequest", "SpoolClient", "errors"]
__version__ = "0.1.0"

MODULES = {
    "AsyncClient": "i2ii_spool.client",
    "Client": "i2ii_spool.client",
    "EditRequest": "i2ii_spool.jobs.request",
    "SpoolClient": "i2ii_spool.client",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a command needs few of them, and starts fast."""
    if name == "errors":
        return import_module("i2ii_spool.errors")
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
