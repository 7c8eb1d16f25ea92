"""The kinds of pictures, and what becomes of each.

docs/inputs.md shows these tables. tests/unit/test_picture_kinds.py makes every kind and compares
what is read with what an independent reader makes of it.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """Pictures of one format whose numbers mean the same. They become RGB of 8 bits."""

    format: str
    colours: str
    bits: tuple[int, ...]
    """Of a sample in the file."""
    transparency: str = ""
    """Where it is stated; the picture then becomes RGBA."""
    profiles: tuple[str, ...] = ("RGB",)
    """The colour spaces of the ICC profiles that are applied; any other is ignored."""


KINDS = (
    Kind("PNG", "grey", (1, 2, 4, 8, 16), "`tRNS`", ("grey",)),
    Kind("PNG", "RGB", (8, 16), "`tRNS`"),
    Kind("PNG", "palette", (1, 2, 4, 8), "`tRNS`"),
    Kind("PNG", "grey and alpha", (8, 16), "alpha", ("grey",)),
    Kind("PNG", "RGB and alpha", (8, 16), "alpha"),
    Kind("JPEG", "grey", (8,), profiles=("grey",)),
    Kind("JPEG", "RGB", (8,)),
    Kind("JPEG", "CMYK", (8,), profiles=("CMYK",)),
    Kind("WEBP", "RGB", (8,)),
    Kind("WEBP", "RGB and alpha", (8,), "alpha"),
    Kind("GIF", "palette", (8,), "one entry", ()),
    Kind("TIFF", "grey", (1, 8, 16), profiles=("grey",)),
    Kind("TIFF", "grey, 0 is white", (1, 8, 16), profiles=("grey",)),
    Kind("TIFF", "grey and alpha", (8,), "alpha", ("grey",)),
    Kind("TIFF", "RGB", (8, 16)),
    Kind("TIFF", "RGB and alpha", (8, 16), "alpha"),
    Kind("TIFF", "palette", (8,)),
    Kind("TIFF", "CMYK", (8,), profiles=("CMYK",)),
    Kind("AVIF", "RGB", (8,)),
    Kind("AVIF", "RGB and alpha", (8,), "alpha"),
    Kind("HEIC", "RGB", (8,)),
    Kind("HEIC", "RGB and alpha", (8,), "alpha"),
)

ORIENTATION = {
    "PNG": "the chunk `eXIf`",
    "JPEG": "the first EXIF segment",
    "WEBP": "its EXIF",
    "GIF": "nothing: it has none",
    "TIFF": "its tag 274",
    "AVIF": "its properties `irot` and `imir`, not its EXIF",
    "HEIC": "its properties `irot` and `imir`, not its EXIF",
}
"""What states how a picture is turned. XMP and text do not count, as in browsers."""

COLOURS = {
    "PNG": "`cICP`, else `iCCP`, else `sRGB`, else `gAMA` with `cHRM`",
    "JPEG": "the ICC profile (`APP2`)",
    "WEBP": "the ICC profile (`ICCP`)",
    "GIF": "nothing: it is sRGB",
    "TIFF": "the ICC profile (tag 34675)",
    "AVIF": "the ICC profile, else the code points (`nclx`)",
    "HEIC": "the ICC profile, else the code points (`nclx`)",
}
"""What states which colours the numbers stand for. Where nothing does, they are sRGB."""
