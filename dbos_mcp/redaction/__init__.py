"""Secrets in text from elsewhere: what they look like, how they are named, and how they are taken
out."""

from dbos_mcp.redaction.redactor import Redactor, kinds_in, told

__all__ = ["Redactor", "kinds_in", "told"]
