"""What people see beside the name of a resource or a prompt: shapes written by hand, since every
client pays for them. The tools have none: their list is sent the most, and to models too.

They are whole inside their URI, so no client asks anybody for them.
"""

from mcp_types import Icon


def _drawn(path: str) -> Icon:
    """Commas for spaces, which a URI would have to escape."""
    return Icon(
        src="data:image/svg+xml,%3Csvg%20xmlns='http://www.w3.org/2000/svg'%20viewBox='0,0,8,8'%3E"
        f"%3Cpath%20d='{path}'/%3E%3C/svg%3E"
    )


LOOK = _drawn("M0,4q4-6,8,0-4,6-8,0")
"""An eye."""
SYNC = _drawn("M4,0a4,4,0,1,0,4,4h-4z")
"""A clock's face with a quarter of an hour to go."""
