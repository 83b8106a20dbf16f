"""The Conductor API v2 in front of a DBOS system database, for development and tests.

`SystemDatabase` reads and commands the database, `create_app` speaks the API. DBOS itself comes
with the extra `dbos-mcp[local]` and is imported only when a `SystemDatabase` is opened.
"""
