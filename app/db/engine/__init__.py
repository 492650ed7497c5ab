"""The two engines behind one interface: SQLite with one writer, and PostgreSQL on asyncpg."""
