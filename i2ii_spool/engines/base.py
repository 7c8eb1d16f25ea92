"""What an engine is: it turns pictures and an instruction into pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL.Image import Image

from i2ii_spool.jobs.request import EditRequest

OnStep = Callable[[int, int], None]
"""`on_step(step, steps)`: `step` of `steps` steps are finished. It raises to stop the edit: let it
through."""


@dataclass(frozen=True)
class EngineInfo:
    """What made a picture, for the record in `result.json`."""

    engine: str
    model: str
    revision: str
    versions: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the engine has to say of its last edit."""


class Engine(Protocol):
    """Turns pictures and an instruction into pictures; one call at a time, always from the same
    thread."""

    info: EngineInfo

    def load(self) -> None:
        """Get ready to edit: weights on the device, warmed up. May take minutes; called once,
        before any edit."""

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        """Return `request.n` new pictures; picture i is made with seed `request.seed + i`.

        `images` are upright (EXIF orientation applied), sRGB, mode RGB or RGBA; they are not
        changed. `on_step` is called at least once for each picture, and raises to stop.

        Raises `InvalidRequest` for a request that this engine cannot do, `EngineError` for an edit
        that failed, `EngineBroken` when the next edit would fail as well. Any other exception fails
        the job with its traceback.
        """

    def close(self) -> None:
        """Let go of the device."""
