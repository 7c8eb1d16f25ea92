"""What systems and programs leave beside a user's files, told by name.

A file that is being copied holds a folder up. A side file does not: it is never opened, edited or
removed.
"""

import re
from collections.abc import Collection

_SIDE_FILES = (
    # macOS
    r"\.DS_Store|\.localized|\.apdisk|Icon\r|\.VolumeIcon\.icns",
    r"\.AppleDouble|\.AppleDB|\.AppleDesktop|__MACOSX|\.Trashes|\.fseventsd|\.Spotlight-V100"
    r"|\.TemporaryItems|\.DocumentRevisions-V100",
    # Windows
    r"(eh)?thumbs(_vista)?\.db(:encryptable)?|desktop\.ini|.+:Zone\.Identifier"
    r"|System Volume Information|\$RECYCLE\.BIN|~\$.+",
    # Linux desktops, NAS boxes, cameras and phones
    r"\.directory|\.Trash-\d+|lost\+found|@eaDir|@tmp|#recycle|#snapshot|\.?@__thumb"
    r"|picasa\.ini|.+\.aae",
    # network and overlay file systems: files that are open elsewhere and were removed
    r"\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|\.smbdelete.*|\.wh\..+",
    # editors: backups, locks and autosaves
    r"\..+\.(sw[a-p]|un~)|#.+#|\.#.+|\.~lock\..+#|4913",
)
_SIDE_FILE = re.compile("|".join(_SIDE_FILES), re.IGNORECASE)

_BACKUP = re.compile(r"(.+?)(~|\.(bak|orig|old))", re.IGNORECASE | re.DOTALL)

_UNFINISHED = re.compile(
    r".+\.(tmp|temp|part|partial|filepart|crdownload|download|opdownload|aria2|!ut|!qb)"
    r"|\..+\.[a-z0-9]{6}"  # rsync
    r"|\.~tmp~|\.rsync-(partial|tmp)"
    r"|.+\.sb-[0-9a-f]+-\w+"  # macOS
    r"|\.goutputstream-.+|\.syncthing\..+|~syncthing~.+|\.in\..+|\.~.+|\..+\.~[0-9a-f]+"
    r"|\.unison\..+|\.pureftpd-upload\..+",
    re.IGNORECASE | re.DOTALL,
)

_SILLY_RENAMED = re.compile(r"\.nfs[0-9a-f]{24}")


def is_side_file(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's.

    Hidden ones are none, unless they are named like a file that is being copied.
    """
    if _SIDE_FILE.fullmatch(name):
        return True
    return name.startswith(".") and not is_unfinished(name)


def is_silly_renamed(name: str) -> bool:
    """Whether a file has got this name from NFS: it was removed while a process of that host had it
    open. It goes when it is closed. The name is the inode's number and a counter."""
    return _SILLY_RENAMED.fullmatch(name) is not None


def is_backup(name: str, names: Collection[str]) -> bool:
    """Whether a file is the backup that an editor has made of another of `names`."""
    match = _BACKUP.fullmatch(name)
    return match is not None and match[1] in names


def is_unfinished(name: str) -> bool:
    """Whether a file is named like one that a program still copies or downloads."""
    return _UNFINISHED.fullmatch(name) is not None
