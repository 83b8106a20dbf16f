"""The verdicts: of each incident a right answer, part by part, and what would lead astray."""

from collections.abc import Iterable

import pytest

from evals.incidents import INCIDENTS

VERDICTS = {incident.name: incident.verdict for incident in INCIDENTS}

RIGHT = {
    "bad_deploy": (
        "ship_parcel failed in step 2 buy_label:",
        "“'weight_kg'”.",
        "application_version 3.2.0 sets them apart: 19 of 19 that failed so have it.",
        '\n- fork_workflow(workflow_id="parcel-41", start_step=2, application_version="3.1.0")',
    ),
    "poisoned_input": (
        "post_payment failed in step 3 post_to_ledger: “could not convert '271,38'”.",
        "Step 2 format_amount made the value that it failed on.",
        "\n- input.payment.currency = EUR: 43 of 43 failed, 0 of 252 others",
        '\n- fork_workflow(application_name="billing", workflow_id="order-1-2-2", start_step=2)',
    ),
    "dead_executor": (
        "It is PENDING on executor encoder-a, which is DEAD;",
        "no healthy executor is of its version 1.8.0",
        "\n- Healthy executors: encoder-b of version 1.9.0.",
    ),
    "starved_queue": (
        "It waits in queue indexing: 2 running (concurrency 2), 0 ahead of it;",
        "the places are held by rebuild_index 2.",
    ),
    "retry_storm": (
        "sync_stock failed in step 2 fetch_stock.",
        "It used up its 5 retries, in 153ms: what it calls kept failing.",
        "25 runs of sync_stock failed so since 03:12.",
    ),
    "deadlocked_children": (
        "It waits for its child render_chart report-july-2, which is ENQUEUED.",
        "A deadlock:",
        "all 3 places of queue reports (concurrency 3) are held by parents.",
    ),
    "schedule_stopped": (
        "Schedule invoice-reminders is PAUSED (* * * * * *).",
        "It succeeded in 0ms.",
    ),
    "slow_dependency": (
        "It timed out: its deadline of 1.5s passed, and it was CANCELLED.",
        "The last 1.5s went into step 2: ask_credit_bureau.",
        "8 runs of assess_loan timed out so since 03:12.",
    ),
    "bad_fork": (
        "It is a fork of statement-5 from step 3,",
        "which replays the recorded output of step 2 extract_total.",
        "import_statement failed in step 3 book_total.",
        '\n- fork_workflow(application_name="ledger", workflow_id="statement-5", start_step=2)',
    ),
    "deleted_history": (
        "render_contract failed in step 2 embed_fonts:",
        "“/usr/share/fonts/garamond.ttf”.",
        "It was deleted upstream.",
        "executor_id renderer-2 sets them apart: 8 of 8 that failed so have it.",
    ),
}
"""In the words of a diagnosis: the verdict is one line, its evidence stands below."""
NEEDLESS = {"\n- Healthy executors: encoder-b of version 1.9.0."}

ASTRAY = {
    "bad_deploy": (
        "It failed in step 1 check_address.",
        "application_version 3.1.0 sets them apart: 38 of 38.",
    ),
    "poisoned_input": (
        "It failed in step 1 load_account.",
        "input.payment.currency = GBP: 129 of 129.",
        '\n- fork_workflow(application_name="billing", workflow_id="order-1-2-2", start_step=3)',
    ),
    "dead_executor": (
        "It waits in step 2 for a message.",
        "encoder-b, which is DEAD as well.",
    ),
    "starved_queue": (
        "It is on executor worker-1, which is DEAD.",
        "A deadlock with its children.",
    ),
    "retry_storm": (
        "It failed in step 1 load_article.",
        "It failed in step 3 save_stock.",
    ),
    "deadlocked_children": (
        "It is on executor worker-1, which is DEAD.",
        "Step 1 load_sales takes longer than usual.",
    ),
    "schedule_stopped": (
        "It failed in step 1 send_reminders.",
        "There is no executor.",
    ),
    "slow_dependency": (
        "It was cancelled by somebody.",
        "The last 1.5s went into step 3: decide_loan.",
    ),
    "bad_fork": (
        "application_version 2.0.0 sets them apart.",
        '\n- fork_workflow(application_name="ledger", workflow_id="statement-5", start_step=3)',
    ),
    "deleted_history": (
        "executor_id renderer-1 sets them apart.",
        '\n- fork_workflow(application_name="contracts", workflow_id="contract-17", start_step=2)',
    ),
}


def diagnosis(parts: Iterable[str]) -> str:
    """The verdict in one line, and below it what has lines of its own."""
    return "verdict: " + " ".join(sorted(parts, key=lambda part: part.startswith("\n")))


def faults(name: str, parts: Iterable[str]) -> list[str]:
    return VERDICTS[name].faults_of(diagnosis(parts))


@pytest.mark.parametrize("name", VERDICTS)
def test_a_right_answer_is_right(name: str) -> None:
    assert faults(name, RIGHT[name]) == []


@pytest.mark.parametrize(
    ("name", "left_out"),
    [(name, part) for name, parts in RIGHT.items() for part in parts if part not in NEEDLESS],
)
def test_nothing_of_it_may_be_left_out(name: str, left_out: str) -> None:
    said = [part for part in RIGHT[name] if part != left_out]
    assert faults(name, said)


@pytest.mark.parametrize("name", VERDICTS)
def test_what_leads_astray_is_wrong_even_beside_what_is_right(name: str) -> None:
    found = [faults(name, [*RIGHT[name], part]) for part in ASTRAY[name]]
    assert found == [[f"says {each.meaning}"] for each in VERDICTS[name].forbidden]


@pytest.mark.parametrize("name", VERDICTS)
def test_the_right_answer_to_any_other_incident_is_wrong(name: str) -> None:
    assert all(faults(name, parts) for other, parts in RIGHT.items() if other != name)
