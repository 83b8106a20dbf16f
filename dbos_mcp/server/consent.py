"""Whether the user agrees to a command on many workflows, or to one that cannot be taken back.

Where the client can ask the user, it is told to. Elsewhere the first call is answered with a
preview and a confirmation that the agent passes back: that it does so is not the user's consent,
and the answer says so. Either way the agreement is good once, for a few minutes, and for exactly
what was shown.
"""

import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from dbos_mcp.errors import UsageError
from dbos_mcp.server import dialogs, render

CONFIRM_SECONDS = 300
MOST_OPEN = 100

_AGREE = "agree"
_NOTHING_SENT = "Nothing was sent."


@dataclass(frozen=True)
class Subject:
    """What is agreed to."""

    organization: str | None
    application_name: str
    command: str
    arguments: Mapping[str, object]
    workflow_ids: Sequence[str]

    def digest(self, *, asked: str) -> str:
        """The same for the same workflows in any order; `asked` is who was."""
        told = [
            asked,
            self.organization,
            self.application_name,
            self.command,
            dict(self.arguments),
            sorted(self.workflow_ids),
        ]
        return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


class Confirmations:
    """Those that were handed out and not used yet, of one session."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[str, tuple[str, float]] = {}

    def issue(self, digest: str) -> str:
        now = self._clock()
        self._open = {token: kept for token, kept in self._open.items() if kept[1] > now}
        while len(self._open) >= MOST_OPEN:
            del self._open[next(iter(self._open))]
        token = secrets.token_urlsafe(9)
        self._open[token] = (digest, now + CONFIRM_SECONDS)
        return token

    def redeem(self, token: str, digest: str) -> None:
        """Use a confirmation up.

        Raises:
            UsageError: it was not handed out for this, or is used up, or too old.
        """
        of, ends_at = self._open.get(token, (None, 0.0))
        if of is None:
            reason = "was not given by this server, or was used already"
        elif ends_at <= self._clock():
            reason = f"is older than {CONFIRM_SECONDS // 60} minutes"
        elif of != digest:
            reason = "was given for another command, other arguments or other workflows"
        else:
            del self._open[token]
            return
        raise UsageError(
            f"This confirmation {reason}. {_NOTHING_SENT}",
            hint="Call it again without confirm, show the user the new preview, and ask.",
        )


async def consent(
    ctx: Context[Any, Any],
    confirmations: Confirmations,
    subject: Subject,
    confirm: str | None,
    preview: Callable[[], Awaitable[tuple[str, bool]]],
) -> str | InputRequiredResult | None:
    """None: there is consent, go ahead; else what the call is to be answered with. `preview` tells
    what would happen, and whether anything would.

    Raises:
        UsageError: a confirmation that is not good for this.
    """
    by_user, by_agent = subject.digest(asked="user"), subject.digest(asked="agent")
    answered = (ctx.input_responses or {}).get(_AGREE)
    if answered is not None:
        confirmations.redeem(ctx.request_state or "", by_user)
        return _unless_agreed(answered)
    if confirm is not None:
        confirmations.redeem(confirm, by_agent)
        return None
    shown, anything = await preview()
    if not anything:
        return render.answer(shown, _NOTHING_SENT)
    if dialogs.shows_forms(ctx):
        form = _form(shown)
        if not dialogs.has_back_channel(ctx):
            return InputRequiredResult(
                input_requests={_AGREE: ElicitRequest(params=form)},
                request_state=confirmations.issue(by_user),
            )
        answer = await dialogs.ask_form(ctx, form, patience_seconds=CONFIRM_SECONDS)
        if answer is not None:
            return _unless_agreed(answer)
    return render.answer(
        shown,
        f"Nothing has been sent yet. Show this to the user, and ask. Only if they agree, make the"
        f" same call again with confirm={confirmations.issue(by_agent)}, within"
        f" {CONFIRM_SECONDS // 60} minutes. That you pass it on is not the user's consent.",
    )


def _form(shown: str) -> ElicitRequestFormParams:
    return ElicitRequestFormParams(
        message=shown,
        requested_schema={
            "type": "object",
            "properties": {
                _AGREE: {"type": "boolean", "title": "Yes, do this", "default": False},
            },
            "required": [_AGREE],
        },
    )


def _unless_agreed(answer: object) -> str | None:
    if not isinstance(answer, ElicitResult) or answer.action != "accept":
        agreed = False
    else:
        agreed = (answer.content or {}).get(_AGREE) is True
    return None if agreed else f"The user was asked, and did not agree. {_NOTHING_SENT}"
