"""`python -m dbos_mcp` is the same program as `dbos-mcp`."""

from dbos_mcp.cli import main

main()
