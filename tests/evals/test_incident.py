"""How facts are matched."""

import pytest

from evals.incident import Fact, Verdict


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("3.1.0",), "since version 3.1.0."),
        (("3.1.0",), "3.1.0: 20 of 20 failed"),
        (("encoder-a", "DEAD|gone"), "Executor encoder-a is dead since 03:12."),
        (("encoder-a", "DEAD|gone"), "encoder-a | GONE | 1.8.0"),
        (("start_step=2",), 'fork_workflow(workflow_id="a", start_step=2)'),
        (("currency", "EUR"), "input.payment.currency = EUR: 43 of 43 failed"),
        (("output: 170,37",), "output:  170,37"),
        (("'170,37'",), "could not convert string to float: '170,37'"),
    ],
)
def test_a_fact_is_in_a_line_that_has_all_of_its_words(words: tuple[str, ...], text: str) -> None:
    assert Fact("something", *words).is_in(f"A headline\n{text}\nAs of now.")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("3.1.0",), "since version 13.1.0"),
        (("3.1.0",), "since version 3.1.05"),
        (("3.1.0",), "since version 3.1.0.2"),
        (("worker-1",), "worker-12 is dead"),
        (("worker-1",), "the coworker-1 is dead"),
        (("start_step=2",), "start_step=25"),
        (("8",), "18 of 20 failed"),
        (("encoder-a", "dead"), "encoder-a is healthy\nencoder-b is dead"),
        (("fork_workflow",), "fork workflow"),
    ],
)
def test_a_fact_is_not_in_what_only_looks_like_it(words: tuple[str, ...], text: str) -> None:
    assert not Fact("something", *words).is_in(text)


def test_a_verdict_names_what_is_missing_and_what_leads_astray() -> None:
    verdict = Verdict(
        facts=(Fact("the step", "buy_label"), Fact("the version", "3.2.0")),
        forbidden=(Fact("that it is an executor", "executor", "worker-1"),),
    )
    assert verdict.faults_of("buy_label fails since 3.2.0") == []
    assert verdict.faults_of("buy_label fails on executor worker-1") == [
        "does not say the version",
        "says that it is an executor",
    ]
