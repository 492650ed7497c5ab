"""The two engines behind one interface: SQLite with one writer thread, PostgreSQL on asyncpg."""
