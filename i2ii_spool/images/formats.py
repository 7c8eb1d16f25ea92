"""Formats of pictures: known by their first bytes, read or not, and the sides that can be written.

Nothing is decoded here, and no decoder is loaded.
"""

import codecs
import re
import struct
from collections.abc import Iterator
from importlib.util import find_spec

from PIL import features

from i2ii_spool.errors import InvalidRequest, UnsupportedPicture
from i2ii_spool.images.tiff import DNG_VERSION, is_camera_raw

HEAD_BYTES = 1024
"""Of a file, `identify` needs this many bytes, or all there are."""

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "TIFF": "tif"}
"""The formats that are read, and the file extension of each in a job folder."""
if features.check("avif"):
    EXTENSIONS["AVIF"] = "avif"
if find_spec("pillow_heif"):
    EXTENSIONS["HEIC"] = "heic"

MAX_SIDE = {"jpeg": 65_500, "webp": 16_383}
"""The longest side of a result in pixels: that of libjpeg, and of WebP itself. PNG has none."""

_HEIC = rb"(?:hei[cxms]|hev[cxms])"
_AVIF = rb"avi[fs]"
_BRANDS = rb"....ftyp(?:mif1|msf1|miaf)....(?:....){0,16}?"
_TEXT = rb"(?:\xef\xbb\xbf)?\s*"
_SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "camera raw": rb"II\*\0....CR|IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|....ftypcrx ",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "AVIF": rb"....ftyp" + _AVIF + rb"|" + _BRANDS + _AVIF,
    "HEIC": rb"....ftyp" + _HEIC + rb"|" + _BRANDS + _HEIC,
    "HEIF": rb"....ftyp(?:mif1|msf1|miaf)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "JPEG 2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "QuickTime": rb"....ftypqt  |[\0-\x08]...(?:moov|mdat|wide|free|skip|pnot)",
    "MP4": rb"....ftyp",
    "AVI": rb"RIFF....AVI ",
    "WebM": rb"\x1a\x45\xdf\xa3",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "ICO": rb"\0\0[\x01\x02]\0.\0",
    "PSD": rb"8BP[SB]",
    "PDF": rb"\s*%PDF-",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "Netpbm": rb"P[1-7Ff]\s+[#\d]",
    "OpenEXR": rb"v/1\x01",
    "Radiance": rb"#\?RADIANCE|#\?RGBE",
    "QOI": rb"qoif",
    "DICOM": rb".{128}DICM",
    "archive": rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!",
    "AppleDouble": rb"\0\x05\x16[\x00\x07]",
    "base64": rb"data:image/|/9j/|iVBORw0KGgo|UklGR|R0lGOD",
    "SVG": _TEXT + rb"<(?:svg|(?:\?xml|!--|!DOCTYPE svg).*<svg)\b",
    "HTML": _TEXT + rb"(?i:(?:<!--.*-->\s*)?<(?:!doctype html|html|head|body|script|title|h1|p)\b)",
    "JSON": _TEXT + rb"[{\[]\s*[\"{\[\]}0-9]",
}

_NO_PICTURES = {
    "AVI": "an AVI film",
    "AppleDouble": "an AppleDouble file of macOS, which holds no picture",
    "HTML": "HTML text, not a picture (is it an error page?)",
    "JSON": "JSON text, not a picture",
    "MP4": "an MP4 film",
    "PDF": "a PDF document",
    "QuickTime": "a QuickTime film",
    "WebM": "a WebM or Matroska film",
    "archive": "an archive; take the picture out of it",
    "base64": "a picture as base64 text; decode it first",
    "text": "plain text, not a picture",
}
_CURES = {
    "HEIC": "convert it to JPEG, or ask the operator to install i2ii[heic]",
    "DNG": "develop it and send a JPEG",
    "camera raw": "develop it and send a JPEG",
}


def identify(head: bytes) -> str | None:
    """Return the format that the first `HEAD_BYTES` of a file show; None if it is not known.

    It is a name of `EXTENSIONS` if the format is read; other names are for messages.
    """
    names = (name for name, pattern in _SIGNATURES.items() if re.match(pattern, head, re.DOTALL))
    name = next(names, None)
    if name == "TIFF":
        return _tiff_kind(head)
    return "text" if name is None and _is_text(head) else name


def is_read(name: str | None) -> bool:
    """Whether pictures of the format that `identify` returned are read."""
    return name in EXTENSIONS


def is_picture(name: str | None) -> bool:
    """Whether the format that `identify` returned is one of pictures, read or not."""
    return name is not None and name not in _NO_PICTURES


def unsupported(name: str | None, field: str) -> UnsupportedPicture:
    """Return the refusal of a file whose format, as `identify` returned it, is not read.

    The message names the format and the cure, and calls the file `field`.
    """
    wanted = f"send {', '.join(EXTENSIONS)}"
    if name is None:
        message = f"is not a picture of a known format; {wanted}"
    elif name in _NO_PICTURES:
        message = f"is {_NO_PICTURES[name]}; {wanted}"
    else:
        cure = _CURES.get(name, wanted)
        message = f"is {with_article(name)} picture, which is not read here; {cure}"
    return UnsupportedPicture(f"{field} {message}", field=field)


def with_article(name: str) -> str:
    """Return `an AVIF`, `a JPEG`."""
    return f"{'an' if re.match('[AEIO]|SVG', name) else 'a'} {name}"


def check_encodable(width: int, height: int, output_format: str) -> None:
    """Raise `InvalidRequest` if a result of `width` x `height` pixels has no such format.

    `output_format` is `png`, `jpeg` or `webp`.
    """
    limit = MAX_SIDE.get(output_format)
    if limit is not None and max(width, height) > limit:
        raise InvalidRequest(
            f"output_format is {output_format}, whose sides have at most {limit} pixels, and the "
            f"result has {width}x{height}; ask for png, or for a smaller size",
            field="output_format",
        )


def _tiff_kind(head: bytes) -> str:
    tags = dict(_first_tags(head))
    if DNG_VERSION in tags:
        return "DNG"
    return "camera raw" if is_camera_raw(tags) else "TIFF"


def _first_tags(head: bytes) -> Iterator[tuple[int, int]]:
    """Yield the tags of the first directory of a TIFF, with their values, as far as `head` goes."""
    order = "<" if head.startswith(b"II") else ">"
    if len(head) < 8 or head[2:4] not in (b"*\0", b"\0*"):
        return
    (at,) = struct.unpack_from(f"{order}I", head, 4)
    if at + 2 > len(head):
        return
    (count,) = struct.unpack_from(f"{order}H", head, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(head) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHII", head, entry)
        (short,) = struct.unpack_from(f"{order}H", head, entry + 8)
        yield tag, short if kind == 3 else value


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and re.search(r"[\0-\x08\x0e-\x1f]", text) is None
