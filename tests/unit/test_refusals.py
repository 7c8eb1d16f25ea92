"""Refused tokens of many addresses take no more memory than those of some."""

from i2ii_spool.errors import Unauthorized
from i2ii_spool.server.auth import refusals
from i2ii_spool.server.auth.refusals import Refusals


def test_addresses_that_are_counted_are_bounded() -> None:
    counted = Refusals()
    for number in range(2 * refusals.MAX_ADDRESSES + 1):
        for _ in range(2):
            counted.add(f"2001:db8::{number:x}", "/jobs", Unauthorized("wrong"), has_token=True)
        assert len(counted._minutes) <= refusals.MAX_ADDRESSES
