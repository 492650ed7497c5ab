"""What the database knows, and the only SQL of the house: one file for each table, rows as frozen values.

Every function takes the connection of a unit of work: `await use.db.write(fn)` or `.read(fn)`. The statements that
requests and steps send all the time are made once, as constants of their file: making one anew takes longer than
running it.
"""

from sqlalchemy import Connection

__all__ = ["Connection"]
