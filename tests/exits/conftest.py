"""One hostile upstream and one mirror of it, for all exits."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.exits.site import Site, fill, mirror, opened
from tests.upstream import Tables


@pytest.fixture(scope="module")
async def site(
    shop_leftover: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("exits")
    for leftover in shop_leftover.parent.glob("shop.sqlite*"):
        shutil.copy(leftover, folder / leftover.name)
    tables = Tables(folder / "shop.sqlite")
    tables.clear()
    fill(tables)
    with opened(tables.path, folder) as site:
        await mirror(site)
        yield site
