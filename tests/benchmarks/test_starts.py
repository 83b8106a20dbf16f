"""A few rounds of what the recipe does a hundred of."""

import pytest

from benchmarks.reliability.starts import (
    FRESH,
    PROCESSES,
    kills,
    older_schemas,
    race,
    start_naively,
)


@pytest.mark.e2e
def test_eight_processes_start_at_once_on_a_new_and_on_an_old_file() -> None:
    raced = race(2, [FRESH, older_schemas()[0]])
    assert raced.failures == []
    assert raced.rounds.total() == 2


@pytest.mark.e2e
def test_alembic_as_it_comes_fails_at_that() -> None:
    assert 0 < len(race(1, [FRESH], start_naively).failures) <= PROCESSES


@pytest.mark.e2e
def test_a_start_that_is_killed_in_a_migration_is_made_good_by_the_next() -> None:
    killed = kills(older_schemas()[0], step=40)
    assert killed.failures == []
    assert killed.rounds.total() > 2
