"""python -m tests.bench.vault: how fast one core seals and opens, and what streaming costs in memory.

Cobblestone-256 (chunked, key-committing) against AES-256-GCM over the whole object at once, by turns in one
run, on the same bytes. Rates are mebibytes of plaintext for each second of processor time, the best of
several turns, so that neighbours on the machine count little. The JSON is kept beside this file.
"""

import json
import os
import platform
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

import cryptography
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from headshots.vault.envelope import Kind, ObjectName, open_object, seal_object

MIB: Final = 1 << 20
# A preview, a 4K headshot at q95, and the largest photo that is taken in.
SIZES_MIB: Final = (0.125, 4, 25)
STREAM_MIB: Final = 1024
PIECE: Final = 256 * 1024  # what a download hands on at a time
TURNS: Final = 7
TARGET_MIB_PER_SECOND: Final = 900


def main() -> None:
    """Run, print, keep."""
    result = {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
        "openssl": backend.openssl_version_text(),
        "date": time.strftime("%Y-%m-%d"),
        "target_mib_per_second": TARGET_MIB_PER_SECOND,
        "objects": [measure_object(size) for size in SIZES_MIB],
        "stream": measure_stream(),
    }
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results" / "vault.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def measure_object(size_mib: float) -> dict[str, float]:
    """Rates of sealing and opening one object as the vault does it, and of AES-GCM on the same bytes."""
    plaintext = secrets.token_bytes(int(size_mib * MIB))
    key, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
    name = ObjectName(order_id=uuid4(), object_id=uuid4(), kind=Kind.HEADSHOT, index=1, generation=1)
    sealed = seal_object(key, name, plaintext)
    gcm = AESGCM(key)
    ciphertext = gcm.encrypt(nonce, plaintext, name.context)
    if not open_object(key, name, sealed) == plaintext == gcm.decrypt(nonce, ciphertext, name.context):
        raise AssertionError("what was sealed did not open")
    rates = best_rates(
        {
            "seal": lambda: seal_object(key, name, plaintext),
            "open": lambda: open_object(key, name, sealed),
            "gcm_encrypt": lambda: gcm.encrypt(nonce, plaintext, name.context),
            "gcm_decrypt": lambda: gcm.decrypt(nonce, ciphertext, name.context),
        },
        size_mib,
    )
    return {
        "size_mib": size_mib,
        **{f"{what}_mib_per_second": round(rate) for what, rate in rates.items()},
        "seal_over_gcm": round(rates["seal"] / rates["gcm_encrypt"], 3),
        "open_over_gcm": round(rates["open"] / rates["gcm_decrypt"], 3),
        "overhead_bytes": len(sealed) - len(plaintext),
    }


def best_rates(jobs: dict[str, Callable[[], bytes]], size_mib: float) -> dict[str, float]:
    """The best rate of each job, the jobs taking turns."""
    repeats = max(1, int(25 / size_mib))
    best = dict.fromkeys(jobs, 0.0)
    for _ in range(TURNS):
        for what, job in jobs.items():
            started = time.process_time()
            for _ in range(repeats):
                job()
            best[what] = max(best[what], size_mib * repeats / (time.process_time() - started))
    return best


def measure_stream() -> dict[str, float]:
    """Memory that sealing and opening a gibibyte in pieces adds to the process, and the rate of both."""
    key, piece = secrets.token_bytes(32), secrets.token_bytes(PIECE)
    encryptor = Cobblestone256Encryptor(key, b"bench")
    decryptor = Cobblestone256Decryptor(key, b"bench")
    decryptor.update(encryptor.update(piece))
    before = peak = resident_mib()
    started = time.process_time()
    total = 0
    for turn in range(STREAM_MIB * MIB // PIECE):
        total += len(decryptor.update(encryptor.update(piece)))
        if turn % 64 == 0:
            peak = max(peak, resident_mib())
    total += len(decryptor.update(encryptor.finalize())) + len(decryptor.finalize())
    seconds = time.process_time() - started
    return {
        "size_mib": STREAM_MIB,
        "piece_kib": PIECE // 1024,
        "growth_mib": round(max(peak, resident_mib()) - before, 2),
        "round_trip_mib_per_second": round(STREAM_MIB / seconds),
    }


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
