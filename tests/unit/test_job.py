"""Ids sort in the order in which they were made; requests are what was asked for, or are refused by
name."""

import string
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.ids import Ids, check_id, is_id, new_id
from i2ii_spool.jobs.request import EditRequest, Job, parse, parse_json


def test_an_id_says_when_it_was_made() -> None:
    before, id, after = time.time(), new_id(), time.time()
    made = (
        time.strftime("%Y%m%d-%H%M%S", time.gmtime(before)),
        time.strftime("%Y%m%d-%H%M%S", time.gmtime(after)),
    )
    assert made[0] <= id[:15] <= made[1]


@given(st.lists(st.integers(0, 2**41), min_size=2, max_size=50))
def test_ids_strictly_increase_whatever_the_clock_does(milliseconds: list[int]) -> None:
    ids = Ids()
    with pytest.MonkeyPatch.context() as patch:
        clock = iter(milliseconds)
        patch.setattr(time, "time_ns", lambda: next(clock) * 1_000_000)
        made = [ids.new() for _ in milliseconds]
    assert all(earlier < later for earlier, later in pairwise(made))
    assert all(map(is_id, made))


def test_ids_of_many_threads_are_all_different() -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend(new_id() for _ in range(2000)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16000


@given(st.text())
def test_an_id_with_any_name_behind_it_is_an_id_and_safe_in_a_path(name: str) -> None:
    id = new_id(name)
    assert is_id(id)
    assert set(id) <= set(string.ascii_letters + string.digits + "-_.")
    assert len(id) <= 100


@given(st.text())
def test_what_is_not_an_id_builds_no_path(text: str) -> None:
    if not is_id(text):
        with pytest.raises(InvalidRequest, match="not a job id"):
            check_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "20261123-101530-482-k7m2qf/..",
        "20261123-101530-482-k7m2qf\n",
        "２0261123-101530-482-k7m2qf",
    ],
)
def test_near_misses_are_no_ids(text: str) -> None:
    assert not is_id(text)


JOB_ID = "20260101-000000-000-aaaaaa"
requests = st.builds(
    EditRequest,
    prompt=st.text(min_size=1, max_size=4000).filter(lambda text: text.strip()),
    negative_prompt=st.text(max_size=4000),
    num_inference_steps=st.integers(10, 100),
    true_cfg_scale=st.floats(1, 10),
    seed=st.integers(-1, 2**64 - 4),
    size=st.sampled_from(["auto", "input", "1024x768", "16x4096"]),
    output_format=st.sampled_from(["png", "jpeg", "webp"]),
    output_compression=st.sampled_from([None, 100]),
    n=st.integers(1, 4),
    name=st.text(max_size=200),
    parent=st.just("20260101-000000-000-aaaaaa_me"),
    parent_n=st.integers(1, 4),
)


@given(requests)
def test_a_request_survives_being_written_and_read(request: EditRequest) -> None:
    written = Job(**request.model_dump()).to_json()
    assert parse_json(Job, written) == Job(**request.model_dump())


@given(requests)
def test_a_form_of_strings_is_the_same_request(request: EditRequest) -> None:
    given = request.model_dump(exclude_none=True)
    form = {name: str(value) for name, value in given.items()}
    assert parse(EditRequest, form) == request


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({}, "prompt", "is required"),
        ({"prompt": " "}, "prompt", "must not be empty"),
        ({"prompt": "x" * 4001}, "prompt", "at most 4000 characters, got 4001"),
        ({"prompt": "a", "n": "two"}, "n", "integer"),
        ({"prompt": "a", "n": "5"}, "n", "from 1 to 4"),
        ({"prompt": "a", "num_inference_steps": "9"}, "num_inference_steps", "from 10 to 100"),
        (
            {"prompt": "a", "num_inference_steps": "0", "preset": "fast"},
            "num_inference_steps",
            "from 1 to 100",
        ),
        ({"prompt": "a", "true_cfg_scale": "0.9"}, "true_cfg_scale", "from 1.0 to 10.0"),
        ({"prompt": "a", "true_cfg_scale": "nan"}, "true_cfg_scale", "finite"),
        ({"prompt": "a", "seed": "-2"}, "seed", "from -1 to 18446744073709551615"),
        ({"prompt": "a", "size": "9x9"}, "size", "16 to 4096"),
        ({"prompt": "a", "size": "1024"}, "size", "WxH"),
        ({"prompt": "a", "output_format": "bmp"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"prompt": "a", "mask": "x"}, "mask", "is not a field"),
        ({"prompt": "a", "n": True}, "n", "must not be true or false"),
        ({"prompt": "a", "seed": 2**64 - 2, "n": 3}, "n", "too large for this seed"),
        ({"prompt": "a", "parent": "../.."}, "parent", "must be the id of a job"),
        ({"prompt": "a", "parent": f"{JOB_ID}/x"}, "parent", "must be the id of a job"),
        ({"prompt": "a", "parent": JOB_ID, "parent_n": "5"}, "parent_n", "from 1 to 4"),
        ({"prompt": "a", "parent_n": "2"}, "parent_n", "set parent"),
        ({"prompt": "a", "parent": " ", "parent_n": 2}, "parent_n", "set parent"),
    ],
)
def test_a_wrong_request_is_refused_by_field_and_limit(
    fields: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=field) as refused:
        parse(EditRequest, fields)
    assert refused.value.field == field
    assert says in refused.value.message


def test_a_job_file_may_spell_its_values_as_a_form() -> None:
    text = '{"prompt": "a\\r\\nb", "seed": " 7 ", "size": "64*48", "output_format": "JPG", "n": ""}'
    request = parse_json(Job, text.encode())
    assert (request.prompt, request.seed, request.size) == ("a\nb", 7, "64x48")
    assert (request.output_format, request.n, request.sides()) == ("jpeg", 1, (64, 48))


def test_a_job_without_a_parent_is_written_as_before_there_were_parents() -> None:
    assert b"parent" not in parse(Job, {"prompt": "p"}).to_json()
    assert b'"parent_n": 1' in parse(Job, {"prompt": "p", "parent": JOB_ID}).to_json()


def test_few_steps_are_for_presets() -> None:
    assert (
        parse(
            EditRequest, {"prompt": "a", "preset": "fast", "num_inference_steps": "4"}
        ).num_inference_steps
        == 4
    )


def test_steps_and_guidance_that_nobody_gave_stay_open_in_the_file() -> None:
    request = parse(Job, {"prompt": "p", "preset": "fast", "true_cfg_scale": 2.0})
    again = parse_json(Job, request.to_json())
    assert again.model_fields_set & {"num_inference_steps", "true_cfg_scale"} == {"true_cfg_scale"}
    assert b"num_inference_steps" not in parse(Job, {"prompt": "p"}).to_json()
