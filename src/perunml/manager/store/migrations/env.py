"""Run by alembic: migrate over the connection that `store.database` hands in."""

from __future__ import annotations

from alembic import context

from perunml.manager.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
