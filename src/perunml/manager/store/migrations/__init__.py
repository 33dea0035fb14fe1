"""Alembic migrations; they travel with the package and are run by `store.database`."""
