"""Times what the two Python projects do for one secret, in microseconds; prints one JSON object.

The calls are theirs: redis-sre-agent decodes its master key on every call, Auto SRE keeps one Fernet object. As a
courtesy to them the smallest of several medians counts, and nothing is logged.
"""
import base64
import json
import os
import statistics
import sys
import time

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SIZE = int(sys.argv[1]) if len(sys.argv) > 1 else 100
ROUNDS, CALLS = 25, 400
KEY_TEXT = base64.b64encode(os.urandom(32)).decode()
FERNET_TEXT = Fernet.generate_key()
SECRET = ("s" * SIZE)


def v1_seal(plaintext):
    master = base64.b64decode(KEY_TEXT)
    dek = AESGCM.generate_key(bit_length=256)
    nonce = os.urandom(12)
    ciphertext = AESGCM(dek).encrypt(nonce, plaintext.encode("utf-8"), None)
    dek_nonce = os.urandom(12)
    wrapped = AESGCM(master).encrypt(dek_nonce, dek, None)
    envelope = {
        "version": "v1",
        "ciphertext": base64.b64encode(ciphertext).decode("ascii"),
        "nonce": base64.b64encode(nonce).decode("ascii"),
        "wrapped_dek": base64.b64encode(wrapped).decode("ascii"),
        "dek_nonce": base64.b64encode(dek_nonce).decode("ascii"),
    }
    return base64.b64encode(json.dumps(envelope).encode("utf-8")).decode("ascii")


def v1_open(envelope):
    master = base64.b64decode(KEY_TEXT)
    doc = json.loads(base64.b64decode(envelope).decode("utf-8"))
    assert doc.get("version") == "v1"
    part = {k: base64.b64decode(doc[k]) for k in ("ciphertext", "nonce", "wrapped_dek", "dek_nonce")}
    dek = AESGCM(master).decrypt(part["dek_nonce"], part["wrapped_dek"], None)
    return AESGCM(dek).decrypt(part["nonce"], part["ciphertext"], None).decode("utf-8")


def fernet_encrypt(plaintext):
    return FERNET.encrypt(plaintext.encode("utf-8")).decode("ascii")


def fernet_decrypt(token):
    return FERNET.decrypt(token.encode("ascii")).decode("utf-8")


def microseconds(call, argument):
    medians = []
    for _ in range(ROUNDS):
        times = []
        for _ in range(CALLS):
            start = time.perf_counter_ns()
            call(argument)
            times.append(time.perf_counter_ns() - start)
        medians.append(statistics.median(times))
    return min(medians) / 1000


FERNET = Fernet(FERNET_TEXT)
assert v1_open(v1_seal(SECRET)) == fernet_decrypt(fernet_encrypt(SECRET)) == SECRET
print(json.dumps({
    "v1_seal": microseconds(v1_seal, SECRET), "v1_open": microseconds(v1_open, v1_seal(SECRET)),
    "fernet_encrypt": microseconds(fernet_encrypt, SECRET), "fernet_decrypt": microseconds(fernet_decrypt, fernet_encrypt(SECRET)),
}))
