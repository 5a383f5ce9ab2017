"""The sequential procedure: of each record read, open both secrets, seal them anew, write. Says records per second.

    sequential.py PORT COUNT KEY      KEY is the base64 of the key that they are sealed under; it seals them anew too
"""
import base64, json, os, socket, sys, time
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

port, count, key = int(sys.argv[1]), int(sys.argv[2]), AESGCM(base64.b64decode(sys.argv[3]))
file = socket.create_connection(("127.0.0.1", port)).makefile("rwb")
b64 = lambda raw: base64.b64encode(raw).decode()


def ask(*words):
    words = [word.encode() for word in words]
    file.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    file.flush()
    line = file.readline().rstrip(b"\r\n")
    return file.read(int(line[1:]) + 2)[:-2].decode() if line[:1] == b"$" else line


def unseal(text):
    parts = {name: base64.b64decode(part) for name, part in json.loads(base64.b64decode(text)).items() if name != "version"}
    return AESGCM(key.decrypt(parts["dek_nonce"], parts["wrapped_dek"], None)).decrypt(parts["nonce"], parts["ciphertext"], None)


def seal(secret):
    dek, nonce, dek_nonce = AESGCM.generate_key(bit_length=256), os.urandom(12), os.urandom(12)
    parts = {
        "version": "v1", "ciphertext": b64(AESGCM(dek).encrypt(nonce, secret, None)), "nonce": b64(nonce),
        "wrapped_dek": b64(key.encrypt(dek_nonce, dek, None)), "dek_nonce": b64(dek_nonce),
    }
    return base64.b64encode(json.dumps(parts).encode()).decode()


began = time.monotonic()
for n in range(count):
    name = f"sre_instances:{n:08}"
    record = json.loads(ask("HGET", name, "data"))
    for field in ("connection_url", "admin_password"):
        record[field] = seal(unseal(record[field]))
    ask("HSET", name, "data", json.dumps(record))
seconds = time.monotonic() - began
print(f"sequential Python, {count} records{'':<17} {seconds:>8.2f} {count / seconds:>11.0f}")
