"""The other side of a conversation: seals and opens with Python's cryptography what a Rust test asks for.

One JSON object a line in, one out, in order; bytes as hex. v1 goes through the same steps as redis-sre-agent's
encrypt_secret and decrypt_secret, Fernet through the library's own class.
"""
import base64
import json
import os
import sys

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def b64(b):
    return base64.b64encode(b).decode("ascii")


def v1_seal(key, plaintext, dek=None, nonce=None, dek_nonce=None):
    dek = dek or AESGCM.generate_key(bit_length=256)
    nonce, dek_nonce = nonce or os.urandom(12), dek_nonce or os.urandom(12)
    envelope = {
        "version": "v1",
        "ciphertext": b64(AESGCM(dek).encrypt(nonce, plaintext, None)),
        "nonce": b64(nonce),
        "wrapped_dek": b64(AESGCM(key).encrypt(dek_nonce, dek, None)),
        "dek_nonce": b64(dek_nonce),
    }
    return b64(json.dumps(envelope).encode("utf-8"))


def v1_open(key, envelope):
    doc = json.loads(base64.b64decode(envelope).decode("utf-8"))
    assert doc.get("version") == "v1"
    part = {k: base64.b64decode(doc[k]) for k in ("ciphertext", "nonce", "wrapped_dek", "dek_nonce")}
    dek = AESGCM(key).decrypt(part["dek_nonce"], part["wrapped_dek"], None)
    return AESGCM(dek).decrypt(part["nonce"], part["ciphertext"], None)


def keys(request):
    return MultiFernet([Fernet(k) for k in request["keys"]])


def answer(request):
    op = request["op"]
    raw = {k: bytes.fromhex(request[k]) for k in ("key", "plaintext", "dek", "nonce", "dek_nonce", "iv") if k in request}
    if op == "v1_seal":
        return {"envelope": v1_seal(raw["key"], raw["plaintext"], raw.get("dek"), raw.get("nonce"), raw.get("dek_nonce"))}
    if op == "v1_open":
        return {"plaintext": v1_open(raw["key"], request["envelope"]).hex()}
    if op == "fernet_encrypt":
        if "iv" in raw:
            return {"token": Fernet(request["keys"][0])._encrypt_from_parts(raw["plaintext"], request["timestamp"], raw["iv"]).decode()}
        return {"token": keys(request).encrypt_at_time(raw["plaintext"], request["timestamp"]).decode()}
    if op == "fernet_decrypt":
        return {"plaintext": keys(request).decrypt(request["token"]).hex(), "timestamp": keys(request).extract_timestamp(request["token"])}
    if op == "fernet_rotate":
        return {"token": keys(request).rotate(request["token"]).decode()}
    raise ValueError(op)


for line in sys.stdin:
    try:
        out = answer(json.loads(line))
    except (InvalidTag, InvalidToken, ValueError, KeyError, AssertionError) as e:
        out = {"error": type(e).__name__}
    print(json.dumps(out), flush=True)
