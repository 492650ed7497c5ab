"""The database: tables, queries, migrations and the two engines. Outside this package, only `app.jobs` contains SQL.

`tables/` has one file for each table; rows are read as frozen values. A function takes the connection of a unit of
work first: `await use.db.read(tasks.get, task_id)`. Statements that requests and steps send all the time are constants
of their file, because building one takes longer than running it.
"""

from sqlalchemy import Connection

__all__ = ["Connection"]
