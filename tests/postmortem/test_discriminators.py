"""What separates failed runs from others is told with the numbers, and what does not as well."""

from itertools import count

import pytest

from dbos_mcp.postmortem.discriminators import (
    MOST_COMMON,
    MOST_FIELDS,
    MOST_SEPARATORS,
    Facts,
    discriminate,
    lines,
)
from dbos_mcp.postmortem.values import Opaque, Scalar


def facts(**values: Scalar) -> Facts:
    return {field: (value,) for field, value in values.items()}


def said(failed: list[Facts], others: list[Facts]) -> list[str]:
    return [separator.says for separator in discriminate(failed, others).separating]


def test_a_value_that_all_failed_runs_have_and_no_other() -> None:
    found = discriminate(
        [facts(version="1.4", currency="EUR") for _ in range(86)],
        [facts(version="1.4", currency="GBP") for _ in range(214)],
    )
    assert lines(found) == [
        "currency = EUR: 86 of 86 failed, 0 of 214 others.",
        "Not what separates them: version '1.4' (86 of 86, 214 of 214).",
    ]
    (separator,) = found.separating
    assert separator.perfect


def test_the_surest_comes_first_and_what_is_no_more_than_a_trace_of_it_is_left_out() -> None:
    failed = [facts(version="2.0", city="Ulm" if n < 15 else "Bonn") for n in range(20)]
    others = [facts(version="2.0" if n < 2 else "1.0", city="Bonn") for n in range(60)]
    assert said(failed, others) == ["version = '2.0'", "city = Ulm"]
    failed = [facts(version="2.0", city="Ulm" if n < 8 else "Bonn") for n in range(20)]
    assert said(failed, others) == ["version = '2.0'"]


def test_fields_that_separate_the_very_same_runs_are_one_finding() -> None:
    failed = [facts(account="sales-eur", currency="EUR") for _ in range(10)]
    others = [facts(account="sales-usd", currency="USD") for _ in range(30)]
    assert lines(discriminate(failed, others)) == [
        "currency = EUR: 10 of 10 failed, 0 of 30 others (the same runs: account = sales-eur)."
    ]


def test_a_limit_is_found_where_each_number_is_another() -> None:
    failed = [facts(amount=n) for n in range(1001, 1040)]
    others = [facts(amount=n) for n in range(900, 1001)]
    assert said(failed, others) == ["amount > 1000"]
    assert said(others, failed) == ["amount < 1001"]


def test_numbers_that_are_written_as_texts_have_limits_too() -> None:
    failed = [facts(amount=f"{n}.50") for n in range(100, 130)]
    others = [facts(amount=f"{n}.50") for n in range(10, 90)]
    assert said(failed, others) == ["amount > 89.5"]


def test_the_kind_of_a_text_separates_where_no_value_does() -> None:
    failed = [facts(total=Opaque(f"{n},50")) for n in range(20)]
    others = [facts(total=Opaque(f"{n}.5.0")) for n in range(40)]
    assert said(failed, others) == ["total looks like <n>,<n>"]


def test_so_does_a_field_that_is_there_or_is_not() -> None:
    with_coupon: list[Facts] = [{"coupon.code": (f"c-{n}",), "n": (n % 5,)} for n in range(20)]
    without: list[Facts] = [{"n": (n % 5,)} for n in range(40)]
    assert said(with_coupon, without) == ["coupon.code is there"]
    assert said(without, with_coupon) == ["coupon.code is missing"]


def test_one_of_several_values_of_a_list_counts() -> None:
    failed: list[Facts] = [{"tags[]": ("new", "vip")} for _ in range(12)]
    others: list[Facts] = [{"tags[]": ("new",)} for _ in range(24)]
    assert said(failed, others) == ["tags[] = vip"]


def test_few_runs_are_too_few_to_tell() -> None:
    failed, others = [facts(city="Ulm")] * 3, [facts(city="Bonn")] * 2
    found = discriminate(failed, others)
    assert found.separating == []
    assert lines(found) == ["city = Ulm: 3 of 3 failed, 0 of 2 others: too few to tell."]


def test_the_id_of_the_only_failed_run_tells_nothing() -> None:
    others = [facts(id=f"o-{n}", cents=n, currency="GBP") for n in range(100)]
    assert lines(discriminate([facts(id="o-900", cents=-5, currency="GBP")], others)) == [
        "No field that was looked at separates them.",
        "Not what separates them: currency GBP (1 of 1, 100 of 100).",
    ]
    assert lines(discriminate([facts(id="o-900", cents=-5, currency="EUR")], others)) == [
        "currency = EUR: 1 of 1 failed, 0 of 100 others: too few to tell."
    ]


def test_nothing_separates_runs_that_are_alike() -> None:
    failed, others = [facts(city="Ulm")] * 20, [facts(city="Ulm")] * 20
    assert lines(discriminate(failed, others)) == [
        "No field that was looked at separates them.",
        "Not what separates them: city Ulm (20 of 20, 20 of 20).",
    ]


def test_chance_finds_nothing_however_many_fields_there_are() -> None:
    """With a bar that did not rise with their number, some of these would pass it."""
    numbers = count()

    def run() -> Facts:
        return {f"f{n}": ((next(numbers) * 2654435761) >> 7 & 1,) for n in range(300)}

    runs = [run() for _ in range(120)]
    assert said(runs[:40], runs[40:]) == []


def test_true_is_not_one() -> None:
    failed = [facts(flag=True)] * 15
    assert said(failed, [facts(flag=1)] * 15) == ["flag = true"]


@pytest.mark.parametrize(("failed", "others"), [(0, 3), (3, 0), (0, 0)])
def test_without_either_side_there_is_nothing_to_say(failed: int, others: int) -> None:
    assert lines(discriminate([facts(a=1)] * failed, [facts(a=1)] * others)) == []


def test_it_is_bounded_and_the_same_each_time() -> None:
    def run(side: str, number: int) -> Facts:
        values = {f"f{n}": f"{side}{n % 7}" for n in range(MOST_FIELDS + 100)}
        return {**{f: (v,) for f, v in values.items()}, "id": (f"{side}-{number}",)}

    failed, others = [run("x", n) for n in range(8)], [run("y", n) for n in range(20)]
    found = discriminate(failed, others)
    assert len(found.separating) <= MOST_SEPARATORS
    assert len(found.common) <= MOST_COMMON
    assert all(len(line) < 2_000 for line in lines(found))
    assert discriminate(failed, others) == found


def test_hostile_names_and_values_stay_in_their_line() -> None:
    failed = [{"a\nb\u202e": ("x\ny\u202e" * 500,)}] * 20
    (line, *_) = lines(discriminate([*failed], [facts(a=1)] * 20))
    assert line.isprintable()
    assert len(line) < 1_000
