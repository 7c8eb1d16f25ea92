"""LoRA weights: loaded when the engine starts, and active only for presets that use them."""

from pathlib import Path
from typing import Any

from i2ii_spool.engines.diffusers.loading import check_packages
from i2ii_spool.errors import SettingsError

TRANSFORMER_PREFIX = "transformer."


def load(pipeline: Any, name: str, file: Path) -> None:
    """Load the LoRA in `file` under `name`, and leave it inactive.

    Raises `SettingsError` if it cannot be read or does not fit this transformer.
    """
    check_packages("peft")
    try:
        weights = pipeline.lora_state_dict(
            file.parent, weight_name=file.name, local_files_only=True
        )
        _check_fit(pipeline.transformer, weights, file)
        pipeline.load_lora_weights(weights, adapter_name=name)
    except SettingsError:
        raise
    except Exception as error:  # its type depends on the format of the file
        if name in getattr(pipeline.transformer, "peft_config", {}):
            pipeline.transformer.delete_adapters(name)
        raise SettingsError(f"{file} cannot be read as a LoRA: {error}", field="presets") from error
    finally:
        activate(pipeline, None)


def _check_fit(transformer: Any, weights: dict[str, Any], file: Path) -> None:
    """Compare each matrix with its layer: diffusers skips matrices that do not fit, at most with a
    warning."""
    layers = dict(transformer.named_modules())
    ends = {".lora_A.weight": "in_features", ".lora_B.weight": "out_features"}
    for key, matrix in weights.items():
        end = next((end for end in ends if key.endswith(end)), None)
        if end is None:
            continue
        layer = layers.get(key.removeprefix(TRANSFORMER_PREFIX).removesuffix(end))
        side = matrix.shape[1 if end == ".lora_A.weight" else 0]
        if layer is None or getattr(layer, ends[end], None) != side:
            raise SettingsError(
                f"{file} does not fit the model: the model has no layer with {side} features for "
                f"{key}; use the LoRA made for this model",
                field="presets",
            )
    if not weights:
        raise SettingsError(f"{file} contains no LoRA", field="presets")


def activate(pipeline: Any, name: str | None) -> None:
    """Activate the LoRA `name` and deactivate all others; with None the model is as published."""
    if name is not None:
        pipeline.set_adapters([name])
        pipeline.enable_lora()
    elif getattr(pipeline.transformer, "peft_config", None):
        pipeline.disable_lora()
