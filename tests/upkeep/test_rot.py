"""A few files of the recipe that damages a thousand."""

from benchmarks.reliability import rot


def test_damage_is_noticed_and_what_is_left_is_saved() -> None:
    tallies = rot.run(6, seed=3, workflows=60)
    assert [fault for tally in tallies.values() for fault in tally.faults] == []
    assert tallies[rot.PAGE_LOST].noticed == tallies[rot.PAGE_LOST].files
    assert tallies["header overwritten"].saved == [100.0]
