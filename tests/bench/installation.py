"""An empty installation for a bench that works in its own process, and what such benches measure with."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

MIB: Final = 1 << 20
_STATUS: Final = Path("/proc/self/status")


@contextmanager
def installed(parent: Path | None = None, database_url: str = "") -> Iterator[Path]:
    """The data folder of a fresh embedded installation with the built-in styles, gone afterwards.

    Once for each process, before anything of it is imported: Django reads its settings once.
    """
    folder = Path(tempfile.mkdtemp(prefix="headshots-bench-", dir=parent))
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "headshots.settings",
        "HEADSHOTS_DATA": str(folder),
        "DATABASE_URL": database_url,
    }
    import django
    from django.core.management import call_command
    from django.utils import timezone

    try:
        django.setup()
        call_command("migrate", verbosity=0)
        from headshots.services import styles

        styles.seed_builtin(now=timezone.now())
        yield folder
    finally:
        shutil.rmtree(folder)


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code; for the head of a result."""
    import cryptography
    import django

    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "django": django.__version__,
        "cryptography": cryptography.__version__,
        "kernel": platform.release(),
        "load_average": round(os.getloadavg()[0], 1),  # above the number of cores, seconds are not its own
        "date": time.strftime("%Y-%m-%d"),
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile (the nearest rank) and maximum, in seconds."""
    ranked = sorted(seconds)
    return {
        "p50": round(ranked[(len(ranked) - 1) // 2], 3),
        "p99": round(ranked[-(-99 * len(ranked) // 100) - 1], 3),
        "max": round(ranked[-1], 3),
    }


def resident_mib() -> float:
    """Memory of this process that is in RAM now."""
    return _status_mib("VmRSS")


def forget_peak() -> None:
    """Let `peak_mib` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The most memory of this process that was in RAM at a time since `forget_peak`."""
    return _status_mib("VmHWM")


def _status_mib(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / MIB
