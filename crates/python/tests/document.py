"""Writes keyring documents as ``docs/formats.md`` describes them, with ``cryptography`` and nothing of Keyfold."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Callable
from typing import Optional

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def expand(key: bytes, label: bytes) -> bytes:
    """HKDF-Expand-SHA256 to 32 bytes."""
    return hmac.digest(key, label + b"\x01", hashlib.sha256)


def bound_to(*parts: str) -> bytes:
    return b"keyfold keyring entry v1\0" + b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def local(root: str) -> Callable[[bytes, bytes], bytes]:
    """How a root key that a file or a variable holds wraps."""

    def wrap(key: bytes, use: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + AESGCM(expand(base64.b64decode(root), b"keyfold root wrap v1\0")).encrypt(nonce, key, use)

    return wrap


def written(
    root: str, deployment: str, generation: int, keys: dict[str, str], uri: str = "env:ROOT", wrap: Optional[Callable[[bytes, bytes], bytes]] = None
) -> bytes:
    """A document with one master key in each of the states given, under the root key of ``uri``."""
    name, document_key = "keyring-1", os.urandom(32)
    root_use = b"keyfold keyring root v1\0" + generation.to_bytes(8, "big") + name.encode()
    sealed = (wrap or local(root))(document_key, root_use)

    def wrapped(key: bytes, *use: str) -> str:
        aad = bound_to(name, *use)
        cipher = AESGCM(expand(document_key, b"keyfold keyring entry v1\0" + hashlib.sha256(aad).digest()))
        return base64.b64encode(cipher.encrypt(bytes(12), key, aad)).decode()

    entries = []
    for state, text in keys.items():
        key = base64.b64decode(text)
        kid = expand(key, b"kf1 kid\0")[:8].hex()
        use = {"kid": kid, "state": state, "purpose": "master", "suites": ["kf1", "v1"], "created": 1, "since": 1}
        entries.append({**use, "wrapped": wrapped(key, kid, "master", "kf1,v1")})
    body = {
        "format": "keyfold-keyring-v1", "id": name, "deployment": deployment, "generation": generation,
        "roots": [{"uri": uri, "wrapped": base64.b64encode(sealed).decode()}], "entries": entries,
        "tombstones": [], "floors": {}, "audit_seed": wrapped(os.urandom(32), "", "audit", ""),
    }  # fmt: skip
    line = json.dumps(body, separators=(",", ":")).encode()
    mac = hmac.new(expand(document_key, b"keyfold keyring mac v1\0"), b"keyfold keyring v1\0" + line, hashlib.sha256).hexdigest()
    return line + b"\n" + json.dumps({"mac": mac}, separators=(",", ":")).encode() + b"\n"
