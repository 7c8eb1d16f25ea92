"""What a disk may hold after power was lost: every state that the recorded calls allow, under three
kinds of disk.

ordered   like ext4 and xfs: changes of names become durable in their order, any fsync makes all
          earlier ones durable, and a rename is one change. The bytes of a file are durable once the
          file is synced.
weak      each change of a name becomes durable by itself, at any time until its folder is synced; a
          rename is one change.
halved    like ext2, or ext4 without a journal: as weak, but a rename is two changes, one in each
          folder. A power loss during a move may leave one of them; after the move has returned,
          neither may be missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, combinations
from pathlib import Path

from tests.support.recording_disk import Op

ROOT = 0


class Model(StrEnum):
    ORDERED = "ordered"
    WEAK = "weak"
    HALVED = "halved"


@dataclass(eq=False)
class Change:
    """One change of names that lasts as a whole or not at all: folder, name, and the inode that it
    means now."""

    at: int
    names: list[tuple[int, str, int | None]]
    lasts: bool = False


@dataclass
class File:
    """What was written to a file, and how much of that is sure to last."""

    data: bytes = b""
    synced: bytes = b""


@dataclass(frozen=True)
class State:
    """What a disk may hold: the names in each reachable folder, the bytes of each file."""

    folders: dict[str, tuple[str, ...]]
    files: dict[str, bytes]
    doubled: tuple[str, ...]
    """Folders that have two names on the disk."""

    def write(self, root: Path) -> None:
        """Make a folder that looks like this."""
        for folder in sorted(self.folders):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for path, data in self.files.items():
            (root / path).write_bytes(data)

    def key(self) -> tuple[object, ...]:
        return tuple(sorted(self.folders)), tuple(sorted(self.files.items())), self.doubled


@dataclass
class History:
    """The disk as it was when recording began, all of it durable, and what was done to it since."""

    folders: set[int] = field(default_factory=lambda: {ROOT})
    files: dict[int, File] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    now: dict[tuple[int, str], int] = field(default_factory=dict)
    inodes: int = ROOT

    @classmethod
    def of(cls, root: Path) -> "History":
        history = cls()
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_dir():
                history._make(0, name, is_folder=True)
            else:
                history.files[history._make(0, name, is_folder=False)] = File(
                    path.read_bytes(), path.read_bytes()
                )
        for change in history.changes:
            change.lasts = True
        return history

    # --- the calls --------------------------------------------------------------------------------

    def do(self, at: int, op: Op, model: Model) -> None:
        """Take in the call number `at`."""
        match op.call:
            case "mkdir":
                self._make(at, op.path, is_folder=True)
            case "create":
                self.files[self._make(at, op.path, is_folder=False)] = File()
            case "write" | "sendfile":
                self.files[self._inode(op.path)].data += op.data
            case "ftruncate":
                self.files[self._inode(op.path)].data = b""
            case "rename" | "replace":
                inode, old, new = self._inode(op.path), self._place(op.path), self._place(op.target)
                halves: list[tuple[int, str, int | None]] = [(*new, inode), (*old, None)]
                is_halved = model is Model.HALVED and old[0] != new[0]
                for names in [[half] for half in halves] if is_halved else [halves]:
                    self._change(at, names)
            case "link":
                self._change(at, [(*self._place(op.target), self._inode(op.path))])
            case "unlink" | "remove" | "rmdir":
                self._change(at, [(*self._place(op.path), None)])
            case "fsync":
                self._sync(self._inode(op.path), model)
            case "chmod" | "fchmod" | "nothing":
                pass
            case _:
                raise AssertionError(f"the model does not know {op.call}")

    def _sync(self, inode: int, model: Model) -> None:
        if inode in self.files:
            self.files[inode].synced = self.files[inode].data
        for change in self.changes:
            if model is Model.ORDERED or any(folder == inode for folder, _, _ in change.names):
                change.lasts = True

    def _make(self, at: int, path: str, *, is_folder: bool) -> int:
        self.inodes += 1
        if is_folder:
            self.folders.add(self.inodes)
        self._change(at, [(*self._place(path), self.inodes)])
        return self.inodes

    def _change(self, at: int, names: list[tuple[int, str, int | None]]) -> None:
        self.changes.append(Change(at, names))
        _apply(self.now, names)

    def _place(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        return self._inode(folder), name

    def _inode(self, path: str) -> int:
        inode = ROOT
        for name in path.split("/") if path not in ("", ".") else ():
            inode = self.now[inode, name]
        return inode

    # --- the blow ---------------------------------------------------------------------------------

    def states(self, model: Model) -> Iterator[State]:
        """All that the disk may hold if the power goes now."""
        for lasting in self._lasting(model):
            names: dict[tuple[int, str], int] = {}
            for change in self.changes:
                if change.lasts or change in lasting:
                    _apply(names, change.names)
            torn = [
                inode
                for inode, file in self.files.items()
                if file.synced != file.data and inode in names.values()
            ]
            for lost in _subsets(torn):
                yield self._state(names, set(lost))

    def _lasting(self, model: Model) -> Iterator[Sequence[Change]]:
        loose = [change for change in self.changes if not change.lasts]
        if model is Model.ORDERED:
            yield from (loose[:length] for length in range(len(loose) + 1))
        else:
            yield from _subsets(loose)

    def _state(self, names: dict[tuple[int, str], int], lost: set[int]) -> State:
        folders: dict[str, tuple[str, ...]] = {}
        files: dict[str, bytes] = {}
        seen: dict[int, str] = {}
        doubled: list[str] = []

        def walk(inode: int, path: str) -> None:
            inside = sorted(name for folder, name in names if folder == inode)
            folders[path] = tuple(inside)
            if inode in seen:
                doubled.append(f"{seen[inode]} and {path}")
            seen[inode] = path
            for name in inside:
                child, below = names[inode, name], f"{path}/{name}" if path else name
                if child in self.folders:
                    walk(child, below)
                else:
                    files[below] = (
                        self.files[child].synced if child in lost else self.files[child].data
                    )

        walk(ROOT, "")
        return State(folders, files, tuple(doubled))


def _apply(names: dict[tuple[int, str], int], changes: list[tuple[int, str, int | None]]) -> None:
    for folder, name, inode in changes:
        if inode is None:
            names.pop((folder, name), None)
        else:
            names[folder, name] = inode


def _subsets(things: list[Change] | list[int]) -> Iterator[tuple[Change, ...] | tuple[int, ...]]:
    """All subsets of a few; of many, all that lack one or two, or have but one or two."""
    sizes = range(len(things) + 1)
    if len(things) > 8:
        sizes = sorted({0, 1, 2, len(things) - 2, len(things) - 1, len(things)})
    return chain.from_iterable(combinations(things, size) for size in sizes)
