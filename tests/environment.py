"""Loaded by pytest before Django reads its settings: no test ever touches the checkout's own data folder."""

import os
import tempfile

os.environ["HEADSHOTS_DATA"] = tempfile.mkdtemp(prefix="headshots-tests-")
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # Playwright runs its event loop in the thread of the test
# Most tests are about something else. Those of the free tier's price and of the limits turn them on again.
os.environ.setdefault("FREE_WORK", "0")
os.environ.setdefault("FREE_PER_HOUR", "100000")
os.environ.setdefault("FREE_PER_DAY", "100000")
os.environ.setdefault("FREE_PER_ADDRESS", "100000")
os.environ.setdefault("PREMIUM_PER_HOUR", "100000")
os.environ.setdefault("PREMIUM_PER_DAY", "100000")
