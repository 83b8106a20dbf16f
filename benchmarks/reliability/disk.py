"""A disk between SQLite and its files that remembers what was written, and fails when it is told.

It stands inside the SQLite library that this Python uses, as its default VFS. So it is our own
store, unchanged, that runs on it, with the library that our users have; what is in a `-shm` file is
shared memory, and does not outlive a power cut.
"""

import _sqlite3  # whose library it is
import ctypes
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["write", "sync", "truncate", "delete", "share"]


@dataclass(frozen=True)
class Operation:
    """What SQLite asked of a file; `size` is where a truncation ends, `data` what was written."""

    kind: Kind
    name: str
    offset: int = 0
    data: bytes = b""
    size: int = 0
    lasting: bool = False
    """A removal that is not undone by a power cut."""


Told = Callable[[Operation], int | None]
"""Told before each operation; gives the error code of SQLite's that is to come of it, if one is."""

# Names as pointers: SQLite keeps them.
_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_CLOSE = CFUNCTYPE(c_int, c_void_p)
_SHARE = CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int, c_void_p)


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`, version 3."""

    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", _OPEN),
        ("delete", _DELETE),
        ("rest", c_void_p * 14),
    )


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`, version 3."""

    _fields_ = (
        ("version", c_int),
        ("close", _CLOSE),
        ("read", c_void_p),
        ("write", _WRITE),
        ("truncate", _TRUNCATE),
        ("sync", _SYNC),
        ("file_size_and_locks", c_void_p * 5),
        ("sector_size_and_characteristics", c_void_p * 2),
        ("share", _SHARE),
        ("rest", c_void_p * 5),
    )


class _File(ctypes.Structure):
    _fields_ = (("methods", POINTER(_Methods)),)


class NoDiskError(Exception):
    """This Python's SQLite library cannot be reached from here."""


def _library() -> Any:
    try:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        library.sqlite3_libversion.restype = c_char_p
    except (AttributeError, OSError) as error:
        raise NoDiskError(f"SQLite's functions cannot be called: {error}") from error
    if library.sqlite3_libversion().decode() != sqlite3.sqlite_version:
        raise NoDiskError("that is another SQLite library")
    return library


class _Disk:
    """The system's own VFS, but for what is written, synced, cut off or removed."""

    def __init__(self, library: Any, told: Told) -> None:
        self._told = told
        self._names: dict[int, str] = {}
        self._made: dict[int, _Methods] = {}
        self._inner = library.sqlite3_vfs_find(None).contents
        self.vfs = _Vfs.from_buffer_copy(self._inner)
        self.vfs.name = b"disk"
        self.vfs.open = _OPEN(self._open)
        self.vfs.delete = _DELETE(self._delete)

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        code: int = self._inner.open(vfs, name, file, flags, out)
        opened = _File.from_address(file)
        if code == sqlite3.SQLITE_OK and name is not None:
            self._names[file] = _name_of(name)
            opened.methods = ctypes.pointer(self._methods(opened.methods))
        return code

    def _delete(self, vfs: int, name: int, sync_folder: int) -> int:
        code = self._told(Operation("delete", _name_of(name), lasting=bool(sync_folder)))
        return code or self._inner.delete(vfs, name, sync_folder)

    def _methods(self, inner: Any) -> _Methods:
        """Files of a kind share theirs, which must outlive them."""
        key = ctypes.addressof(inner.contents)
        if key not in self._made:
            self._made[key] = self._wrap(inner.contents)
        return self._made[key]

    def _wrap(self, inner: _Methods) -> _Methods:
        def write(file: int, data: int, length: int, offset: int) -> int:
            written = ctypes.string_at(data, length)
            code = self._told(Operation("write", self._names[file], offset, written))
            if code:
                inner.write(file, data, length // 2, offset)  # as much as there was room for
            return code or inner.write(file, data, length, offset)

        def truncate(file: int, size: int) -> int:
            code = self._told(Operation("truncate", self._names[file], size=size))
            return code or inner.truncate(file, size)

        def sync(file: int, flags: int) -> int:
            return self._told(Operation("sync", self._names[file])) or inner.sync(file, flags)

        def share(file: int, page: int, size: int, extend: int, out: int) -> int:
            code = self._told(Operation("share", self._names[file])) if extend else None
            return code or inner.share(file, page, size, extend, out)

        wrapped = _Methods.from_buffer_copy(inner)
        wrapped.write = _WRITE(write)
        wrapped.truncate = _TRUNCATE(truncate)
        wrapped.sync = _SYNC(sync)
        wrapped.share = _SHARE(share)
        return wrapped


def _name_of(path: int) -> str:
    return Path(ctypes.string_at(path).decode()).name


@contextmanager
def watched(told: Told) -> Iterator[None]:
    """SQLite files that are opened meanwhile are on such a disk; they must be closed again.

    Raises:
        NoDiskError: it cannot be put there.
    """
    library = _library()
    disk = _Disk(library, told)
    if library.sqlite3_vfs_register(ctypes.byref(disk.vfs), 1):
        raise NoDiskError("SQLite refused it")
    try:
        yield
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(disk.vfs))
