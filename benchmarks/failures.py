"""Failures of some dozens of causes and a long tail, planted in a system database.

They take the place of those that the database was made with. The attributes of each failed workflow
name the cause and the workflow in which it began: that is what an answer is held against.
"""

import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import accumulate, islice, product
from pathlib import Path
from string import Template
from typing import Any
from uuid import UUID

from benchmarks.generate import ENDS_AT, EXECUTORS, QUEUES, STEPS, serialize
from dbos_mcp.demo.tour import APPLICATION_NAME
from dbos_mcp.settings import DAY_MS

FORMAT = 1
"""Part of the key: raise it when the failures come out differently."""


@dataclass(frozen=True)
class Failures:
    """`count` failed workflows, a share of them within the last 24 hours: the bad day."""

    count: int = 60_000
    bad_day: float = 0.2
    seed: int = 3

    @property
    def key(self) -> str:
        text = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
        return f"failures-{self.count}-{blake2b(text.encode(), digest_size=6).hexdigest()}"

    def plant(self, database: Path) -> None:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            _Planting(connection, self).plant()
            connection.execute("COMMIT")


@dataclass(frozen=True)
class _Cause:
    """`step` None: the workflow's own code failed; `error` None: it ended otherwise."""

    workflow: str
    step: str | None
    error: Template | None
    status: str = "ERROR"
    parents: Sequence[str] = ()
    """Workflows above it that failed of it, the root first."""
    on_bad_days: int = 1
    """How many times as often."""
    executor: str | None = None
    """The only one that it happens on."""


_TYPESCRIPT = (
    '{"name":"$name","message":"$message","code":"$code","stack":"$name: $message'
    r"\n    at settle (/app/node_modules/axios/lib/core/settle.js:19:12)"
    r'\n    at async ship (/app/dist/orders.js:$n:17)"}'
)


def _typescript(name: str, message: str, code: str = "") -> str:
    return Template(_TYPESCRIPT).safe_substitute(name=name, message=message, code=code)


_COMMON = tuple(
    _Cause(workflow, step, Template(text), parents=parents)
    for workflow, step, parents, text in (
        (
            *("charge_card", "authorize", ("place_order", "ship_order")),
            "Payment pay_$hex of $uuid was declined: insufficient funds",
        ),
        (
            *("quote_delivery", "call_supplier", ("place_order", "ship_order")),
            "HTTPSConnectionPool(host='rates.example.com', port=443): Max retries exceeded with"
            " url: /v2/quotes/$n (Caused by ConnectTimeoutError('timed out after $n s'))",
        ),
        (
            *("charge_card", "capture", ("place_order",)),
            "java.net.SocketTimeoutException: Read timed out after $n ms connecting to $ip:8443",
        ),
        (
            *("send_email", "render", ("place_order",)),
            "'NoneType' object has no attribute 'strip'",
        ),
        (
            *("ship_order", "book_carrier", ("place_order",)),
            _typescript(
                "AxiosError", "Request failed with status code 502", code="ERR_BAD_RESPONSE"
            ),
        ),
        *(
            (workflow, step, (), text)
            for workflow, step, text in (
                (
                    *("pick_items", "reserve_items"),
                    'duplicate key value violates unique constraint "reservation_pkey"\n'
                    "DETAIL:  Key (id)=($n) already exists.",
                ),
                (
                    *("pick_items", "reserve_items"),
                    "deadlock detected\nDETAIL:  Process $n waits for ShareLock on transaction $n;"
                    " blocked by process $n.",
                ),
                ("import_catalogue", "parse_row", "could not convert string to float: '$n,00'"),
                ("import_catalogue", "parse_row", "invalid literal for int() with base 10: 'x$n'"),
                ("import_catalogue", "download", "[Errno 28] No space left on device: '/tmp/$hex'"),
                (
                    *("import_catalogue", "download"),
                    "Client error '404 Not Found' for url 'https://catalogue.example.com/f/$n.csv'",
                ),
                (
                    *("embed_documents", "embed"),
                    "Error code: 429 - {'error': {'message': 'Rate limit reached for requests per"
                    " min: limit $n, used $n, requested $n', 'type': 'requests'}} ($uuid)",
                ),
                ("embed_documents", "embed", "CUDA out of memory. Tried to allocate $n.$n MiB"),
                ("embed_documents", "store", "Vector $uuid has dimension 1536, index expects 3072"),
                (
                    *("send_email", "deliver"),
                    "(550, b'5.1.1 <$email>: Recipient address rejected: user unknown')",
                ),
                ("send_email", "deliver", "SMTP server at $ip:587 closed the connection"),
                ("refund", "refund_card", "account $n may not refund more than $n.$n EUR"),
                (
                    *("refund", "refund_card"),
                    _typescript("StripeInvalidRequestError", "No such charge: ch_$hex", "missing"),
                ),
                ("refund", "write_ledger", "Ledger entry $uuid was closed at $time"),
                (
                    *("reconcile_payments", "read_statement"),
                    "com.acme.ledger.StatementMismatchException: statement $n of $time is short by"
                    " $n.$n",
                ),
                (
                    *("reconcile_payments", "match"),
                    "panic: runtime error: index out of range [$n] with length $n\n\ngoroutine $n"
                    " [running]:\nmain.match(0x$hex)",
                ),
                ("refresh_prices", "fetch", "dial tcp $ip:5432: connect: connection refused"),
                ("refresh_prices", "fetch", "context deadline exceeded (request $uuid)"),
                (
                    *("refresh_prices", "store"),
                    "org.postgresql.util.PSQLException: ERROR: value too long for type character"
                    " varying(64) (row $n)",
                ),
                ("ship_order", "print_label", "printer $n of hall $n is out of paper"),
                ("ship_order", "call_supplier", "supplier $n closed the connection"),
                ("ship_order", "notify_customer", "customer $uuid has no telephone number"),
                (
                    *("place_order", "check_stock"),
                    _typescript("TypeError", "Cannot read properties of undefined (reading 'sku')"),
                ),
                ("place_order", "check_stock", "'sku-$n'"),  # as Python writes a KeyError
                ("place_order", "reserve_items", "order $n has no items"),
                ("quote_delivery", "lookup", "postcode $n is unknown in region EU"),
                ("quote_delivery", "lookup", "The geocoder answered $n bytes that are not JSON"),
            )
        ),
    )
) + tuple(
    _Cause(workflow, None, Template(text))
    for workflow, text in (
        ("place_order", "unsupported operand type(s) for +: 'Decimal' and 'float'"),
        ("refund", "order $n was refunded at $time already"),
        ("pick_items", "list index out of range"),
    )
)
_OTHER_ENDS = (
    *(_Cause(name, None, None, "CANCELLED") for name in ("place_order", "refund")),
    *(
        _Cause(name, None, None, "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
        for name in ("embed_documents", "import_catalogue")
    ),
)
_BAD_DAY = (
    _Cause(
        *("charge_card", "check_fraud"),
        Template("Fraud service answered 503 for card $hex of customer $uuid at $time"),
        parents=("place_order", "ship_order"),
    ),
    _Cause(
        *("pick_items", "reserve_items"),
        Template("(psycopg.errors.QueryCanceled) canceling statement after $n ms on $ip"),
        executor=EXECUTORS[0],
    ),
)
"""Causes that there are on the bad day alone: of more than half of its failures."""
_TAIL = tuple(
    _Cause("ship_order", STEPS[place % len(STEPS)], Template(" ".join(words) + " (order $n)"))
    for place, words in enumerate(
        product(
            ("the depot", "the carrier", "the scanner", "the scale", "the gate", "the crane"),
            ("refuses", "misplaced", "rejects", "cannot weigh", "returned", "swapped"),
            ("parcels", "pallets", "envelopes", "batteries", "liquids", "furniture", "plants"),
            ("without label", "in transit", "at customs"),
        )
    )
)
CAUSES = (*_COMMON, *_OTHER_ENDS, *_BAD_DAY, *_TAIL)
_TAIL_SHARE, _BAD_SHARE = 0.05, 0.6


class _Data(dict[str, str]):
    """What differs from one failure of a cause to the next."""

    def __init__(self, pick: random.Random) -> None:
        super().__init__()
        self._pick = pick

    def __missing__(self, name: str) -> str:
        pick = self._pick
        match name:
            case "n":
                return str(pick.randrange(10 ** pick.randrange(1, 7)))
            case "hex":
                return f"a7{pick.getrandbits(56):014x}"
            case "uuid":
                return str(UUID(int=pick.getrandbits(128), version=4))
            case "ip":
                return f"10.{pick.randrange(256)}.{pick.randrange(256)}.{pick.randrange(256)}"
            case "email":
                return f"customer{pick.randrange(10_000)}@example.com"
            case "time":
                return f"2025-12-{pick.randrange(1, 31):02}T0{pick.randrange(10)}:30:00Z"
        raise KeyError(name)


class _Planting:
    def __init__(self, connection: sqlite3.Connection, failures: Failures) -> None:
        self._connection = connection
        self._failures = failures
        self._pick = random.Random(failures.seed)
        self._data = _Data(self._pick)
        usual = (*_COMMON, *_OTHER_ENDS)
        self._usual = list(usual)
        self._weights = list(accumulate(1 / place for place in range(3, len(usual) + 3)))
        self._pick.shuffle(self._usual)

    def plant(self) -> None:
        self._heal()
        bad = int(self._failures.count * self._failures.bad_day)
        day = ENDS_AT - DAY_MS
        # Whatever ends a while after it began still ends on its day.
        self._fail(self._rows(self._failures.count - bad, 0, day - DAY_MS // 24), bad_day=False)
        self._fail(self._rows(bad, day, ENDS_AT - DAY_MS // 24), bad_day=True)

    def _heal(self) -> None:
        """As if nothing had failed."""
        failed = (
            "(SELECT workflow_uuid FROM workflow_status WHERE status IN"
            " ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'))"
        )
        for statement in (
            f"DELETE FROM operation_outputs WHERE workflow_uuid IN {failed}",
            f"UPDATE workflow_output SET error = NULL WHERE workflow_uuid IN {failed}",
            f"UPDATE workflow_status SET status = 'SUCCESS' WHERE workflow_uuid IN {failed}",
        ):
            self._connection.execute(statement)

    def _rows(self, count: int, since: int, until: int) -> list[tuple[str, int]]:
        """Ids and creations, the oldest first."""
        ended = self._connection.execute(
            "SELECT workflow_uuid, created_at FROM workflow_status"
            " WHERE status = 'SUCCESS' AND created_at BETWEEN ? AND ? ORDER BY created_at, 1",
            (since, until),
        ).fetchall()
        return [ended[place] for place in sorted(self._pick.sample(range(len(ended)), count))]

    def _fail(self, rows: Sequence[tuple[str, int]], *, bad_day: bool) -> None:
        rest = iter(rows)
        while self._chain(rest, bad_day=bad_day):
            pass

    def _chain(self, rows: Iterator[tuple[str, int]], *, bad_day: bool) -> bool:
        """One failure, and the parents that failed of it; whether there were rows for it."""
        pick, cause = self._pick, self._cause(bad_day=bad_day)
        names = (*cause.parents, cause.workflow)
        chain = list(islice(rows, len(names)))
        if not chain:
            return False
        names = names[-len(chain) :]
        origin, began = chain[-1]
        error = None if cause.error is None else cause.error.substitute(self._data)
        ended = began + pick.randrange(50, 60_000)
        told = json.dumps({"cause": CAUSES.index(cause), "origin": origin})
        for level, ((workflow_id, created_at), name) in enumerate(zip(chain, names, strict=True)):
            end = ended + 7 * (len(chain) - 1 - level)
            timed_out = cause.status == "CANCELLED"
            self._set(
                workflow_id,
                status=cause.status,
                name=name,
                class_name=None,
                config_name=None,
                queue_name=QUEUES[name] if error else None,
                executor_id=cause.executor or pick.choice(EXECUTORS),
                parent_workflow_id=chain[level - 1][0] if level else None,
                workflow_timeout_ms=end - created_at if timed_out else None,
                workflow_deadline_epoch_ms=end if timed_out else None,
                updated_at=end,
                completed_at=end,
                attributes=told,
            )
            child = chain[level + 1][0] if level + 1 < len(chain) else None
            if error is not None:
                self._steps(workflow_id, created_at, end, error, cause, child, names[level:])
        return True

    def _cause(self, *, bad_day: bool) -> _Cause:
        pick = self._pick
        if bad_day and pick.random() < _BAD_SHARE:
            return pick.choice(_BAD_DAY)
        if pick.random() < _TAIL_SHARE:
            return pick.choice(_TAIL)
        return pick.choices(self._usual, cum_weights=self._weights)[0]

    def _set(self, workflow_id: str, **values: Any) -> None:
        columns = ", ".join(f"{column} = ?" for column in values)
        self._connection.execute(
            f"UPDATE workflow_status SET {columns} WHERE workflow_uuid = ?",
            (*values.values(), workflow_id),
        )

    def _steps(
        self,
        workflow_id: str,
        start: int,
        end: int,
        error: str,
        cause: _Cause,
        child: str | None,
        names: Sequence[str],
    ) -> None:
        raised = serialize(RuntimeError(error))
        self._connection.execute(
            "INSERT OR REPLACE INTO workflow_output"
            " (workflow_uuid, output, error, retention_timestamp) VALUES (?, NULL, ?, ?)",
            (workflow_id, raised, start),
        )
        steps: list[tuple[str, str | None, str | None]] = [
            (name, None, None) for name in STEPS[: self._pick.randrange(4)]
        ]
        if child is not None:
            steps += [(names[1], child, None), ("DBOS.getResult", child, raised)]
        elif cause.step is not None:
            steps.append((cause.step, None, raised))
        if not steps:
            return
        began = [start + 10 * place for place in range(len(steps))]
        ends = [*(at + 7 for at in began[:-1]), end]
        self._connection.executemany(
            "INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, output,"
            " error, child_workflow_id, started_at_epoch_ms, completed_at_epoch_ms, serialization,"
            " application_name, retention_timestamp) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(workflow_id, place, name, None if failed else _DONE, failed, below),
                    *(at, until, "py_pickle", APPLICATION_NAME, start),
                )
                for place, ((name, below, failed), at, until) in enumerate(
                    zip(steps, began, ends, strict=True), 1
                )
            ],
        )


_DONE = serialize({"done": True})
