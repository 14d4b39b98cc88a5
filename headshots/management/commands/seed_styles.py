"""manage.py seed_styles: the built-in styles into the database, as often as you like."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from headshots.services import styles


class Command(BaseCommand):
    help = (
        "Create the built-in styles that are missing. Styles that exist, and edits to them, are left alone."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        created_count = styles.seed_builtin(now=timezone.now())
        self.stdout.write(f"{created_count} styles created")
