"""The tokens that give access to the server.

A tokens file has one line for each token: a name, the SHA-256 of the token, `operator` for a token
that may see and do everything, and an id.

    # alice asked for this on Tuesday
    alice  2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b  id=7k2mqf5x3a
    ops    5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8  operator  id=q4zt6w2nbc

A job belongs to a name and an id: who gets the name of a revoked token does not get its jobs. A
line without an id owns the jobs of its name alone, as all lines did once.

No file holds the tokens themselves: `i2ii token add alice` prints one, once. A token has 256 random
bits, too many to guess even against a fast hash. A file that other users may read or change is
refused. A line that is wrong gives access to nobody, and takes it from nobody else.
"""

import fcntl
import grp
import hashlib
import logging
import os
import re
import secrets
import stat
from base64 import b32encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from i2ii_spool.errors import InvalidRequest, NotFound, SettingsError
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.request import OWNER_MARK

log = logging.getLogger(__name__)

TOKEN_PREFIX = "i2ii_"
OPERATOR_WORD = "operator"
TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
TOKEN_LINE = re.compile(
    rf"({TOKEN_NAME.pattern})\s+([0-9a-f]{{64}})(?:\s+({OPERATOR_WORD}))?(?:\s+id=([a-z2-7]{{10}}))?",
    re.ASCII,
)
API_TOKEN_NAME = "environment"
"""The name of the token in `I2II_API_TOKEN`."""
TOKENS_FILE_MODE = 0o640
SERVICE_GROUP = "i2ii"
"""Group of the server's unit, which must be able to read a file that root created."""
NOT_ALLOWED = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
MAX_TOKENS_FILE = 2**20
BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Token:
    """One entry of the tokens file."""

    name: str
    digest: str
    is_operator: bool = False
    id: str | None = None

    @property
    def owner(self) -> str:
        """The `owner` of the jobs that are submitted with it."""
        return self.name if self.id is None else f"{self.name}{OWNER_MARK}{self.id}"

    def to_line(self) -> str:
        """Return its line of the file."""
        words = [self.name, self.digest]
        words += [OPERATOR_WORD] if self.is_operator else []
        words += [] if self.id is None else [f"id={self.id}"]
        return "  ".join(words) + "\n"


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token, in hex digits."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def read(path: Path) -> list[Token]:
    """Return the valid tokens in a file, and log each line that is wrong.

    Raises `SettingsError` if the file is open to others, or has wrong lines alone.
    """
    tokens, faults = parse(path)
    if faults and not tokens:
        raise faults[0]
    for fault in faults:
        log.error("%s; the other tokens are in force", fault)
    return tokens


def parse(path: Path) -> tuple[list[Token], list[SettingsError]]:
    """Return the valid tokens in a file, and what is wrong with the other lines.

    Raises `SettingsError` if the file cannot be read or is open to others.
    """
    tokens: dict[str, Token] = {}
    faults = []
    for number, line in enumerate(_lines(path), start=1):
        entry = _entry(line)
        match = TOKEN_LINE.fullmatch(entry)
        if match is not None and match[1] == API_TOKEN_NAME:
            wrong = f"names {match[1]}, which stands for I2II_API_TOKEN; take another name"
            faults.append(_fault(path, number, wrong))
        elif match is not None and match[1] not in tokens:
            is_operator = match[3] is not None
            tokens[match[1]] = Token(match[1], match[2], is_operator=is_operator, id=match[4])
        elif match is not None:
            wrong = f"names {match[1]} again; each name has one token"
            faults.append(_fault(path, number, wrong))
        elif entry:  # do not quote the line: it may hold a token by mistake
            wrong = f"is not `NAME SHA256`, or `NAME SHA256 {OPERATOR_WORD}`"
            faults.append(_fault(path, number, f"{wrong}; i2ii token add makes one"))
    return list(tokens.values()), faults


def _fault(path: Path, number: int, wrong: str) -> SettingsError:
    return SettingsError(f"line {number} of {path} {wrong}", field="tokens_file")


def _entry(line: str) -> str:
    """Return what a line holds besides its comment, and besides the mark that some editors set."""
    return line.removeprefix(BYTE_ORDER_MARK).partition("#")[0].strip()


def _lines(path: Path) -> list[str]:
    """Return the lines of a file with their ends; a comment may be in any encoding."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_mode & NOT_ALLOWED:
                mode = stat.S_IMODE(status.st_mode)
                raise SettingsError(
                    f"{path} has mode {mode:o}: other users can use it; chmod 640 {path}"
                )
            if status.st_uid not in (0, os.geteuid()):
                raise SettingsError(
                    f"{path} belongs to another user, who can change it: chown root {path}"
                )
            if status.st_size > MAX_TOKENS_FILE:
                raise SettingsError(
                    f"{path} has {status.st_size} bytes; a tokens file has at most "
                    f"{MAX_TOKENS_FILE}",
                    field="tokens_file",
                )
            data = file.read(MAX_TOKENS_FILE)
    except (OSError, InvalidRequest) as error:
        raise SettingsError(
            f"the tokens in {path} cannot be read: {error}", field="tokens_file"
        ) from error
    lines = data.splitlines(keepends=True)
    return [line.decode(errors="surrogateescape") for line in lines]


# --- i2ii token -----------------------------------------------------------------------------------


def add(path: Path, name: str, *, is_operator: bool) -> str:
    """Add a token to a file, which is created if missing; return the token.

    Raises `InvalidRequest` for a name that is invalid or taken.
    """
    if not TOKEN_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} is not a name for a token; use letters, digits, dots, dashes", field="name"
        )
    if name == API_TOKEN_NAME:
        raise InvalidRequest(f"{name} stands for I2II_API_TOKEN; take another name", field="name")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    id = b32encode(secrets.token_bytes(8))[:10].decode().lower()
    with _replacing(path) as lines:
        before = parse(path)[0] if path.exists() else []
        if any(each.name == name for each in before):
            raise InvalidRequest(
                f"{path} has a token called {name}; revoke it first, or take another name",
                field="name",
            )
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines.append(Token(name, digest_of(token), is_operator=is_operator, id=id).to_line())
    return token


def revoke(path: Path, name: str) -> None:
    """Remove a token from a file. A running server refuses it within 2 s. Raises `NotFound`."""
    with _replacing(path) as lines:
        kept = [line for line in lines if _entry(line).split()[:1] != [name]]
        if kept == lines:
            raise NotFound(f"{path} has no token called {name}")
        lines[:] = kept


@contextmanager
def _replacing(path: Path) -> Iterator[list[str]]:
    """Yield the lines of a file to change them; then replace the file, atomically, and keep its
    owner and group. Two commands at once do this one after the other."""
    with _folder_locked(path.parent) as folder:
        lines = _lines(path) if path.exists() else []
        yield lines
        _replace(path, lines)
        os.fsync(folder)


@contextmanager
def _folder_locked(folder: Path) -> Iterator[int]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SettingsError(
            f"the tokens in {folder} cannot be written: {error}", field="tokens_file"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _replace(path: Path, lines: list[str]) -> None:
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(
            os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, TOKENS_FILE_MODE), "wb"
        ) as file:
            if path.exists():
                before = path.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            elif os.geteuid() == 0:
                with suppress(KeyError):  # the group does not exist without the server's unit
                    os.fchown(file.fileno(), 0, grp.getgrnam(SERVICE_GROUP).gr_gid)
            file.write("".join(lines).encode(errors="surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        temp.rename(path)
    except OSError as error:
        with suppress(FileNotFoundError):
            temp.unlink()
        raise SettingsError(
            f"the tokens in {path} cannot be written: {error}", field="tokens_file"
        ) from error
