"""`i2ii up`: the server and its workers as children of one process.

It is for a laptop, a demo or a container. On a server that stays, systemd does this better, with
one unit per GPU. As there, server and workers are independent processes: a child that dies is
started again, after a pause that grows while it keeps dying.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time

from i2ii_spool import __version__
from i2ii_spool.errors import EX_CONFIG, EX_FAILED, EX_USAGE
from i2ii_spool.host import gpus
from i2ii_spool.host.logging import configure_logging
from i2ii_spool.settings import Settings

log = logging.getLogger(__name__)

MIN_RESTART_SECONDS, MAX_RESTART_SECONDS = 1.0, 30.0
KILL_AFTER_SECONDS = 10.0
PR_SET_PDEATHSIG = 1  # prctl(2)
PERMANENT = (EX_USAGE, EX_CONFIG)
"""Exit codes of a child that has logged what is wrong: a restart does not cure it."""
SERVER = ("serve",)


class Supervisor:
    """Keeps the children running until a signal comes, or until none of them can work.

    The server and at least one worker must be able to start. A worker that cannot is left out.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        spool = {"I2II_SPOOL": str(settings.spool.absolute())}
        self._environment = {**os.environ, **settings.to_environment(), **spool}
        self._children: set[asyncio.subprocess.Process] = set()
        self._workers: set[str] = set()
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Run the children until they are stopped; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        settings = self._settings
        found = gpus.list_ids(optional=settings.engine == "classic")
        url = f"http://{settings.host}:{settings.port}"
        log.info("i2ii %s: API %s, spool %s", __version__, url, settings.spool.absolute())
        log.info("workers: %s", f"one per GPU, {len(found)}" if found else "one, without a GPU")
        log.info(
            'try: curl -F image=@photo.jpg -F prompt="turn this into a watercolour" %s/edit', url
        )
        if not found and settings.engine == "classic":  # not even for a GPU that does not answer
            self._environment[gpus.CUDA_VISIBLE_DEVICES] = ""
        self._workers = set(found or ["0"])
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_running(*SERVER))
            for id in found or ["0"]:
                group.create_task(self._keep_running("gpu", id))
        return self._exit_code

    def _stop(self) -> None:
        """Ask every child to stop; kill those that still run when the drain time is over."""
        if not self._stopping.is_set():
            drain = self._settings.drain_seconds
            log.info(
                "stopping: a running job has %.0f s to finish; Ctrl-C again requeues it",
                drain,
            )
            asyncio.get_running_loop().call_later(drain + KILL_AFTER_SECONDS, self._kill)
        self._stopping.set()
        for child in self._children:
            child.terminate()

    def _kill(self) -> None:
        for child in self._children:
            log.error("process %d does not stop; killing it: its job is requeued", child.pid)
            child.kill()

    async def _keep_running(self, *command: str) -> None:
        pause = MIN_RESTART_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._try_child(*command)
            if self._stopping.is_set():
                return
            if code in PERMANENT:
                self._give_up(command, code)
                return
            if time.monotonic() - started > MAX_RESTART_SECONDS:
                pause = MIN_RESTART_SECONDS
            log.warning(
                "%s ended with code %d; starting it again in %.0f s", " ".join(command), code, pause
            )
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                pause = min(2 * pause, MAX_RESTART_SECONDS)

    def _give_up(self, command: tuple[str, ...], code: int) -> None:
        """Go on without this worker. Without the server, or without any worker, stop."""
        self._workers.difference_update(command[1:])
        if command != SERVER and self._workers:
            log.error(
                "%s cannot start (exit code %d, see above) and is left out; the others go on",
                " ".join(command),
                code,
            )
            return
        self._exit_code = code
        self._stop()

    async def _try_child(self, *command: str) -> int:
        """Like `_run_child`. A child that cannot be started, for want of memory, has failed."""
        try:
            return await self._run_child(*command)
        except OSError as error:
            log.error("%s cannot be started: %s", " ".join(command), error)
            return EX_FAILED

    async def _run_child(self, *command: str) -> int:
        """Run a child to its end; return its exit code."""
        parent = os.getpid()

        def end_with_parent() -> None:
            # The kernel stops the child if `i2ii up` is killed, so that no process is left behind.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent was killed before the prctl
                os._exit(1)

        # In its own session, a child gets no SIGINT from Ctrl-C: `i2ii up` stops it in order.
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "i2ii_spool", *command),
            env=self._environment,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        self._children.add(child)
        if self._stopping.is_set():  # the signal came while the child was being started
            child.terminate()
        try:
            return await child.wait()
        finally:
            self._children.discard(child)


def run(settings: Settings) -> int:
    """Run the service until it is stopped; return the exit code."""
    configure_logging("up")
    return asyncio.run(Supervisor(settings).run())
