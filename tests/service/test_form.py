"""The form of POST /edit as clients build it: heads of parts, charsets, blanks, spellings."""

import json
from typing import Any

import pytest

from i2ii_spool.server.multipart import MAX_HEADER, MAX_PARTS
from i2ii_spool.spool.layout import Spool
from tests.support.app import Client, Connect, check_error, form, is_empty
from tests.support.http import END, MULTIPART, multipart, part, raw_part
from tests.support.pictures import encoded

PICTURE = part("image", encoded())
PROMPT = part("prompt", b"sepia")
PAINTED = "画水彩"


async def send(client: Client, *parts: bytes, **headers: str) -> Any:
    """Post these parts."""
    kind = {"Content-Type": MULTIPART["Content-Type"] + headers.pop("parameters", "")}
    return await client.post("/edit", data=b"".join(parts) + END, headers={**kind, **headers})


async def stored(client: Client, spool: Spool, *parts: bytes, **headers: str) -> Any:
    """Post these parts; return the `job.json` of the job, which is the only one."""
    response = await send(client, *parts, **headers)
    assert response.status == 202, await response.text()
    [folder] = spool.incoming.iterdir()
    return json.loads((folder / "job.json").read_text())


# --- the head of a part ---------------------------------------------------------------------------

DISPOSITIONS = [
    'form-data; name="image"; filename="a;b;c.png"',
    'form-data; name="image"; filename="a\\"b;c.png"',
    'form-data; name="image"; filename="a"b";c.png"',
    'form-data; name="image"; filename="C:\\pictures\\a.png"',
    'form-data; name="image"; filename="ends with a backslash\\"',
    'form-data; name="image"; filename="; name=prompt"',
    'form-data; name="image"; filename="画.png"',
    'form-data; name="image"; filename="_.png"; filename*=UTF-8\'\'%E7%94%BB.png',
    'form-data; name="image"; filename="' + "x" * (MAX_HEADER - 100) + '"',
    'form-data; name="image[]"; filename="a.png"',
    "form-data; name=image; filename=a.png",
    'form-data;name="image";filename="a.png";',
    'FORM-DATA; Name="image"; FileName="a.png"',
    'form-data; name="image";\r\n\tfilename="folded.png"',
    'form-data; name="image"',
]


@pytest.mark.parametrize("disposition", DISPOSITIONS, ids=lambda text: text[22:60])
async def test_a_picture_is_found_whatever_its_file_name(
    connect: Connect, spool: Spool, disposition: str
) -> None:
    client = await connect()
    picture = raw_part(f"Content-Disposition: {disposition}", encoded())
    assert (await stored(client, spool, picture, PROMPT))["inputs"] == ["input.png"]


@pytest.mark.parametrize("name", ["image", "prompt", "mask"])
async def test_a_file_input_without_a_file_is_passed_over(
    connect: Connect, spool: Spool, name: str
) -> None:
    client = await connect()
    disposition = f'Content-Disposition: form-data; name="{name}"; filename=""'
    unused = raw_part(f"{disposition}\r\nContent-Type: application/octet-stream", b"")
    job = await stored(client, spool, unused, PICTURE, PROMPT)
    assert (job["inputs"], job["prompt"]) == (["input.png"], "sepia")


async def test_a_preamble_is_passed_over(connect: Connect, spool: Spool) -> None:
    client = await connect()
    await stored(client, spool, b"This is a form.\r\n", PICTURE, PROMPT)


async def test_a_text_may_come_as_a_file(connect: Connect, spool: Spool) -> None:
    client = await connect()
    head = 'Content-Disposition: form-data; name="prompt"; filename="prompt.txt"'
    job = await stored(client, spool, raw_part(head, b"blur"), PICTURE)
    assert job["prompt"] == "blur"


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("Content-Disposition: form-data", "no name"),
        ("X: y", "Missing Content-Disposition"),
        ('Content-Disposition: form-data; name=""', "no name"),
        ('Content-Disposition: form-data; name="seed', "no name"),
        (
            'Content-Disposition: form-data; name="n"\r\n'
            'Content-Disposition: form-data; name="seed"',
            "given twice",
        ),
        ("no colon", "Malformed segment header"),
        (f"X: {'x' * MAX_HEADER}", "header length exceeded"),
        ('Content-Disposition: form-data; name="seed"\r\nContent-Type: multipart/mixed', "itself"),
    ],
    ids=lambda text: text[:60],
)
async def test_a_head_that_cannot_be_read_is_refused(
    connect: Connect, spool: Spool, head: str, says: str
) -> None:
    client = await connect()
    response = await send(client, PICTURE, PROMPT, raw_part(head, b"1"))
    message = await check_error(response, 400, "invalid_request")
    assert "well-formed" in message
    assert says in message
    assert is_empty(spool)


@pytest.mark.parametrize("name", ["images", "image[0]", "file", "IMAGE", "Prompt", "_charset"])
async def test_a_field_of_another_name_is_refused(
    connect: Connect, spool: Spool, name: str
) -> None:
    client = await connect()
    message = await check_error(
        await send(client, PICTURE, PROMPT, part(name, b"1")), 400, "invalid_request", name
    )
    assert f"{name} is not a field; the fields are image, mask, prompt" in message
    assert is_empty(spool)


# --- encodings and charsets -----------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["8bit", "7bit", "Binary"])
async def test_an_encoding_that_changes_nothing_is_taken(
    connect: Connect, spool: Spool, encoding: str
) -> None:
    client = await connect()
    header = f"Content-Transfer-Encoding: {encoding}"
    prompt = part("prompt", PAINTED.encode(), header)
    job = await stored(client, spool, part("image", encoded(), header), prompt)
    assert job["prompt"] == PAINTED


@pytest.mark.parametrize("field", ["image", "prompt", "seed"])
@pytest.mark.parametrize(
    "header",
    [
        "Content-Transfer-Encoding: base64",
        "content-transfer-encoding: Quoted-Printable",
        "Content-Transfer-Encoding: x-uuencode",
        "Content-Encoding: gzip",
    ],
)
async def test_an_encoded_part_is_refused(
    connect: Connect, spool: Spool, field: str, header: str
) -> None:
    client = await connect()
    parts = {"image": encoded(), "prompt": b"c2VwaWE=", "seed": b"1"}
    body = [part(name, data, *[header] * (name == field)) for name, data in parts.items()]
    message = await check_error(await send(client, *body), 400, "invalid_request", field)
    assert header.partition(": ")[2] in message
    assert is_empty(spool)


CHARSETS = [
    "utf-8",
    "UTF8",
    "gbk",
    "GB2312",
    "gb18030",
    "big5",
    "Shift_JIS",
    "utf-16",
    "windows-1252",
    "ISO-8859-1",
    "koi8-r",
    "windows-874",
    "us-ascii",
]
TEXTS = {"big5": "畫水彩", "shift_jis": "①水彩", "windows-1252": "Öl, 5 €", "iso-8859-1": "Öl"}
TEXTS |= {"koi8-r": "акварель", "us-ascii": "oil", "windows-874": "สีน้ำ"}


@pytest.mark.parametrize("where", ["part", "field", "body"])
@pytest.mark.parametrize("charset", CHARSETS)
async def test_a_text_is_decoded_by_its_charset(
    connect: Connect, spool: Spool, charset: str, where: str
) -> None:
    client = await connect()
    text = TEXTS.get(charset.lower(), PAINTED)
    data = text.encode({"Shift_JIS": "cp932", "windows-874": "cp874"}.get(charset, charset))
    header = f'Content-Type: text/plain; charset="{charset}"'
    texts = [part(name, data, *[header] * (where == "part")) for name in ("prompt", "name")]
    named = [part("_charset_", charset.encode())] if where == "field" else []
    parameters = f"; charset={charset}" if where == "body" else ""
    job = await stored(client, spool, *texts, PICTURE, *named, parameters=parameters)
    assert (job["prompt"], job["name"]) == (text, text)


async def test_the_charset_of_a_part_stands_above_that_of_the_form(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    own = part("prompt", PAINTED.encode(), "Content-Type: text/plain; charset=utf-8")
    named = part("_charset_", b"gbk")
    job = await stored(client, spool, named, PICTURE, own, part("name", PAINTED.encode("gbk")))
    assert (job["prompt"], job["name"]) == (PAINTED, PAINTED)


async def test_a_charset_means_what_browsers_mean(connect: Connect, spool: Spool) -> None:
    client = await connect()
    job = await stored(
        client, spool, PICTURE, part("_charset_", b"iso-8859-1"), part("prompt", b"5 \x80")
    )
    assert job["prompt"] == "5 €"


async def test_a_byte_order_mark_is_no_part_of_a_text(connect: Connect, spool: Spool) -> None:
    client = await connect()
    job = await stored(client, spool, PICTURE, part("prompt", b"\xef\xbb\xbfsepia"))
    assert job["prompt"] == "sepia"


async def test_a_type_may_have_other_parameters(connect: Connect, spool: Spool) -> None:
    client = await connect()
    kind = 'Content-Type: text/plain; name="charset.txt"; format=flowed'
    assert (await stored(client, spool, PICTURE, part("prompt", b"blur", kind)))["prompt"] == "blur"


async def test_a_form_of_too_many_parts_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    unused = raw_part('Content-Disposition: form-data; name="image"; filename=""', b"")
    response = await send(client, unused * MAX_PARTS)
    await check_error(response, 400, "invalid_request", "prompt")
    response = await send(client, unused * MAX_PARTS, PICTURE)
    assert "segment count exceeded" in await check_error(response, 400, "invalid_request")
    assert is_empty(spool)


async def test_the_charset_of_a_picture_means_nothing(connect: Connect, spool: Spool) -> None:
    client = await connect()
    picture = part("image", encoded(), "Content-Type: image/png; charset=binary")
    await stored(client, spool, picture, PROMPT)


@pytest.mark.parametrize(
    ("charset", "data", "says"),
    [
        ("utf-8", b"\xff\xfe", "is not UTF-8: invalid start byte at byte 0"),
        ("utf-8", b"\xed\xa0\x80", "is not UTF-8"),
        ("us-ascii", PAINTED.encode(), "is not us-ascii"),
        ("windows-1252", b"\x81", "is not windows-1252"),
        ("gbk", b"\xff", "is not gbk"),
        ("utf-16", b"\x00", "is not utf-16"),
        ("utf-7", b"+", "unknown charset 'utf-7'"),
        ("klingon", b"x", "unknown charset 'klingon'; send it in UTF-8"),
        ("rot13", b"frcvn", "unknown charset 'rot13'"),
        ("unicode_escape", b"\\u0041", "unknown charset"),
        ("x" * 200, b"x", "unknown charset 'xxx"),
        ("画", b"x", "unknown charset '画'"),
    ],
    ids=lambda text: str(text)[:30],
)
@pytest.mark.parametrize("where", ["part", "field"])
async def test_a_text_that_cannot_be_decoded_is_refused(
    connect: Connect, spool: Spool, charset: str, data: bytes, says: str, where: str
) -> None:
    client = await connect()
    header = f"Content-Type: text/plain; charset={charset}"
    prompt = part("prompt", data, *[header] * (where == "part"))
    named = [part("_charset_", charset.encode())] if where == "field" else []
    message = await check_error(
        await send(client, *named, PICTURE, prompt), 400, "invalid_request", "prompt"
    )
    assert says in message
    assert is_empty(spool)


@pytest.mark.parametrize("encoding", ["br", "aws-chunked", "gzip, gzip", "x-gzip"])
async def test_a_body_of_another_encoding_is_refused(connect: Connect, encoding: str) -> None:
    client = await connect()
    headers = {**MULTIPART, "Content-Encoding": encoding}
    response = await client.post("/edit", data=PICTURE + PROMPT + END, headers=headers)
    # aiohttp itself refuses `br` where it cannot decode it
    assert response.status in (400, 415), await response.text()
    if response.status == 415:
        message = await check_error(response, 415, "unsupported_media_type")
        assert f"Content-Encoding: {encoding}" in message


# --- values ---------------------------------------------------------------------------------------

SPELLINGS = [
    ("seed", " 7 ", 7),
    ("seed", "+7", 7),
    ("seed", "7.0", 7),
    ("seed", "-1", -1),
    ("seed", "18446744073709551615", 2**64 - 1),
    ("seed", "", 0),
    ("seed", " \r\n", 0),
    ("n", "\t2", 2),
    ("true_cfg_scale", "1e1", 10.0),
    ("true_cfg_scale", "", None),
    ("size", "1024*1024", "1024x1024"),
    ("size", "1024X768", "1024x768"),
    ("size", "1024 x 768", "1024x768"),
    ("size", "1024\N{MULTIPLICATION SIGN}768", "1024x768"),
    ("size", " AUTO", "auto"),
    ("size", "", "auto"),
    ("output_format", "jpg", "jpeg"),
    ("output_format", "JPEG", "jpeg"),
    ("output_format", "image/jpeg", "jpeg"),
    ("output_format", "WebP ", "webp"),
    ("output_format", "", "png"),
    ("preset", " ", ""),
    ("prompt", "more\r\nblue\rand red", "more\nblue\nand red"),
    ("prompt", "x\r\n" * 2000, "x\n" * 2000),
    ("prompt", " sepia ", " sepia "),
    ("negative_prompt", " ", " "),
    ("negative_prompt", "a\r\nb", "a\nb"),
]


@pytest.mark.parametrize(("field", "sent", "kept"), SPELLINGS, ids=lambda value: repr(value)[:30])
async def test_a_value_is_taken_as_clients_spell_it(
    connect: Connect, spool: Spool, field: str, sent: str, kept: Any
) -> None:
    client = await connect()
    fields = {"prompt": b"sepia", field: sent.encode()}
    job = await stored(client, spool, PICTURE, *(part(*each) for each in fields.items()))
    assert job.get(field) == kept


async def test_a_blank_field_leaves_it_to_the_preset(connect: Connect, spool: Spool) -> None:
    client = await connect()
    blank = part("num_inference_steps", b"")
    job = await stored(client, spool, PICTURE, PROMPT, part("preset", b"fast"), blank)
    assert "num_inference_steps" not in job


async def test_a_request_for_any_seed_is_the_same_when_it_is_repeated(connect: Connect) -> None:
    client = await connect()
    ids = []
    for _ in range(2):
        response = await client.post(
            "/edit", data=form(seed="-1"), headers={"Idempotency-Key": "any"}
        )
        ids.append((await response.json())["request_id"])
    assert ids[0] == ids[1]


async def test_more_pictures_than_seeds_are_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(seed=str(2**64 - 1), n="2"))
    assert "seed" in await check_error(response, 400, "invalid_request", "n")
    assert is_empty(spool)


async def test_a_form_of_the_boundary_alone_has_no_picture(connect: Connect) -> None:
    client = await connect()
    response = await client.post("/edit", data=multipart(), headers=MULTIPART)
    await check_error(response, 400, "invalid_request", "prompt")
