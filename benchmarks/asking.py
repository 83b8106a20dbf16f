"""A client of an MCP server, and how long the answers took."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, ListToolsResult, TextContent


@dataclass(frozen=True)
class Answer:
    seconds: float
    cpu_seconds: float
    """Of this process, all of its threads: a busy machine does not lengthen them."""
    result: CallToolResult

    @property
    def text(self) -> str:
        return "\n".join(
            content.text for content in self.result.content if isinstance(content, TextContent)
        )

    @property
    def error(self) -> str | None:
        return self.text if self.result.is_error else None

    @property
    def text_bytes(self) -> int:
        return len(self.text.encode())

    @property
    def bytes_on_wire(self) -> int:
        return len(self.result.model_dump_json(by_alias=True, exclude_none=True).encode())


async def ask(client: Client, tool: str, arguments: Mapping[str, Any]) -> Answer:
    started, cpu_started = perf_counter(), process_time()
    result = await client.call_tool(tool, dict(arguments))
    return Answer(perf_counter() - started, process_time() - cpu_started, result)


def definitions_bytes(listed: ListToolsResult) -> int:
    """What a client is told of the tools, as compact JSON."""
    tools = [tool.model_dump_json(by_alias=True, exclude_none=True) for tool in listed.tools]
    return len(f"[{','.join(tools)}]".encode())


def bare_server() -> MCPServer[Any]:
    """Its one tool does nothing but return a text of some size."""
    server: MCPServer[Any] = MCPServer(name="bare", log_level="WARNING")

    @server.tool(structured_output=False)
    async def constant(size: int) -> str:
        return "x" * size

    return server


async def ask_constant(client: Client, size: int, calls: int) -> list[float]:
    """What a call costs of that tool; of a client in front of a bare server."""
    await ask(client, "constant", {"size": size})
    return [(await ask(client, "constant", {"size": size})).seconds for _ in range(calls)]


if __name__ == "__main__":
    bare_server().run()
