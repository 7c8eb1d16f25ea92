"""Turns at the decoders: pictures that only a decoder can judge wait here, and not in threads.

The next turn is that of the client that has used the decoders least of late: the slowest pictures
of one client delay those of another by one picture.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from aiohttp import web

from i2ii_spool.errors import TooManyRequests
from i2ii_spool.images.sandbox.pool import PROCESSES, stop_busy

MAX_WAIT_SECONDS = 60.0
"""Few clients and proxies wait longer for an answer."""
HALF_LIFE_SECONDS = 60.0
"""The seconds that a client has used count half after this time."""
FORGOTTEN_SECONDS = 0.01


@dataclass
class Share:
    """The pictures of a client that wait, and the seconds that it has used as of `at`."""

    used: float = 0.0
    at: float = 0.0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def used_by(self, now: float) -> float:
        """Return the seconds that count now."""
        decayed: float = self.used * 0.5 ** ((now - self.at) / HALF_LIFE_SECONDS)
        return decayed


class DecoderTurns:
    """Runs functions that decode, as many at a time as there are decoders."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(PROCESSES, thread_name_prefix="decode")
        self._free = PROCESSES
        self._shares: dict[str, Share] = {}

    async def run(self, client: str, decode: Callable[[], None]) -> None:
        """Run `decode` in a thread when it is the client's turn. Raises `TooManyRequests`, and what
        `decode` raises."""
        await self._turn(client)
        started = time.monotonic()
        running = asyncio.get_running_loop().run_in_executor(self._threads, decode)
        # A turn ends with its decoder, also if the client has gone and its handler is cancelled.
        running.add_done_callback(lambda _: self._end_turn(client, time.monotonic() - started))
        await asyncio.shield(running)

    def close(self) -> None:
        """End the decoders at work, whose clients have gone."""
        stop_busy()
        self._threads.shutdown()

    async def _turn(self, client: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        waiting = self._shares.setdefault(client, Share()).waiting
        waiting.append(turn)
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await turn
        except BaseException as error:
            if turn.cancelled():
                waiting.remove(turn)
            else:  # it came at the same moment
                self._give_turn()
            if isinstance(error, TimeoutError):
                raise TooManyRequests(
                    f"image has waited {MAX_WAIT_SECONDS:.0f} s for a decoder; send it again "
                    "later, or as PNG or JPEG, which rarely need one",
                    field="image",
                    retry_after=round(MAX_WAIT_SECONDS),
                ) from None
            raise

    def _end_turn(self, client: str, seconds: float) -> None:
        now = time.monotonic()
        share = self._shares.setdefault(client, Share())
        share.used, share.at = share.used_by(now) + seconds, now
        self._shares = {
            name: share
            for name, share in self._shares.items()
            if share.waiting or share.used_by(now) > FORGOTTEN_SECONDS
        }
        self._give_turn()

    def _give_turn(self) -> None:
        """Give a turn that is free to the client that has used least."""
        now = time.monotonic()
        waiting = [share for share in self._shares.values() if share.waiting]
        for share in sorted(waiting, key=lambda share: share.used_by(now)):
            for turn in share.waiting:
                if not turn.done():
                    share.waiting.remove(turn)
                    turn.set_result(None)
                    return
        self._free += 1


DECODER_TURNS = web.AppKey("decoder_turns", DecoderTurns)
