#!/usr/bin/env python
"""Django's command entry: `python manage.py help` lists what an operator can do."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:  # the operator's to mend: the words, not the way through the code
        sys.stderr.write(f"{error}\n")
        sys.exit(os.EX_CONFIG)
