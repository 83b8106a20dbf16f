"""What is said to agents, in the command line's words.

Errors are raised far below, where nobody knows who asks. They speak of tools and their arguments,
which a person at a terminal has not: for those there are commands and options.
"""

import re

_WORDS = (
    (r"and give each in params: \{\"name\": …\}", "and give each as --param name=VALUE"),
    (r"Call `login`, or run (`dbos-mcp login[^`]*`)", r"Run \1"),
    (r"Call `?login`?(?=[:; ])", "Run `dbos-mcp login`"),
    (r"call `?login_complete`? again", "run `dbos-mcp login` again"),
    (
        r"Look ids up with list_workflows(?: \(workflow_id_prefix finds the start of one\))?",
        'Look ids up with `dbos-mcp sql "SELECT workflow_id, status FROM workflows"`',
    ),
    (
        r"list_workflows shows the ids",
        '`dbos-mcp sql "SELECT workflow_id FROM workflows"` shows the ids',
    ),
    (r"`?list_queues`? shows", "`dbos-mcp schema queues` shows"),
    (r"`?list_schedules`? shows", "`dbos-mcp schema schedules` shows"),
    (r"\bparams: :", "parameters: :"),
    (r"`?\bdescribe_schema\b`?", "`dbos-mcp schema`"),
    (r"`?\bquery_sql\b`?", "`dbos-mcp sql`"),
    (r"`?\b(?:sync_status|list_applications)\b`?", "`dbos-mcp status`"),
    (r"`?\bsync_now\b`?", "`dbos-mcp sync`"),
    (r"`?\blist_failures\b`?", "`dbos-mcp report --failures`"),
    (r"`?\b(?:diagnose|get)_workflow\b`?", "`dbos-mcp report WORKFLOW_ID`"),
    (r"`?\bmax_age_seconds\b`?", "a `dbos-mcp sync` before it"),
    (r"\bapplication_name\b(?= says| argument)", "--application"),
)
_PATTERNS = tuple((re.compile(pattern), words) for pattern, words in _WORDS)


def of_the_command_line(text: str) -> str:
    for pattern, words in _PATTERNS:
        text = pattern.sub(words, text)
    return text
