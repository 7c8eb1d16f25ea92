"""LoRA weights: loaded beside the model's own, and awake only for the presets that want them."""

from pathlib import Path
from typing import Any

from i2ii_spool.engines.diffusers.loading import check_packages
from i2ii_spool.errors import SettingsError

PREFIX = "transformer."


def load(pipeline: Any, name: str, file: Path) -> None:
    """Load the LoRA in `file` under `name`, asleep. Raises `SettingsError` if it was not made for
    this transformer."""
    check_packages("peft")
    try:
        weights = pipeline.lora_state_dict(
            file.parent, weight_name=file.name, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read as a LoRA: {error}", field="presets") from error
    _check(pipeline.transformer, weights, file)
    pipeline.load_lora_weights(weights, adapter_name=name)
    pipeline.disable_lora()


def _check(transformer: Any, weights: dict[str, Any], file: Path) -> None:
    """Compare each matrix with the layer it is for: diffusers leaves out what fits nowhere, with a
    warning at most."""
    layers = dict(transformer.named_modules())
    ends = {".lora_A.weight": "in_features", ".lora_B.weight": "out_features"}
    for key, matrix in weights.items():
        end = next((end for end in ends if key.endswith(end)), None)
        if end is None:
            continue
        layer = layers.get(key.removeprefix(PREFIX).removesuffix(end))
        side = matrix.shape[1 if end == ".lora_A.weight" else 0]
        if layer is None or getattr(layer, ends[end], None) != side:
            raise SettingsError(
                f"{file} does not fit the model: {key} is for {side} features, which the model has not there; "
                "take the LoRA that was made for it",
                field="presets",
            )
    if not weights:
        raise SettingsError(f"{file} holds no LoRA", field="presets")


def activate(pipeline: Any, name: str | None) -> None:
    """Have the LoRA `name` take part in what follows, and no other; with None the model is exactly
    as published."""
    if name is not None:
        pipeline.set_adapters([name])
        pipeline.enable_lora()
    elif getattr(pipeline.transformer, "peft_config", None):
        pipeline.disable_lora()
