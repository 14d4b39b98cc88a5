"""What commands ask of the database before they rely on it."""

from django.db import connection
from django.db.migrations.executor import MigrationExecutor


def has_unapplied_migrations() -> bool:
    """Whether the code knows tables that the database does not. Raises django.db.Error if it is away."""
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))
