"""python -m tests.bench.sharing: one premium order, rendered by one, two and four worker processes.

The same order each time, from copies of one data folder, on SQLite and a disk. Each process has a device of
its own, which only takes time: a second a picture. Printed are the seconds from the first process's start to
the last picture, and how many times faster that is than one process. Checked is that the pictures are the
same, pixel by pixel. The JSON is kept beside this file.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.e2e.test_workers import drive

HEADSHOTS: Final = 24
DEVICE_MILLISECONDS: Final = 1000  # a picture
PROCESSES: Final = (1, 2, 4)


def main() -> None:
    """Run, print, keep."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="headshots-sharing-") as folder:
        found = measure(Path(folder))
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "headshots": HEADSHOTS,
        "device_seconds_of_a_picture": DEVICE_MILLISECONDS / 1000,
        "processes": found,
    }
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results" / "sharing.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for each number of processes."""
    (folder / "data").mkdir(mode=0o700)
    drive(folder / "data", "prepare", 1, HEADSHOTS)
    rows: list[dict[str, Any]] = []
    pictures: list[str] | None = None
    for processes in PROCESSES:
        copy = folder / f"data-{processes}"
        shutil.copytree(folder / "data", copy)
        seconds = drive(copy, "work", processes, 0, DEVICE_MILLISECONDS)["seconds"]
        made = drive(copy, "read")["pictures"]
        assert len(made) == HEADSHOTS
        assert pictures in (None, made)
        pictures = made
        single = rows[0]["seconds"] if rows else seconds
        rows.append(
            {"processes": processes, "seconds": seconds, "times_faster_than_one": round(single / seconds, 2)}
        )
    return rows


if __name__ == "__main__":
    main()
