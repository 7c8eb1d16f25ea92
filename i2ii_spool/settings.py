"""Every setting, once: name, type, default, limits, meaning, and which process reads it.

A flag beats the environment (`I2II_PORT`), the environment beats `~/.config/i2ii/i2ii.env`, that
beats `/etc/i2ii/i2ii.env`, and that beats the default. The flags of the commands, the file that
`i2ii units install` writes and `docs/settings.md` are made from this list.
"""

import base64
import logging
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from i2ii_spool.errors import SettingsError, validation_message

log = logging.getLogger(__name__)

ENV_PREFIX = "I2II_"
ENV_FILE = Path("/etc/i2ii/i2ii.env")
USER_ENV_FILE = Path(
    os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "i2ii/i2ii.env"
)
# After a change of user, HOME may still be that of the user before, and closed to this process.
# The units of the system have the same file in both places.
_HAS_TWO = USER_ENV_FILE != ENV_FILE and os.access(USER_ENV_FILE, os.R_OK)
ENV_FILES = (ENV_FILE, USER_ENV_FILE) if _HAS_TWO else (ENV_FILE,)
MIB = 2**20
AFTER_DRAIN_SECONDS = 60.0
"""For a step that outlasts the drain time, and for saving a result."""

OffloadMode = Literal["full", "model-offload", "group-offload", "fp8"]
LogFormat = Literal["auto", "text", "json"]
StepCache = Literal["off", "first-block", "taylorseer", "dbcache"]
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY_HOST = "*"
UNIX_PEER = "unix"
HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:\d{1,5})?", re.ASCII)
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
"""Browsers leave them out of an origin."""
MIN_TOKEN_LENGTH = 16
SECRET_PREFIX = "whsec_"
MIN_KEY, MAX_KEY = 24, 64
"""Bytes of a key, as Standard Webhooks has it."""
AUTH_CURE = (
    "require tokens (i2ii token add NAME --tokens-file FILE), or keep to 127.0.0.1 behind a proxy "
    "that authenticates, or say --no-auth"
)


class Process(StrEnum):
    """A kind of process that reads settings."""

    SERVER = "server"
    WORKER = "worker"
    GC = "gc"
    CLIENT = "client"
    WEBHOOKS = "webhooks"


class Group(StrEnum):
    """A heading under which settings are listed."""

    SPOOL = "Spool"
    ENGINE = "Engine"
    TUNING = "Tuning of the qwen engine (docs/engines/qwen.md)"
    SERVER = "Server"
    ACCESS = "Access"
    LIMITS = "Limits"
    JOBS = "Jobs"
    RETENTION = "Retention"
    WEBHOOKS = "Webhooks (docs/webhooks.md)"


class About(NamedTuple):
    """What is known of a setting besides its type, default and meaning."""

    group: Group
    processes: frozenset[Process]
    """The processes that read it: their commands take it as a flag."""
    unit: str = ""
    """Of the value: `s`, `MiB`, `px`..."""
    reloadable: bool = False
    """`systemctl reload i2ii-http` brings a new value into force."""
    lossy: bool = False
    """It changes results; `result.json` records it."""


ALL = (Process.SERVER, Process.WORKER, Process.GC, Process.CLIENT, Process.WEBHOOKS)
DAEMONS = (Process.SERVER, Process.WORKER)
SERVER = (Process.SERVER,)
WORKER = (Process.WORKER,)
GC = (Process.GC,)
WEBHOOKS = (Process.WEBHOOKS, Process.SERVER, Process.WORKER, Process.CLIENT)
"""All that accept jobs refuse a webhook that could not be told."""
SECRETS = ("api_token", "webhook_secrets")
"""Never flags, never shown, and never in a file that all may read."""


def _setting(meaning: str, *, group: Group, processes: Sequence[Process], **rest: Any) -> Any:
    """A pydantic field: its limits, its meaning, and its `About`."""
    known = {name: rest.pop(name) for name in ("unit", "reloadable", "lossy") if name in rest}
    extra: Any = {"about": About(group, frozenset(processes), **known)}
    return Field(description=meaning, json_schema_extra=extra, **rest)


_engine = partial(_setting, group=Group.ENGINE, processes=WORKER)
_tuning = partial(_setting, group=Group.TUNING, processes=WORKER)
_server = partial(_setting, group=Group.SERVER, processes=SERVER)
_access = partial(_setting, group=Group.ACCESS, processes=SERVER)
_limit = partial(_setting, group=Group.LIMITS, processes=SERVER)
_jobs = partial(_setting, group=Group.JOBS, processes=DAEMONS)
_retention = partial(_setting, group=Group.RETENTION, processes=GC)
_webhooks = partial(_setting, group=Group.WEBHOOKS, processes=WEBHOOKS)


class Settings(BaseSettings):
    """What can be set. Names in the environment are these in capitals behind `I2II_`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=ENV_FILES,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",  # `_check_file` warns
    )

    spool: Annotated[Path, _setting("the spool directory", group=Group.SPOOL, processes=ALL)] = (
        Path("spool")
    )

    engine: Annotated[
        Literal["auto", "qwen", "classic"],
        _engine("what edits pictures; auto takes qwen on a CUDA device, else classic, and logs it"),
    ] = "auto"
    model: Annotated[
        str,
        _engine("model of the qwen engine: a folder, or a name at model_source", min_length=1),
    ] = "Qwen/Qwen-Image-Edit-2511"
    model_source: Annotated[
        Literal["modelscope", "huggingface"],
        _engine("hub that the weights come from, and whose cache holds them"),
    ] = "modelscope"
    max_side: Annotated[
        int,
        _engine(
            "the model works on at most this squared in area; 1024 is its native size",
            unit="px",
            ge=64,
            le=2048,
        ),
    ] = 768
    presets: Annotated[
        Path | None,
        _engine("TOML file of your own presets (docs/engines/qwen.md)"),
    ] = None

    offload: Annotated[
        Literal["auto", "full", "model-offload", "group-offload", "fp8"],
        _tuning(
            "CPU offloading of weights: none (full), per model, per block, or lossy fp8; "
            "auto takes the fastest exact mode that fits, and logs it"
        ),
    ] = "auto"
    attention: Annotated[
        str,
        _tuning(
            "attention kernel by diffusers name; auto takes the fastest exact one; sage is lossy"
        ),
    ] = "auto"
    compile: Annotated[
        bool,
        _tuning("compile the transformer: steps 1.27 times faster, 12 s more at start (one H200)"),
    ] = False
    prompt_cache: Annotated[
        int,
        _tuning("prompt embeddings to cache, about 10 MB each; a hit skips the text encoder", ge=0),
    ] = 8
    modulation_cache: Annotated[
        bool,
        _tuning("compute AdaLN once a schedule: 0.7 % faster (one H200), takes 4 MiB a step"),
    ] = True
    frame_vae: Annotated[
        bool,
        _tuning("run the video VAE on single frames: 60 % less of its work (counted)"),
    ] = True
    step_cache: Annotated[
        StepCache,
        _tuning(
            "skip or extrapolate blocks that change little: 1.5 to 2.4 times faster (published); "
            "taylorseer: 1.44 times (one H200), takes 11.7 GiB, which offload=auto does not count",
            lossy=True,
        ),
    ] = "off"
    fp8: Annotated[
        bool,
        _tuning(
            "multiply 8-bit floats: with compile 1.56 times faster, without it 2 % slower (one "
            "H200); Ada, Hopper or later",
            lossy=True,
        ),
    ] = False

    host: Annotated[str, _server("address to listen on")] = "127.0.0.1"
    port: Annotated[int, _server("port to listen on; 0 takes a free one", ge=0, le=65535)] = 8000

    tokens_file: Annotated[
        Path | None,
        _access("path of the tokens file; requests without a valid token get 401"),
    ] = None
    api_token: Annotated[
        SecretStr | None,
        _access(
            "one operator token; the commands send it to a --url",
            processes=(Process.SERVER, Process.CLIENT),
        ),
    ] = None
    private_jobs: Annotated[
        bool,
        _access("a token sees only the jobs submitted with it; an operator token sees all"),
    ] = True
    no_auth: Annotated[
        bool,
        _access("listen on a non-loopback address without tokens (insecure: anyone can submit)"),
    ] = False

    allowed_hosts: Annotated[
        str | None,
        _access(
            "names, besides localhost and addresses, that a request without a token may have in "
            "Host, separated by commas: the name of a reverse proxy; * allows all (docs/access.md)"
        ),
    ] = None
    allow_origins: Annotated[
        str | None,
        _access(
            "origins of web pages that may use the API with a token, like "
            "https://images.example.com, separated by commas; * allows all (docs/access.md)"
        ),
    ] = None
    trusted_proxies: Annotated[
        str | None,
        _access(
            "networks of the reverse proxies whose X-Forwarded-For is believed, separated by "
            "commas, like 10.0.0.0/8; unix stands for peers on a Unix socket"
        ),
    ] = None

    metrics_networks: Annotated[
        str | None,
        _access(
            "networks that may read /metrics without a token, separated by commas, like "
            "10.0.0.0/8; unix stands for peers on a Unix socket (docs/metrics.md)"
        ),
    ] = None

    keepalive: Annotated[
        float,
        _server(
            "sends white space so often while a client of the OpenAI API waits without a stream, "
            "for proxies that cut silent answers off; 0: never (docs/openai.md)",
            unit="s",
            ge=0,
        ),
    ] = 0
    model_aliases: Annotated[
        str,
        _server(
            "names that clients of the OpenAI API may give for the model that runs, separated by "
            "commas; * stands for any characters"
        ),
    ] = "gpt-image-*, chatgpt-image-*, dall-e-2"

    max_connections: Annotated[
        int, _limit("connections at a time; beyond, idle ones are closed", ge=1)
    ] = 1000
    client_max_uploads: Annotated[
        int,
        _limit(
            "uploads at a time of one client (a token, or an address without tokens); beyond, 429",
            reloadable=True,
            ge=1,
        ),
    ] = 100
    client_submits_per_minute: Annotated[
        float | None,
        _limit("submits of one client; beyond, 429", reloadable=True, gt=0),
    ] = None
    max_upload_mib: Annotated[
        float,
        _limit(
            "largest request body and largest picture",
            processes=DAEMONS,
            unit="MiB",
            reloadable=True,
            gt=0,
        ),
    ] = 50
    max_megapixels: Annotated[
        float,
        _limit(
            "largest picture, judged by its header",
            processes=(*DAEMONS, Process.CLIENT),
            unit="million pixels",
            reloadable=True,
            gt=0,
        ),
    ] = 64
    max_queue: Annotated[
        int,
        _limit("jobs that may wait; beyond, 429", reloadable=True, ge=1),
    ] = 10_000
    min_free_mib: Annotated[
        float,
        _limit(
            "free disk to keep; below it, submits get 507; below half of it, workers pause",
            processes=DAEMONS,
            unit="MiB",
            reloadable=True,
            ge=0,
        ),
    ] = 512

    log_format: Annotated[
        LogFormat,
        _jobs(
            "lines of the log: json for containers, text, or auto: the journal with its fields "
            "under systemd, else text (docs/logs.md)",
            processes=(*DAEMONS, Process.WEBHOOKS),
        ),
    ] = "auto"

    max_attempts: Annotated[
        int,
        _jobs("attempts at a job; it fails as crashed when all have died", ge=1),
    ] = 3
    drain_seconds: Annotated[
        float,
        _jobs(
            "time that a stop gives the current job to finish; else it returns to the queue",
            processes=WORKER,
            unit="s",
            ge=0,
        ),
    ] = 60
    job_timeout_seconds: Annotated[
        float,
        _jobs(
            "time that an edit may take; beyond, its job fails as job_too_slow",
            processes=WORKER,
            unit="s",
            gt=0,
        ),
    ] = 3600
    mask_feather: Annotated[
        int,
        _jobs(
            "width of the soft edge between what a mask keeps and the edit, inside the edit; 0: "
            "none",
            processes=WORKER,
            unit="px",
            ge=0,
            le=256,
        ),
    ] = 4
    lease_seconds: Annotated[
        float | None,
        _jobs(
            "silence after which another host's worker is dead, the same on every host; not set: "
            "60, and 180 on a network file system (docs/many-hosts.md)",
            unit="s",
            gt=0,
        ),
    ] = None
    settle_seconds: Annotated[
        float | None,
        _jobs(
            "time for which a guest must be unchanged to be admitted; not set: 5, and 40 on a "
            "network file system (docs/many-hosts.md)",
            unit="s",
            ge=0,
        ),
    ] = None
    guest_patience_seconds: Annotated[
        float,
        _jobs("time after which an unchanged invalid guest is refused", unit="s", ge=0),
    ] = 60

    keep_days: Annotated[
        float | None,
        _retention("gc deletes jobs that ended longer ago", unit="days", ge=0),
    ] = None
    keep_jobs: Annotated[int | None, _retention("gc keeps at most this many ended jobs", ge=0)] = (
        None
    )
    keep_free_mib: Annotated[
        float | None,
        _retention("gc deletes the oldest ended jobs until this much is free", unit="MiB", ge=0),
    ] = None

    webhook_secrets: Annotated[
        SecretStr | None,
        _webhooks(
            "secrets that sign messages, each whsec_ and the base64 of 24 to 64 random bytes, "
            "separated by spaces; all sign; without one, jobs with a webhook are refused"
        ),
    ] = None
    webhook_private: Annotated[
        bool,
        _webhooks("webhooks may be at private and loopback addresses, and there of http"),
    ] = False

    @field_validator("api_token")
    @classmethod
    def _cannot_be_guessed(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < MIN_TOKEN_LENGTH:
            raise ValueError(
                f"must be at least {MIN_TOKEN_LENGTH} characters; use that many random ones or more"
            )
        return token

    @field_validator("webhook_secrets")
    @classmethod
    def _are_secrets(cls, secrets: SecretStr | None) -> SecretStr | None:
        for number, secret in enumerate(_secrets(secrets), 1):
            if _key(secret) is None:
                raise ValueError(
                    f"number {number} must be {SECRET_PREFIX} and the base64 of {MIN_KEY} to "
                    f'{MAX_KEY} bytes: echo "{SECRET_PREFIX}$(openssl rand -base64 32)"'
                )
        return secrets

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, text: str | None) -> str | None:
        for name in _split(text):
            if name != ANY_HOST and not HOST_NAME.fullmatch(name):
                raise ValueError(f"must be names without scheme and port, not {name!r}")
        return text

    @field_validator("allow_origins")
    @classmethod
    def _are_origins(cls, text: str | None) -> str | None:
        for origin in _split(text):
            if origin != ANY_HOST and not ORIGIN.fullmatch(origin.removesuffix("/")):
                raise ValueError(
                    "must be origins, scheme, name and port of a page alone, like "
                    f"https://images.example.com, not {origin!r}"
                )
        return text

    @field_validator("trusted_proxies", "metrics_networks")
    @classmethod
    def _are_networks(cls, text: str | None) -> str | None:
        try:
            networks(text)
        except ValueError as error:
            raise ValueError(f"must be networks like 10.0.0.0/8, or {UNIX_PEER}: {error}") from None
        return text

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.host not in LOOPBACK and not self.auth_required and not self.no_auth:
            raise ValueError(f"host {self.host} lets anyone who reaches it submit: {AUTH_CURE}")
        if self.auth_required and self.no_auth:
            raise ValueError("no_auth and tokens contradict each other: remove one of them")
        if self.allowed_origins and not self.auth_required:
            raise ValueError(
                "allow_origins lets pages of other sites in, which needs tokens: set tokens_file "
                "(i2ii token add NAME --tokens-file FILE), or remove it"
            )
        return self

    @property
    def auth_required(self) -> bool:
        """Whether a request needs a token."""
        return self.tokens_file is not None or self.api_token is not None

    @property
    def allowed_host_names(self) -> frozenset[str]:
        """The names in `allowed_hosts`, in lower case."""
        return frozenset(_split(self.allowed_hosts))

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins in `allow_origins`, as browsers spell them."""
        return frozenset(map(_as_browsers_spell, _split(self.allow_origins)))

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names in `model_aliases`."""
        return tuple(_words(self.model_aliases))

    @property
    def webhook_keys(self) -> tuple[bytes, ...]:
        """The keys in `webhook_secrets`."""
        return tuple(filter(None, map(_key, _secrets(self.webhook_secrets))))

    @property
    def trusted_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks in `trusted_proxies`."""
        return networks(self.trusted_proxies)

    @property
    def trusts_unix_peers(self) -> bool:
        """Whether `trusted_proxies` has the peers on a Unix socket."""
        return has_unix_peers(self.trusted_proxies)

    @property
    def client_token(self) -> str | None:
        """The token that a command sends to a server."""
        return None if self.api_token is None else self.api_token.get_secret_value()

    @property
    def stop_seconds(self) -> float:
        """The longest that a worker takes to stop: the drain, a last step, and saving."""
        return self.drain_seconds + AFTER_DRAIN_SECONDS

    @property
    def client_max_waiting(self) -> int:
        """How many requests of one client may wait for jobs at a time: half of the connections."""
        return self.max_connections // 2

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
        """These settings as environment variables, for a child process."""
        return {
            variable(name): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in self
            if value is not None
        }


def _secrets(setting: SecretStr | None) -> list[str]:
    return [] if setting is None else setting.get_secret_value().split()


def _key(secret: str) -> bytes | None:
    """The key of a secret; None if it is no secret."""
    if not secret.startswith(SECRET_PREFIX):
        return None
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        return None
    return key if MIN_KEY <= len(key) <= MAX_KEY else None


def _words(text: str | None) -> list[str]:
    return (text or "").replace(",", " ").split()


def _split(text: str | None) -> list[str]:
    return _words((text or "").lower())


def _as_browsers_spell(origin: str) -> str:
    plain = origin.removesuffix("/")
    return plain.removesuffix(DEFAULT_PORTS.get(plain.partition("://")[0], "/"))


def networks(text: str | None) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks in a setting. Raises `ValueError`."""
    named = [name for name in _split(text) if name != UNIX_PEER]
    return tuple(ip_network(name, strict=False) for name in named)


def has_unix_peers(text: str | None) -> bool:
    """Whether a setting of networks has the peers on a Unix socket."""
    return UNIX_PEER in _split(text)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{ENV_PREFIX}{name.upper()}"


def about(name: str) -> About:
    """What is known of a setting besides its type, default and meaning."""
    extra: Any = Settings.model_fields[name].json_schema_extra
    described: About = extra["about"]
    return described


def meaning(name: str) -> str:
    """What a setting means, with the unit of its value."""
    unit = about(name).unit
    return f"{Settings.model_fields[name].description}{f', in {unit}' if unit else ''}"


def groups() -> dict[Group, list[str]]:
    """The settings under their headings, in order."""
    found: dict[Group, list[str]] = {}
    for name in Settings.model_fields:
        found.setdefault(about(name).group, []).append(name)
    return found


def flags_of(*processes: str) -> tuple[str, ...]:
    """The settings that the commands of these processes take as flags; a secret is never one."""
    return tuple(
        name
        for name in Settings.model_fields
        if name not in SECRETS and not about(name).processes.isdisjoint(map(Process, processes))
    )


def load(flags: dict[str, Any] | None = None, files: Sequence[Path] = ENV_FILES) -> Settings:
    """Return the settings in force, or raise `SettingsError` that names the one at fault.

    Of `files`, a later one beats an earlier one.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        for file in files:
            _check_file(file)
        return Settings(_env_file=files, **given)  # type: ignore[call-arg]  # pydantic's own
    except PermissionError as error:
        raise SettingsError(
            f"{error.filename} cannot be read: chmod 644 it, and its folder 755"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = validation_message(first)
        if name:
            got = "" if name in SECRETS else f", got {first['input']!r}"
            message = f"{name} {message}{got}; it comes from {source(name, given, files)}"
        raise SettingsError(message, field=name or None) from None


def _check_file(file: Path) -> None:
    """Raise `SettingsError` for a file that is not UTF-8, or that shows a secret to others."""
    if not file.exists():
        return
    try:
        values = dotenv_values(file)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"line {line} of {file} is not UTF-8; save it as UTF-8") from None
    known = set(map(variable, Settings.model_fields))
    for name in (each for each in values if each.upper() not in known):
        near = get_close_matches(name, known, 1, 0.8)
        hint = f"do you mean {near[0]}?" if near else "is it of another version, or of a program?"
        log.warning("%s has %s, which is no setting and is passed over: %s", file, name, hint)
    held = [name for name in SECRETS if values.get(variable(name))]
    if held and file.stat().st_mode & 0o007:
        what = "a token" if held[0] == "api_token" else "a secret"
        raise SettingsError(
            f"{file} holds {what}, and other users can read it: chmod 640 {file}", field=held[0]
        )


def source(name: str, flags: dict[str, Any], files: Sequence[Path] = ENV_FILES) -> str:
    """Where the value of a setting comes from."""
    if flags.get(name) is not None:
        return "a flag"
    if os.environ.get(variable(name)):
        return variable(name)
    for file in reversed(files):
        if dotenv_values(file).get(variable(name)):
            return str(file)
    return "the default"
