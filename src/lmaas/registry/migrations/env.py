"""Runs the migrations on the connection that `lmaas.registry.database` hands over."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection)
context.run_migrations()
