"""An event-sourced local mirror of DBOS Conductor, served to agents over MCP."""

from importlib.metadata import version

__version__ = version("dbos-mcp")
