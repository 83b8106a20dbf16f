"""The verdicts: of each incident a right answer, line by line, and lines that lead astray."""

import pytest

from evals.incidents import INCIDENTS

VERDICTS = {incident.name: incident.verdict for incident in INCIDENTS}

RIGHT = {
    "bad_deploy": [
        "ship_parcel: buy_label raised an error, the last of 2 steps",
        "error: 'weight_kg' (weight_kg)",
        "application_version 3.2.0 in 19 of 19 failed, 0 of 40 other runs",
    ],
    "poisoned_input": [
        "order-1-2-2 post_payment: post_to_ledger failed: could not convert '170,37'",
        "input.payment.currency = EUR: 43 of 43 failed, 0 of 257 others",
        "format_amount is the first step whose output differs: '170,37' against '207.00'",
        'fork_workflow(application_name="billing", workflow_id="order-1-2-2", start_step=2)',
    ],
    "dead_executor": [
        "It runs nowhere: its executor encoder-a is DEAD",
        "No living executor has version 1.8.0",
    ],
    "starved_queue": [
        "Queue indexing is full: concurrency 2, 2 running, 20 waiting",
        "It is held by rebuild-eu, rebuild-us (rebuild_index)",
    ],
    "retry_storm": [
        "sync_stock: fetch_stock failed",
        "fetch_stock exceeded its maximum of 5 retries",
        "25 of 25 failed since 03:12",
    ],
    "deadlocked_children": [
        "Queue reports is full: concurrency 3, 3 running",
        "All 3 wait for their children, render_chart",
        "A deadlock: those cannot start",
    ],
    "schedule_stopped": [
        "Schedule invoice-reminders is PAUSED",
        "remind_debtors: SUCCESS, the last run of its schedule",
    ],
    "slow_dependency": [
        "assess_loan timed out: its deadline was 03:12",
        "It had come behind load_application; others go on with ask_credit_bureau",
        "8 of 28 ended so",
    ],
    "bad_fork": [
        "import_statement: book_total failed",
        "It is a fork of statement-5 from step 3",
        "It replayed the recorded output of extract_total",
        'fork_workflow(application_name="ledger", workflow_id="statement-5", start_step=2)',
    ],
    "deleted_history": [
        "render_contract: embed_fonts failed",
        "executor_id renderer-2 in 8 of 8 failed, 0 of 16 other runs",
        "error: /usr/share/fonts/garamond.ttf",
        "It was deleted upstream, noticed at 03:12",
    ],
}

ASTRAY = {
    "bad_deploy": [
        "cause: check_address, in step 1",
        "verdict: fails since version 3.1.0",
    ],
    "poisoned_input": [
        "verdict: check_basket, in place_order",
        'fork_workflow(application_name="billing", workflow_id="order-1-2-2", start_step=3)',
        "input.payment.currency = GBP: 129 of 129 failed",
    ],
    "dead_executor": [
        "verdict: it waits for a message (DBOS.recv)",
        "encoder-b is dead as well",
    ],
    "starved_queue": [
        "executor worker-1 is gone",
        "verdict: a deadlock with its own children",
    ],
    "retry_storm": [
        "origin: load_article",
        "verdict: save_stock",
    ],
    "deadlocked_children": [
        "executor worker-1 is DEAD",
        "verdict: load_sales takes longer than usual",
    ],
    "schedule_stopped": [
        "cause: send_reminders failed",
        "executor worker-1 is disconnected",
    ],
    "slow_dependency": [
        "It was cancelled by a user",
        "verdict: decide_loan is slow",
    ],
    "bad_fork": [
        'fork_workflow(application_name="ledger", workflow_id="statement-5", start_step=3)',
        "fails since version 2.0.0",
    ],
    "deleted_history": [
        "0 workflows failed: no failures",
        'fork_workflow(application_name="contracts", workflow_id="contract-17", start_step=2)',
    ],
}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_right_answer_is_right(name: str) -> None:
    assert VERDICTS[name].faults_of("\n".join(RIGHT[name])) == []


@pytest.mark.parametrize(
    ("name", "left_out"), [(name, line) for name, lines in RIGHT.items() for line in lines]
)
def test_nothing_of_it_may_be_left_out(name: str, left_out: str) -> None:
    said = [line for line in RIGHT[name] if line != left_out]
    assert VERDICTS[name].faults_of("\n".join(said))


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, lines in ASTRAY.items() for line in lines]
)
def test_what_leads_astray_is_wrong_even_beside_what_is_right(name: str, line: str) -> None:
    (fault,) = VERDICTS[name].faults_of("\n".join([*RIGHT[name], line]))
    assert fault.startswith("says ")


@pytest.mark.parametrize("name", VERDICTS)
def test_each_way_astray_is_known(name: str) -> None:
    alone = [VERDICTS[name].faults_of("\n".join([*RIGHT[name], line])) for line in ASTRAY[name]]
    assert len({tuple(faults) for faults in alone}) == len(VERDICTS[name].forbidden)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_right_answer_to_any_other_incident_is_wrong(name: str) -> None:
    others = [lines for other, lines in RIGHT.items() if other != name]
    assert all(VERDICTS[name].faults_of("\n".join(lines)) for lines in others)
