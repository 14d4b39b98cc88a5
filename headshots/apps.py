"""The composition root: wires models, tasks and start-up checks together; nobody imports it."""

from django.apps import AppConfig


class HeadshotsConfig(AppConfig):
    """The one Django app of the project."""

    name = "headshots"
    verbose_name = "Headshots"

    def ready(self) -> None:
        # Services send tasks by name; a name is only known where the tasks module was imported.
        from headshots import checks, tasks  # noqa: F401
