"""The log: JSON lines on stderr."""

import json
import logging
import sys
from typing import Any

from dbos_mcp.domain import LogLevel


class JsonLines(logging.Formatter):
    """One JSON object a line, so that no message can pose as another."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True)


def log_to_stderr(level: LogLevel) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "apscheduler", "alembic", "filelock", "dbos"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
