"""One GPU worker as production runs it, whose engine makes tiny pictures at once and strikes itself.

    python -m tests.e2e.survival_worker FOLDER FAULT_PERCENT

Celery, its pool, the tasks, services, vault and database are the real ones. What stays out is what costs
processor time and is no part of the queue: the networks, and the signature within each picture. Every
delivery is noted in FOLDER/diary, a picture that came too late in FOLDER/late, and a process that stops
itself in FOLDER/stopped.
"""

import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import django


def furnish(folder: Path, fault_percent: int) -> None:
    """Put the test's engine and diaries in place, before the pool forks."""
    from headshots import tasks, worker
    from headshots.services import claiming, credentials, shots
    from tests.e2e.small_service import note
    from tests.e2e.worker_driver import FaultyEngine

    def stop() -> None:
        note(folder / "stopped", str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)

    engine = FaultyEngine(folder / "struck", fault_percent, stop=stop)
    tasks._engine = lambda: engine  # type: ignore[assignment]
    credentials.attach = lambda jpeg: jpeg
    worker.POLL_SECONDS = (0.2, 0.6)  # type: ignore[misc]
    worker.MEND_SECONDS = 3.0  # type: ignore[misc]
    commit = shots.commit

    def noted(claimed: claiming.Claim, finished: Any, now: datetime) -> bool:
        is_delivered = commit(claimed, finished, now)
        note(folder / ("diary" if is_delivered else "late"), str(claimed.shot.pk))
        return is_delivered

    shots.commit = noted


def main() -> None:
    """Work until somebody ends this process."""
    folder, fault_percent = Path(sys.argv[1]), int(sys.argv[2])
    os.environ |= {"HEADSHOTS_DATA": str(folder), "DJANGO_SETTINGS_MODULE": "headshots.settings"}
    django.setup()
    # So that no child imports anything: many die.
    import pipelines.finish
    import pipelines.provenance  # noqa: F401
    from headshots import worker

    furnish(folder, fault_percent)
    sys.exit(worker.run("gpu", processes=1, beat=False))


if __name__ == "__main__":
    main()
