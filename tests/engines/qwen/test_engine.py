"""The qwen engine: diffusers' real pipelines, on tiny models of random weights, on the CPU."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.engines.qwen import (
    KINDS,
    PROMPT,
    REASON,
    are_equal,
    ask,
    edit,
    ignore,
    photo,
    settings,
    write_lora,
)

pytest.importorskip("diffusers", reason=REASON)
pytest.importorskip("torch", reason=REASON)

import torch

from i2ii_spool.engines.diffusers import loading, resolution
from i2ii_spool.engines.diffusers.engine import QwenEngine
from i2ii_spool.engines.registry import create
from i2ii_spool.errors import Cancelled, EngineBroken, EngineError, InvalidRequest, SettingsError
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.settings import Settings
from tests.support.pictures import make_picture
from tests.support.service import Service, cli, wait_until

# Diffusers and transformers warn of their own code, which i2ii cannot change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


# --- what goes in comes out -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_same_request_gives_same_picture_and_every_field_counts(
    engines: Callable[[str], QwenEngine], kind: str
) -> None:
    engine = engines(kind)
    [made] = edit(engine)
    assert made.size == (160, 96), "an area of 128x128 in the aspect of 96x64, in whole 32 pixels"
    assert are_equal(made, edit(engine)[0])

    others: dict[str, list[Image.Image]] = {
        "seed": edit(engine, seed=2),
        "prompt": edit(engine, prompt="将图像转换为水彩画风格"),
        "negative prompt": edit(engine, negative_prompt="blurry"),
        "steps": edit(engine, num_inference_steps=11),
        "cfg": edit(engine, true_cfg_scale=2.0),
        "picture": edit(engine, photo(at=-1.0)),
    }
    assert [what for what, other in others.items() if are_equal(made, other[0])] == []


def test_without_a_negative_prompt_there_is_guidance_all_the_same(engine: QwenEngine) -> None:
    assert not are_equal(edit(engine, true_cfg_scale=4.0)[0], edit(engine, true_cfg_scale=1.0)[0])


def test_several_pictures_are_made_with_consecutive_seeds(engine: QwenEngine) -> None:
    first, second = edit(engine, seed=5, n=2)
    assert are_equal(first, edit(engine, seed=5)[0])
    assert are_equal(second, edit(engine, seed=6)[0])


@pytest.mark.parametrize(
    ("kind", "steps", "guidance"),
    [("1", 50, 4.0), ("2509", 50, 4.0), ("2511", 50, 4.0), ("2.1", 40, 1.0)],
)
def test_steps_and_guidance_left_open_are_the_model_s_own(
    engines: Callable[[str], QwenEngine], kind: str, steps: int, guidance: float
) -> None:
    engine, seen = engines(kind), []
    engine.edit([photo()], EditRequest(prompt=PROMPT), lambda *step: seen.append(step))
    assert seen[-1] == (steps, steps)
    details = engine.info.details
    assert (details["num_inference_steps"], details["true_cfg_scale"]) == (steps, guidance)


def test_seeds_have_64_bits_and_wrap_around(engine: QwenEngine) -> None:
    last = ask(seed=2**64 - 1).model_copy(update={"n": 2})
    assert are_equal(engine.edit([photo()], last, ignore)[1], edit(engine, seed=0)[0])


@pytest.mark.parametrize("kind", ["2509", "2511", "2.1"])
def test_each_of_three_pictures_counts(engines: Callable[[str], QwenEngine], kind: str) -> None:
    engine, one, two, three = engines(kind), photo(), photo(at=-1.0), photo(at=-1.5)
    [made] = edit(engine, one, two, three)
    assert not are_equal(made, edit(engine, one, two)[0])
    assert not are_equal(made, edit(engine, one, three, two)[0])


def test_the_aspect_is_that_of_the_first_picture(engine: QwenEngine) -> None:
    assert edit(engine, photo(64, 96), photo(96, 64))[0].size == (96, 160)


@pytest.mark.parametrize(
    ("kind", "most", "pictures"),
    [("1", 1, "one picture"), ("2509", 3, "to 3 pictures"), ("2.1", 10, "to 10 pictures")],
)
def test_each_model_takes_as_many_pictures_as_it_is_published_for(
    engines: Callable[[str], QwenEngine], kind: str, most: int, pictures: str
) -> None:
    engine = engines(kind)
    assert engine.info.max_images == most
    edit(engine, *[photo()] * most)
    with pytest.raises(InvalidRequest, match=f"{pictures}, got {most + 1}") as raised:
        edit(engine, *[photo()] * (most + 1))
    assert raised.value.field == "image"
    assert engine.info.model in raised.value.message


def test_what_is_transparent_counts_as_white(engine: QwenEngine) -> None:
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    white = Image.new("RGB", clear.size, "white")
    assert are_equal(edit(engine, clear)[0], edit(engine, white)[0])


def test_transparency_reaches_the_model_that_reads_it(
    engines: Callable[[str], QwenEngine],
) -> None:
    engine, clear, opaque = engines("2.1"), photo(), photo().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    assert edit(engine, clear)[0].mode == "RGBA"
    assert edit(engine)[0].mode == "RGB"
    assert not are_equal(edit(engine, clear)[0], edit(engine, opaque)[0])


@pytest.mark.parametrize(
    ("size", "expected"), [("input", (101, 67)), ("48x200", (48, 200)), ("400x300", (400, 300))]
)
def test_the_result_has_the_size_that_was_asked_for(
    engine: QwenEngine, size: str, expected: tuple[int, int]
) -> None:
    assert edit(engine, photo(101, 67), size=size)[0].size == expected


def test_a_preset_that_is_not_there_names_those_that_are(engine: QwenEngine) -> None:
    with pytest.raises(InvalidRequest, match="quality, balanced") as raised:
        edit(engine, preset="fast")
    assert raised.value.field == "preset"
    assert "i2ii model fetch" in str(raised.value)


# --- how large it works ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_max_side_limits_the_reference_and_the_output(models: dict[str, Path], kind: str) -> None:
    def tokens(side: int) -> int:
        engine = QwenEngine(settings(models[kind], max_side=side))
        engine.load()
        seen: list[int] = []
        engine._pipeline.transformer.img_in.register_forward_hook(
            lambda _module, args, _out: seen.append(args[0].shape[1])
        )
        edit(engine, photo(300, 300))
        engine.close()
        return max(seen)

    assert tokens(192) == 2 * (192 // 16) ** 2, "output and reference, in tokens of 16x16 pixels"
    assert tokens(96) == 2 * (96 // 16) ** 2


@pytest.mark.parametrize("size", ["auto", "input", "4096x16", "2000x1000", "17x1300"])
def test_the_model_works_on_whole_tokens_within_the_limit(size: str) -> None:
    target = resolution.result_size((3000, 2000), ask(size=size), 768)
    width, height = resolution.compute_size(target, 768, 16)
    assert width % 16 == height % 16 == 0
    assert width * height <= 768**2 * 1.05
    assert (
        width / height == pytest.approx(target[0] / target[1], rel=0.1) or min(width, height) == 16
    )


# --- progress and stopping ------------------------------------------------------------------------


def test_progress_counts_through_all_pictures(engine: QwenEngine) -> None:
    seen: list[tuple[int, int]] = []
    engine.edit([photo()], ask(n=2), lambda step, steps: seen.append((step, steps)))
    assert seen == [(step, 20) for step in range(1, 21)]


def test_cancelled_edit_stops_at_its_step_and_decodes_nothing(
    engine: QwenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = edit(engine)[0]
    seen: list[int] = []

    def cancel_at_3(step: int, _steps: int) -> None:
        seen.append(step)
        if step == 3:
            raise Cancelled("cancelled")

    with monkeypatch.context() as patch:
        patch.setattr(engine._pipeline.vae, "decode", lambda *_, **__: pytest.fail("decoded"))
        with pytest.raises(Cancelled):
            engine.edit([photo()], ask(), cancel_at_3)
    assert seen == [1, 2, 3]
    assert are_equal(before, edit(engine)[0])


# --- presets --------------------------------------------------------------------------------------


@pytest.fixture
def with_presets(models: dict[str, Path], tmp_path: Path) -> Callable[[str], QwenEngine]:
    """An engine of the tiny 2511 with this text as its presets' file, beside a LoRA
    `lora.safetensors` that fits."""
    write_lora(tmp_path / "lora.safetensors")

    def engine_with(text: str) -> QwenEngine:
        (tmp_path / "presets.toml").write_text(text)
        engine = QwenEngine(settings(models["2511"], presets=tmp_path / "presets.toml"))
        engine.load()
        return engine

    return engine_with


DISTILLED = """
[draft]
num_inference_steps = 4
true_cfg_scale = 1.0
lora = "lora.safetensors"
lora_version = "2511"
shift = 3.0
[bare]
num_inference_steps = 4
true_cfg_scale = 1.0
shift = 3.0
"""


GOOD = """
[good]
num_inference_steps = 4
true_cfg_scale = 1.0
"""


def check_unusable(
    engine: QwenEngine, name: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Check that log and refusal name the preset, that the log says why, and that another preset
    works."""
    assert re.search(f"the preset {name} cannot be used: .*{words}", caplog.text)
    with pytest.raises(InvalidRequest, match=f"'{name}' cannot be used: .* good") as raised:
        engine.edit([photo()], unset(preset=name), ignore)
    assert raised.value.field == "preset"
    engine.edit([photo()], unset(preset="good"), ignore)
    assert engine.info.details["num_inference_steps"] == 4


def unset(**fields: Any) -> EditRequest:
    """A request that leaves steps and guidance to the preset."""
    return EditRequest(prompt=PROMPT, seed=1, **fields)


def test_preset_sets_lora_schedule_steps_and_guidance_for_one_edit(
    with_presets: Callable[[str], QwenEngine],
) -> None:
    engine = with_presets(DISTILLED)
    before = edit(engine)[0]
    steps: list[tuple[int, int]] = []
    [draft] = engine.edit([photo()], unset(preset="draft"), lambda *step: steps.append(step))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert engine.info.details["preset"] == "draft"
    assert engine.info.details["num_inference_steps"] == 4
    assert engine.info.details["true_cfg_scale"] == 1.0
    [bare] = engine.edit([photo()], unset(preset="bare"), ignore)
    assert not are_equal(draft, bare), "the LoRA takes part in the one and not in the other"
    assert not are_equal(
        bare, edit(engine, num_inference_steps=4, true_cfg_scale=1.0, preset="quality")[0]
    )
    assert are_equal(before, edit(engine)[0])
    assert engine.info.details["preset"] == ""


def test_what_a_request_says_itself_goes_before_its_preset(engine: QwenEngine) -> None:
    engine.edit([photo()], unset(preset="balanced", num_inference_steps=2), ignore)
    assert engine.info.details["num_inference_steps"] == 2
    assert engine.info.details["true_cfg_scale"] == 4.0


def test_one_step_is_refused_for_a_schedule_that_needs_two(
    engine: QwenEngine,
) -> None:
    with pytest.raises(InvalidRequest, match="2 steps") as raised:
        edit(engine, preset="balanced", num_inference_steps=1)
    assert raised.value.field == "num_inference_steps"


def test_a_presets_file_that_is_not_toml_is_one_line(
    with_presets: Callable[[str], QwenEngine],
) -> None:
    with pytest.raises(SettingsError, match="cannot be read") as raised:
        with_presets("[a")
    assert raised.value.field == "presets"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 1", "a: .*a valid dictionary"),
        ("[a]\ntrue_cfg_scale = 1", "a.num_inference_steps: Field required"),
        ("[a]\nnum_inference_steps = 400\ntrue_cfg_scale = 1", "a.num_inference_steps: .* 100"),
        ("[a]\nsteps = 4\nnum_inference_steps = 4\ntrue_cfg_scale = 1", "a.steps: Extra inputs"),
        (DISTILLED.replace("lora.safe", "other.safe"), "there is no file"),
        (DISTILLED.replace('"2511"', '"2509"'), "is for model 2509, but the loaded model is 2511"),
        (
            DISTILLED.replace("lora.safe", "Qwen-Image-Edit-2509-x.safe"),
            "file name of lora says 2509",
        ),
        (DISTILLED.replace('lora_version = "2511"', ""), "set together"),
    ],
)
def test_a_wrong_preset_is_named_and_the_others_work(
    with_presets: Callable[[str], QwenEngine],
    text: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = with_presets(text + GOOD)
    check_unusable(engine, "a" if text.startswith(("a", "[a")) else "draft", words, caplog)


def test_a_wrong_preset_does_not_give_way_to_the_one_that_it_replaces(
    with_presets: Callable[[str], QwenEngine], caplog: pytest.LogCaptureFixture
) -> None:
    engine = with_presets("[quality]\ntrue_cfg_scale = 1" + GOOD)
    check_unusable(engine, "quality", "Field required", caplog)


@pytest.mark.parametrize("wrong", [{"features": 32}, {"layer": "transformer_blocks.9.attn.to_q"}])
def test_a_lora_that_does_not_fit_the_model_is_refused(
    with_presets: Callable[[str], QwenEngine],
    tmp_path: Path,
    wrong: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_lora(tmp_path / "lora.safetensors", **wrong)
    check_unusable(with_presets(DISTILLED + GOOD), "draft", "does not fit", caplog)


def test_a_lora_that_cannot_be_read_is_refused_and_the_next_one_is_loaded(
    with_presets: Callable[[str], QwenEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (tmp_path / "lora.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").touch()
    cut = DISTILLED.partition("[bare]")[0].replace("lora.safe", "cut.safe")
    empty = cut.replace("draft", "none").replace("cut.safe", "empty.safe")
    good = DISTILLED.replace("draft", "other").replace("bare", "plain")
    engine = with_presets(cut + empty + good + GOOD)
    check_unusable(engine, "draft", "cannot be read as a LoRA", caplog)
    check_unusable(engine, "none", "cannot be read as a LoRA", caplog)
    [with_lora] = engine.edit([photo()], unset(preset="other"), ignore)
    assert not are_equal(with_lora, engine.edit([photo()], unset(preset="plain"), ignore)[0])


def test_a_lora_that_fails_half_way_is_not_active_for_the_next_edit(
    with_presets: Callable[[str], QwenEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_presets(DISTILLED)
    before = edit(engine)[0]
    with monkeypatch.context() as patch:
        patch.setattr(engine._pipeline, "enable_lora", raise_no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            engine.edit([photo()], unset(preset="draft"), ignore)
    assert are_equal(edit(engine)[0], before)


def raise_no_memory() -> None:
    raise torch.OutOfMemoryError("no memory")


def test_where_a_result_lies_in_its_picture_is_on_record(engine: QwenEngine) -> None:
    edit(engine, photo(100, 60), size="input")
    assert engine.info.details["transform"] == {
        "input": (100, 60),
        "computed": (96, 64),
        "result": (100, 60),
    }


# --- what can go wrong ----------------------------------------------------------------------------


def failing(
    engine: QwenEngine, monkeypatch: pytest.MonkeyPatch, error: Exception, *, times: int
) -> list[bool]:
    """Let decoding raise so many times; return a list that says of each call whether the VAE worked
    in tiles."""
    vae, tiled = engine._pipeline.vae, []
    original = vae.decode

    def decode(*args: Any, **kwargs: Any) -> Any:
        tiled.append(vae.use_tiling)
        if len(tiled) <= times:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(vae, "decode", decode)
    return tiled


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    ],
)
def test_out_of_memory_once_is_tried_again_in_tiles(
    engine: QwenEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tiled = failing(engine, monkeypatch, error, times=1)
    assert edit(engine)[0].size == (160, 96)
    assert tiled == [False, True]
    assert not engine._pipeline.vae.use_tiling


def test_out_of_memory_twice_fails_one_job_with_advice(
    engine: QwenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(engine, monkeypatch, torch.OutOfMemoryError("no memory"), times=2)
    with pytest.raises(EngineError, match="lower max_side") as raised:
        edit(engine)
    assert raised.value.code == "out_of_memory"
    assert not isinstance(raised.value, EngineBroken)
    assert raised.value.suspects_worker, "an edit like this had enough memory at start"
    edit(engine)


@pytest.mark.parametrize("larger", [{"pictures": 2}, {"prompt": "1" * 4000}])
def test_an_edit_larger_than_the_one_at_start_does_not_blame_its_worker(
    engine: QwenEngine, monkeypatch: pytest.MonkeyPatch, larger: dict[str, Any]
) -> None:
    failing(engine, monkeypatch, torch.OutOfMemoryError("no memory"), times=2)
    pictures = [photo()] * larger.pop("pictures", 1)
    with pytest.raises(EngineError) as raised:
        edit(engine, *pictures, **larger)
    assert raised.value.code == "out_of_memory"
    assert not raised.value.suspects_worker


def test_a_cuda_error_breaks_the_engine(
    engine: QwenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(
        engine,
        monkeypatch,
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        times=1,
    )
    with pytest.raises(EngineBroken, match="illegal memory access"):
        edit(engine)


def test_a_cuda_error_on_the_second_try_breaks_the_engine_as_well(
    engine: QwenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(engine, monkeypatch, torch.OutOfMemoryError("no memory"), times=1)
    monkeypatch.setattr(engine._pipeline.vae, "enable_tiling", _raise_illegal_access)
    with pytest.raises(EngineBroken, match="illegal memory access"):
        edit(engine)


def _raise_illegal_access() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("value", "words", "suspects_worker"),
    [(float("nan"), "NaN", True), (-1.0, "black picture", False)],
)
def test_what_is_no_picture_is_not_delivered(
    engine: QwenEngine,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    words: str,
    suspects_worker: bool,
) -> None:
    original = engine._pipeline.vae.decode

    def decode(*args: Any, **kwargs: Any) -> Any:
        return (torch.full_like(original(*args, **kwargs)[0], value),)

    monkeypatch.setattr(engine._pipeline.vae, "decode", decode)
    with pytest.raises(EngineError, match=words) as raised:
        edit(engine)
    assert raised.value.code == "bad_output"
    assert raised.value.suspects_worker is suspects_worker, "a client may have asked for black"


def test_too_little_memory_for_one_edit_is_reported_at_load(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_args: Any, **_kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("diffusers.AutoencoderKLQwenImage.decode", decode)
    with pytest.raises(
        SettingsError,
        match=r"one edit does not fit on the card with offload full: .* lower max_side",
    ) as raised:
        QwenEngine(settings(models["2511"])).load()
    assert raised.value.field == "offload"


def test_a_picture_that_leaves_no_positions_for_a_prompt_is_reported_at_load(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The published processor scales a picture of 2048x2048 to as many patches.
    name = "transformers.models.qwen2_vl.Qwen2VLImageProcessor.get_number_of_image_patches"
    monkeypatch.setattr(name, lambda *_: 146 * 146)
    with pytest.raises(SettingsError, match="max_side 128 is too large for this model") as raised:
        QwenEngine(settings(models["1"])).load()
    assert raised.value.field == "max_side"


# --- loading --------------------------------------------------------------------------------------


def test_auto_is_qwen_on_a_gpu_and_classic_without() -> None:
    assert create(Settings(), has_gpu=True).info.engine == "qwen"
    assert create(Settings(), has_gpu=False).info.engine == "classic"


def test_a_folder_that_holds_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no model_index\.json"):
        loading.find(str(tmp_path), "modelscope")


def test_an_index_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": ')
    with pytest.raises(SettingsError, match="cannot be read"):
        QwenEngine(settings(tmp_path)).load()


def test_a_folder_needs_no_hub(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "modelscope" else find_spec(name)
    )
    assert loading.find(str(models["2509"]), "modelscope") == models["2509"]
    with pytest.raises(SettingsError, match="modelscope"):
        loading.find("Qwen/Qwen-Image-Edit", "modelscope")


def test_allocator_is_configured_before_the_client_of_a_hub_may_import_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)

    def find(_model: str, _source: str) -> Path:
        raise SettingsError(os.environ["PYTORCH_CUDA_ALLOC_CONF"])

    monkeypatch.setattr(loading, "find", find)
    with pytest.raises(SettingsError, match="expandable_segments:True"):
        QwenEngine(settings("anything")).load()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_video_processor_loads_beside_torchvision(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: find_spec("PIL" if name == "torchvision" else name),
    )
    pipeline = loading.load(models[kind], torch.device("cpu"))
    assert not hasattr(pipeline.processor, "video_processor")


def test_a_folder_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(
        SettingsError, match="is for FluxPipeline; this engine runs QwenImageEditPipeline"
    ):
        loading.load(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    "part", ["vae/diffusion_pytorch_model.safetensors", "text_encoder", "processor"]
)
def test_a_folder_that_is_not_complete_is_refused(
    models: dict[str, Path], tmp_path: Path, part: str
) -> None:
    folder = shutil.copytree(models["2511"], tmp_path / "model")
    shutil.move(folder / part, tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="is not complete") as raised:
        QwenEngine(settings(folder)).load()
    assert raised.value.field == "model"


def test_what_made_a_picture_is_on_record(engine: QwenEngine, models: dict[str, Path]) -> None:
    assert replace(engine.info, versions={}).model == str(models["2511"])
    assert engine.info.revision == "tiny-random-weights"
    assert set(engine.info.versions) == {"torch", "diffusers", "transformers", "accelerate"}


# --- through the doors ----------------------------------------------------------------------------


def i2ii(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "i2ii_spool", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_tiny_model_is_labelled_and_edits_through_the_service(
    service: Service, tmp_path: Path
) -> None:
    model = tmp_path / "tiny"
    made = i2ii("model", "tiny", str(model))
    assert made.returncode == 0, made.stderr
    assert "random weights" in made.stdout
    assert "Tiny random weights" in (model / "README.md").read_text()
    again = i2ii("model", "tiny", str(model))
    assert again.returncode == 64
    assert "is not empty" in again.stderr, "a model of the user would be overwritten"

    service.environment |= {"I2II_ENGINE": "qwen", "I2II_MODEL": str(model), "I2II_MAX_SIDE": "128"}
    service.start(sys.executable, "-m", "i2ii_spool", "gpu", "0")
    wait_until(
        lambda: any(worker["state"] != "loading" for worker in service.workers()), seconds=120
    )
    pictures = [str(make_picture(tmp_path / name)) for name in ("one.png", "two.jpg")]
    saved = tmp_path / "result.png"
    asked = (
        "-p",
        "将图像转换为水彩画风格",
        "--seed",
        "7",
        "--num-inference-steps",
        "10",
        "--size",
        "input",
    )
    cli(service, "submit", *pictures, *asked, "--wait", "-o", str(saved))

    with Image.open(saved) as picture:
        assert picture.size == (64, 48)
    [job] = service.spool.done.iterdir()
    result = json.loads((job / "result.json").read_text())
    assert (result["engine"], result["revision"], result["seed"]) == (
        "qwen",
        "tiny-random-weights",
        7,
    )


@pytest.mark.parametrize("source", ["modelscope", "huggingface"])
def test_missing_weights_exit_78_with_one_line_and_the_cure(tmp_path: Path, source: str) -> None:
    ended = i2ii(
        *(
            "gpu",
            "0",
            "--engine",
            "qwen",
            "--spool",
            str(tmp_path / "spool"),
            "--model-source",
            source,
        ),
        MODELSCOPE_CACHE=str(tmp_path),
        HF_HOME=str(tmp_path),
    )
    assert ended.returncode == 78
    assert "run `i2ii model fetch Qwen/Qwen-Image-Edit-2511`" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("source", ["modelscope", "huggingface"])
def test_what_cannot_be_fetched_is_one_line(tmp_path: Path, source: str) -> None:
    ended = i2ii(
        *("model", "fetch", "i2ii/there-is-no-such-model"),
        I2II_MODEL_SOURCE=source,
        MODELSCOPE_CACHE=str(tmp_path),
        HF_HOME=str(tmp_path),
    )
    assert ended.returncode == 1
    assert "i2ii: cannot fetch i2ii/there-is-no-such-model:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_hugging_face_has_fetched_is_found_with_its_revision(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--Qwen--Tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0a1b2c")
    shutil.copytree(
        models["2509"],
        repository / "snapshots" / "0a1b2c",
        ignore=shutil.ignore_patterns("i2ii-revision"),
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    engine = QwenEngine(settings("Qwen/Tiny", model_source="huggingface"))
    engine.load()
    assert (engine.info.model, engine.info.revision) == ("Qwen/Tiny", "0a1b2c")
