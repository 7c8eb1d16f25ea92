"""A process that waits for pictures, and forks a child to decode each.

    python -P -m i2ii_spool.images.sandbox.process     with a socket as its standard input

A request is a JSON object, with descriptors: the picture, the pipe for the answer and, to read it,
memory for its pixels. When the child has ended, this process sends its exit code. A child can open
no file: all modules are imported before.
"""

import json
import os
import select
import signal
import socket
from importlib import import_module
from importlib.util import find_spec
from io import BufferedReader, FileIO
from typing import Any

from PIL import AvifImagePlugin, Image

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.images import pixels
from i2ii_spool.images.checks import damaged
from i2ii_spool.images.mask import least_alpha
from i2ii_spool.images.sandbox.limits import restrict

MAX_MESSAGE = 2**16
DESCRIPTORS = 3
LATE = (
    *("PIL.GifImagePlugin", "PIL.TiffImagePlugin", "PIL.WebPImagePlugin", "pillow_heif", "random"),
)
"""Modules that are imported at a picture that needs them."""
THREADED = ("HEIC",)
"""The formats whose decoder cannot do without threads."""


def main() -> None:
    """Serve requests until the other end closes the socket."""
    Image.preinit()
    for module in LATE:
        if find_spec(module):
            import_module(module)
    # A child can start no thread (`limits`).
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    connection = socket.socket(fileno=0)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, DESCRIPTORS)
        if not message:
            return
        child = os.fork()
        if child == 0:
            connection.close()
            work(json.loads(message), *descriptors)
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(wait(child, connection)).encode())


def wait(child: int, connection: socket.socket) -> int:
    """Return the exit code of the child. Raises `SystemExit` if the other end closes the socket."""
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, connection.fileno()], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
        raise SystemExit
    os.close(ended)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def work(request: dict[str, Any], picture: int, answer: int, memory: int | None = None) -> None:
    """Decode the picture within the limits, and write the answer."""
    restrict(request["max_pixels"], may_start_threads=request["name"] in THREADED)
    try:
        file: BufferedReader = BufferedReader(FileIO(picture))
        task = {"judge": judge, "examine": examine, "read": read, "reduce": reduce}[
            request.pop("task")
        ]
        said = task(file, request, memory)
    except InvalidRequest as error:
        said = error.to_dict()
    except MemoryError:
        said = damaged(request["field"], "it takes too much memory to decode").to_dict()
    except Exception as error:
        said = damaged(request["field"], f"{type(error).__name__}: {error}").to_dict()
    os.write(answer, json.dumps(said).encode())


def judge(file: BufferedReader, request: dict[str, Any], _memory: int | None) -> dict[str, Any]:
    """Return the width and the height of a whole picture."""
    width, height = pixels.judge(file, **request)
    return {"width": width, "height": height}


def examine(file: BufferedReader, request: dict[str, Any], _memory: int | None) -> dict[str, Any]:
    """Return the sides of the picture that is upright, and how transparent it is."""
    image = pixels.read(file, **request)
    return {"width": image.width, "height": image.height, "least_alpha": least_alpha(image)}


def read(file: BufferedReader, request: dict[str, Any], memory: int | None) -> dict[str, Any]:
    """Write the pixels, row by row; return their mode, width and height."""
    return _write(pixels.read(file, **request), memory)


def reduce(file: BufferedReader, request: dict[str, Any], memory: int | None) -> dict[str, Any]:
    """Like `read`, of the picture made smaller."""
    return _write(pixels.reduce(file, **request), memory)


def _write(image: Image.Image, memory: int | None) -> dict[str, Any]:
    assert memory is not None
    os.pwrite(memory, image.tobytes(), 0)
    return {"mode": image.mode, "width": image.width, "height": image.height}


if __name__ == "__main__":
    main()
