"""Paintings in water: watercolour and ink wash."""

from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from i2ii_spool.engines.classic.darkroom import by_strength
from i2ii_spool.engines.classic.materials import (
    Effect,
    Size,
    Touch,
    blurred,
    clouds,
    contours,
    curve,
    graded,
    inked,
    noise,
    outwards,
    paper,
    simplified,
    textured,
    unit,
)

# --- watercolour ----------------------------------------------------------------------------------


def let_run(image: Image.Image, touch: Touch) -> Image.Image:
    """Run what is fine together, and let every border waver as wet paint does."""
    flat = simplified(image, round(420 / max(0.6, touch.strength)), passes=3)
    return _wavering(flat, touch, cell=28, reach=4.5)


LEVELS = [round(level / 32) * 32 for level in range(256)]
"""A lookup table that rounds to the tones of the washes."""


def dilute(image: Image.Image, _: Touch) -> Image.Image:
    """Thin the paint: white paper shines through the lights, and the shadows keep some colour."""
    washes = Image.blend(image, image.point(LEVELS * 3), 0.5)
    clear = graded(
        washes, (34, 110, 182, 228, 252), (36, 110, 182, 228, 252), (44, 112, 184, 230, 252)
    )
    return ImageEnhance.Color(clear).enhance(1.6)


def pool(image: Image.Image, touch: Touch) -> Image.Image:
    """Let pigment settle along the borders of the washes, and water push it away within them."""
    rims = contours(image, 1.6, floor=1, gain=7).point(curve((95, 255)))
    fine = contours(touch.original, 0.8, floor=5, gain=6).point(curve((120, 255)))
    settled = inked(inked(image, blurred(rims, 0.4)), blurred(fine, 0.4))
    backruns = clouds(image.size, touch.chance).point(curve((0, 0, 40, 110, 130)))
    return Image.composite(
        Image.blend(settled, Image.new("RGB", image.size, "white"), 0.75), settled, backruns
    )


def bare_edges(image: Image.Image, touch: Touch) -> Image.Image:
    """Leave a ragged border of bare paper."""
    torn = Image.blend(_inset(image.size), clouds(image.size, touch.chance), 0.38)
    torn = Image.blend(torn, noise(image.size, touch.chance, 9 * unit(image)), 0.1)
    painted = torn.point([max(0, min(255, (level - 92) * 16)) for level in range(256)])
    return Image.composite(image, Image.new("RGB", image.size, "#fcfaf5"), blurred(painted, 0.8))


def on_rough_paper(image: Image.Image, touch: Touch) -> Image.Image:
    """Show the tooth of the paper through the paint."""
    return textured(image, paper(image.size, touch.chance), 0.3)


def _inset(size: Size) -> Image.Image:
    """A grey picture, black at the border to white a tenth of the shorter side from it."""
    width, height = size
    depth = max(1, min(size) // 22)
    core = Image.new("L", size)
    core.paste(255, (depth, depth, max(depth + 1, width - depth), max(depth + 1, height - depth)))
    return core.filter(ImageFilter.GaussianBlur(depth / 1.5))


def _wavering(image: Image.Image, touch: Touch, cell: float, reach: float) -> Image.Image:
    """Return `image` with the corners of a mesh of `cell` units moved by up to `reach` units."""
    across, down = (
        max(1, min(side // 4, round(side / (cell * unit(image))))) for side in image.size
    )
    far = reach * unit(image)
    corners = [
        [
            _shaken(image.size, column / across, row / down, far, touch)
            for column in range(across + 1)
        ]
        for row in range(down + 1)
    ]
    mesh = []
    for row in range(down):
        for column in range(across):
            box = _cell(image.size, column, row, across, down)
            northwest, southwest = corners[row][column], corners[row + 1][column]
            northeast, southeast = corners[row][column + 1], corners[row + 1][column + 1]
            mesh.append((box, (*northwest, *southwest, *southeast, *northeast)))
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _shaken(
    size: Size, across: float, down: float, reach: float, touch: Touch
) -> tuple[float, float]:
    """A point of the picture, moved a little; on the border only along it, so that no gap opens."""
    x, y = across * size[0], down * size[1]
    x += touch.chance.uniform(-reach, reach) if 0 < across < 1 else 0
    y += touch.chance.uniform(-reach, reach) if 0 < down < 1 else 0
    return x, y


def _cell(size: Size, column: int, row: int, across: int, down: int) -> tuple[int, int, int, int]:
    width, height = size
    left, right = (width * step // across for step in (column, column + 1))
    top, bottom = (height * step // down for step in (row, row + 1))
    return left, top, right, bottom


# --- ink wash -------------------------------------------------------------------------------------


def grind_ink(image: Image.Image, touch: Touch) -> Image.Image:
    """Keep the luminance, in few and wavering shapes, and leave the paper bare where it is
    light."""
    grey = ImageOps.autocontrast(simplified(image.convert("L"), 420, passes=3), cutoff=1)
    pale = grey.point(curve((0, 40, 112, 190, 242, 255)))
    return _wavering(pale, touch, cell=32, reach=4).convert("RGB")


def bleed(image: Image.Image, touch: Touch) -> Image.Image:
    """Let the ink bleed into wet paper, further here and less there."""
    spread = ImageChops.darker(image, blurred(image, 6))
    wet = clouds(image.size, touch.chance).point(curve((0, 60, 255, 255)))
    return Image.composite(spread, Image.blend(image, spread, 0.2), wet)


def brush_lines(image: Image.Image, touch: Touch) -> Image.Image:
    """Draw the forms with a dry brush, which leaves the paper bare here and there."""
    lines = contours(simplified(touch.original.convert("L"), 800), 1.2, floor=3, gain=16)
    dry = noise(image.size, touch.chance, 3 * unit(image)).point(curve((0, 0, 30, 110)))
    return inked(image, ImageChops.add(_wavering(lines, touch, cell=24, reach=2), dry))


def leave_blank(image: Image.Image, touch: Touch) -> Image.Image:
    """Let the picture fade into the paper towards its borders."""
    mist = Image.blend(outwards(image.size), clouds(image.size, touch.chance), 0.3).point(
        curve((0, 0, 0, 40, 170, 255))
    )
    return Image.composite(Image.new("RGB", image.size, "white"), image, mist)


def on_rice_paper(image: Image.Image, touch: Touch) -> Image.Image:
    """Lay the ink on warm, fibrous paper."""
    width, height = image.size
    fibres = (
        noise((width, height), touch.chance, 2 * unit(image))
        .resize((width * 2, height))
        .crop((0, 0, width, height))
    )
    warm = graded(image, (14, 138, 250), (13, 135, 245), (16, 128, 230))
    return textured(warm, fibres, 0.08)


WATERCOLOUR: Effect = (let_run, dilute, pool, bare_edges, on_rough_paper, by_strength)
INK_WASH: Effect = (grind_ink, bleed, brush_lines, leave_blank, on_rice_paper, by_strength)
