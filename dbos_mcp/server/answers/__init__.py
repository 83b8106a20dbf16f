"""What the tools, resources and prompts answer.

All that needs the mirror, Conductor or SQL is imported by these modules, and they themselves when
there is something to answer (see `server.context.import_answers`): a client that has started the
server waits for `initialize` and for the list of tools, and neither needs any of it.
"""

from dbos_mcp.server.answers import (
    admin,
    aggregates,
    applications,
    commands,
    comparison,
    diagnosis,
    history,
    login,
    postmortem,
    sql,
    sync,
    workflow,
    workflows,
)

__all__ = [
    "admin",
    "aggregates",
    "applications",
    "commands",
    "comparison",
    "diagnosis",
    "history",
    "login",
    "postmortem",
    "sql",
    "sync",
    "workflow",
    "workflows",
]
