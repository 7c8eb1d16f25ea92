"""The finding of a check."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but perhaps not as expected."""
    ERROR = "error"
    """It does not work."""


@dataclass(frozen=True)
class Finding:
    """What a check found, and what cures it."""

    check: str
    verdict: Verdict
    message: str
    cure: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        shown = {"check": self.check, "verdict": str(self.verdict), "message": self.message}
        return shown if self.cure is None else {**shown, "cure": self.cure}


def ok(check: str, message: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Verdict.OK, message)


def warning(check: str, message: str, cure: str) -> Finding:
    """Return a finding of something that may go wrong."""
    return Finding(check, Verdict.WARNING, message, cure)


def error(check: str, message: str, cure: str) -> Finding:
    """Return a finding of something that is wrong."""
    return Finding(check, Verdict.ERROR, message, cure)
