"""What the manager remembers: tables, migrations, connections. SQLAlchemy Core; SQLite in WAL with synchronous=FULL."""
