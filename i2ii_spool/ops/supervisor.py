"""`i2ii up`: the server, its workers and the deliverer of webhooks as children of one process.

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
import threading
import time
import webbrowser
from contextlib import suppress
from urllib.parse import urlsplit

from i2ii_spool import __version__
from i2ii_spool.errors import EX_CONFIG, EX_FAILED, EX_USAGE, SettingsError
from i2ii_spool.host import gpus
from i2ii_spool.host.logging import configure_logging
from i2ii_spool.settings import Settings

log = logging.getLogger(__name__)

MIN_RESTART_SECONDS, MAX_RESTART_SECONDS = 1.0, 30.0
KILL_AFTER_SECONDS = 10.0
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1  # prctl(2)
PERMANENT = (EX_USAGE, EX_CONFIG)
"""Exit codes of a child that has logged what is wrong: a restart does not cure it."""
SERVER = ("serve",)
WEBHOOKS = ("webhooks",)


class Supervisor:
    """Keeps the children running until a signal comes, or until none of them can work.

    The server and at least one worker must be able to start. A worker that cannot is left out.
    """

    def __init__(self, settings: Settings, *, opens_page: bool = False) -> None:
        self._settings = settings
        self._opens_page = opens_page
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
        url = page_url(settings)
        log.info("the page is %s/", url)
        log.info("i2ii %s: API %s, spool %s", __version__, url, settings.spool.absolute())
        log.info("workers: %s", f"one per GPU, {len(found)}" if found else "one, without a GPU")
        log.info(
            'try: curl -F image=@photo.jpg -F prompt="turn this into a watercolour" %s/edit', url
        )
        if not found and settings.engine == "classic":  # not even for a GPU that does not answer
            self._environment[gpus.CUDA_VISIBLE_DEVICES] = ""
        self._workers = set(found or ["0"])
        async with asyncio.TaskGroup() as group:
            if self._opens_page:
                group.create_task(self._open_page(url))
            group.create_task(self._keep_running(*SERVER))
            if settings.webhook_keys:
                group.create_task(self._keep_running(*WEBHOOKS))
            for id in found or ["0"]:
                group.create_task(self._keep_running("gpu", id))
        return self._exit_code

    async def _open_page(self, url: str) -> None:
        """Open the page in a browser once the server listens."""
        address = urlsplit(url)
        while not self._stopping.is_set():
            try:
                _, writer = await asyncio.open_connection(address.hostname, address.port)
            except OSError:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), POLL_SECONDS)
                continue
            writer.close()
            # A browser of the terminal runs as long as the page is shown: no one waits for it.
            threading.Thread(target=open_browser, args=(f"{url}/",), daemon=True).start()
            return

    def _stop(self) -> None:
        """Ask every child to stop; kill those that still run when the drain time is over."""
        if not self._stopping.is_set():
            log.info(
                "stopping: a running job has %.0f s to finish; Ctrl-C again requeues it",
                self._settings.drain_seconds,
            )
            deadline = self._settings.stop_seconds + KILL_AFTER_SECONDS
            asyncio.get_running_loop().call_later(deadline, self._kill)
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
            # -P: a module of the working directory must not stand in for one of Python's.
            *(sys.executable, "-P", "-m", "i2ii_spool", *command),
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


def page_url(settings: Settings) -> str:
    """Return the URL by which this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def open_browser(url: str) -> None:
    """Open a page in the user's browser."""
    if not webbrowser.open(url):
        log.warning("no browser can be started; open %s in one", url)


def run(settings: Settings, *, opens_page: bool = False) -> int:
    """Run the service until it is stopped; return the exit code.

    With `opens_page`, open the page in a browser. Raises `SettingsError` if its port is not known.
    """
    if opens_page and not settings.port:
        raise SettingsError("--open needs a port; give one with --port", field="port")
    configure_logging("up", settings.log_format)
    return asyncio.run(Supervisor(settings, opens_page=opens_page).run())
