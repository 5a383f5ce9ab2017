"""Makes v1.json, fernet.json, kf1.json and detect.json: known answers by another implementation than ours.

    pip install cryptography && python make.py            writes the files beside this script
    python make.py --check                                fails when the committed ones differ

Nothing here is random: keys, nonces and texts come out of SHA-256 over a label, so a second run gives the same bytes.

Every case of `refused` names the error code of each reader, `"opens"` where a reader takes the value. What the original
reader does is computed with its own steps, not written down, so that a lenient reading is never guessed.
"""
import base64
import binascii
import hashlib
import json
import pathlib
import sys

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import kf1

HERE = pathlib.Path(__file__).resolve().parent
SIZES = [0, 1, 2, 3, 11, 12, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100, 127, 128, 255, 256, 1000, 1023, 1024,
         2047, 4095, 4096, 4097, 8192, 9999, 10000]
TEXTS = {
    "ascii": "hunter2",
    "two-byte": "contraseña-größe",
    "three-byte": "パスワード",
    "four-byte emoji": "🔑🗝️🔐",
    "joined emoji": "👩‍💻👨‍👩‍👧‍👦",
    "combining, decomposed": "e\u0301a\u030ao\u0308",
    "combining, composed": "éåö",
    "right to left": "סיסמה كلمة",
    "last code point": "\U0010ffff",
    "controls and nul": "a\x00b\x1b[0m\r\n\t",
    "JSON within": '{"password": "p\\u0022\\"w"}',
    "a connection URL": "redis://default:p%40ss@db-1.example.com:6379/0?ssl=true#π",
    "byte-order mark": "\ufeffsecret",
}


def stream(label, n):
    """n bytes that depend on the label alone."""
    out, i = b"", 0
    while len(out) < n:
        out += hashlib.sha256(f"{label}/{i}".encode()).digest()
        i += 1
    return out[:n]


def text_of(n):
    """Exactly n bytes of UTF-8 with all four lengths in it."""
    piece = "key/é/鍵/🔑/"
    out = (piece * (n // len(piece.encode()) + 1)).encode()[:n]
    while True:
        try:
            return out.decode()
        except UnicodeDecodeError as e:
            out = out[:e.start] + b"." * (n - e.start)


def b64(b):
    return base64.b64encode(b).decode()


def u64(b):
    return base64.urlsafe_b64encode(b).decode()


# --- v1 -------------------------------------------------------------------------------------------------

KEY, OTHER = stream("v1 key", 32), stream("v1 other key", 32)
DEK, NONCE, DEK_NONCE = stream("v1 dek", 32), stream("v1 nonce", 12), stream("v1 dek nonce", 12)
SECRET = "redis://u:p@h:6379/10"      # of a length that leaves unused bits in the last digit of its ciphertext


def members(plaintext=SECRET.encode(), key=KEY, dek=DEK, nonce=NONCE, dek_nonce=DEK_NONCE, wrapped=None):
    return {"version": "v1", "ciphertext": b64(AESGCM(dek).encrypt(nonce, plaintext, None)), "nonce": b64(nonce),
            "wrapped_dek": b64(AESGCM(key).encrypt(dek_nonce, wrapped or dek, None)), "dek_nonce": b64(dek_nonce)}


def pack(doc, **how):
    return b64((doc if isinstance(doc, str) else json.dumps(doc, **how)).encode())


def original_opens(envelope, key):
    """redis-sre-agent's decrypt_secret, step by step: the plaintext, or None where it raises."""
    try:
        doc = json.loads(base64.b64decode(envelope).decode("utf-8"))
        if doc.get("version") != "v1":
            return None
        part = {k: base64.b64decode(doc[k]) for k in ("ciphertext", "nonce", "wrapped_dek", "dek_nonce")}
        dek = AESGCM(key).decrypt(part["dek_nonce"], part["wrapped_dek"], None)
        return AESGCM(dek).decrypt(part["nonce"], part["ciphertext"], None).decode("utf-8")
    except (InvalidTag, ValueError, KeyError, TypeError, AttributeError):
        return None


def tail_bits(encoded):
    """The same bytes for a lenient decoder: unused bits of the last digit set, where there are any."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789" + ("-_" if "-" in encoded or "_" in encoded else "+/")
    stripped = encoded.rstrip("=")
    assert len(stripped) % 4, "no unused bits"
    return stripped[:-1] + alphabet[alphabet.index(stripped[-1]) + 1] + encoded[len(stripped):]


def swap(doc, **changed):
    return {**doc, **changed}


def flip(b, at=0):
    return b[:at] + bytes([b[at] ^ 1]) + b[at + 1:]


def with_both_symbols(make):
    """The first of a series whose base64 has both a '+' and a '/'."""
    return next(e for e in map(make, range(10_000)) if "+" in e and "/" in e)


def v1_refused():
    good = members()
    raw = {k: base64.b64decode(v) for k, v in good.items() if k != "version"}
    spaced = pack(good)
    cases = []

    def case(name, envelope, strict, compat=None, keys=(KEY,)):
        compat = compat or strict
        theirs = [p for p in (original_opens(envelope, k) for k in keys) if p is not None]
        assert all(p == SECRET for p in theirs), name
        # Lengths are the one point where the lenient reader is stricter: no writer ever made other ones.
        assert (compat == "opens") == bool(theirs) or " bytes" in name, f"{name}: the original {'opens' if theirs else 'refuses'} it"
        assert strict != "opens" or compat == "opens", name
        cases.append({"name": name, "keys": [k.hex() for k in keys], "envelope": envelope, "strict": strict,
                      "compat": compat, "original": "opens" if theirs else "refuses", "detected": kf1.detect(envelope)})

    for n in (0, 8, 11, 13, 16):
        nonce = stream("odd nonce", n)
        sealed = members(nonce=nonce) if n >= 8 else swap(good, nonce="")
        case(f"a nonce of {n} bytes", pack(sealed), "malformed")
        sealed = members(dek_nonce=nonce) if n >= 8 else swap(good, dek_nonce="")
        case(f"a nonce of the wrap of {n} bytes", pack(sealed), "malformed")
    for n in (0, 16, 47, 49, 64):
        case(f"a wrapped DEK of {n} bytes", pack(swap(good, wrapped_dek=b64(stream("w", n)))), "malformed")
    short = DEK[:16]
    case("a DEK of 16 bytes, properly wrapped", pack(members(dek=short)), "malformed")
    for n in (0, 1, 15):
        case(f"a ciphertext of {n} bytes, shorter than a tag", pack(swap(good, ciphertext=b64(raw["ciphertext"][:n]))),
             "malformed")

    for k in ("ciphertext", "nonce", "wrapped_dek", "dek_nonce"):
        case(f"a changed byte in {k}", pack(swap(good, **{k: b64(flip(raw[k]))})), "wrong_key_or_tampered")
        case(f"a changed last byte in {k}", pack(swap(good, **{k: b64(flip(raw[k], len(raw[k]) - 1))})), "wrong_key_or_tampered")
        case(f"no {k}", pack({m: v for m, v in good.items() if m != k}), "malformed")
        case(f"{k} is null", pack(swap(good, **{k: None})), "malformed")
        case(f"{k} is a number", pack(swap(good, **{k: 7})), "malformed")
        case(f"{k} is a list", pack(swap(good, **{k: [good[k]]})), "malformed")
        case(f"{k} is not base64", pack(swap(good, **{k: "%%%%"})), "malformed")
        case(f"{k} has a stray digit", pack(swap(good, **{k: good[k].rstrip("=") + "AAA"})), "malformed")
        case(f"{k} has white space in it", pack(swap(good, **{k: good[k][:4] + " \n" + good[k][4:]})), "malformed", "opens")
        case(f"{k} twice, the same value",
             pack(json.dumps(good)[:-1] + f', "{k}": "{good[k]}"' + "}"), "malformed", "opens")
        case(f"{k} twice, the second one good",
             pack('{' + f'"{k}": "AAAA", ' + json.dumps(good)[1:]), "malformed", "opens")
    case("the padding of ciphertext stripped", pack(swap(good, ciphertext=good["ciphertext"].rstrip("="))), "malformed")
    case("too much padding on ciphertext", pack(swap(good, ciphertext=good["ciphertext"] + "=")), "malformed", "opens")
    case("unused bits set in the last digit of ciphertext", pack(swap(good, ciphertext=tail_bits(good["ciphertext"]))), "malformed", "opens")
    both = with_both_symbols(lambda i: members(dek=stream(f"dek {i}", 32))["ciphertext"])
    doc = next(d for d in (members(dek=stream(f"dek {i}", 32)) for i in range(10_000)) if d["ciphertext"] == both)
    assert original_opens(pack(doc), KEY) == SECRET
    case("ciphertext in the url-safe alphabet", pack(swap(doc, ciphertext=both.replace("+", "-").replace("/", "_"))), "malformed", "wrong_key_or_tampered")

    for name, version in (("v2", "v2"), ("V1", "V1"), ("v1 with a blank", "v1 "), ("empty", ""), ("v10", "v10")):
        case(f"version {name}", pack(swap(good, version=version)), "unsupported_format")
    for name, version in (("null", None), ("a number", 1), ("a list", ["v1"])):
        case(f"version is {name}", pack(swap(good, version=version)), "malformed", "unsupported_format")
    case("no version", pack({m: v for m, v in good.items() if m != "version"}), "malformed", "unsupported_format")
    case("version twice", pack('{"version": "v1", ' + json.dumps(good)[1:]), "malformed", "opens")
    case("version twice, first v2", pack('{"version": "v2", ' + json.dumps(good)[1:]), "malformed", "opens")

    case("an extra member at the end", pack(swap(good, algorithm="AES-256-GCM")), "malformed", "opens")
    case("an extra member at the start", pack({"key_id": "k1", **good}), "malformed", "opens")
    case("an extra member that is an object", pack(swap(good, meta={"a": [1, {"b": None}], "version": "v9"})), "malformed", "opens")
    case("members in reverse order", pack(dict(reversed(good.items()))), "opens")
    case("members sorted", pack(good, sort_keys=True), "opens")
    case("compact JSON", pack(good, separators=(",", ":")), "malformed", "opens")
    case("indented JSON", pack(good, indent=2), "malformed", "opens")
    case("white space around the JSON", pack(" " + json.dumps(good) + "\n"), "malformed", "opens")
    case("something after the JSON", pack(json.dumps(good) + "x"), "malformed")
    case("a second object after the JSON", pack(json.dumps(good) * 2), "malformed")
    case("a NUL after the JSON", pack(json.dumps(good) + "\0"), "malformed")
    case("a byte-order mark before the JSON", pack("\ufeff" + json.dumps(good)), "malformed")
    case("JSON cut short", pack(json.dumps(good)[:-1]), "malformed")
    case("single quotes", pack(str(good)), "malformed")
    case("a list around the object", pack([good]), "malformed")
    case("a string, not an object", pack(json.dumps(json.dumps(good))), "malformed")
    case("not UTF-8", b64(json.dumps(good).encode()[:-1] + b', "x": "\xff"}'), "malformed")

    case("white space in the base64", spaced[:40] + "\n" + spaced[40:], "malformed", "opens")
    case("lines of 76", base64.encodebytes(json.dumps(good).encode()).decode(), "malformed", "opens")
    case("a newline after the base64", spaced + "\n", "malformed", "opens")
    case("a blank before the base64", " " + spaced, "malformed", "opens")
    case("an empty value", "", "malformed")
    case("padding alone", "====", "malformed")
    assert spaced.endswith("==")
    case("the padding of the envelope stripped", spaced.rstrip("="), "malformed")
    case("unused bits set in the last digit of the envelope", tail_bits(spaced), "malformed", "opens")
    case("cut in the middle", spaced[:len(spaced) // 2], "malformed")
    case("cut by four digits", spaced[:-4], "malformed")
    case("one digit appended", spaced.rstrip("=") + "A", "malformed")
    case("junk after the padding", spaced + "junk", "malformed", "opens")

    case("another key", spaced, "wrong_key_or_tampered", keys=(OTHER,))
    case("the second of two keys", spaced, "opens", keys=(OTHER, KEY))
    case("another DEK under a valid tag", pack(members(wrapped=stream("another dek", 32))), "wrong_key_or_tampered")
    case("another secret's wrap", pack(swap(good, wrapped_dek=members(dek=stream("second dek", 32))["wrapped_dek"])),
         "wrong_key_or_tampered")
    case("nonces exchanged", pack(swap(good, nonce=good["dek_nonce"], dek_nonce=good["nonce"])), "wrong_key_or_tampered")
    return cases


def v1():
    seals = []

    def seal(name, plaintext, i):
        dek, nonce, dek_nonce = stream(f"dek {i}", 32), stream(f"nonce {i}", 12), stream(f"dek nonce {i}", 12)
        doc = members(plaintext.encode(), KEY, dek, nonce, dek_nonce)
        envelope = pack(doc)
        assert original_opens(envelope, KEY) == plaintext
        seals.append({"name": name, "dek": dek.hex(), "nonce": nonce.hex(), "dek_nonce": dek_nonce.hex(),
                      "plaintext": plaintext, "envelope": envelope})

    for i, n in enumerate(SIZES):
        seal(f"{n} bytes", text_of(n), i)
    for i, (name, plaintext) in enumerate(TEXTS.items(), len(SIZES)):
        seal(name, plaintext, i)
    return {"key": KEY.hex(), "secret": SECRET, "seals": seals, "refused": v1_refused()}


# --- Fernet ---------------------------------------------------------------------------------------------

FERNET = [stream(f"fernet key {i}", 32) for i in range(3)]
NOW = 1_790_000_000
MAX_TIME = 2**64 - 1


def fernet_token(key, plaintext, timestamp, iv):
    return Fernet(base64.urlsafe_b64encode(key))._encrypt_from_parts(plaintext, timestamp, iv).decode()


def signed(key, parts):
    """Any bytes under a right tag: what only a holder of the key can make."""
    tag = hmac.HMAC(key[:16], hashes.SHA256())
    tag.update(parts)
    return parts + tag.finalize()


def cbc(key, iv, padded):
    e = Cipher(algorithms.AES(key[16:]), modes.CBC(iv)).encryptor()
    return e.update(padded) + e.finalize()


def library_opens(token, keys, ttl=None, now=NOW):
    """Python's own answer, with its own lenient base64: the plaintext in hex, or None."""
    fernets = MultiFernet([Fernet(base64.urlsafe_b64encode(k)) for k in keys])
    try:
        found = fernets.decrypt(token) if ttl is None else fernets.decrypt_at_time(token, ttl, now)
        return found.hex()
    except (InvalidToken, ValueError, binascii.Error):
        return None


def fernet():
    key, iv = FERNET[0], stream("fernet iv", 16)
    seals, ages, refused = [], [], []

    def seal(name, plaintext, i, timestamp=NOW):
        at = stream(f"fernet iv {i}", 16)
        seals.append({"name": name, "iv": at.hex(), "timestamp": timestamp, "plaintext": plaintext,
                      "token": fernet_token(key, plaintext.encode(), timestamp, at)})

    for i, n in enumerate(SIZES):
        seal(f"{n} bytes", text_of(n), i)
    for i, (name, plaintext) in enumerate(TEXTS.items(), len(SIZES)):
        seal(name, plaintext, i)
    for i, t in enumerate([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32], 100):
        seal(f"sealed at {t}", "hunter2", i, t)

    def age(name, timestamp, ttl, now, code="opens"):
        token = fernet_token(key, b"hunter2", timestamp, iv)
        theirs = "opens" if ttl is None or library_opens(token, [key], ttl, now) is not None else "expired"
        assert theirs == code, f"{name}: Python says {theirs}"
        ages.append({"name": name, "token": token, "timestamp": timestamp, "ttl": ttl, "now": now, "code": code})

    age("no TTL, sealed long ago", 0, None, NOW)
    age("no TTL, sealed in the future", NOW + 10**6, None, NOW)
    age("just sealed", NOW, 60, NOW)
    age("in its last second", NOW - 60, 60, NOW)
    age("a second too old", NOW - 61, 60, NOW, "expired")
    age("TTL of nothing, same second", NOW, 0, NOW)
    age("TTL of nothing, a second later", NOW - 1, 0, NOW, "expired")
    age("60 s in the future", NOW + 60, 60, NOW)
    age("61 s in the future", NOW + 61, 60, NOW, "expired")
    age("far in the future", NOW + 10**9, 60, NOW, "expired")
    age("at the beginning of time", 0, 60, NOW, "expired")
    age("at the beginning of time, TTL of exactly that long", 0, NOW, NOW)
    age("at the end of time", MAX_TIME, 60, NOW, "expired")
    age("timestamp and TTL overflow together", NOW, MAX_TIME, NOW)
    age("at the end of time, endless TTL", MAX_TIME, MAX_TIME, NOW, "expired")
    age("now and skew overflow together", MAX_TIME - 5, 60, MAX_TIME)

    def case(name, token, strict, compat=None, keys=(key,)):
        compat = compat or strict
        theirs = library_opens(token, keys)
        assert (theirs == b"hunter2".hex()) if compat == "opens" else theirs is None, f"{name}: the library says {theirs}"
        refused.append({"name": name, "keys": [u64(k) for k in keys], "token": token, "strict": strict, "compat": compat,
                        "library": "refuses" if theirs is None else "opens"})

    good = fernet_token(key, b"hunter2", NOW, iv)
    raw = base64.urlsafe_b64decode(good)
    for at, name in ((1, "first byte of the timestamp"), (8, "last byte of the timestamp"), (9, "first byte of the IV"),
                     (24, "last byte of the IV"), (25, "first byte of the ciphertext"), (len(raw) - 33, "last byte of the ciphertext"),
                     (len(raw) - 32, "first byte of the tag"), (len(raw) - 1, "last byte of the tag")):
        case(f"a changed bit in the {name}", u64(flip(raw, at)), "wrong_key_or_tampered")
    case("another version byte", u64(b"\x81" + raw[1:]), "unsupported_format")
    case("another version byte under a right tag", u64(signed(key, b"\x81" + raw[1:-32])), "unsupported_format")
    for n in (0, 1, 8, 9, 24, 25, 41, 56, 72):
        case(f"cut to {n} bytes", u64(raw[:n]), "malformed")
    case("no ciphertext, right tag", u64(signed(key, raw[:25])), "malformed")
    case("half a block, right tag", u64(signed(key, raw[:25] + raw[25:33])), "malformed")
    case("a block and a byte, right tag", u64(signed(key, raw[:-32] + b"\0")), "malformed")
    for name, pad in (("zero", b"\0"), ("seventeen", b"\x11"), ("two without a first", b"\x02")):
        padded = b"hunter2".ljust(15, b"\0") + pad
        case(f"padding of {name} under a right tag", u64(signed(key, raw[:25] + cbc(key, iv, padded))), "wrong_key_or_tampered")
    case("another key", good, "wrong_key_or_tampered", keys=(FERNET[1],))
    case("the halves of the key exchanged", good, "wrong_key_or_tampered", keys=(key[16:] + key[:16],))
    case("the third of three keys", good, "opens", keys=(FERNET[2], FERNET[1], key))
    case("signing half right, encrypting half wrong", fernet_token(key[:16] + FERNET[1][16:], b"hunter2", NOW, stream("iv for a padding error", 16)),
         "wrong_key_or_tampered")

    padded = next(t for t in (fernet_token(key, b"hunter2", NOW, stream(f"iv {i}", 16)) for i in range(10_000))
                  if t.endswith("=") and "-" in t and "_" in t)
    case("the padding stripped", padded.rstrip("="), "malformed")
    case("unused bits set in the last digit", tail_bits(padded), "malformed", "opens")
    case("the standard alphabet", padded.replace("-", "+").replace("_", "/"), "malformed", "opens")
    case("a newline at the end", padded + "\n", "malformed", "opens")
    case("a blank at the start", " " + padded, "malformed", "opens")
    case("broken over two lines", padded[:40] + "\r\n" + padded[40:], "malformed", "opens")
    case("characters outside of the alphabet", padded[:40] + "!~" + padded[40:], "malformed", "opens")
    case("one padding character too many", padded + "=", "malformed", "opens")
    case("an empty value", "", "malformed")
    case("twice", padded + padded, "malformed", "opens")

    rotations = []
    for i, name in enumerate(["from the second key", "from the third key", "from the first key, again"]):
        keys, old_iv, new_iv = FERNET, stream(f"old iv {i}", 16), stream(f"new iv {i}", 16)
        old_key = [FERNET[1], FERNET[2], FERNET[0]][i]
        old = fernet_token(old_key, b"hunter2", NOW - 1000 * i, old_iv)
        new = fernet_token(keys[0], b"hunter2", NOW - 1000 * i, new_iv)
        theirs = MultiFernet([Fernet(u64(k)) for k in keys]).rotate(old)
        assert base64.urlsafe_b64decode(theirs)[:9] == base64.urlsafe_b64decode(new)[:9]
        rotations.append({"name": name, "keys": [u64(k) for k in keys], "token": old, "iv": new_iv.hex(), "rotated": new})

    key_cases = [{"name": n, "key": k, "length": length} for n, k, length in [
        ("31 bytes", u64(key[:31]), 31), ("33 bytes", u64(key + b"\0"), 33), ("empty", "", 0), ("16 bytes", u64(key[:16]), 16),
        ("64 bytes", u64(key * 2), 64), ("hex", key.hex(), 48), ("no padding", u64(key).rstrip("="), None),
        ("junk before", "x" + u64(key), None), ("junk within", u64(key)[:10] + "!" + u64(key)[10:], None),
        ("junk after", u64(key) + "x", None), ("quoted", f'"{u64(key)}"', None), ("tail bits", tail_bits(u64(key)), None)]]
    return {"key": u64(key), "seals": seals, "ages": ages, "refused": refused, "rotations": rotations, "key_refused": key_cases}


# --- kf1 ------------------------------------------------------------------------------------------------

CONTEXTS = [
    {},
    {"deployment": "d-1"},
    {"b": "2", "a": "1"},
    {"é": "ü", "z": "last?", "e\u0301": "decomposed"},
    {"record": "", "field": "/a~1b/~0/*"},
    {"user_iss": "https://accounts.example.com", "user_sub": "10769150350006150715113082367"},
    {"🔑": "four bytes"},
    {"k" * 255: "v" * 1000},
    {f"k{i}": str(i) for i in range(40)},
    {"field": "/connection_url", "collection": "c-7", "deployment": "d-1", "record": "inst-1", "tenant": "acme"},
]


def kf1_vectors():
    m1, m2 = stream("kf1 m1", 32), stream("kf1 m2", 32)
    cd = kf1.context_digest(kf1.CONTEXT)
    seals = []
    for i, (name, plaintext, context) in enumerate(
            [(f"{n} bytes", text_of(n), CONTEXTS[i % len(CONTEXTS)]) for i, n in enumerate(SIZES)]
            + [(name, text, kf1.CONTEXT) for name, text in TEXTS.items()]
            + [(f"context {i}", "hunter2", c) for i, c in enumerate(CONTEXTS)]):
        random = stream(f"kf1 random {i}", 32)
        digest = kf1.context_digest(context)
        env = kf1.seal(m1, plaintext.encode(), context, random)
        dek, commit, _ = kf1.unwrap([m1], env, digest)
        seals.append({"name": name, "context": context, "context_digest": digest.hex(), "random": random.hex(),
                      "plaintext": plaintext, "dek": dek.hex(), "commitment": commit.hex(), "text": kf1.text(env),
                      "rewrapped": kf1.text(kf1.rewrap([m1], m2, env, digest))})

    env = kf1.seal(m1, b"hunter2", kf1.CONTEXT, stream("kf1 random", 32))
    dek, commit, body = kf1.unwrap([m1], env, cd)
    refused = []

    def model(envelope, context, masters):
        try:
            return "opens" if kf1.open_(masters, envelope, context) is not None else ""
        except (InvalidTag, kf1.Malformed, KeyError, ValueError):
            return "refuses"

    def case(name, envelope, code, context=kf1.CONTEXT, keys=(m1,)):
        assert model(envelope, context, list(keys)) == ("opens" if code == "opens" else "refuses"), name
        refused.append({"name": name, "keys": [k.hex() for k in keys], "context": context, "envelope": envelope.hex(), "code": code})

    tampered = "context_mismatch_or_tampered"
    case("as sealed", env, "opens")
    for at, name, code in ((1, "version", "unsupported_format"), (2, "suite", "unsupported_suite"), (3, "flags", "unsupported_suite"),
                           (4, "commitment", tampered), (35, "commitment, last byte", tampered), (36, "kid", "unknown_key"),
                           (43, "kid, last byte", "unknown_key"), (44, "wrapped DEK", tampered), (91, "tag of the wrap", tampered),
                           (92, "body", tampered), (len(env) - 1, "tag of the body", tampered)):
        case(f"a changed bit: {name}", flip(env, at), code)
    for version in (0, 2, 255):
        case(f"version {version}", env[:1] + bytes([version]) + env[2:], "unsupported_format")
    for suite in (0, 2, 255):
        case(f"suite {suite}", env[:2] + bytes([suite]) + env[3:], "unsupported_suite")
    for flags in (1, 2, 0x80, 0xFF):
        case(f"flags {flags}", env[:3] + bytes([flags]) + env[4:], "unsupported_suite")
    for n in (0, 1, 3, 4, 35, 36, 43, 44, 91, 92, 107):
        case(f"cut to {n} bytes", env[:n], "malformed")
    for n in (108, len(env) - 1):
        case(f"cut to {n} bytes, still long enough", env[:n], tampered)
    case("a byte appended", env + b"\0", tampered)
    case("another key", env, "unknown_key", keys=(m2,))
    for k in kf1.CONTEXT:
        case(f"another {k} in the context", env, tampered, {**kf1.CONTEXT, k: "other"})
        case(f"no {k} in the context", env, tampered, {c: v for c, v in kf1.CONTEXT.items() if c != k})
        case(f"{k} renamed in the context", env, tampered, {(c + "x" if c == k else c): v for c, v in kf1.CONTEXT.items()})
    case("no context", env, tampered, {})
    case("one entry more in the context", env, tampered, {**kf1.CONTEXT, "more": ""})
    joined = dict(kf1.CONTEXT)
    joined["record"], joined["tenant"] = joined["record"] + joined["tenant"], ""
    case("bytes moved from one value to another", env, tampered, joined)
    case("an entry in another case", env, tampered, {("Tenant" if c == "tenant" else c): v for c, v in kf1.CONTEXT.items()})

    def wrapped(key, d, commit, body):
        """A right tag over what the holder of `key` chooses to wrap."""
        w = AESGCM(kf1._wrap_key(key, commit, cd, body)).encrypt(kf1.ZERO_IV, d, kf1.H0 + commit + kf1.kid(key) + cd)
        return kf1.H0 + commit + kf1.kid(key) + w + body

    other = stream("another dek", 32)
    case("another DEK under a valid tag", wrapped(m1, other, commit, body), tampered)
    other_body = AESGCM(kf1.expand(other, b"kf1 enc\0" + kf1.H0 + cd)).encrypt(kf1.ZERO_IV, b"redis://evil", kf1.H0 + commit)
    case("another DEK and its body under this commitment", wrapped(m1, other, commit, other_body), tampered)
    new = kf1.rewrap([m1], m2, env, cd)
    case("rewrapped", new, "opens", keys=(m2,))
    case("rewrapped, and only the old key held", new, "unknown_key", keys=(m1,))
    evil = AESGCM(kf1.expand(dek, b"kf1 enc\0" + kf1.H0 + cd)).encrypt(kf1.ZERO_IV, b"redis://evil", kf1.H0 + commit)
    case("a body forged by who kept the retired key and an old copy", new[:92] + evil, tampered, keys=(m2,))
    case("the same forgery with the retired key's own wrap", wrapped(m1, dek, commit, evil), "unknown_key", keys=(m2,))
    case("the retired key's wrap under today's kid", new[:44] + wrapped(m1, dek, commit, evil)[44:], tampered, keys=(m2,))
    twin = kf1.seal(m1, b"hunter2", {**kf1.CONTEXT, "record": "inst-2"}, stream("kf1 random", 32))
    case("another record's envelope", twin, tampered)
    case("another record's body", env[:92] + twin[92:], tampered)
    case("another record's wrap", env[:44] + twin[44:92] + env[92:], tampered)

    long = kf1.text(env)
    padded = next(kf1.text(e) for e in (kf1.seal(m1, b"x" * n, {}, bytes(32)) for n in range(3)) if len(kf1.text(e)[4:]) % 4 == 2)
    threes = next(kf1.text(e) for e in (kf1.seal(m1, b"x" * n, {}, bytes(32)) for n in range(3)) if len(kf1.text(e)[4:]) % 4 == 3)
    symbols = next(t for t in (kf1.text(kf1.seal(m1, b"x", {}, stream(f"symbols {i}", 32))) for i in range(1000)) if "-" in t and "_" in t)
    texts = [        # the code of a kf1 reader, and where it differs that of a reader who looks what the value is
        ("unused bits set, four of them", "kf1." + tail_bits(padded[4:] + "=").rstrip("="), "malformed"),
        ("unused bits set, two of them", "kf1." + tail_bits(threes[4:] + "=").rstrip("="), "malformed"),
        ("with padding", padded + "==", "malformed"),
        ("the standard alphabet", symbols.replace("-", "+").replace("_", "/"), "malformed"),
        ("a newline at the end", long + "\n", "malformed"),
        ("a blank within", long[:20] + " " + long[20:], "malformed"),
        ("a length no bytes have", "kf1." + "A" * 145, "malformed"),
        ("the prefix alone", "kf1.", "malformed"),
        ("no prefix", long[4:], "malformed", "not_encrypted"),
        ("the prefix in capitals", "KF1." + long[4:], "malformed"),
        ("a newer version's prefix", "kf2." + long[4:], "malformed", "unsupported_format"),
        ("a newer version behind this prefix", kf1.text(env[:1] + b"\x02" + env[2:]), "unsupported_format"),
        ("twice", long + long, "malformed"),
        ("a letter outside of ASCII", long[:30] + "é" + long[31:], "malformed"),
    ]
    for name, t, *_ in texts:
        try:
            kf1.parse(kf1.from_text(t))
        except (kf1.Malformed, ValueError):
            continue
        raise AssertionError(name)
    bindings = [{"token": t, "context": c, "binding": kf1.fernet_binding(m1, t.encode(), c).hex()}
                for t in ("gAAAAAexample", fernet_token(FERNET[0], b"hunter2", NOW, stream("fernet iv", 16)))
                for c in (kf1.CONTEXT, {}, CONTEXTS[3])]
    return {"m1": m1.hex(), "m2": m2.hex(), "kid1": kf1.kid(m1).hex(), "kid2": kf1.kid(m2).hex(), "seals": seals, "refused": refused,
            "text_refused": [{"name": c[0], "text": c[1], "code": c[2], "stored": c[-1]} for c in texts], "fernet_bindings": bindings}


# --- detection ------------------------------------------------------------------------------------------

def detection():
    envelope = pack(members())
    token = fernet_token(FERNET[0], b"hunter2", NOW, stream("fernet iv", 16))
    long = kf1.text(kf1.seal(KEY, b"hunter2", {}, bytes(32)))
    around = ["{}", " {}", "{}\n", "\ufeff{}", '"{}"', "'{}'", "b'{}'", 'b"{}"', "\t'{}' \n", "x{}", "{}x", "[{}]", "\"{}"]
    values = [a.format(v) for a in around for v in (envelope, token, long)]
    values += [v.upper() for v in (envelope, token, long)] + [v.lower() for v in (envelope, token, long)]
    values += [v.swapcase() for v in (envelope, token, long)]
    values += [envelope[:n] for n in (8, 16, 20, 23, 24, 25, 60, 120, len(envelope) - 1)]
    values += [pack({k: 1 for k in ks}) for ks in (
        ["version"], ["ciphertext"], ["wrapped_dek"], ["version", "ciphertext"], ["version", "wrapped_dek"], ["nonce", "dek_nonce"],
        ["ciphertext", "wrapped_dek"], ["a"], [])]
    values += [pack(members(), separators=(",", ":")), pack(members(), indent=1), pack([members()]), pack("null"), pack("7"), "e30=", "{}", "null"]
    values += ["kf1", "kf.", "kf1.", "kf12.x", "kf01.x", "kf1,x", "Kf1.x", "kF9.x", "xkf1.x", "kf\u0661.x", "kf999999999999999999999.x",
               "gAAAA", "gAAAAA", "GAAAAA", "gaaaaa", "gAAAAAAAA", "xgAAAAA", "gAAAAB", "vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQ==", "vault:v", "vault:",
               "VAULT:V1:x", "Vault:v1:x", "'vault:v1:x'", "ENC[AES256_GCM,data:x]", "enc[x]", "ENC", "AQICAHhx", "aqicahhx", "AQICAG",
               "a.b.c", "a.b", "a.b.c.d", "a.b.c.d.e", "a..c", ".b.c", "a.b.c.d.e.f", "eyJh.é.x", "kf1.a.b", "gAAAAA.b.c", "a.b.c\n",
               "hunter2", "p4ss word", "é", "🔑", "\u0000", "\n", " ", "=", "====", "AAAA", "b", "b'", "''", '""', "b''", "\ufeff", "null", "true",
               "redis://u:p@h:6379/0", "https://u:p@h/?x=kf1.y", '{"version": "v1", "ciphertext": "x", "wrapped_dek": "y"}', "-----BEGIN PRIVATE KEY-----"]
    values = list(dict.fromkeys(values))
    raw = [b"", b"\xf6", b"\xf6\x01", b"\xf6\x02", b"\xf6\x01\x01\x00abc", b"\xf5\x01", b"\xff\xfe", b"gAAAAA\xff", b"kf1.\xff", b"kf2.\xff",
           b"\xc3", b" kf1.\xff", b"'gAAAAA\xff'", b"hunter\xff", b"\xa0kf1.x", b"KF1.\xe9"]
    return {"cases": [{"value": v, "verdict": kf1.detect(v)} for v in values],
            "bytes": [{"value": v.hex(), "verdict": kf1.detect(v)} for v in raw]}


# ----------------------------------------------------------------------------------------------------------

def main():
    stale = []
    for name, made in (("v1.json", v1()), ("fernet.json", fernet()), ("kf1.json", kf1_vectors()), ("detect.json", detection()), ("kf1-vectors.json", kf1.vectors())):
        made = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        path = HERE / name
        if "--check" not in sys.argv[1:]:
            path.write_text(made, encoding="utf-8", newline="\n")
        elif not path.exists() or path.read_text(encoding="utf-8") != made:
            stale.append(name)
    if stale:
        sys.exit(f"not what vectors/make.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
