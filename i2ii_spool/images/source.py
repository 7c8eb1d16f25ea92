"""A file that a walk reads here and there."""

import os

_HEAD_BYTES = 2**16
"""The headers of nearly every picture, and all of a small one: each call that is saved is one wait
less for the lock of Python."""
_WINDOW_BYTES = 2**14


class Source:
    """The bytes of an open file. Small reads close to one another are one read of the file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._start = 0
        self._window = os.pread(descriptor, _HEAD_BYTES, 0)

    def read(self, size: int, at: int) -> bytes:
        """Return up to `size` bytes from byte `at` on; fewer at the end."""
        if size >= _WINDOW_BYTES:
            return os.pread(self._descriptor, size, at)
        end = min(at + size, self.size)
        if not self._start <= at <= end <= self._start + len(self._window):
            self._start = at
            self._window = os.pread(self._descriptor, _WINDOW_BYTES, at)
        return self._window[at - self._start : end - self._start]
