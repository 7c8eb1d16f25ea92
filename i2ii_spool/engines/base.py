"""The engine protocol: an engine makes new pictures from pictures and an instruction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL.Image import Image

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.offers import Offers
from i2ii_spool.jobs.request import MAX_IMAGES, EditRequest

OnStep = Callable[[int, int], None]
"""`on_step(step, steps)` reports that `step` of `steps` steps are done. It raises an exception to
stop the edit, which the engine must not catch."""


@dataclass(frozen=True)
class EngineInfo:
    """What made a picture, for `result.json`."""

    engine: str
    model: str
    revision: str
    versions: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    """Engine-specific facts about the last edit."""
    max_images: int | None = None
    """The most pictures that the model takes; None before it is loaded."""
    offers: Offers = field(default_factory=Offers)
    """For clients to choose from, once it is loaded."""

    def check_count(self, count: int) -> None:
        """Raise `InvalidRequest` if the model does not take so many pictures."""
        most = self.max_images or MAX_IMAGES
        if not 1 <= count <= most:
            pictures = "one picture" if most == 1 else f"one to {most} pictures"
            raise InvalidRequest(
                f"{self.model} takes {pictures}, got {count}; ask the operator for a model that "
                "takes more, if you need it",
                field="image",
            )


def seed_of(request: EditRequest, index: int) -> int:
    """Return the seed of picture `index` of a request. Seeds have 64 bits, and wrap around."""
    return (request.seed + index) % 2**64


class Engine(Protocol):
    """Makes pictures. Its methods are called one at a time, always from the same thread."""

    info: EngineInfo

    @property
    def compiling(self) -> bool:
        """Whether an edit compiles code just now, which may take minutes without a step. It is
        asked from another thread."""

    def load(self) -> None:
        """Prepare to edit: load the weights onto the device and warm up.

        Called once, before the first edit. It may take minutes.
        """

    def edit(self, images: Sequence[Image], request: EditRequest, on_step: OnStep) -> list[Image]:
        """Return `request.n` new pictures; picture i is made with `seed_of(request, i)`.

        Steps and guidance that the request leaves open are the model's own.

        `images` are upright (EXIF orientation applied), in sRGB, of mode RGB or RGBA. The engine
        must not change them. It calls `on_step` at least once for each picture.

        Raises `InvalidRequest` if this engine does not support the request, `EngineError` if the
        edit fails, `EngineBroken` if every later edit would fail, too. Any other exception fails
        the job with its traceback.
        """

    def close(self) -> None:
        """Release the device."""
