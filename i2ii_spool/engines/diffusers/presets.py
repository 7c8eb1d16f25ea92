"""Presets: steps, guidance, LoRA and schedule that belong together, under one name.

A distilled LoRA needs its own schedule, few steps and no guidance. Without them its pictures are
worse than without the LoRA, so a request can only choose all of them together.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2ii_spool.errors import SettingsError

Version = Literal["1", "2509", "2511", "2.1"]
"""The Qwen-Image-Edit, or Qwen-Image-2.1, that a LoRA was made for. LoRAs of different versions are
not interchangeable, even if their shapes are equal."""


class Preset(BaseModel):
    """What a request with this preset uses; its own steps and guidance take precedence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_inference_steps: Annotated[int, Field(ge=1, le=100, description="steps")]
    true_cfg_scale: Annotated[
        float, Field(ge=1, le=10, description="how closely the prompt is followed; 1 is fastest")
    ]
    lora: Annotated[
        Path | None,
        Field(description="file of LoRA weights, relative to the presets file"),
    ] = None
    lora_version: Annotated[
        Version | None, Field(description="the model that the LoRA was made for")
    ] = None
    shift: Annotated[
        float | None,
        Field(gt=1, description="a fixed shift of the schedule, which distilled LoRAs need (3)"),
    ] = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.lora is None) != (self.lora_version is None):
            raise ValueError("lora and lora_version must be set together")
        named = version_in_name(self.lora.name) if self.lora else None
        if named not in (None, self.lora_version):
            raise ValueError(
                f"the file name of lora says {named}, but lora_version is {self.lora_version}"
            )
        return self


# Repository and file of the 4-step LoRAs of https://github.com/ModelTC/Qwen-Image-Lightning.
LIGHTNING: Mapping[Version, tuple[str, str]] = {
    "1": (
        "lightx2v/Qwen-Image-Lightning",
        "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16.safetensors",
    ),
    "2509": (
        "lightx2v/Qwen-Image-Lightning",
        "Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors",
    ),
    "2511": (
        "lightx2v/Qwen-Image-Edit-2511-Lightning",
        "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors",
    ),
}


def lightning_preset(lora: Path, version: Version) -> Preset:
    """Return the preset of a Lightning LoRA, with the schedule that it was distilled with."""
    return Preset(
        num_inference_steps=4, true_cfg_scale=1.0, lora=lora, lora_version=version, shift=3.0
    )


def read_file(file: Path, version: Version) -> tuple[dict[str, Preset], dict[str, str]]:
    """Return the presets of a TOML file, one per table, and why each of the others is wrong.

    Raises `SettingsError` if the file is not TOML.
    """
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}", field="presets") from error
    valid, wrong = {}, {}
    for name, table in tables.items():
        try:
            valid[name] = _validate(file, name, table, version)
        except SettingsError as error:
            wrong[name] = error.message
    return valid, wrong


def _validate(file: Path, name: str, table: Any, version: Version) -> Preset:
    try:
        preset = Preset.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([name, *map(str, first["loc"])])
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise SettingsError(
            f"{file}: {field}: {message}; a preset has {', '.join(Preset.model_fields)}",
            field="presets",
        ) from None
    if preset.lora is None:
        return preset
    lora = file.parent / preset.lora
    if not lora.is_file():
        raise SettingsError(f"{file}: {name}.lora: there is no file {lora}", field="presets")
    if preset.lora_version != version:
        raise SettingsError(
            f"{file}: {name}.lora is for model {preset.lora_version}, but the loaded model is "
            f"{version}; use the LoRA made for it",
            field="presets",
        )
    return preset.model_copy(update={"lora": lora})


def version_in_name(name: str) -> str | None:
    """Return the version of the model that a file name contains, if it does."""
    found = re.search(r"Qwen-Image-(?:Edit(?:-([0-9]{4}))?|(2\.1))", name)
    return found and (found[1] or found[2] or "1")


def version_of(folder: Path) -> Version:
    """Return the version of the model in `folder`, from its configuration."""
    name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    if name == "QwenImage21Pipeline":
        return "2.1"
    if name == "QwenImageEditPipeline":
        return "1"
    transformer = json.loads((folder / "transformer" / "config.json").read_text())
    return "2511" if transformer.get("zero_cond_t") else "2509"


def with_shift(published: Any, shift: float | None) -> Any:
    """Return the `published` scheduler of the model, or a copy with this fixed shift."""
    if shift is None:
        return published
    log_shift = math.log(shift)
    return type(published).from_config(
        published.config, base_shift=log_shift, max_shift=log_shift, shift_terminal=None
    )
