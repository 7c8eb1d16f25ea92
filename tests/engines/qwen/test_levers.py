"""What makes an edit faster or smaller, each lever against plain diffusers on the same weights."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.engines.qwen import KINDS, REASON, are_equal, ask, edit, photo, settings, write_lora

pytest.importorskip("diffusers", reason=REASON)
pytest.importorskip("torch", reason=REASON)

import numpy as np
import torch

from i2ii_spool.engines.diffusers import loading, offload
from i2ii_spool.engines.diffusers.engine import QwenEngine
from i2ii_spool.engines.diffusers.pipelines import qwen_edit
from i2ii_spool.engines.diffusers.speed import lossy
from i2ii_spool.errors import Cancelled, SettingsError
from i2ii_spool.images.codec import on_white

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

OFF: dict[str, Any] = {
    "attention": "native",
    "prompt_cache": 0,
    "modulation_cache": False,
    "frame_vae": False,
}
CPU = torch.device("cpu")
OWN = """
[own]
num_inference_steps = 10
true_cfg_scale = 4.0
lora = "lora.safetensors"
lora_version = "2511"
"""


@pytest.fixture(scope="module")
def plain(models: dict[str, Path]) -> Callable[[str], Image.Image]:
    """What diffusers' own pipeline makes of `photo()` and `ask()`, and nothing of ours but its
    reference's size."""

    def made_by(kind: str) -> Image.Image:
        pipeline = loading.load(models[kind], CPU)
        if kind != "2.1":
            qwen_edit.limit_references(pipeline, 128)
        pixels = pipeline(
            image=photo(),
            prompt=ask().prompt,
            **({"output_resolution": 128} if kind == "2.1" else {}),
            negative_prompt=" ",
            true_cfg_scale=4.0,
            num_inference_steps=10,
            width=160,
            height=96,
            generator=torch.Generator("cpu").manual_seed(1),
            output_type="np",
        ).images[0]
        return on_white(Image.fromarray((pixels * 255).round().astype("uint8")))

    return made_by


def load(model: Path, **levers: Any) -> QwenEngine:
    engine = QwenEngine(settings(model, **OFF | levers))
    engine.load()
    return engine


def distance(one: Image.Image, other: Image.Image) -> float:
    """The largest difference of a channel, of 255."""
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).max())


@contextmanager
def counting(owner: Any, name: str) -> Iterator[list[Any]]:
    """What this method is called with."""
    calls: list[Any] = []
    method = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args or kwargs)
        return method(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield calls


# --- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_lever_an_edit_is_diffusers_own_to_the_bit(
    models: dict[str, Path], plain: Callable[[str], Image.Image], kind: str
) -> None:
    assert are_equal(edit(load(models[kind]))[0], plain(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lever", [{"prompt_cache": 2}, {"modulation_cache": True}])
def test_what_is_computed_once_is_equal_to_the_bit(
    models: dict[str, Path], plain: Callable[[str], Image.Image], kind: str, lever: dict[str, Any]
) -> None:
    engine = load(models[kind], **lever)
    assert are_equal(edit(engine)[0], plain(kind))
    assert are_equal(edit(engine)[0], plain(kind)), "and so it is from what has been kept"


@pytest.mark.parametrize("lever", [{"frame_vae": True}, {"attention": "_native_math"}])
def test_what_is_computed_otherwise_is_equal_but_for_rounding(
    models: dict[str, Path], plain: Callable[[str], Image.Image], lever: dict[str, Any]
) -> None:
    assert distance(edit(load(models["2511"], **lever))[0], plain("2511")) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_default_optimizations_are_equal_up_to_rounding(
    engines: Callable[[str], QwenEngine], plain: Callable[[str], Image.Image], kind: str
) -> None:
    assert distance(edit(engines(kind))[0], plain(kind)) <= 1


@pytest.mark.skipif(
    shutil.which("g++") is None,
    reason="torch.compile needs a C++ compiler on the CPU: apt install g++",
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_it_is_equal_but_for_rounding(
    models: dict[str, Path], plain: Callable[[str], Image.Image]
) -> None:
    engine = load(models["2511"], compile=True, modulation_cache=True)
    assert distance(edit(engine)[0], plain("2511")) <= 1
    assert engine._pipeline.transformer.transformer_blocks[0]._compiled_call_impl is not None


def test_the_language_model_reads_pictures_and_prompt_once(models: dict[str, Path]) -> None:
    engine = load(models["2511"], prompt_cache=2)
    with counting(engine._pipeline.text_encoder, "forward") as readings:
        edit(engine, n=3)
        assert len(readings) == 2, "of the prompt and of the negative prompt"
        edit(engine, seed=7)
        assert len(readings) == 2
        edit(engine, photo(at=-1.0))
        assert len(readings) == 4
        edit(engine)
        assert len(readings) == 6, "only two are kept"


@pytest.mark.parametrize("kind", KINDS)
def test_n_pictures_encode_prompt_and_references_once(models: dict[str, Path], kind: str) -> None:
    engine = load(models[kind])
    photos = [photo(), photo(at=-1.0)][: engine.info.max_images]
    with (
        counting(engine._pipeline.text_encoder, "forward") as readings,
        counting(engine._pipeline.vae, "encode") as encodings,
    ):
        made = edit(engine, *photos, n=3)
    assert len(readings) == 2, "of the prompt and of the negative prompt"
    assert len(encodings) == len(photos)
    for index, image in enumerate(made):
        assert are_equal(image, edit(engine, *photos, seed=1 + index)[0])


def test_modulations_are_computed_once_for_each_step_of_a_schedule(models: dict[str, Path]) -> None:
    engine = load(models["2511"], modulation_cache=True)
    with counting(
        engine._pipeline.transformer.transformer_blocks[0].img_mod.layers, "forward"
    ) as computed:
        edit(engine, n=2)
        assert len(computed) == 10
        edit(engine, prompt="another one")
        assert len(computed) == 10
        edit(engine, num_inference_steps=12)
        assert len(computed) == 22


@pytest.mark.parametrize(
    "lever",
    [
        {},
        {"modulation_cache": True},
        {"fp8": True},
        {"offload": "fp8"},
        {"offload": "group-offload"},
        {"step_cache": "first-block"},
    ],
)
def test_lora_works_with_every_optimization_for_one_edit(
    models: dict[str, Path], tmp_path: Path, lever: dict[str, Any]
) -> None:
    write_lora(tmp_path / "lora.safetensors", layer="transformer_blocks.0.img_mod.1", outputs=384)
    (tmp_path / "presets.toml").write_text(OWN)
    engine = load(models["2511"], presets=tmp_path / "presets.toml", **lever)
    [before], [within], [after] = edit(engine), edit(engine, preset="own"), edit(engine)
    assert are_equal(before, after)
    assert not are_equal(before, within)


def test_a_single_frame_takes_less_than_half_of_the_vae_s_work(models: dict[str, Path]) -> None:
    def flops(**levers: Any) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        vae = load(models["2511"], **levers)._pipeline.vae
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            vae.decode(torch.zeros(1, 16, 1, 8, 8))
        return int(counter.get_total_flops())

    assert flops(frame_vae=True) < 0.45 * flops()


@pytest.mark.parametrize("name", ["flash", "_flash_3", "no-such-kernel"])
def test_an_attention_kernel_that_is_not_there_is_one_line(
    models: dict[str, Path], name: str
) -> None:
    with pytest.raises(
        SettingsError, match=f"{name} cannot be used.*diffusers knows flash.*native"
    ):
        load(models["2511"], attention=name)


# --- memory ---------------------------------------------------------------------------------------

PUBLISHED = {"text_encoder": 16.6e9, "transformer": 40.9e9, "vae": 0.25e9}
"""The bytes of Qwen-Image-Edit-2511."""


@pytest.mark.parametrize("kind", ["2511", "2.1"])
@pytest.mark.parametrize("mode", ["model-offload", "group-offload"])
def test_weights_that_wait_in_the_host_s_memory_change_nothing(
    models: dict[str, Path], plain: Callable[[str], Image.Image], mode: str, kind: str
) -> None:
    engine = QwenEngine(settings(models[kind], offload=mode))
    engine.load()
    made = edit(engine)[0]
    assert distance(made, plain(kind)) <= 1
    with pytest.raises(Cancelled):
        engine.edit([photo(at=-1.0)], ask(), cancel_at_step_4)
    assert are_equal(edit(engine)[0], made), (
        "a cancelled edit leaves every part where the next one looks for it"
    )
    assert engine.info.details["lossy"] == []


@pytest.mark.parametrize(
    ("card", "free", "mode"),
    [
        ("80 GB", 78, "full"),
        ("48 GB", 47, "model-offload"),
        ("40 GB", 39, "group-offload"),
        ("24 GB", 23, "group-offload"),
    ],
)
def test_auto_takes_the_fastest_exact_mode_that_fits_and_says_so(
    card: str, free: float, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert offload.choose_mode(PUBLISHED, 1024, free * 2**30) == mode, card
    assert f"offload: {mode} (" in caplog.text
    assert f"of {free:.1f} GiB free" in caplog.text


def test_too_small_gpu_is_one_line_with_the_cure() -> None:
    with pytest.raises(
        SettingsError,
        match=r"about 20\.5 GiB .* with group-offload, but only 12\.0 GiB are free: stop",
    ):
        offload.choose_mode(PUBLISHED, 1024, 12 * 2**30)


def test_what_weights_take_is_read_from_their_files(models: dict[str, Path]) -> None:
    sizes = offload.weight_sizes(models["2511"])
    assert sorted(sizes) == ["text_encoder", "transformer", "vae"]
    assert (
        sizes["vae"] == (models["2511"] / "vae/diffusion_pytorch_model.safetensors").stat().st_size
    )


def cancel_at_step_4(step: int, _steps: int) -> None:
    if step == 4:
        raise Cancelled("while it ran")


# --- lossy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["2511", "2.1"])
@pytest.mark.parametrize(
    ("lever", "name"), [({"fp8": True}, "fp8"), ({"offload": "fp8"}, "offload fp8")]
)
def test_eight_bits_are_near_and_on_record(
    models: dict[str, Path],
    plain: Callable[[str], Image.Image],
    lever: dict[str, Any],
    name: str,
    kind: str,
) -> None:
    engine = load(models[kind], **lever)
    difference = np.asarray(edit(engine)[0], dtype=float) - np.asarray(plain(kind), dtype=float)
    assert 0 < np.abs(difference).mean() < 12, "of 255"
    assert engine.info.details["lossy"] == [name]


@pytest.mark.parametrize("kind", ["first-block", "dbcache"])
def test_step_cache_skips_similar_steps_and_is_reset_by_a_cancel(
    models: dict[str, Path],
    plain: Callable[[str], Image.Image],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps of random weights are never alike by the thresholds for real ones: nothing may be
    skipped there."""
    if kind == "dbcache":
        pytest.importorskip("cache_dit", reason="pip install cache-dit")
    careful = load(models["2511"], step_cache=kind)
    assert distance(edit(careful)[0], plain("2511")) <= 1

    monkeypatch.setattr(lossy, "FIRST_BLOCK_THRESHOLD", 5.0)
    monkeypatch.setattr(lossy, "DBCACHE_THRESHOLD", 5.0)
    engine = load(models["2511"], step_cache=kind)
    layers = [
        layer
        for name, layer in engine._pipeline.transformer.named_modules()
        if name.endswith(".1.attn.to_q")
    ]
    with counting(layers[0], "forward") as calls:
        made = edit(engine)[0]
    assert 0 < len(calls) < 20, "of 10 steps with two passes each"
    assert engine.info.details["lossy"] == [f"step_cache {kind}"]
    with pytest.raises(Cancelled):
        engine.edit([photo(at=-1.0)], ask(), cancel_at_step_4)
    assert are_equal(edit(engine)[0], made)


def test_model_with_its_own_cache_gets_no_step_cache(
    models: dict[str, Path],
) -> None:
    with pytest.raises(SettingsError, match="already reuses what its steps share"):
        load(models["2.1"], step_cache="first-block")


def test_taylorseer_predicts_two_of_three_steps_and_resets_on_cancel(
    models: dict[str, Path],
) -> None:
    engine = load(models["2511"], step_cache="taylorseer")
    layer = engine._pipeline.transformer.transformer_blocks[1].attn.to_q
    with counting(layer, "forward") as calls:
        made = edit(engine)[0]
    assert len(calls) == 2 * (4 + 2), (
        "in 10 steps with two passes: the first four, and two of the other six"
    )
    assert engine.info.details["lossy"] == ["step_cache taylorseer"]
    with pytest.raises(Cancelled):
        engine.edit([photo(at=-1.0)], ask(), cancel_at_step_4)
    assert are_equal(edit(engine)[0], made)


def test_a_step_cache_whose_package_is_missing_is_one_line(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cache_dit" else find_spec(name)
    )
    with pytest.raises(SettingsError, match=r"needs cache_dit: pip install 'i2ii\[dbcache\]'"):
        load(models["2511"], step_cache="dbcache")
