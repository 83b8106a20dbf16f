"""How the arguments of prompts and of the resources' templates go on."""

from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from dbos_mcp.server.context import Sessions, import_answers


async def complete(
    sessions: Sessions,
    ref: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> Completion | None:
    await import_answers()
    from dbos_mcp.server.answers import completions as answers

    return await answers.complete(sessions, ref, argument, context)
