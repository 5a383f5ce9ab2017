"""The known answers in ``vectors/``, which the Rust tests run too."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any

import pytest

import keyfold
from conftest import ROOT


def vectors(name: str) -> Any:
    return json.loads((ROOT / "vectors" / name).read_text())


def master(*keys: str) -> keyfold.Keyring:
    """A keyring of keys in hex."""
    return keyfold.Keyring.from_keys(master=[base64.b64encode(bytes.fromhex(key)).decode() for key in keys])


def code_of(call: Any, *arguments: Any, **keywords: Any) -> str:
    try:
        call(*arguments, **keywords)
    except keyfold.KeyfoldError as error:
        return error.code
    return "opens"


def test_kf1_opens_and_rewraps_as_in_the_model() -> None:
    known = vectors("kf1.json")
    old, both = master(known["m1"]), master(known["m2"], known["m1"])
    assert old.kids == [known["kid1"]] and both.primary() == known["kid2"]
    for case in known["seals"]:
        place = case["context"]
        assert keyfold.open(case["text"], old, context=place, text=True) == case["plaintext"], case["name"]
        assert keyfold.rewrap(case["text"], both, context=place) == case["rewrapped"], case["name"]
        seen = keyfold.inspect(case["text"])
        assert (seen.format, seen.kid, seen.commitment) == ("kf1", known["kid1"], case["commitment"])
        again = keyfold.seal(case["plaintext"], old, context=place)
        assert keyfold.open(again, old, context=place, text=True) == case["plaintext"]
        assert len(again) == len(case["text"])
    texts, places = [case["text"] for case in known["seals"]], [case["context"] for case in known["seals"]]
    assert keyfold.open_many(texts, old, context=places, text=True) == [case["plaintext"] for case in known["seals"]]


def test_kf1_refuses_each_negative_case_with_its_code() -> None:
    known = vectors("kf1.json")
    for case in known["refused"]:
        binary = bytes.fromhex(case["envelope"])
        text = "kf1." + base64.urlsafe_b64encode(binary).decode().rstrip("=")
        code = code_of(keyfold.open, text, master(case["keys"][0]), context=case["context"])
        assert code == case["code"], case["name"]
    for case in known["text_refused"]:
        assert code_of(keyfold.open, case["text"], master(known["m1"])) == case["stored"], case["name"]


def test_the_reference_vectors_open_contexts_of_bytes_included() -> None:
    known = vectors("kf1-vectors.json")
    keyring = master(known["m1"])
    assert keyfold.open(known["text"], keyring, context=known["context"]) == known["plaintext"].encode()
    as_bytes = {name: value.encode() for name, value in known["context"].items()}
    assert keyfold.open(known["text"], keyring, context=as_bytes) == known["plaintext"].encode()
    for value, verdict in known["detect"].items():
        assert keyfold.inspect(value).format == verdict, value


def test_v1_reads_as_each_reader_does() -> None:
    known = vectors("v1.json")
    for case in known["seals"]:
        assert keyfold.open(case["envelope"], master(known["key"]), text=True) == case["plaintext"], case["name"]
    for case in known["refused"]:
        keyring = master(*case["keys"])
        for compat in (False, True):
            expected = {"plaintext": "not_encrypted", "malformed_v1": "malformed"}.get(
                case["detected"], case["compat" if compat else "strict"]
            )
            assert code_of(keyfold.open, case["envelope"], keyring, compat=compat) == expected, case["name"]


def test_fernet_reads_ages_and_rotates_as_the_library_does() -> None:
    known = vectors("fernet.json")
    fernet = keyfold.Fernet(known["key"])
    for case in known["seals"]:
        assert fernet.decrypt(case["token"]).decode() == case["plaintext"], case["name"]
        assert fernet.extract_timestamp(case["token"]) == int(case["timestamp"])
    for case in known["ages"]:
        call = fernet.decrypt if case["ttl"] is None else fernet.decrypt_at_time
        more = () if case["ttl"] is None else (case["ttl"], case["now"])
        assert code_of(call, case["token"], *more) == case["code"], case["name"]
    for case in known["refused"]:
        for compat in (False, True):
            fernets = keyfold.MultiFernet([keyfold.Fernet(key, compat=compat) for key in case["keys"]])
            assert code_of(fernets.decrypt, case["token"]) == case["compat" if compat else "strict"], case["name"]
    for case in known["rotations"]:
        fernets = keyfold.MultiFernet([keyfold.Fernet(key) for key in case["keys"]])
        rotated = fernets.rotate(case["token"])
        assert keyfold.Fernet(case["keys"][0]).decrypt(rotated) == b"hunter2"
        assert fernets.extract_timestamp(rotated) == fernets.extract_timestamp(case["token"]), "p16"
    for case in known["key_refused"]:
        with pytest.raises(keyfold.KeyInvalidError) as caught:
            keyfold.Fernet(case["key"])
        assert not case["key"] or case["key"] not in str(caught.value)


def seconds(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp())


def test_the_fernet_specifications_own_vectors() -> None:
    for case in vectors("fernet-spec/verify.json"):
        opened = keyfold.Fernet(case["secret"]).decrypt_at_time(case["token"], case["ttl_sec"], seconds(case["now"]))
        assert opened.decode() == case["src"]
    for case in vectors("fernet-spec/generate.json"):
        fernet = keyfold.Fernet(case["secret"])
        assert fernet.decrypt(case["token"]).decode() == case["src"]
        assert fernet.extract_timestamp(case["token"]) == seconds(case["now"])
    for case in vectors("fernet-spec/invalid.json"):
        with pytest.raises(keyfold.InvalidToken):
            keyfold.Fernet(case["secret"]).decrypt_at_time(case["token"], case["ttl_sec"], seconds(case["now"]))


def test_what_a_stored_value_is_is_said_as_in_the_model() -> None:
    for case in vectors("detect.json")["cases"]:
        assert keyfold.inspect(case["value"]).format == case["verdict"], case["value"]
