"""One hostile upstream and one mirror of it, for all exits."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.exits.site import Site, fill, mirror, opened
from tests.upstream import Tables


@pytest.fixture(scope="session")
def site(shop_leftover: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("exits")
    for leftover in shop_leftover.parent.glob("shop.sqlite*"):
        shutil.copy(leftover, folder / leftover.name)
    tables = Tables(folder / "shop.sqlite")
    tables.clear()
    fill(tables)
    with opened(tables.path, folder) as site:
        anyio.run(mirror, site)
        yield site
