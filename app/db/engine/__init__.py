"""The two engines behind one interface: SQLite with one writer thread, and PostgreSQL on asyncpg."""
