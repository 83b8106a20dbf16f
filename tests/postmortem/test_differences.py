"""The first step whose output is of another kind is told, and what differs in the steps besides."""

from dataclasses import replace
from itertools import count

from dbos_mcp.postmortem.comparison import compare
from dbos_mcp.postmortem.differences import LINE_CHARACTERS, compare_steps, differences, lines
from dbos_mcp.postmortem.discriminators import discriminate
from dbos_mcp.postmortem.runs import Outcome
from dbos_mcp.queries.workflows import WorkflowItem

RAISED = "boom"
numbers = count(1)


def run(*steps: tuple[str, str | None], took: int = 10) -> list[Outcome]:
    """Steps in order, by name and output; one whose output is RAISED failed."""
    return [
        Outcome(
            step_id,
            name,
            None if output == RAISED else output,
            RAISED if output == RAISED else None,
            None,
            1_000,
            1_000 + took,
        )
        for step_id, (name, output) in enumerate(steps, start=1)
    ]


def bad(number: int) -> list[Outcome]:
    return run(("load", f"a-{number}"), ("format", f"{number},00"), ("post", RAISED))


def good(number: int) -> list[Outcome]:
    return run(("load", f"b-{number}"), ("format", f"{number}.00"), ("post", "ok"))


def test_it_is_often_one_before_the_step_that_raised() -> None:
    found = compare_steps([bad(n) for n in range(170, 180)], [good(n) for n in range(207, 217)])
    assert found.first is not None
    assert (found.first.place, found.first.step_id) == (("format", 1), 2)
    assert found.raised == ("post", 1)
    assert found.sure
    assert lines(found) == [
        "The first step whose output differs in kind is format, step 2, before post raised:"
        " <n>,<n> such as 170,00 in 10 of 10 failed and 0 of 10 others, which have <n>.<n> such as"
        " 207.00."
    ]


def test_of_few_runs_it_is_said_that_it_may_be_chance() -> None:
    found = compare_steps([bad(1)], [good(n) for n in range(5)])
    assert found.first is not None
    assert not found.sure
    assert lines(found)[0].endswith("; so few that it may be chance.")


def test_one_failed_run_and_one_that_went_well_tell_nothing() -> None:
    assert compare_steps([bad(1)], [good(1)]).first is None


def test_outputs_of_the_same_kinds_are_said_to_be_so() -> None:
    failed = [run(("load", f"a-{n}"), ("post", RAISED)) for n in range(5)]
    found = compare_steps(failed, [run(("load", f"b-{n}"), ("post", "ok")) for n in range(5)])
    assert lines(found) == [
        "The outputs of the only step before post raised are of the same kinds in 5 failed and 5"
        " other runs."
    ]


def test_a_kind_that_some_run_that_went_well_has_is_not_it() -> None:
    failed = [run(("load", "none" if n else "7"), ("post", RAISED)) for n in range(9)]
    others = [run(("load", "none" if n < 1 else "7"), ("post", "ok")) for n in range(9)]
    assert compare_steps(failed, others).first is None


def test_where_each_run_has_a_kind_of_its_own_one_more_is_nothing() -> None:
    bad_token = run(("token", "a"), ("post", RAISED))
    others = [run(("token", word), ("post", "ok")) for word in ("a1", "a-b", "a b", "1", "1.2")]
    assert compare_steps([bad_token], others).first is None
    assert compare_steps([bad_token], [run(("token", "1"), ("post", "ok"))] * 5).first is not None


def test_a_run_without_the_wrong_output_is_not_told_to_be_forked_there() -> None:
    others = [good(n) for n in range(9)]
    odd = compare_steps([good(1), *(bad(n) for n in range(8))], others, workflow_id="w")
    assert odd.first is not None
    assert differences(discriminate([], []), [odd], []).first_step is None


def test_a_kind_that_few_of_the_failed_have_is_not_it() -> None:
    failed = [run(("load", "1,0" if n < 3 else "7"), ("post", RAISED)) for n in range(9)]
    assert compare_steps(failed, [run(("load", "7"), ("post", "ok"))] * 9).first is None


def test_steps_of_one_name_are_told_apart_by_their_order() -> None:
    failed = [run(("price", "1.0"), ("price", "1,0"), ("sum", RAISED))] * 6
    found = compare_steps(failed, [run(("price", "2.0"), ("price", "2.5"), ("sum", "4.5"))] * 6)
    assert found.first is not None
    assert (found.first.place, found.first.step_id) == (("price", 2), 2)
    assert "price (2.), step 2" in lines(found)[0]


def test_what_raised_in_most_failed_runs_ends_the_search() -> None:
    """What comes behind it is a consequence."""
    failed = [run(("charge", RAISED), ("refund", "1,0"))] * 6
    assert compare_steps(failed, [run(("charge", "ok"), ("refund", "1.0"))] * 6).first is None


def test_the_end_of_a_sleep_is_no_output() -> None:
    failed = [run(("DBOS.sleep", "1,0"), ("post", RAISED))] * 6
    assert compare_steps(failed, [run(("DBOS.sleep", "1.0"), ("post", "ok"))] * 6).first is None


def test_missing_extra_and_slow_steps_are_told_on_demand() -> None:
    failed = [run(("load", "1"), ("retry", "x"), ("post", RAISED), took=900) for _ in range(4)]
    others = [run(("load", "1"), ("check", "ok"), ("post", "ok")) for _ in range(4)]
    found = compare_steps(failed, others)
    assert lines(found, more=True)[1:] == [
        "Steps that only failed runs have: retry (4 of 4).",
        "Steps that failed runs lack, which others have: check (4 of 4).",
        "load took failed runs 900ms (median), and no other more than 10ms.",
        "post took failed runs 900ms (median), and no other more than 10ms.",
    ]
    assert len(lines(found)) == 1


def test_without_a_side_there_is_nothing_to_say() -> None:
    assert lines(compare_steps([], [good(1)]), more=True) == []
    assert lines(compare_steps([bad(1)], []), more=True) == []


def test_all_of_it_is_put_into_short_lines_the_surest_first() -> None:
    found = differences(
        discriminate([{"a": ("x" * 900,)}] * 9, [{"a": ("y",), "b": (1,)}] * 9),
        [compare_steps([bad(n) for n in range(9)], [good(n) for n in range(9)], workflow_id="w")],
        ["Looked at 9 and 9."],
    )
    assert (found.first_workflow_id, found.first_step) == ("w", 2)
    assert found.lines[0].startswith("a = xxx")
    assert found.lines[1].startswith("The first step whose output differs")
    assert found.lines[2] == "Looked at 9 and 9."
    assert all(len(line) <= LINE_CHARACTERS + 1 and line.isprintable() for line in found.lines)


def item(**columns: object) -> WorkflowItem:
    return WorkflowItem.model_validate(
        {
            **{"workflow_id": f"w-{next(numbers)}", "key": 1, "id": 1, "application_name": "shop"},
            **{"status": "SUCCESS", "created_at": 1, "updated_at": 2, "priority": 0},
            **{"was_forked_from": False, "observed_at": 1},
            **columns,
        }
    )


def test_the_result_of_a_child_stands_beside_that_of_its_like() -> None:
    def parent(*children: str) -> list[Outcome]:
        steps: list[Outcome] = []
        for name in children:
            started = Outcome(len(steps) + 1, name, None, None, f"child-{name}", 1, 1)
            steps.append(started)
            awaited = replace(started, step_id=len(steps) + 1, step_name="DBOS.getResult")
            steps.append(awaited)
        return steps

    compared = compare(item(), item(), steps=(parent("pay", "mail"), parent("mail")))
    assert [(pair.place[0], pair.step_ids) for pair in compared.steps or ()] == [
        ("pay", [1]),
        ("DBOS.getResult of pay", [2]),
        ("mail", [3, 1]),
        ("DBOS.getResult of mail", [4, 2]),
    ]


def test_two_runs_differ_in_their_fields_their_inputs_and_their_steps() -> None:
    found = compare(
        item(status="ERROR", application_version="2"),
        item(application_version="2"),
        inputs=("{'args': ({'a': 1, 'b': 'x'},), 'kwargs': {}}", "{'args': ({'a': 1},)}"),
        steps=(bad(1), good(2)),
        outputs_known=True,
    )
    assert [each.name for each in found.differing] == ["status"]
    assert ("application_version", "2") in [(each.name, each.one) for each in found.same]
    assert [(pair.place[0], pair.outputs, pair.telling) for pair in found.steps or []] == [
        ("load", "differ", False),
        ("format", "differ in kind", True),
        ("post", "", True),
    ]


def test_inputs_differ_at_paths() -> None:
    found = compare(item(), item(), inputs=('{"a":1,"b":[2,3],"c":0}', '{"a":1,"b":[2],"d":0}'))
    assert [(each.name, each.one, each.other) for each in found.inputs or []] == [
        ("input.b.length", "2", "1"),
        ("input.b[]", "2, 3", "2"),
        ("input.c", "0", "(not there)"),
        ("input.d", "(not there)", "0"),
    ]
    assert found.same_inputs == 1
    assert found.steps is None
    assert compare(item(), item(), inputs=("{}", None)).inputs is None


def test_what_is_not_known_is_not_the_same() -> None:
    found = compare(item(), item(), steps=(run(("a", None)), run(("a", None), ("b", "1"))))
    assert [(pair.outputs, pair.telling) for pair in found.steps or []] == [
        ("not known", False),
        ("", True),
    ]
