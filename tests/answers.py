"""Answers of tools, taken apart."""


def rows(text: str) -> list[dict[str, str]]:
    """The rows of the one table in an answer, by column."""
    lines = [line.split(" | ") for line in text.splitlines() if " | " in line]
    header, *cells = lines or [[]]
    return [dict(zip(header, row, strict=False)) for row in cells]
