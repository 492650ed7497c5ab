"""SQLAlchemy's engine for asyncio, without the ORM.

`sqlalchemy.ext.asyncio` loads the ORM for its sessions, which takes as much time and memory as the rest of SQLAlchemy.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
else:
    _PACKAGE = "sqlalchemy.ext.asyncio"
    _is_loaded = _PACKAGE in sys.modules
    if not _is_loaded:
        sys.modules[_PACKAGE] = module_from_spec(find_spec(_PACKAGE))  # found by its modules, and not executed
    _engine = import_module(f"{_PACKAGE}.engine")
    if not _is_loaded:
        del sys.modules[_PACKAGE]  # an import of the whole package still works
    AsyncConnection, AsyncEngine = _engine.AsyncConnection, _engine.AsyncEngine
    create_async_engine = _engine.create_async_engine

__all__ = ["AsyncConnection", "AsyncEngine", "create_async_engine"]
