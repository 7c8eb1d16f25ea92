"""Find or fetch the weights of a model, and load its pipeline."""

import importlib.metadata
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from i2ii_spool.engines.diffusers.pipelines import PIPELINES
from i2ii_spool.engines.diffusers.presets import LIGHTNING, Version
from i2ii_spool.errors import DownloadFailed, SettingsError

log = logging.getLogger(__name__)

INDEX_FILE = "model_index.json"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate")
HUBS = {"modelscope": "modelscope", "huggingface": "huggingface_hub"}
REVISION_FILE = "i2ii-revision"
"""A file in the folder of a model that names its revision."""


def find(model: str, source: str) -> Path:
    """Return the folder of `model`, which is a folder or the name of a model fetched from `source`.

    Raises `SettingsError` if it is missing or not a pipeline. A worker never fetches weights.
    """
    check_packages(*PACKAGES)
    folder = Path(model)
    if not folder.is_dir():
        check_packages(HUBS[source])
        try:
            folder = Path(_snapshot_download(source)(model, local_files_only=True))
        except Exception as error:  # its type depends on the hub and on the version of its client
            raise SettingsError(
                f"the weights of {model} are not on this machine; run `i2ii model fetch {model}`, "
                f"or set model to their folder ({error})",
                field="model",
            ) from error
    if not (folder / INDEX_FILE).is_file():
        raise SettingsError(
            f"{folder} has no {INDEX_FILE}: it is not the folder of a diffusers pipeline",
            field="model",
        )
    return folder


def check_packages(*names: str) -> None:
    """Raise `SettingsError` if one of these packages of the extra `qwen` is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"the qwen engine needs {', '.join(missing)}: pip install 'i2ii[qwen]', or use "
            "--engine classic",
            field="engine",
        )


def find_lightning(version: Version, source: str) -> Path | None:
    """Return the LoRA of the preset `fast`, or None if it has not been fetched from `source`."""
    if version not in LIGHTNING or importlib.util.find_spec(HUBS[source]) is None:
        return None
    repository, name = LIGHTNING[version]
    try:
        file = Path(_snapshot_download(source)(repository, local_files_only=True)) / name
    except Exception as error:  # its type depends on the hub and on the version of its client
        log.info("the preset fast is not available; i2ii model fetch gets its LoRA: %s", error)
        return None
    return file if file.is_file() else None


def fetch_lightning(version: Version, source: str) -> Path | None:
    """Fetch the LoRA of the preset `fast`, if this version has one. Raises `DownloadFailed`."""
    if version not in LIGHTNING:
        return None
    repository, name = LIGHTNING[version]
    file = fetch(repository, source, allow_patterns=[name]) / name
    if not file.is_file():
        raise DownloadFailed(f"{repository} has no {name} at {source}")
    return file


def fetch(model: str, source: str, **options: Any) -> Path:
    """Fetch the weights of `model` and return their folder; show progress, resume an earlier call.

    `options` go to the client of the hub. Raises `DownloadFailed`.
    """
    check_packages(HUBS[source])
    try:
        return Path(_snapshot_download(source)(model, **options))
    except Exception as error:  # its type depends on the hub and on the version of its client
        raise DownloadFailed(
            f"cannot fetch {model}: {error}; check its name and the network, and try again: "
            "files that are complete are kept"
        ) from error


def _snapshot_download(source: str) -> Callable[..., str]:
    """Return the client of ModelScope (cache: `MODELSCOPE_CACHE`) or Hugging Face (`HF_HOME`)."""
    if source == "modelscope":
        from modelscope import snapshot_download
    else:
        from huggingface_hub import snapshot_download
    return snapshot_download  # type: ignore[no-any-return]


def configure_allocator() -> None:
    """Make torch's allocator on the card grow its segments.

    This has no effect once torch is imported, which the client of ModelScope does.
    """
    # Weights almost fill the card, and edits of different sizes would fragment the rest.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def device() -> Any:
    """Return the first visible CUDA device, or the CPU if there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(folder: Path, device: Any) -> Any:
    """Return the pipeline in host memory: in bfloat16 for a CUDA device, in float32 for the CPU.

    Raises `SettingsError` if the pipeline is not supported or incomplete.
    """
    import torch

    pipeline_class = _pipeline_class(folder)
    if device.type == "cpu":
        log.warning(
            "no CUDA device: the model runs on the CPU, where only a tiny model takes seconds"
        )
    try:
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        pipeline = _from_pretrained(pipeline_class, folder, dtype)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{folder} is not complete: {error}; i2ii model fetch gets what is missing",
            field="model",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pipeline_class(folder: Path) -> Any:
    import diffusers

    try:
        name = json.loads((folder / INDEX_FILE).read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{folder / INDEX_FILE} cannot be read ({error}); fetch it again", field="model"
        ) from error
    if name not in PIPELINES or not hasattr(diffusers, name):
        raise SettingsError(
            f"{folder} is for {name}; this engine runs {', '.join(PIPELINES)} "
            f"(with diffusers {diffusers.__version__})",
            field="model",
        )
    return getattr(diffusers, name)


def _from_pretrained(pipeline_class: Any, folder: Path, dtype: Any) -> Any:
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    # The video half, never used here, needs torchvision, and the folder of a tiny model has none.
    processor_class = PIPELINES[pipeline_class.__name__].processor_class()
    processor = processor_class.from_pretrained(folder / "processor", local_files_only=True)
    with warnings.catch_warnings():
        # diffusers 0.40 and later prefer `dtype`, which earlier versions ignore silently.
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        return pipeline_class.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, processor=processor
        )


def revision(folder: Path) -> str:
    """Return the revision of the model in `folder`, or an empty string if it is unknown."""
    file = folder / REVISION_FILE
    if file.is_file():
        return file.read_text().strip()
    # Both hubs cache a revision in snapshots/<revision>/.
    return folder.name if folder.parent.name == "snapshots" else ""


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}
