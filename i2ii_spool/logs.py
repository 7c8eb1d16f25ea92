"""One line per event. The journal stamps its lines itself; on a terminal we do."""

import logging
import os
import sys


def set_up(who: str) -> None:
    """Send the logs of this process to standard error, as the process `who`."""
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s.%(msecs)03d "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{stamp}{who:<6} %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
