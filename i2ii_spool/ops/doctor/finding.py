"""What a check finds."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and may not do what is expected of it."""
    ERROR = "error"
    """It does not work."""


@dataclass(frozen=True)
class Finding:
    """What was found, and what cures it."""

    check: str
    verdict: Verdict
    message: str
    cure: str | None = None

    def to_dict(self) -> dict[str, str]:
        """As a JSON object."""
        shown = {"check": self.check, "verdict": str(self.verdict), "message": self.message}
        return shown if self.cure is None else {**shown, "cure": self.cure}


def ok(check: str, message: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, Verdict.OK, message)


def warning(check: str, message: str, cure: str) -> Finding:
    """Something may go wrong."""
    return Finding(check, Verdict.WARNING, message, cure)


def error(check: str, message: str, cure: str) -> Finding:
    """Something is wrong."""
    return Finding(check, Verdict.ERROR, message, cure)
