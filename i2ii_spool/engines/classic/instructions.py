"""The instructions of the classic engine: phrases in English and Chinese, and their effects."""

from dataclasses import dataclass

from i2ii_spool.engines.classic import brush, darkroom, drawing, geometry, moods, painting, printing
from i2ii_spool.engines.classic.materials import Effect
from i2ii_spool.jobs import offers


@dataclass(frozen=True)
class Instruction:
    """One instruction."""

    english: str
    """Its phrases, separated by ` | `, the most common first, in lower case and British spelling.
    `N°` stands for a number of degrees, which replaces `angle`."""
    chinese: str
    effect: Effect
    does: str
    angle: float | None = None
    """For rotations: the degrees if the prompt gives none."""

    @property
    def named(self) -> offers.Instruction:
        """Its first phrase in each language."""
        english, chinese = (phrases.split(" | ")[0] for phrases in (self.english, self.chinese))
        return offers.Instruction(en=english, zh=chinese)

    @property
    def name(self) -> str:
        """Both phrases."""
        return f"{self.named.en} {self.named.zh}"


INSTRUCTIONS: tuple[Instruction, ...] = (
    # --- paintings and drawings ---
    Instruction(
        "watercolour | watercolours | watercolour painting | water colour | aquarelle",
        "水彩 | 水彩画",
        painting.WATERCOLOUR,
        "soft washes, pigment pooled along their borders, bare ragged edges, rough paper",
    ),
    Instruction(
        "oil painting | oil paint | oil colours | oils | impasto | impressionist | van gogh",
        "油画 | 印象派 | 梵高",
        brush.OIL,
        "brush strokes along the forms, broad first and fine where there is detail, with ridges "
        "that catch the light",
    ),
    Instruction(
        "pointillism | pointillist | stippled | stippling",
        "点彩 | 点画",
        brush.POINTILLISM,
        "dots of pure colour on a pale ground",
    ),
    Instruction(
        "ink wash | ink wash painting | ink painting | chinese painting | sumi e | chinese ink",
        "水墨 | 水墨画 | 国画 | 中国画 | 山水画",
        painting.INK_WASH,
        "black ink bleeding into rice paper, drawn over with a dry brush",
    ),
    Instruction(
        "pencil sketch | sketch | sketched | sketchy | pencil | pencil drawing | graphite | "
        "charcoal",
        "素描 | 素描画 | 铅笔画 | 铅笔",
        drawing.SKETCH,
        "pencil lines and hatched shadows on drawing paper",
    ),
    Instruction(
        "coloured pencil | coloured pencils | colour pencil | colour pencils | crayon | crayons",
        "彩铅 | 彩色铅笔 | 彩铅画 | 蜡笔",
        drawing.COLOURED_PENCIL,
        "the pencil sketch, coloured in with pencils",
    ),
    Instruction(
        "cartoon | cartoons | cartoonish | cartoony | anime | manga | cel shaded | toon",
        "卡通 | 动漫 | 动画 | 二次元",
        drawing.CARTOON,
        "flat bright colours with ink lines",
    ),
    Instruction(
        "comic | comics | comic book | comic strip | halftone | half tone | ben day dots",
        "漫画 | 半调 | 网点",
        drawing.COMIC,
        "cheap print: four levels of each ink, dots in the shadows, yellowed paper",
    ),
    Instruction(
        "pop art | warhol | andy warhol | silkscreen",
        "波普 | 波普艺术 | 安迪沃霍尔",
        printing.POP_ART,
        "two by two silkscreens, each in four loud inks",
    ),
    Instruction(
        "poster | posterise | posterised | screen print",
        "海报 | 色调分离",
        printing.POSTER,
        "cut-out shapes in ten strong colours",
    ),
    Instruction(
        "pixel art | pixel | pixels | pixelate | pixelated | pixelise | pixelised | 8 bit",
        "像素 | 像素画 | 像素风",
        printing.PIXEL_ART,
        "large square pixels in 24 colours",
    ),
    Instruction(
        "mosaic | mosaics | tiles | tiled",
        "马赛克 | 镶嵌画",
        printing.MOSAIC,
        "square tiles, no two alike, with grout between",
    ),
    Instruction(
        "line drawing | line art | edges | edge detection | find edges | outline | outlines | "
        "outlined | contours",
        "线稿 | 边缘 | 边缘检测 | 轮廓 | 线描",
        (darkroom.outline,),
        "nothing but the edges, dark on white",
    ),
    Instruction(
        "emboss | embossed | embossing | bas relief",
        "浮雕",
        (darkroom.emboss,),
        "pressed into grey metal",
    ),
    # --- light and colour ---
    Instruction(
        (
            "black and white | black & white | b&w | greyscale | grey scale | grey | monochrome | "
            "desaturate completely | remove colour | remove colours | without colour | no colour | "
            "colourless"
        ),
        "黑白 | 灰度 | 去色 | 单色 | 灰色",
        (darkroom.greyscale,),
        "no colour, only light",
    ),
    Instruction(
        "sepia | sepia tone | sepia toned | brown tone",
        "棕褐色 | 褐色 | 深褐色 | 棕色调",
        (darkroom.sepia,),
        "the browns of old silver prints",
    ),
    Instruction(
        "invert | inverted | inverse | negative | invert colours | inverted colours",
        "反色 | 反转 | 负片 | 反相 | 底片 | 反转颜色 | 颜色反转",
        (darkroom.invert,),
        "every colour turned into its opposite",
    ),
    Instruction(
        (
            "brighter | bright | brighten | brightened | brightness | lighter | lighten | "
            "lightened | increase brightness | brightness up | turn up brightness | "
            "raise brightness | less dark"
        ),
        "变亮 | 亮 | 提亮 | 调亮 | 更亮 | 明亮 | 提高亮度 | 增加亮度 | 增强亮度 | 亮度",
        (darkroom.brighten,),
        "more light, most in the middle tones",
    ),
    Instruction(
        (
            "darker | dark | darken | darkened | dim | dimmer | less bright | less light | "
            "less brightness | decrease brightness | reduce brightness | lower brightness | "
            "brightness down | turn down brightness | turn brightness down"
        ),
        "变暗 | 暗 | 调暗 | 更暗 | 压暗 | 昏暗 | 黑暗 | 降低亮度 | 亮度低 | 减少亮度 | 减小亮度",
        (darkroom.darken,),
        "less light, most in the middle tones",
    ),
    Instruction(
        "warmer | warm | warm up | warm tone | warm tones | warm colours | warmth | less cold | "
        "less cool",
        "暖 | 暖色 | 暖色调 | 变暖 | 温暖 | 更暖 | 暖调",
        (darkroom.warm,),
        "white shifted towards candle light",
    ),
    Instruction(
        "cooler | cool | cool down | cold | colder | cool tone | cool tones | cool colours | "
        "less warm",
        "冷 | 冷色 | 冷色调 | 变冷 | 更冷 | 冷调 | 清冷",
        (darkroom.cool,),
        "white shifted towards an overcast sky",
    ),
    Instruction(
        (
            "more contrast | contrast | contrasty | high contrast | higher contrast | "
            "stronger contrast | strong contrast | increase contrast | add contrast | "
            "boost contrast | contrast up | punchier"
        ),
        "增加对比度 | 对比度 | 提高对比度 | 增强对比度 | 加强对比 | 增强对比 | 高对比度 | 对比强烈",
        (darkroom.add_contrast,),
        "darks darker and lights lighter",
    ),
    Instruction(
        (
            "less contrast | low contrast | lower contrast | reduce contrast | decrease contrast | "
            "turn down contrast | softer contrast | soft contrast | contrast down | flatter"
        ),
        "降低对比度 | 对比度低 | 减少对比度 | 减弱对比度 | 减小对比度 | 低对比度 | 减弱对比 | "
        "降低对比",
        (darkroom.take_contrast,),
        "darks and lights closer together",
    ),
    Instruction(
        (
            "more saturated | saturated | saturate | saturation | more saturation | "
            "increase saturation | boost saturation | vivid | vibrant | colourful | "
            "more colourful | richer colours | more colour"
        ),
        "增加饱和度 | 饱和度 | 提高饱和度 | 增强饱和度 | 鲜艳 | 更鲜艳 | 色彩丰富 | 饱和",
        (darkroom.add_colour,),
        "purer colours",
    ),
    Instruction(
        (
            "less saturated | desaturate | desaturated | less saturation | reduce saturation | "
            "muted | decrease saturation | lower saturation | less colourful | less vivid | "
            "less vibrant | less colour | muted colours | pale | paler | washed out"
        ),
        "降低饱和度 | 饱和度低 | 减少饱和度 | 减弱饱和度 | 低饱和度 | 减小饱和度 | 淡雅 | 褪色",
        (darkroom.take_colour,),
        "muted colours",
    ),
    # --- sharpness and film ---
    Instruction(
        "blur | blurred | blurry | blurrier | blurring | out of focus | defocus | defocused | "
        "less sharp",
        "模糊 | 虚化 | 失焦",
        (darkroom.blur,),
        "out of focus",
    ),
    Instruction(
        "sharpen | sharpened | sharper | sharp | sharpness | crisp | crisper | less blurry | "
        "less blurred",
        "锐化 | 清晰 | 更清晰 | 锐利",
        (darkroom.sharpen,),
        "stronger edges",
    ),
    Instruction(
        "vignette | vignetting | dark corners | darken corners | dark edges | darken edges",
        "暗角 | 晕影 | 四角变暗",
        (darkroom.vignette,),
        "darker towards the corners",
    ),
    Instruction(
        "film grain | grain | grainy | old film | noise | noisy | analogue film",
        "颗粒 | 胶片颗粒 | 胶片 | 噪点 | 颗粒感",
        darkroom.OLD_FILM,
        "the silver grain of fast film",
    ),
    Instruction(
        "soft glow | glow | glowing | dreamy | dreamlike | bloom | soft focus | ethereal | "
        "soft light",
        "柔光 | 梦幻 | 朦胧 | 柔焦 | 发光",
        darkroom.GLOW,
        "light that spills softly over edges, shadows lifted towards rose",
    ),
    Instruction(
        "vintage | retro | old photo | old photograph | old fashioned | aged | antique | "
        "nostalgic | faded | polaroid",
        "复古 | 怀旧 | 老照片 | 旧照片 | 做旧",
        darkroom.VINTAGE,
        "a faded print: brown blacks, cream whites, grain and stains",
    ),
    # --- moods ---
    Instruction(
        "sunset | sundown | dusk | evening",
        "日落 | 夕阳 | 落日 | 晚霞 | 黄昏 | 傍晚",
        moods.SUNSET,
        "violet to orange light and a low sun",
    ),
    Instruction(
        "golden hour | golden light | sunlit | warm sunlight",
        "黄金时刻 | 金色阳光 | 金色时刻 | 暖阳",
        moods.GOLDEN_HOUR,
        "golden light from the upper right",
    ),
    Instruction(
        "night | nighttime | night time | at night | midnight",
        "夜晚 | 夜景 | 夜间 | 黑夜 | 晚上 | 深夜",
        moods.NIGHT,
        "dark and blue, with light left in what was bright and warm",
    ),
    Instruction(
        "moonlight | moonlit | moon | moonlit night | moonlight night",
        "月光 | 月色 | 月夜 | 月亮 | 月下",
        moods.MOONLIGHT,
        "silver lights and blue-black shadows",
    ),
    Instruction(
        "winter | wintry | snow | snowy | snowing | snowfall | winter snow",
        "冬天 | 冬季 | 雪 | 雪景 | 下雪 | 冬日",
        moods.WINTER,
        "frost, snow on what faces up, falling flakes",
    ),
    Instruction(
        "autumn | autumnal | fall colours | fall foliage | fall season",
        "秋天 | 秋季 | 秋 | 秋日 | 秋色",
        moods.AUTUMN,
        "greens turned to orange and red, thin warm light",
    ),
    Instruction(
        "spring | springtime | spring time | cherry blossom | cherry blossoms",
        "春天 | 春季 | 春 | 春日 | 樱花",
        moods.SPRING,
        "young greens, light shadows, drifting petals",
    ),
    Instruction(
        "misty | mist | fog | foggy | haze | hazy",
        "雾 | 薄雾 | 雾气 | 大雾",
        moods.FOG,
        "pale with distance, with banks of fog",
    ),
    Instruction(
        "underwater | under water | under sea | undersea | submerged",
        "水下 | 海底 | 水底 | 海洋",
        moods.UNDERWATER,
        "blue-green, darker below, with sunbeams and bubbles",
    ),
    Instruction(
        "neon | neon lights | neon glow | cyberpunk | synthwave | vaporwave",
        "霓虹 | 赛博朋克 | 霓虹灯 | 蒸汽波",
        moods.NEON,
        "magenta and cyan on a dark city night, edges lit as neon tubes",
    ),
    # --- turning ---
    Instruction(
        "mirror | mirrored | mirror image | flip | flipped | flip horizontally | horizontal flip | "
        "flip left right",
        "左右翻转 | 镜像 | 水平翻转 | 翻转 | 左右镜像 | 左右颠倒",
        (geometry.mirror,),
        "left and right swapped",
    ),
    Instruction(
        "flip upside down | flip vertically | flipped vertically | vertical flip | "
        "flip top bottom | mirror vertically",
        "上下翻转 | 垂直翻转 | 垂直镜像 | 上下镜像 | 上下颠倒",
        (geometry.flip,),
        "top and bottom swapped",
    ),
    Instruction(
        "upside down | turn upside down | rotate upside down | half turn | turn around",
        "倒过来 | 颠倒 | 倒置",
        (geometry.turn_right,),
        "rotated by 180°",
        angle=180,
    ),
    Instruction(
        "rotate right | rotate | rotated | turn right | quarter turn | rotate N° | rotated N° | "
        "turn N° | rotate N° right | turn N° right | rotate right N° | turn right N°",
        "向右旋转 | 旋转 | 右转 | 右旋 | 向右转 | 顺时针 | 顺时针旋转 | 旋转N° | 向右旋转N° | "
        "右转N° | 右旋N° | 向右转N° | 顺时针N° | 顺时针旋转N°",
        (geometry.turn_right,),
        "rotated clockwise, by 90° or by N°",
        angle=90,
    ),
    Instruction(
        "rotate left | rotated left | turn left | rotate N° left | rotated N° left | "
        "turn N° left | rotate left N° | turn left N°",
        "向左旋转 | 左转 | 左旋 | 向左转 | 逆时针 | 逆时针旋转 | 向左旋转N° | 左转N° | 左旋N° | "
        "向左转N° | 逆时针N° | 逆时针旋转N°",
        (geometry.turn_left,),
        "rotated counter-clockwise, by 90° or by N°",
        angle=90,
    ),
    Instruction(
        "tilt right | tilt | tilted | rotate slightly | rotate a bit | slightly rotate | "
        "rotate slightly right",
        "向右倾斜 | 倾斜 | 稍微旋转 | 旋转一点 | 向右旋转一点",
        (geometry.turn_right,),
        "rotated clockwise by 5°",
        angle=5,
    ),
    Instruction(
        "tilt left | rotate slightly left | rotate a bit left",
        "向左倾斜 | 向左旋转一点",
        (geometry.turn_left,),
        "rotated counter-clockwise by 5°",
        angle=5,
    ),
)
