#!/usr/bin/env python3
"""Known answers for the audit chain: `python3 vectors/audit.py > vectors/audit.json`.

Written from the description of the format with hashlib and `cryptography`, so that it shares nothing with the Rust
code that must reproduce it.
"""

import base64
import hashlib
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DEPLOYMENT = "example-1"
TIME = 1_800_000_000


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def u32(n: int) -> bytes:
    return n.to_bytes(4, "big")


def jcs(value: dict) -> bytes:
    """RFC 8785 for ASCII member names, strings and small integers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def key_id(name: str, public: bytes) -> bytes:
    return sha(name.encode(), b"\n\x01", public)[:4]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


deployment_seed, writer_seed = bytes(range(32)), bytes(range(32, 64))
deployment_key = Ed25519PrivateKey.from_private_bytes(deployment_seed)
writer_key = Ed25519PrivateKey.from_private_bytes(writer_seed)
deployment_public = deployment_key.public_key().public_bytes_raw()
writer_public = writer_key.public_key().public_bytes_raw()
writer = "a1" * 16
predecessor = {"head": "b2" * 32, "size": 41, "writer": "c3" * 16}

genesis = {
    "deployment": DEPLOYMENT,
    "key": b64(writer_public),
    "predecessor": predecessor,
    "time": TIME,
    "version": "keyfold-chain-v1",
    "writer": writer,
}
signature = deployment_key.sign(b"keyfold audit genesis v1\0" + jcs(genesis))
genesis_line = jcs(genesis | {"signature": b64(signature)})

head = h0 = sha(b"keyfold audit chain v1\0", u32(len(genesis_line)), genesis_line)
told = [
    {"kind": "intent", "action": "record_get", "actor": "local:1000", "id": "00" * 8, "time": TIME + 1,
     "collection": "instances", "record": 'sre_instances:"ü"\\', "field": "/connection_url", "format": "kf1",
     "kid": "d4" * 8, "commitment": "e5" * 32},
    {"kind": "outcome", "action": "record_get", "actor": "local:1000", "id": "00" * 8, "time": TIME + 2,
     "result": "done", "bytes": 46, "millis": 3},
    {"kind": "intent", "action": "rotate_batch", "actor": "agent:triage", "id": "01" * 8, "time": TIME + 3,
     "job": "rotate-7", "first": "a", "last": "z", "count": 500, "generation": 9},
]
events = []
for i, event in enumerate(told, 1):
    line = jcs(event | {"prev": head[:8].hex(), "seq": i})
    head = sha(b"keyfold audit event v1\0", head, i.to_bytes(8, "big"), u32(len(line)), line)
    events.append({"line": line.decode(), "head": head.hex()})

origin = f"keyfold/{DEPLOYMENT}/{writer}"
tip = {"head": head.hex(), "size": len(events), "writer": writer}
roster = [{"head": "f6" * 32, "size": 2, "writer": "07" * 16}, {"head": "18" * 32, "size": 0, "writer": "29" * 16}]
previous = "3a" * 32
text = "\n".join(
    [origin, "keyfold-chain-v1", str(tip["size"]), tip["head"], str(TIME + 4), "9", previous]
    + [f"{other['writer']} {other['size']} {other['head']}" for other in roster]
) + "\n"
signed = key_id(origin, writer_public) + writer_key.sign(text.encode())
note = f"{text}\n— {origin} {b64(signed)}\n"

name = f"keyfold/{DEPLOYMENT}"
print(json.dumps({
    "deployment": DEPLOYMENT,
    "deployment_seed": deployment_seed.hex(),
    "writer_seed": writer_seed.hex(),
    "verifier_key": f"{name}+{key_id(name, deployment_public).hex()}+{b64(bytes([1]) + deployment_public)}",
    "writer": writer,
    "time": TIME,
    "predecessor": predecessor,
    "genesis": genesis_line.decode(),
    "h0": h0.hex(),
    "events": events,
    "note": {"tip": tip, "time": TIME + 4, "generation": 9, "previous": previous, "roster": roster, "text": note,
             "hash": sha(b"keyfold audit note v1\0", note.encode()).hex()},
}, indent=2, ensure_ascii=False))
