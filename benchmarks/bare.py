"""A server that can do nothing, and imports nothing but what makes it one: `-m benchmarks.bare`."""

from mcp.server.mcpserver import MCPServer

if __name__ == "__main__":
    MCPServer(name="bare", log_level="WARNING").run()
