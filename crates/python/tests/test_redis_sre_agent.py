"""``keyfold.redis_sre_agent`` beside the original's algorithm, strict and with ``KEYFOLD_COMPAT=1``."""

from __future__ import annotations

import base64
import inspect
import json
import os
import warnings
from unittest.mock import patch

import pytest

import keyfold
import oracle
from conftest import Modules, scaled, secrets

CANARY = "hunter2-canary"


@pytest.fixture(params=["strict", "compat"])
def either(request: pytest.FixtureRequest) -> Modules:
    modules: Modules = request.getfixturevalue(request.param)
    return modules


def test_random_secrets_pass_in_both_directions(either: Modules, master_key: str) -> None:
    for secret in secrets(scaled(10_000)):
        sealed = either.redis.encrypt_secret(secret)
        assert oracle.v1_parts(master_key, sealed)[3] == secret
        theirs = oracle.v1_seal(master_key, secret)
        assert either.redis.decrypt_secret(theirs) == secret
        assert either.redis.get_secret_value(theirs) == secret
        assert either.redis.is_encrypted(sealed) is True


def test_names_and_arguments_are_the_originals(strict: Modules) -> None:
    arguments = {
        "encrypt_secret": "plaintext",
        "decrypt_secret": "encrypted_data",
        "is_encrypted": "data",
        "migrate_plaintext_to_encrypted": "plaintext",
        "get_secret_value": "data",
    }
    for name, argument in arguments.items():
        assert list(inspect.signature(getattr(strict.redis, name)).parameters) == [argument]
    assert issubclass(strict.redis.EncryptionError, Exception)


def test_the_same_secret_is_never_sealed_alike(strict: Modules, master_key: str) -> None:
    assert len({strict.redis.encrypt_secret(CANARY) for _ in range(1000)}) == 1000


def test_the_key_is_the_one_that_is_set_at_the_call(strict: Modules) -> None:
    one, two = oracle.new_master_key(), oracle.new_master_key()
    with patch.dict(os.environ, {"REDIS_SRE_MASTER_KEY": one}):
        sealed = strict.redis.encrypt_secret(CANARY)
    with patch.dict(os.environ, {"REDIS_SRE_MASTER_KEY": two}):
        with pytest.raises(strict.redis.EncryptionError, match="Decryption failed") as caught:
            strict.redis.decrypt_secret(sealed)
    with patch.dict(os.environ, {"REDIS_SRE_MASTER_KEY": two, "REDIS_SRE_MASTER_KEY_PREVIOUS": f"{oracle.new_master_key()},{one}"}):
        assert strict.redis.decrypt_secret(sealed) == CANARY
        assert oracle.v1_open(two, strict.redis.encrypt_secret(CANARY)) == CANARY, "the first key seals"
    tried = keyfold.Keyring.from_keys(master=[two]).kids[0]
    assert tried in str(caught.value), "p10: the message names the keys that were tried"
    assert caught.value.code == "wrong_key_or_tampered"
    assert "REDIS_SRE_MASTER_KEY_PREVIOUS" in caught.value.hint
    assert isinstance(caught.value.__cause__, keyfold.WrongKeyOrTamperedError)


@pytest.mark.parametrize("call", ["encrypt_secret", "decrypt_secret", "get_secret_value", "migrate_plaintext_to_encrypted"])
def test_p08_without_a_key_every_call_raises_in_either_mode(either: Modules, call: str) -> None:
    value = oracle.v1_seal(oracle.new_master_key(), CANARY) if "crypt_s" in call or "get" in call else CANARY
    with pytest.raises(either.redis.EncryptionError, match="REDIS_SRE_MASTER_KEY environment variable not set") as caught:
        getattr(either.redis, call)(value)
    assert caught.value.code == "key_invalid"
    assert "generate_key" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "not set"),
        (base64.b64encode(b"short").decode(), "Master key must be 32 bytes, 5 found"),
        (base64.b64encode(bytes(33)).decode(), "Master key must be 32 bytes, 33 found"),
        ("!" + base64.b64encode(bytes(32)).decode(), "45 characters found"),
    ],
)
def test_p09_a_key_in_another_form_is_refused_with_what_was_found(either: Modules, monkeypatch: pytest.MonkeyPatch, key: str, says: str) -> None:
    monkeypatch.setenv("REDIS_SRE_MASTER_KEY", key)
    with pytest.raises(either.redis.EncryptionError, match=says) as caught:
        either.redis.encrypt_secret(CANARY)
    assert "32 bytes" in str(caught.value) or "not set" in says or "base64" in str(caught.value)
    assert not key or key not in str(caught.value)


def test_white_space_around_the_key_is_trimmed(either: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    key = oracle.new_master_key()
    monkeypatch.setenv("REDIS_SRE_MASTER_KEY", f" {key}\n")
    assert oracle.v1_open(key, either.redis.encrypt_secret(CANARY)) == CANARY


def damaged(envelope: str) -> list[str]:
    """What became of an envelope on its way: cut, stripped, quoted, changed."""
    changed = envelope[:60] + ("A" if envelope[60] != "A" else "B") + envelope[61:]
    return [envelope[:-4], envelope[:200], envelope[: len(envelope) // 2], envelope.rstrip("="), f'"{envelope}"', changed, envelope[4:]]


def test_p06_what_is_damaged_is_never_returned(strict: Modules, master_key: str) -> None:
    envelope = oracle.v1_seal(master_key, "123")
    assert envelope.endswith("="), "there is a padding to strip"
    for value in damaged(envelope)[:6]:
        assert strict.redis.is_encrypted(value), value
        for call in ("decrypt_secret", "get_secret_value", "migrate_plaintext_to_encrypted"):
            with pytest.raises(strict.redis.EncryptionError) as caught:
                getattr(strict.redis, call)(value)
            assert caught.value.code in ("malformed", "wrong_key_or_tampered")
            assert value not in str(caught.value)


def test_p06_plaintext_is_refused_and_said_to_be_plaintext(strict: Modules, master_key: str) -> None:
    for call in ("decrypt_secret", "get_secret_value"):
        with pytest.raises(strict.redis.EncryptionError, match="not encrypted") as caught:
            getattr(strict.redis, call)(CANARY)
        assert caught.value.code == "not_encrypted"
        assert "KEYFOLD_COMPAT=1" in caught.value.hint
        assert CANARY not in repr(caught.value) + str(caught.value)
    assert strict.redis.is_encrypted(CANARY) is False


def test_another_formats_envelope_is_neither_opened_nor_sealed_again(strict: Modules, master_key: str, fernet_key: str) -> None:
    for value in (keyfold.seal(CANARY), keyfold.seal(CANARY, format="fernet"), "vault:v1:abcdef"):
        assert strict.redis.is_encrypted(value) is True
        for call in ("decrypt_secret", "migrate_plaintext_to_encrypted"):
            with pytest.raises(strict.redis.EncryptionError):
                getattr(strict.redis, call)(value)


def test_nothing_is_nothing_in_either_mode(either: Modules, master_key: str) -> None:
    assert either.redis.get_secret_value("") == ""
    assert either.redis.get_secret_value(None) is None
    assert either.redis.is_encrypted("") is False
    assert either.redis.is_encrypted(None) is False
    assert either.redis.is_encrypted(7) is False
    assert either.redis.decrypt_secret(either.redis.encrypt_secret("")) == ""


def test_migrating_seals_plaintext_and_leaves_an_envelope(either: Modules, master_key: str) -> None:
    sealed = either.redis.migrate_plaintext_to_encrypted(CANARY)
    assert oracle.v1_open(master_key, sealed) == CANARY
    assert either.redis.migrate_plaintext_to_encrypted(sealed) == sealed


def test_migrating_gives_back_no_envelope_that_does_not_open(strict: Modules, master_key: str) -> None:
    with pytest.raises(strict.redis.EncryptionError, match="keys tried"):
        strict.redis.migrate_plaintext_to_encrypted(oracle.v1_seal(oracle.new_master_key(), CANARY))


def test_a_store_that_answers_with_bytes_is_read_too(either: Modules, master_key: str) -> None:
    envelope = oracle.v1_seal(master_key, CANARY).encode()
    assert either.redis.is_encrypted(envelope) is True
    assert either.redis.decrypt_secret(envelope) == CANARY


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["x"], "\ud800"])
def test_what_is_not_text_is_not_sealed_in_either_mode(either: Modules, master_key: str, value: object) -> None:
    with pytest.raises(either.redis.EncryptionError, match="^Encryption failed"):
        either.redis.encrypt_secret(value)


@pytest.mark.parametrize("value", [None, 7, ["x"], "\ud800", "é", b"\xff", "e30=", "bnVsbA==", "W10=", "MQ=="])
def test_what_is_no_envelope_does_not_open_in_either_mode(either: Modules, master_key: str, value: object) -> None:
    with pytest.raises(either.redis.EncryptionError, match="Decryption failed|Unsupported"):
        either.redis.decrypt_secret(value)


def test_another_version_is_named_in_the_originals_words(either: Modules, master_key: str) -> None:
    envelope = oracle.v1_seal(master_key, CANARY, version="v2")
    with pytest.raises(either.redis.EncryptionError, match="Unsupported encryption version"):
        either.redis.decrypt_secret(envelope)


def test_a_secret_that_is_not_utf8_is_not_returned(either: Modules, master_key: str) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    dek, nonce = bytes(32), bytes(12)
    members = {
        "version": "v1",
        "ciphertext": AESGCM(dek).encrypt(nonce, b"\xff\xfe", None),
        "nonce": nonce,
        "wrapped_dek": AESGCM(base64.b64decode(master_key)).encrypt(nonce, dek, None),
        "dek_nonce": nonce,
    }
    text = {name: base64.b64encode(raw).decode() if isinstance(raw, bytes) else raw for name, raw in members.items()}
    with pytest.raises(either.redis.EncryptionError, match="not UTF-8"):
        either.redis.decrypt_secret(base64.b64encode(json.dumps(text).encode()).decode())


# --- KEYFOLD_COMPAT=1 -----------------------------------------------------------------------------------


def respelled(key: str) -> list[str]:
    """Envelopes as other writers spell them, all of which the original reads."""
    plain = oracle.v1_seal(key, CANARY)
    document = json.loads(base64.b64decode(plain))
    lines = "\n".join(plain[at : at + 76] for at in range(0, len(plain), 76))
    compact = base64.b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()
    turned = base64.b64encode(json.dumps(dict(reversed(document.items()))).encode()).decode()
    more = oracle.v1_seal(key, CANARY, key_id="k1", nested={"a": [1, None]})
    return [lines, f"  {plain}\n", compact, turned, more, plain + "=="]


def test_the_lenient_reader_takes_what_the_original_takes(compat: Modules, master_key: str) -> None:
    for value in [*respelled(master_key), *damaged(oracle.v1_seal(master_key, "123"))]:
        theirs = oracle.v1_opens(master_key, value)
        assert compat.redis.is_encrypted(value) is oracle.v1_is_encrypted(value), value
        if theirs is None:
            with pytest.raises(compat.redis.EncryptionError):
                compat.redis.decrypt_secret(value)
        else:
            assert compat.redis.decrypt_secret(value) == theirs


def test_the_strict_reader_refuses_other_spellings(strict: Modules, master_key: str) -> None:
    for value in respelled(master_key)[:3]:
        with pytest.raises(strict.redis.EncryptionError):
            strict.redis.decrypt_secret(value)


def test_plaintext_passes_through_and_is_warned_of_once(compat: Modules, master_key: str) -> None:
    with pytest.warns(UserWarning, match="KEYFOLD_COMPAT=1.*plaintext") as caught:
        for _ in range(3):
            assert compat.redis.get_secret_value(CANARY) == CANARY
    assert len(caught) == 1
    assert CANARY not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compat.redis.get_secret_value("vault:v1:x") == "vault:v1:x", "as the original, which knows no other format"


def test_values_are_told_apart_as_the_original_does(compat: Modules, master_key: str) -> None:
    listed = base64.b64encode(json.dumps(["version", "ciphertext", "wrapped_dek"]).encode()).decode()
    two = base64.b64encode(json.dumps({"version": 1, "ciphertext": 2}).encode()).decode()
    for value in (listed, two, "e30=", "", "random-string", CANARY, keyfold.seal("x")):
        assert compat.redis.is_encrypted(value) is oracle.v1_is_encrypted(value), value


def test_an_envelope_of_another_key_raises_in_compat_too(compat: Modules, master_key: str) -> None:
    for call in ("decrypt_secret", "get_secret_value"):
        with pytest.raises(compat.redis.EncryptionError, match="Decryption failed.*keys tried"):
            getattr(compat.redis, call)(oracle.v1_seal(oracle.new_master_key(), CANARY))
