"""`i2ii up`: the server and its workers as children of one process, for a laptop, a demo, or a
container.

On a server that stays, systemd does this better: one unit per GPU. Here, too, the parts know
nothing of one another; a child that dies is started again, ever more slowly while it keeps dying.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from functools import partial

from i2ii_spool import __version__
from i2ii_spool.host import gpus
from i2ii_spool.host.logging import configure_logging
from i2ii_spool.settings import Settings

log = logging.getLogger(__name__)

EX_CONFIG = 78
MIN_RESTART_SECONDS, MAX_RESTART_SECONDS = 1.0, 30.0
KILL_AFTER_SECONDS = 10.0
PR_SET_PDEATHSIG = 1


class Supervisor:
    """Keeps the children running until a signal comes, or until one of them says that its settings
    are wrong."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        spool = {"I2II_SPOOL": str(settings.spool.absolute())}
        self._environment = {**os.environ, **settings.to_environment(), **spool}
        self._children: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        found = gpus.list_ids()
        self._log_banner(found)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_running("serve"))
            for index in found or ["0"]:
                group.create_task(self._keep_running("gpu", index))
        return self._exit_code

    def _log_banner(self, found: list[str]) -> None:
        settings = self._settings
        url = f"http://{settings.host}:{settings.port}"
        log.info("i2ii %s: API %s, spool %s", __version__, url, settings.spool.absolute())
        log.info("workers: %s", f"one per GPU, {len(found)}" if found else "one, without a GPU")
        log.info(
            'try: curl -F image=@photo.jpg -F prompt="turn this into a watercolour" %s/edit', url
        )

    def _stop(self) -> None:
        if not self._stopping.is_set():
            log.info(
                "stopping: a running job has %.0f s to finish; Ctrl-C again gives it back",
                self._settings.drain_seconds,
            )
            asyncio.get_running_loop().call_later(
                self._settings.drain_seconds + KILL_AFTER_SECONDS, self._kill
            )
        self._stopping.set()
        for child in self._children:
            child.terminate()

    async def _keep_running(self, *command: str) -> None:
        pause = MIN_RESTART_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once(*command)
            if self._stopping.is_set():
                return
            if code == EX_CONFIG:  # it has said what is wrong; starting it again would not cure it
                self._exit_code = code
                self._stop()
                return
            if time.monotonic() - started > MAX_RESTART_SECONDS:
                pause = MIN_RESTART_SECONDS
            log.warning(
                "%s ended with code %d; starting it again in %.0f s", " ".join(command), code, pause
            )
            await self._sleep(pause)
            pause = min(2 * pause, MAX_RESTART_SECONDS)

    async def _run_once(self, *command: str) -> int:
        # A session of its own: Ctrl-C reaches us alone, and we stop the children in order.
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "i2ii_spool", *command,
            env=self._environment, start_new_session=True, preexec_fn=partial(_die_with, os.getpid()),
        )  # fmt: skip
        self._children.add(child)
        if self._stopping.is_set():  # the stop came while it was being started
            child.terminate()
        try:
            return await child.wait()
        finally:
            self._children.discard(child)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _kill(self) -> None:
        for child in self._children:
            log.error(
                "process %d does not stop; killing it: its job goes back to the queue", child.pid
            )
            child.kill()


def _die_with(parent: int) -> None:
    """Let the kernel stop this child when `i2ii up` is killed: nothing of it stays behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has been killed already
        os._exit(1)


def run(settings: Settings) -> int:
    """Run the service until it is stopped; return the exit code."""
    configure_logging("up")
    return asyncio.run(Supervisor(settings).run())
