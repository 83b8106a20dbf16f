"""`dbos-mcp demo`: a shop of real workflows, and a tour of what an agent can ask about it."""
