"""``keyfold.auto_sre`` beside the original's algorithm, strict and with ``KEYFOLD_COMPAT=1``."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from unittest.mock import patch

import pytest
from cryptography.fernet import Fernet

import keyfold
import oracle
from conftest import Modules, scaled, secrets

CANARY = "ya29.canary-token"


@pytest.fixture(params=["strict", "compat"])
def either(request: pytest.FixtureRequest) -> Modules:
    modules: Modules = request.getfixturevalue(request.param)
    return modules


def test_random_tokens_pass_in_both_directions(either: Modules, fernet_key: str) -> None:
    theirs = Fernet(fernet_key)
    for secret in secrets(scaled(10_000)):
        sealed = either.auto.encrypt_token(secret)
        assert theirs.decrypt(sealed).decode() == secret
        assert either.auto.decrypt_token(theirs.encrypt(secret.encode()).decode()) == secret


def test_names_and_arguments_are_the_originals(strict: Modules) -> None:
    assert list(inspect.signature(strict.auto.encrypt_token).parameters) == ["token"]
    assert list(inspect.signature(strict.auto.decrypt_token).parameters) == ["encrypted_token"]


def test_a_token_holds_the_present_time(strict: Modules, fernet_key: str) -> None:
    before = int(time.time())
    made = Fernet(fernet_key).extract_timestamp(strict.auto.encrypt_token(CANARY))
    assert before <= made <= int(time.time())


def test_previous_keys_open_and_do_not_seal(either: Modules) -> None:
    old, new = oracle.new_fernet_key(), oracle.new_fernet_key()
    with patch.dict(os.environ, {"SRE_AGENT_ENCRYPTION_KEY": old}):
        token = either.auto.encrypt_token(CANARY)
    with patch.dict(os.environ, {"SRE_AGENT_ENCRYPTION_KEY": new, "SRE_AGENT_ENCRYPTION_KEY_PREVIOUS": old}):
        assert either.auto.decrypt_token(token) == CANARY
        assert Fernet(new).decrypt(either.auto.encrypt_token(CANARY)).decode() == CANARY


def test_p08_without_a_key_nothing_is_sealed_or_opened(strict: Modules) -> None:
    token = Fernet(oracle.new_fernet_key()).encrypt(b"x").decode()
    for call, value in ((strict.auto.encrypt_token, CANARY), (strict.auto.decrypt_token, token)):
        with pytest.raises(keyfold.KeyInvalidError, match="SRE_AGENT_ENCRYPTION_KEY environment variable not set") as caught:
            call(value)
        assert "generate_key" in str(caught.value.hint)


def test_p06_plaintext_and_damaged_tokens_are_refused(strict: Modules, fernet_key: str) -> None:
    token = Fernet(fernet_key).encrypt(b"x").decode()
    for value, code in [
        (CANARY, "not_encrypted"),
        ("", "not_encrypted"),
        ("gAAAA123", "not_encrypted"),
        (token[:-1], "malformed"),
        (token[:40], "malformed"),
        (f" {token}", "malformed"),
        (f'"{token}"', "malformed"),
        (token[:50] + ("A" if token[50] != "A" else "B") + token[51:], "wrong_key_or_tampered"),
        (keyfold.seal("x", keyfold.Keyring.from_keys(master=[oracle.new_master_key()])), "format_not_accepted"),
    ]:
        with pytest.raises(keyfold.KeyfoldError) as caught:
            strict.auto.decrypt_token(value)
        assert caught.value.code == code, value
        assert not value or value not in str(caught.value)


def test_p10_a_token_of_another_key_names_the_keys_that_were_tried(strict: Modules, fernet_key: str) -> None:
    with pytest.raises(keyfold.WrongKeyOrTamperedError) as caught:
        strict.auto.decrypt_token(Fernet(oracle.new_fernet_key()).encrypt(b"x").decode())
    assert keyfold.Fernet(fernet_key).kid in str(caught.value)
    assert "SRE_AGENT_ENCRYPTION_KEY_PREVIOUS" in str(caught.value.hint)


@pytest.mark.parametrize("value", [None, 7, b"bytes", "\ud800"])
def test_what_cannot_be_sealed_raises_in_either_mode(either: Modules, fernet_key: str, value: object) -> None:
    with pytest.raises((TypeError, keyfold.KeyfoldError)):
        either.auto.encrypt_token(value)


def test_a_key_that_is_none_never_becomes_a_random_one(either: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRE_AGENT_ENCRYPTION_KEY", "not a key")
    with pytest.raises(keyfold.KeyInvalidError):
        either.auto.encrypt_token(CANARY)


# --- KEYFOLD_COMPAT=1 -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:KEYFOLD_COMPAT")
def test_every_value_reads_as_the_original_reads_it(compat: Modules, fernet_key: str) -> None:
    token = Fernet(fernet_key).encrypt(CANARY.encode()).decode()
    foreign = Fernet(oracle.new_fernet_key()).encrypt(CANARY.encode()).decode()
    for value in [
        token, foreign, token[:-1], token[:60], token[:-4] + "AAA=", token + "\n", token + "==", token[:50] + " " + token[50:],
        f" {token}", "gAAAA123", "gAAAA" + "x" * 60, "", "plain-text-token", "é" * 60, "gAAAAé" + "x" * 60, token.lower(),
    ]:  # fmt: skip
        assert compat.auto.decrypt_token(value) == oracle.token_opens(fernet_key, value), value


def test_plaintext_and_failures_are_warned_of_once_each_and_never_shown(compat: Modules, fernet_key: str) -> None:
    foreign = Fernet(oracle.new_fernet_key()).encrypt(b"x").decode()
    with pytest.warns(UserWarning) as caught:
        for _ in range(3):
            assert compat.auto.decrypt_token(CANARY) == CANARY
            assert compat.auto.decrypt_token(foreign) == ""
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 2
    assert "keys tried" in texts[1]
    assert not any(CANARY in text or foreign in text for text in texts)


def test_without_a_key_a_transient_one_lasts_as_long_as_the_process(compat: Modules) -> None:
    with pytest.warns(UserWarning, match="SRE_AGENT_ENCRYPTION_KEY is not set") as caught:
        token = compat.auto.encrypt_token(CANARY)
        assert compat.auto.decrypt_token(token) == CANARY
        assert compat.auto.decrypt_token(compat.auto.encrypt_token("again")) == "again"
    assert len(caught) == 1
    with patch.dict(os.environ, {"SRE_AGENT_ENCRYPTION_KEY": oracle.new_fernet_key()}):
        with pytest.warns(UserWarning, match="did not open"):
            assert compat.auto.decrypt_token(token) == ""


def test_p08_older_keys_alone_never_become_a_transient_key(compat: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of keys that is half done: what was sealed now would be lost with the process."""
    older = oracle.new_fernet_key()
    monkeypatch.setenv("SRE_AGENT_ENCRYPTION_KEY_PREVIOUS", older)
    with pytest.raises(keyfold.KeyInvalidError, match="SRE_AGENT_ENCRYPTION_KEY environment variable not set"):
        compat.auto.encrypt_token(CANARY)
    with pytest.warns(UserWarning, match="SRE_AGENT_ENCRYPTION_KEY environment variable not set"):
        assert compat.auto.decrypt_token(Fernet(older).encrypt(b"x").decode()) == ""


def test_the_mode_is_that_of_the_process_and_not_of_the_moment(fernet_key: str) -> None:
    script = (
        "import os, keyfold.auto_sre as a\n"
        "os.environ['KEYFOLD_COMPAT'] = '1'\n"
        "try: print(a.decrypt_token('plain'))\n"
        "except Exception as e: print(e.code)"
    )
    shown = [
        subprocess.run([sys.executable, "-W", "ignore", "-c", script], env={**os.environ, **more}, capture_output=True, text=True, check=True, timeout=60).stdout
        for more in ({}, {"KEYFOLD_COMPAT": "1"}, {"KEYFOLD_COMPAT": "0"})
    ]  # fmt: skip
    assert shown == ["not_encrypted\n", "plain\n", "not_encrypted\n"]


@pytest.mark.filterwarnings("ignore:KEYFOLD_COMPAT")
def test_a_malformed_key_opens_nothing_and_raises_nothing_where_the_original_did_not(compat: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRE_AGENT_ENCRYPTION_KEY", "not a key")
    assert compat.auto.decrypt_token(Fernet(oracle.new_fernet_key()).encrypt(b"x").decode()) == ""
