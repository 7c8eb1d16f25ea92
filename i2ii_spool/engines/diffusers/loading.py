"""Finding the weights and loading the pipeline that they are for."""

import importlib.metadata
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from i2ii_spool.engines.diffusers.pipelines import FAMILIES, QWEN_IMAGE_21
from i2ii_spool.engines.diffusers.presets import LIGHTNING, Version
from i2ii_spool.errors import EngineError, SettingsError

log = logging.getLogger(__name__)

INDEX = "model_index.json"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate")
HUBS = {"modelscope": "modelscope", "huggingface": "huggingface_hub"}
REVISION = "i2ii-revision"
"""A file in a model's folder that says which revision of which model this is."""


def find(model: str, source: str) -> Path:
    """Return the folder of `model`: itself, or what has been fetched of it from `source`. Raises
    `SettingsError`."""
    check_packages(*PACKAGES)
    folder = Path(model)
    if not folder.is_dir():
        folder = _fetched(model, source)
    if not (folder / INDEX).is_file():
        raise SettingsError(
            f"{folder} has no {INDEX}: it is not the folder of a diffusers pipeline", field="model"
        )
    return folder


def check_packages(*names: str) -> None:
    """Raise `SettingsError` if one of these is missing, all of which the extra `qwen` installs."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"the qwen engine needs {', '.join(missing)}: pip install 'i2ii[qwen]', or say --engine classic",
            field="engine",
        )


def _fetched(model: str, source: str) -> Path:
    """What lies in the cache of `source`. A worker fetches nothing itself."""
    check_packages(HUBS[source])
    try:
        return Path(_hub(source)(model, local_files_only=True))
    except Exception as error:  # which one depends on the hub, and on its version
        raise SettingsError(
            f"the weights of {model} are not here; run `i2ii model fetch {model}`, or name their folder ({error})",
            field="model",
        ) from error


def find_lightning(version: Version, source: str) -> Path | None:
    """Return the LoRA of the preset `fast`, if there is one and it has been fetched from `source`."""
    if version not in LIGHTNING or importlib.util.find_spec(HUBS[source]) is None:
        return None
    repository, name = LIGHTNING[version]
    try:
        file = Path(_hub(source)(repository, local_files_only=True)) / name
    except Exception as error:  # which one depends on the hub, and on its version
        log.info("the preset fast is not available, i2ii model fetch brings its LoRA: %s", error)
        return None
    return file if file.is_file() else None


def fetch_lightning(version: Version, source: str) -> Path | None:
    """Fetch the LoRA of the preset `fast`, if there is one. Raises `EngineError`."""
    if version not in LIGHTNING:
        return None
    repository, name = LIGHTNING[version]
    file = _download(repository, source, allow_patterns=[name]) / name
    if not file.is_file():
        raise EngineError(f"{repository} has no {name} at {source}")
    return file


def fetch(model: str, source: str) -> Path:
    """Fetch the weights of `model`, showing progress, from where an earlier call stopped. Raises
    `EngineError`."""
    return _download(model, source)


def _download(model: str, source: str, **options: Any) -> Path:
    check_packages(HUBS[source])
    try:
        return Path(_hub(source)(model, **options))
    except Exception as error:  # which one depends on the hub, and on its version
        raise EngineError(
            f"cannot fetch {model}: {error}; check its name and the network, and call again: what has come is kept"
        ) from error


def _hub(source: str) -> Callable[..., str]:
    """The function of ModelScope (cache: `MODELSCOPE_CACHE`) or Hugging Face (`HF_HOME`) that finds
    and fetches."""
    if source == "modelscope":
        from modelscope import snapshot_download
    else:
        from huggingface_hub import snapshot_download
    return snapshot_download  # type: ignore[no-any-return]


def device() -> Any:
    """The device that computes: the first CUDA device that is visible, or else the CPU."""
    # Edits of different sizes fragment the memory of a card that is almost full of weights.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(folder: Path, device: Any) -> Any:
    """Return the pipeline in the host's memory: bfloat16 for a CUDA device, float32 for the CPU.

    Raises `SettingsError` if the folder is for another engine, or is not complete.
    """
    import torch

    pipeline_class = _pipeline_class(folder)
    if device.type == "cpu":
        log.warning(
            "there is no CUDA device: the model runs on the CPU, which only a tiny one does in seconds"
        )
    try:
        pipeline = _read(
            pipeline_class, folder, torch.float32 if device.type == "cpu" else torch.bfloat16
        )
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{folder} is not complete: {error}; i2ii model fetch brings what is missing",
            field="model",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pipeline_class(folder: Path) -> Any:
    import diffusers

    try:
        name = json.loads((folder / INDEX).read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{folder / INDEX} cannot be read ({error}); fetch it anew", field="model"
        ) from error
    if name not in FAMILIES or not hasattr(diffusers, name):
        raise SettingsError(
            f"{folder} is for {name}; this engine runs {', '.join(FAMILIES)} "
            f"(diffusers here is {diffusers.__version__})",
            field="model",
        )
    return getattr(diffusers, name)


def _read(pipeline_class: Any, folder: Path, dtype: Any) -> Any:
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        # From 0.40 on diffusers would rather read `dtype`, which it ignores silently before.
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        return pipeline_class.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, **_processor(pipeline_class, folder)
        )


def _processor(pipeline_class: Any, folder: Path) -> dict[str, Any]:
    """The processor without its video half where torchvision is missing: only that half, never used
    here, needs it."""
    if importlib.util.find_spec("torchvision") is not None:
        return {}
    from i2ii_spool.engines.diffusers import processor

    is_21 = pipeline_class.__name__ == QWEN_IMAGE_21.pipeline
    kind = processor.of_21() if is_21 else processor.of_edit()
    return {"processor": kind.from_pretrained(folder / "processor", local_files_only=True)}


def revision(folder: Path) -> str:
    """Which revision of the model lies in `folder`; empty where nothing says so."""
    note = folder / REVISION
    if note.is_file():
        return note.read_text().strip()
    return (
        folder.name if folder.parent.name == "snapshots" else ""
    )  # as both hubs lay out their caches


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}
