"""Where a cache is refused, by what Linux tells of its mounts."""

from pathlib import Path

import pytest

from dbos_mcp.errors import StoreError
from dbos_mcp.store.filesystems import mount_of, require_local

HOST = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 0:40 / /home rw,relatime shared:2 master:1 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/ada/local rw - ext4 /dev/vdb rw
32 22 0:42 / /mnt/c rw,noatime - 9p C:\134 rw,dirsync,aname=drvfs;path=C:\;uid=1000
33 22 0:43 / /mnt/vm rw - 9p hostshare rw,trans=virtio
34 22 0:44 / /mnt/My\040Drive rw - cifs //nas/share rw
35 22 0:45 / /mnt/keys rw - fuse.sshfs ada@host:/ rw
36 22 0:46 / /mnt/disk rw - fuseblk /dev/sdb1 rw
37 22 0:47 / /mnt/over rw - overlay overlay rw,lowerdir=/nfs
38 22 0:48 / /mnt/hidden rw - nfs server:/x rw
39 22 0:49 / /mnt/hidden rw - ext4 /dev/vdc rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/cache.sqlite", None),
        ("/homes/cache.sqlite", None),
        ("/home/ada/cache.sqlite", "nfs4"),
        ("/home/ada/local/cache.sqlite", None),
        ("/mnt/c/Users/ada/cache.sqlite", "9p"),
        ("/mnt/vm/cache.sqlite", None),
        ("/mnt/My Drive/cache.sqlite", "cifs"),
        ("/mnt/keys/cache.sqlite", "fuse.sshfs"),
        ("/mnt/disk/cache.sqlite", None),
        ("/mnt/over/cache.sqlite", None),
        ("/mnt/hidden/cache.sqlite", None),
    ],
)
def test_a_network_file_system_is_refused_and_a_local_one_is_not(
    path: str, kind: str | None
) -> None:
    if kind is None:
        require_local(Path(path), HOST)
    else:
        with pytest.raises(StoreError, match=rf"\({kind}\).*local disk with DBOS_MCP_CACHE"):
            require_local(Path(path), HOST)


def test_a_link_leads_to_where_the_file_is(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/home/ada")
    with pytest.raises(StoreError, match="nfs4"):
        require_local(link / "cache.sqlite", HOST)


def test_where_nothing_is_told_nothing_is_refused(tmp_path: Path) -> None:
    require_local(tmp_path / "cache.sqlite", "")
    require_local(tmp_path / "cache.sqlite")  # as this system tells it
    assert mount_of(tmp_path, "") is None
