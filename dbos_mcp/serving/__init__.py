"""The MCP server over HTTP, for a team: who may ask, what they may, and how it goes."""
