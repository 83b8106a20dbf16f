"""The program of the bundle."""

from dbos_mcp.cli import main

main()
