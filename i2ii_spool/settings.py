"""Every setting, once: its name, type, default and meaning.

A flag beats the environment (`I2II_PORT`), the environment beats `~/.config/i2ii/i2ii.env`, that
beats `/etc/i2ii/i2ii.env`, and that beats the default.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from i2ii_spool.errors import SettingsError

ENV_PREFIX = "I2II_"
ENV_FILE = Path("/etc/i2ii/i2ii.env")
USER_ENV_FILE = Path(
    os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "i2ii/i2ii.env"
)
# After a change of user, HOME may still be another's, and closed to us: then there is no file of
# our own.
ENV_FILES = (ENV_FILE, USER_ENV_FILE) if os.access(USER_ENV_FILE, os.R_OK) else (ENV_FILE,)
MIB = 2**20

OffloadMode = Literal["full", "model-offload", "group-offload", "fp8"]
StepCache = Literal["off", "first-block", "taylorseer", "dbcache"]
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MIN_TOKEN_LENGTH = 16
AUTH_CURE = (
    "require tokens (i2ii token add NAME --tokens-file FILE), or keep to 127.0.0.1 behind a proxy that authenticates, "
    "or say --no-auth"
)


class Settings(BaseSettings):
    """What can be set. Names in the environment are these in capitals behind `I2II_`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=ENV_FILES,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
    )

    spool: Annotated[Path, Field(description="the spool directory")] = Path("spool")
    engine: Annotated[
        Literal["auto", "qwen", "classic"],
        Field(
            description="what edits pictures; auto takes qwen on a CUDA device, else classic, and says so"
        ),
    ] = "auto"
    model: Annotated[
        str,
        Field(
            min_length=1,
            description="what the qwen engine runs: a folder, or a name at model_source",
        ),
    ] = "Qwen/Qwen-Image-Edit-2511"
    model_source: Annotated[
        Literal["modelscope", "huggingface"],
        Field(description="where the weights come from, and whose cache holds them"),
    ] = "modelscope"
    max_side: Annotated[
        int,
        Field(
            ge=64,
            le=2048,
            description="the model works on at most this squared in area; 1024 is native, px",
        ),
    ] = 768
    presets: Annotated[
        Path | None,
        Field(
            description="a TOML file of presets of your own, for the qwen engine (docs/models.md)"
        ),
    ] = None

    offload: Annotated[
        Literal["auto", "full", "model-offload", "group-offload", "fp8"],
        Field(
            description="where weights wait; auto takes what fits, fastest first; fp8 is lossy (docs/models.md)"
        ),
    ] = "auto"
    attention: Annotated[
        str,
        Field(
            description="diffusers' name of a kernel; auto takes the fastest exact one; sage is lossy"
        ),
    ] = "auto"
    compile: Annotated[
        bool,
        Field(
            description="compile the transformer: about 5 % faster (published), takes minutes at start"
        ),
    ] = False
    prompt_cache: Annotated[
        int,
        Field(
            ge=0,
            description="readings of (pictures, prompt) kept: saves the language model, 10 MB each",
        ),
    ] = 8
    modulation_cache: Annotated[
        bool,
        Field(
            description="compute AdaLN once a schedule: 1 % faster (computed), takes 4 MiB a step"
        ),
    ] = True
    frame_vae: Annotated[
        bool,
        Field(
            description="run the video VAE on single frames: 60 % less of its work (counted), free"
        ),
    ] = True
    step_cache: Annotated[
        StepCache,
        Field(
            description="lossy: skip or guess blocks where steps change little: 1.5 to 2.4 times faster (published)"
        ),
    ] = "off"
    fp8: Annotated[
        bool,
        Field(
            description="lossy: multiply 8-bit floats: 1.1 to 1.3 times faster (published); Ada or later"
        ),
    ] = False

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")
    ] = 8000
    tokens_file: Annotated[
        Path | None,
        Field(description="a file of tokens; who bears none may do nothing (i2ii token add)"),
    ] = None
    api_token: Annotated[
        SecretStr | None,
        Field(description="one token, an operator's; the command sends it to a --url"),
    ] = None
    private_jobs: Annotated[
        bool,
        Field(description="a token sees only the jobs submitted with it; an operator's sees all"),
    ] = True
    no_auth: Annotated[
        bool, Field(description="listen beyond loopback although anybody may then submit")
    ] = False
    max_connections: Annotated[
        int, Field(ge=1, description="connections at a time; beyond, 503")
    ] = 1000
    client_max_uploads: Annotated[
        int, Field(ge=1, description="uploads of one client at a time; beyond, 429")
    ] = 100
    client_submits_per_minute: Annotated[
        float | None, Field(gt=0, description="submits of one client a minute; beyond, 429")
    ] = None
    max_upload_mib: Annotated[
        float, Field(gt=0, description="largest request body and largest picture, MiB")
    ] = 50
    max_megapixels: Annotated[float, Field(gt=0, description="largest picture, million pixels")] = (
        64
    )
    max_queue: Annotated[
        int, Field(ge=1, description="jobs that may wait; beyond, submits get 429")
    ] = 10_000
    min_free_mib: Annotated[
        float, Field(ge=0, description="free disk to keep; under it, submits get 507, MiB")
    ] = 512

    max_attempts: Annotated[
        int, Field(ge=1, description="how often a job is begun before it has crashed for good")
    ] = 3
    drain_seconds: Annotated[
        float, Field(ge=0, description="a stop lets the current job finish within this, s")
    ] = 60
    lease_seconds: Annotated[
        float, Field(gt=0, description="another host's worker is dead after this silence, s")
    ] = 60
    settle_seconds: Annotated[
        float, Field(ge=0, description="a guest in incoming/ is taken when unchanged for this, s")
    ] = 5
    guest_patience_seconds: Annotated[
        float, Field(ge=0, description="a wrong guest is refused after this, s")
    ] = 60

    keep_days: Annotated[
        float | None, Field(ge=0, description="gc deletes jobs that ended longer ago, days")
    ] = None
    keep_jobs: Annotated[
        int | None, Field(ge=0, description="gc keeps at most so many ended jobs")
    ] = None
    keep_free_mib: Annotated[
        float | None, Field(ge=0, description="gc deletes until so much is free, MiB")
    ] = None

    @field_validator("api_token")
    @classmethod
    def _cannot_be_guessed(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < MIN_TOKEN_LENGTH:
            raise ValueError(
                f"must be at least {MIN_TOKEN_LENGTH} characters long; take that many random ones, or more"
            )
        return token

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.host not in LOOPBACK and not self.auth_required and not self.no_auth:
            raise ValueError(
                f"host {self.host} is reachable from outside, where anybody could submit: {AUTH_CURE}"
            )
        if self.auth_required and self.no_auth:
            raise ValueError("no_auth and tokens contradict each other: take one of them away")
        return self

    @property
    def auth_required(self) -> bool:
        """Whether a token is required."""
        return self.tokens_file is not None or self.api_token is not None

    @property
    def bearer(self) -> str | None:
        """The token that the command sends."""
        return None if self.api_token is None else self.api_token.get_secret_value()

    @property
    def max_bytes(self) -> int:
        """The largest request body, and the largest picture, in bytes."""
        return round(self.max_upload_mib * MIB)

    @property
    def max_pixels(self) -> int:
        """The largest picture, in pixels."""
        return round(self.max_megapixels * 1e6)

    @property
    def min_free(self) -> int:
        """The floor of free disk space, in bytes."""
        return round(self.min_free_mib * MIB)

    def to_environment(self) -> dict[str, str]:
        """These settings as variables for another process of ours."""
        return {
            f"{ENV_PREFIX}{name.upper()}": _plain(value)
            for name, value in self
            if value is not None
        }


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def load(flags: dict[str, Any] | None = None, files: Sequence[Path] = ENV_FILES) -> Settings:
    """Return the settings in force, or raise `SettingsError` that names the one at fault.

    Of `files`, a later one beats an earlier one.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        _check_secret_is_kept(files)
        return Settings(_env_file=files, **given)  # type: ignore[call-arg]  # pydantic's own, which mypy does not see
    except PermissionError as error:
        raise SettingsError(
            f"{error.filename} cannot be read: chmod 644 it, and its folder 755"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if name:
            got = "" if name == "api_token" else f", got {first['input']!r}"
            message = f"{name} {message}{got}; it comes from {source(name, given, files)}"
        raise SettingsError(message, field=name or None) from None


def _check_secret_is_kept(files: Sequence[Path]) -> None:
    for file in files:
        if (
            file.exists()
            and dotenv_values(file).get(f"{ENV_PREFIX}API_TOKEN")
            and file.stat().st_mode & 0o007
        ):
            raise SettingsError(
                f"{file} holds a token, and others may read it: chmod 640 {file}", field="api_token"
            )


def source(name: str, flags: dict[str, Any], files: Sequence[Path] = ENV_FILES) -> str:
    """Where the value of a setting comes from."""
    variable = f"{ENV_PREFIX}{name.upper()}"
    if flags.get(name) is not None:
        return "a flag"
    if os.environ.get(variable):
        return variable
    for file in reversed(files):
        if dotenv_values(file).get(variable):
            return str(file)
    return "the default"
