"""What the manager remembers: tables, migrations, connections. SQLAlchemy Core describes and migrates; statements run on
SQLite itself (docs/decisions/0011), in WAL with synchronous=FULL."""
