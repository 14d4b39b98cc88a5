#!/usr/bin/env python
"""Django's command entry: `python manage.py help` lists what an operator can do."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
