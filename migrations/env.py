"""How alembic reaches the database: on the connection, and in the transaction, that `registry.migrate` gives it."""

from alembic import context

from horen_vllm.registry.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
