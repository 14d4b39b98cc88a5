"""The composition root: wires models and start-up checks together; nobody imports it.

The tasks are wired by the processes that use a broker, `headshots.wsgi` and the Celery worker: the purge
must run where none is installed.
"""

from django.apps import AppConfig


class HeadshotsConfig(AppConfig):
    """The one Django app of the project."""

    name = "headshots"
    verbose_name = "Headshots"

    def ready(self) -> None:
        from headshots import checks  # noqa: F401
