"""Hand pictures to the processes that decode them (`process`). Any thread may call this."""

import atexit
import errno
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import PIL
from PIL import Image

import i2ii_spool
from i2ii_spool.errors import REGISTER, InvalidRequest, UnsupportedPicture
from i2ii_spool.images.checks import damaged
from i2ii_spool.images.mask import OPAQUE

PROCESSES = 2
"""A decoded picture can take a hundred times the memory of its file."""
DECODING_SECONDS = 60
MAX_ANSWER = 2**14

PROCESS = "i2ii_spool.images.sandbox.process"
PACKAGES = os.pathsep.join(
    dict.fromkeys(str(Path(str(package.__file__)).parents[1]) for package in (i2ii_spool, PIL))
)
# The decoder of a stranger's picture gets no token, and no module of the working directory.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PYTHONHOME")


class Decoded(NamedTuple):
    """What a decoder says of a picture."""

    width: int
    """In pixels, like `height`."""
    height: int
    mode: str = ""
    """RGB or RGBA, of `read`."""
    least_alpha: int = OPAQUE
    """The lowest of all pixels, of `examine`."""


def judge(file: BufferedReader, *, name: str, max_pixels: int, field: str) -> Decoded:
    """Have a whole picture of the format `name` decoded; return its sides as they are stored.

    Raises `UnsupportedPicture`, also if the decoder dies or takes more than it may, and the errors
    of its sides.
    """
    return _decode(file, "judge", name=name, max_pixels=max_pixels, field=field)


def examine(file: BufferedReader, *, name: str, max_pixels: int, field: str) -> Decoded:
    """Return the sides of the picture that is upright, and its least alpha. Raises the errors of
    `judge`."""
    return _decode(file, "examine", name=name, max_pixels=max_pixels, field=field)


def _decode(
    file: BufferedReader, task: str, memory: int | None = None, *, field: str, **request: Any
) -> Decoded:
    """Have a picture decoded. Its pixels go to the file `memory`, if any."""
    request = {"task": task, "field": field, **request}
    position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe:
        with open(writer, "wb"):
            pixels = [] if memory is None else [memory]
            code = _ask(request, [file.fileno(), writer, *pixels])
        os.set_blocking(reader, False)
        answer = pipe.read(MAX_ANSWER) or b""
    os.lseek(file.fileno(), position, os.SEEK_SET)  # the process has moved it
    return _understood(answer, code, field)


def read(file: BufferedReader, *, name: str, max_pixels: int, field: str) -> Image.Image:
    """Return the pixels of a picture. Raises the errors of `judge`."""
    return _pixels(file, "read", max_pixels, name=name, max_pixels=max_pixels, field=field)


def reduce(
    file: BufferedReader, *, name: str, max_pixels: int, field: str, side: int
) -> Image.Image:
    """Return the pixels of a picture, made smaller so that no side has more than `side`. Raises
    `UnsupportedPicture`, or `TooLarge`."""
    request = {"name": name, "max_pixels": max_pixels, "side": side}
    return _pixels(file, "reduce", side * side, field=field, **request)


def _pixels(
    file: BufferedReader, task: str, most: int, *, field: str, **request: Any
) -> Image.Image:
    """Have a picture decoded to at most `most` pixels, and return those."""
    memory = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, len("RGBA") * most)  # takes none before it is written
        # Were it made smaller while it is mapped, this process would get SIGBUS.
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        said = _decode(file, task, memory, field=field, **request)
        size = said.width * said.height
        if said.mode not in ("RGB", "RGBA") or not 0 < size <= most:
            raise damaged(field, "its decoder makes no sense")
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        with (
            mmap.mmap(memory, size * len(said.mode), flags, mmap.PROT_READ) as mapped,
            memoryview(mapped) as data,
        ):
            return Image.frombytes(said.mode, (said.width, said.height), data)
    finally:
        os.close(memory)


def warm_up() -> None:
    """Start a process, which takes a moment, before the first picture comes."""
    with _process():
        pass


def _understood(answer: bytes, code: int, field: str) -> Decoded:
    """Return what a decoder said, or raise it. One that has been taken over says anything."""
    if code == -signal.SIGXCPU:
        raise UnsupportedPicture(f"{field} takes too long to decode: save it again", field=field)
    if code < 0:
        raise damaged(field, f"its decoder died of {signal.Signals(-code).name}")
    try:
        said: dict[str, Any] = json.loads(answer)
        if "message" not in said:
            width, height = int(said["width"]), int(said["height"])
            least_alpha = int(said.get("least_alpha", OPAQUE))
            return Decoded(width, height, str(said.get("mode", "")), least_alpha)
        error = REGISTER.get(str(said["code"]), UnsupportedPicture)
        message = "".join(filter(str.isprintable, str(said["message"])))
    except (ValueError, TypeError, KeyError):
        raise damaged(field, "its decoder gives up") from None
    raise (error if issubclass(error, InvalidRequest) else UnsupportedPicture)(message, field=field)


# --- processes ------------------------------------------------------------------------------------


class Process:
    """A process that waits for pictures, and this end of its socket."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(DECODING_SECONDS)
        kept = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", PROCESS],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={**kept, "PYTHONPATH": PACKAGES},
                    start_new_session=True,
                )
        except OSError as error:  # never to be taken for one of the picture's file
            self._socket.close()
            said = f"no decoder can be started: {error.strerror}"
            raise OSError(errno.EIO, said) from error
        self._is_stopped = False

    @property
    def is_alive(self) -> bool:
        """Whether it can take a picture."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Return the exit code of the child that does the request, negative for a signal.

        Raises `ConnectionError` if this process itself has died, and was not stopped.
        """
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            code = self._socket.recv(MAX_ANSWER)
        except ConnectionError:
            code = b""
        except TimeoutError:
            self.kill()
            return -signal.SIGXCPU
        if not code and self._is_stopped:
            self.kill()
            return -signal.SIGKILL
        if not code:
            raise ConnectionResetError
        return int(code)

    def stop(self) -> None:
        """End it and its child, while another thread asks it."""
        self._is_stopped = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End it and its child."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Let it end."""
        self._socket.close()
        self._process.wait()


_permits = threading.Semaphore(PROCESSES)
_idle: list[Process] = []
_busy: set[Process] = set()


@contextmanager
def _process() -> Iterator[Process]:
    """Yield a process that no other thread uses."""
    with _permits:
        process = _idle.pop() if _idle else Process()
        if not process.is_alive:
            process.close()
            process = Process()
        _busy.add(process)
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        finally:
            _busy.remove(process)
        if process.is_alive:
            _idle.append(process)


def _ask(request: dict[str, Any], descriptors: list[int]) -> int:
    """Like `Process.ask`. Another process is asked if one was killed while it was idle."""
    for _ in range(2):
        with suppress(ConnectionError), _process() as process:
            return process.ask(request, descriptors)
    return -signal.SIGKILL


def stop_busy() -> None:
    """End the processes that decode now: no thread waits for their answers."""
    for process in _busy.copy():
        process.stop()


@atexit.register
def close() -> None:
    """Let the processes end."""
    while _idle:
        _idle.pop().close()
