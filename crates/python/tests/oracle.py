"""What the two projects do with a secret, put together from Python's ``cryptography`` and what they document.

Independent of Keyfold: nothing here imports it.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MEMBERS = ("ciphertext", "nonce", "wrapped_dek", "dek_nonce")


def new_master_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def new_fernet_key() -> str:
    return Fernet.generate_key().decode()


def v1_seal(key: str, secret: str, **members: Any) -> str:
    """A redis-sre-agent envelope; ``members`` are added to it, or replace its own."""
    dek, nonce, dek_nonce = AESGCM.generate_key(bit_length=256), os.urandom(12), os.urandom(12)
    parts = {
        "ciphertext": AESGCM(dek).encrypt(nonce, secret.encode(), None),
        "nonce": nonce,
        "wrapped_dek": AESGCM(base64.b64decode(key)).encrypt(dek_nonce, dek, None),
        "dek_nonce": dek_nonce,
    }
    envelope = {"version": "v1", **{name: base64.b64encode(parts[name]).decode() for name in MEMBERS}, **members}
    return base64.b64encode(json.dumps(envelope).encode()).decode()


def v1_parts(key: str, envelope: str) -> tuple[bytes, bytes, bytes, str]:
    """Data key, nonce, wrap nonce and secret of an envelope, which must be laid out as ``json.dumps`` would."""
    text = base64.b64decode(envelope, validate=True).decode()
    members = json.loads(text)
    assert list(members) == ["version", *MEMBERS] and members["version"] == "v1"
    assert json.dumps(members) == text, "not the original's layout"
    raw = {name: base64.b64decode(members[name], validate=True) for name in MEMBERS}
    dek = AESGCM(base64.b64decode(key)).decrypt(raw["dek_nonce"], raw["wrapped_dek"], None)
    return dek, raw["nonce"], raw["dek_nonce"], AESGCM(dek).decrypt(raw["nonce"], raw["ciphertext"], None).decode()


def v1_open(key: str, envelope: str) -> str:
    """As the original reads: every decoder is the lenient one of the standard library."""
    members = json.loads(base64.b64decode(envelope).decode())
    assert members.get("version") == "v1"
    raw = {name: base64.b64decode(members[name]) for name in MEMBERS}
    dek = AESGCM(base64.b64decode(key)).decrypt(raw["dek_nonce"], raw["wrapped_dek"], None)
    return AESGCM(dek).decrypt(raw["nonce"], raw["ciphertext"], None).decode()


def v1_opens(key: str, envelope: Any) -> str | None:
    """The secret, or None where the original would raise."""
    try:
        return v1_open(key, envelope)
    except Exception:
        return None


def v1_is_encrypted(value: Any) -> bool:
    try:
        members = json.loads(base64.b64decode(value).decode())
        return {"version", "ciphertext", "wrapped_dek"} <= set(members)
    except Exception:
        return False


def token_opens(key: str, token: str) -> str:
    """What Auto SRE's reader returns: plaintext as it is, nothing for a token that does not open."""
    if not token.startswith("gAAAA") or len(token) <= 50:
        return token
    try:
        return Fernet(key).decrypt(token.encode()).decode()
    except (InvalidToken, ValueError):
        return ""
