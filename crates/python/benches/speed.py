"""Keyfold beside the two projects' own steps on Python's ``cryptography``, in one process.

    python crates/python/benches/speed.py [--size BYTES] [--json]

Needs a release build of the module and ``cryptography``. Both sides are timed in turn, in short rounds,
and the best round of each side counts: what else the machine does then slows neither.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import oracle

ROUNDS, CALLS, BATCH = 300, 40, 1000
#: What the project promises, as multiples of the original.
TARGETS = {"encrypt_secret": 8, "decrypt_secret": 8, "encrypt_token": 10, "decrypt_token": 10, "batch": 20}


def original_v1_seal(secret: str) -> str:
    """What redis-sre-agent does: the key is read and decoded on every call."""
    return oracle.v1_seal(os.environ["REDIS_SRE_MASTER_KEY"], secret)


def original_v1_open(envelope: str) -> str:
    return oracle.v1_open(os.environ["REDIS_SRE_MASTER_KEY"], envelope)


def microseconds(call: Callable[[Any], object], argument: Any, calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call(argument)
    return (time.perf_counter_ns() - start) / calls / 1000


def compared(theirs: Callable[[Any], object], ours: Callable[[Any], object], theirs_of: Any, ours_of: Any) -> dict[str, float]:
    """Times of one call on each side."""
    return best([(microseconds(theirs, theirs_of, CALLS), microseconds(ours, ours_of, CALLS)) for _ in range(ROUNDS)])


def compared_in_batches(theirs: Callable[[Any], object], ours: Callable[[Any], object], of: Any) -> dict[str, float]:
    """Times of one item of a list on each side: the original goes through it one by one."""

    def one_by_one(many: list[Any]) -> list[object]:
        return [theirs(one) for one in many]

    many = [of] * BATCH
    return best([(microseconds(one_by_one, many, 1) / BATCH, microseconds(ours, many, 1) / BATCH) for _ in range(ROUNDS)])


def best(rounds: list[tuple[float, float]]) -> dict[str, float]:
    original, keyfold = min(a for a, _ in rounds), min(b for _, b in rounds)
    return {"original": round(original, 2), "keyfold": round(keyfold, 2), "ratio": round(original / keyfold, 1)}


def import_milliseconds() -> float:
    script = "import time; t = time.perf_counter(); import keyfold; print((time.perf_counter() - t) * 1000)"
    times = [float(subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True).stdout) for _ in range(15)]
    return round(min(times), 2)


def measured(size: int) -> dict[str, Any]:
    os.environ["REDIS_SRE_MASTER_KEY"] = oracle.new_master_key()
    os.environ["SRE_AGENT_ENCRYPTION_KEY"] = oracle.new_fernet_key()
    import keyfold
    from keyfold.auto_sre import decrypt_token, encrypt_token
    from keyfold.redis_sre_agent import decrypt_secret, encrypt_secret

    secret = "s" * size
    fernet = Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"])
    envelope, token = original_v1_seal(secret), fernet.encrypt(secret.encode()).decode()

    def original_encrypt(text: str) -> str:
        return fernet.encrypt(text.encode()).decode()

    def original_decrypt(token: str) -> str:
        return fernet.decrypt(token.encode()).decode()

    assert original_v1_open(encrypt_secret(secret)) == original_decrypt(encrypt_token(secret)) == secret
    assert decrypt_secret(envelope) == decrypt_token(token) == secret
    return {
        "encrypt_secret": compared(original_v1_seal, encrypt_secret, secret, secret),
        "decrypt_secret": compared(original_v1_open, decrypt_secret, envelope, envelope),
        "encrypt_token": compared(original_encrypt, encrypt_token, secret, secret),
        "decrypt_token": compared(original_decrypt, decrypt_token, token, token),
        "batch: v1 seal": compared_in_batches(original_v1_seal, lambda many: keyfold.seal_many(many, format="v1"), secret),
        "batch: v1 open": compared_in_batches(original_v1_open, lambda many: keyfold.open_many(many, text=True), envelope),
        "batch: fernet seal": compared_in_batches(original_encrypt, lambda many: keyfold.seal_many(many, format="fernet"), secret),
        "batch: fernet open": compared_in_batches(original_decrypt, lambda many: keyfold.open_many(many, text=True), token),
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--size", type=int, default=100, help="bytes of a secret (100)")
    options.add_argument("--json", action="store_true", help="print JSON and nothing else")
    given = options.parse_args()
    results = measured(given.size)
    imported = import_milliseconds()
    if given.json:
        print(json.dumps({"size": given.size, "import_ms": imported, **results}))
        return 0
    print(f"one secret of {given.size} bytes, microseconds")
    missed = imported >= 10
    for name, result in results.items():
        target = TARGETS["batch" if name.startswith("batch") else name]
        missed |= result["ratio"] < target
        verdict = "" if result["ratio"] >= target else "   MISSED"
        print(f"{name:20} original {result['original']:8.2f}   keyfold {result['keyfold']:6.2f}   {result['ratio']:5.1f} times, {target} promised{verdict}")
    print(f"import keyfold       {imported} ms, under 10 promised")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
