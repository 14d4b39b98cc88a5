"""Loaded by pytest before Django reads its settings: no test ever touches the checkout's own data folder."""

import os
import tempfile

os.environ["HEADSHOTS_DATA"] = tempfile.mkdtemp(prefix="headshots-tests-")
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # Playwright runs its event loop in the thread of the test
