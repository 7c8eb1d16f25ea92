"""What the lanes share; each module says in its first lines what is called from it.

service           processes of the service, and the `i2ii` command
http              requests to a server, and the one shape of an error
pictures          pictures to send
"""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
FAKE_DRIVER = TESTS / "support/fake_driver"
"""The folder of a `pynvml` for `PYTHONPATH`; `FAKE_GPUS` describes its cards."""
STUB_ENGINES = str(TESTS / "support/stub_engines.py")
"""The script of a worker: `python STUB_ENGINES ENGINE UNIT [--burst]`."""
