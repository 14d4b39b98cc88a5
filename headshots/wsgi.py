"""The WSGI entry that gunicorn serves; each of its workers imports it after the fork (no --preload)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")
application = get_wsgi_application()

# Only now can models be imported.
from headshots import celery, logs, process, tasks  # noqa: E402, F401 (this process's hints go to the broker)
from headshots.services import maintenance  # noqa: E402

process.harden()
logs.install()
maintenance.start()
