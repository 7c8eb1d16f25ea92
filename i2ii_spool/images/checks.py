"""What a picture may be, and the errors for one that may not. They say `field`, limit and cure."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import UnidentifiedImageError

from i2ii_spool.errors import I2iiError, InvalidRequest, TooLarge, UnsupportedPicture
from i2ii_spool.images.excerpt import NotRead
from i2ii_spool.images.formats import with_article

# Diffusion models cut a picture into patches. Beyond this aspect ratio one side would have none.
MAX_ASPECT = 16
MIN_SIDE = 8


def check_sides(width: int, height: int, max_pixels: int, field: str) -> None:
    """Raise `TooLarge` for too many pixels, `InvalidRequest` for sides that no engine can use."""
    check_pixels(width, height, max_pixels, field)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidRequest(
            f"{field} is {width}x{height} pixels; both sides must be at least {MIN_SIDE}, "
            f"and the longer at most {MAX_ASPECT} times the shorter",
            field=field,
        )


def check_pixels(width: int, height: int, max_pixels: int, field: str) -> None:
    """Raise `TooLarge` for too many pixels."""
    if width * height > max_pixels:
        raise TooLarge(
            f"{field} has {width}x{height} pixels, {width * height / 1e6:.0f} million; "
            f"at most {max_pixels / 1e6:.0f} million are allowed: make it smaller",
            field=field,
        )


@contextmanager
def decoder_errors(name: str, field: str) -> Iterator[None]:
    """Raise `UnsupportedPicture` for every error of a decoder; let errors of the disk through.

    Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
    """
    try:
        yield
    except (I2iiError, MemoryError):
        raise
    except NotRead as error:
        what = f"{field} is {with_article(name)} with {error}"
        raise UnsupportedPicture(what, field=field) from None
    except UnidentifiedImageError:
        raise UnsupportedPicture(
            f"{field} begins like {with_article(name)}, but is damaged, or of a kind that is not "
            "read here; send PNG, JPEG or WEBP",
            field=field,
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the disk: the OSError of a decoder has no number
        raise damaged(field, error) from error


def damaged(field: str, reason: object) -> UnsupportedPicture:
    """Return the refusal of a picture that its decoder gives up."""
    return UnsupportedPicture(f"{field} is truncated or damaged: {reason}", field=field)
