"""Where a cache must not be: a file system over a network has no locks that SQLite can trust, and
no memory that several processes share, which a write-ahead log needs."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from dbos_mcp.errors import StoreError

MOUNTS = Path("/proc/self/mountinfo")

REMOTE = frozenset(
    {
        "acfs",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "drvfs",  # Windows' drives under WSL 1; under WSL 2 they are an option of 9p
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb3",
        "smbfs",
        "vboxsf",
        "vmhgfs",
    }
)
"""Not among them: overlay, virtiofs and 9p as such, which containers and virtual machines have as
their local disks, and FUSE as such, which many local file systems use."""
REMOTE_FUSE = frozenset(
    {
        "ceph-fuse",
        "davfs",
        "gcsfuse",
        "glusterfs",
        "goofys",
        "juicefs",
        "rclone",
        "s3fs",
        "smbnetfs",
        "sshfs",
        "vmhgfs-fuse",
    }
)


def require_local(path: Path, mounts: str | None = None) -> None:
    """`mounts` is a text as of /proc/self/mountinfo; where there is none, nothing is known.

    Raises:
        StoreError: the path leads to a file system over a network.
    """
    mount = mount_under(path, mounts)
    if mount is not None and mount.is_remote:
        raise StoreError(
            f"The cache {path} would be on a network or shared file system ({mount.kind}), where"
            " it cannot be kept safe from several processes.",
            hint="Name a file on a local disk with DBOS_MCP_CACHE.",
        )


def mount_under(path: Path, mounts: str | None = None) -> "Mount | None":
    """The file system that a path leads to; None: it is not told."""
    if mounts is None:
        try:
            mounts = MOUNTS.read_text(errors="surrogateescape")
        except OSError:
            return None
    return mount_of(Path(os.path.realpath(path)), mounts)


class Mount(NamedTuple):
    kind: str
    options: str

    @property
    def is_remote(self) -> bool:
        family, _, name = self.kind.partition(".")
        return (
            self.kind in REMOTE
            or (family in ("fuse", "fuseblk") and name in REMOTE_FUSE)
            or (self.kind == "9p" and "drvfs" in self.options)
        )


def mount_of(path: Path, mounts: str) -> Mount | None:
    """The file system that a path is on; None: it is not told."""
    found, deepest = None, 0
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ", 2)
        if not dash or len(fields) < 5 or len(rest) < 3:
            continue
        mount_point = Path(_unescaped(fields[4]))
        depth = len(mount_point.parts)
        # What was mounted later hides what is below it.
        if path.is_relative_to(mount_point) and depth >= deepest:
            found, deepest = Mount(rest[0], rest[2]), depth
    return found


def _unescaped(text: str) -> str:
    """Blanks, tabs, line ends and backslashes are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
