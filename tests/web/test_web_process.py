"""What the web process holds: every page and operation, and no library of the engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROBE = """
import json, sys, time
start = time.perf_counter()
import django
django.setup()
import headshots.urls
heavy = "torch diffusers insightface onnxruntime basicsr realesrgan cv2".split()
status = open("/proc/self/status").read()
print(json.dumps({
    "heavy": [name for name in heavy if name in sys.modules],
    "megabytes": int(status.split("VmRSS:")[1].split()[0]) / 1024,
    "seconds": time.perf_counter() - start,
}))
"""


def test_the_web_process_loads_no_heavy_library_and_stays_small(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "headshots.settings",
        "HEADSHOTS_DATA": str(tmp_path),
    }

    probe = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    seen = json.loads(probe.stdout)
    print(f"web process: started in {seen['seconds']:.2f} s, holds {seen['megabytes']:.0f} MB")  # noqa: T201
    assert seen["heavy"] == []
    assert seen["megabytes"] < 150
