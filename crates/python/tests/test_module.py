"""``seal``, ``open``, ``rewrap``, ``inspect``, their batch forms, keyrings and Fernet."""

from __future__ import annotations

import copy
import os
import pickle
import types
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
from cryptography import fernet as theirs

import document
import keyfold
import oracle
from conftest import scaled, secrets

HERE = {"collection": "instances", "record": "cache-1", "field": "/password"}
CLASSES = [kind for kind in vars(keyfold).values() if isinstance(kind, type) and issubclass(kind, keyfold.KeyfoldError)]


@pytest.mark.parametrize("format", ["kf1", "v1", "fernet"])
def test_every_format_opens_what_it_sealed(keyring: keyfold.Keyring, format: Any) -> None:
    for secret in secrets(scaled(500)):
        sealed = keyfold.seal(secret, keyring, format=format)
        assert keyfold.inspect(sealed).format == format
        assert keyfold.open(sealed, keyring) == secret.encode()
        assert keyfold.open(sealed.encode(), keyring, text=True) == secret


def test_bytes_that_are_no_text_are_sealed_where_the_format_can(keyring: keyfold.Keyring) -> None:
    for format in ("kf1", "fernet"):
        sealed = keyfold.seal(b"\xff\x00", keyring, format=format)
        assert keyfold.open(sealed, keyring) == b"\xff\x00"
        with pytest.raises(keyfold.MalformedError, match="not UTF-8"):
            keyfold.open(sealed, keyring, text=True)
    with pytest.raises(keyfold.MalformedError, match="not UTF-8"):
        keyfold.seal(b"\xff", keyring, format="v1")


def test_p05_an_envelope_opens_in_its_own_place_only(keyring: keyfold.Keyring) -> None:
    sealed = keyfold.seal("x", keyring, context=HERE)
    assert keyfold.open(sealed, keyring, context=UserDict(HERE)) == b"x"
    assert keyfold.open(sealed, keyring, context=types.MappingProxyType(dict(reversed(HERE.items())))) == b"x"
    for elsewhere in ({**HERE, "record": "cache-2"}, {}, None):
        with pytest.raises(keyfold.ContextMismatchOrTamperedError):
            keyfold.open(sealed, keyring, context=elsewhere)


@pytest.mark.parametrize("context", [5, "field", [("a", "b")], {"": "x"}, {"a": None}, {"a": 1}, {1: "a"}, {"a": "\ud800"}])
def test_a_context_that_is_none_is_refused(keyring: keyfold.Keyring, context: Any) -> None:
    with pytest.raises((TypeError, keyfold.MalformedError)):
        keyfold.seal("x", keyring, context=context)


def test_plaintext_opens_only_where_it_is_accepted(keyring: keyfold.Keyring) -> None:
    with pytest.raises(keyfold.NotEncryptedError):
        keyfold.open("hunter2", keyring)
    assert keyfold.open("hunter2", keyring, accept=["kf1", "plaintext"]) == b"hunter2"
    with pytest.raises(keyfold.FormatNotAcceptedError):
        keyfold.open(keyfold.seal("x", keyring), keyring, accept=["v1"])
    for wrong in ([], ["kf1", "kf1"], ["nothing"]):
        with pytest.raises(ValueError):
            keyfold.open("x", keyring, accept=wrong)  # type: ignore[arg-type]
    token = keyfold.seal("x", keyring, format="fernet")
    with pytest.raises(ValueError, match="nothing is accepted"):
        keyfold.open(token, keyring, accept=[], max_age=60)


def test_only_fernet_has_an_age(keyring: keyfold.Keyring) -> None:
    token = keyfold.seal("x", keyring, format="fernet")
    assert keyfold.open(token, keyring, max_age=60) == b"x"
    with pytest.raises(keyfold.FormatNotAcceptedError):
        keyfold.open(keyfold.seal("x", keyring), keyring, max_age=60)
    with pytest.raises(ValueError):
        keyfold.open(token, keyring, max_age=60, accept=["kf1"])


def test_a_key_is_changed_by_a_list_of_keys_and_a_rewrap() -> None:
    old, new = oracle.new_master_key(), oracle.new_master_key()
    before, both, after = (keyfold.Keyring.from_keys(master=keys) for keys in ([old], [new, old], [new]))
    for format in ("kf1", "v1"):
        sealed = keyfold.seal("x", before, format=format, context=HERE)
        moved = keyfold.rewrap(sealed, both, context=HERE)
        assert keyfold.open(moved, after, context=HERE) == b"x"
        assert keyfold.rewrap(moved, both, context=HERE) == moved, "it is where it should be"
    with pytest.raises(keyfold.UnknownKeyError):
        keyfold.open(keyfold.seal("x", before), after)
    with pytest.raises(keyfold.WrongKeyOrTamperedError):
        keyfold.rewrap(keyfold.seal("x", before, format="v1"), after)


def test_a_value_moves_to_another_format_and_to_a_new_data_key(keyring: keyfold.Keyring) -> None:
    v1 = keyfold.seal("x", keyring, format="v1")
    kf1 = keyfold.rewrap(v1, keyring, to="kf1", context=HERE)
    assert keyfold.open(kf1, keyring, context=HERE) == b"x"
    again = keyfold.rewrap(kf1, keyring, reseal=True, context=HERE)
    assert keyfold.inspect(again).commitment != keyfold.inspect(kf1).commitment
    with pytest.raises(keyfold.NotEncryptedError):
        keyfold.rewrap("plain", keyring)
    assert keyfold.open(keyfold.rewrap("plain", keyring, accept=["kf1", "plaintext"]), keyring) == b"plain"


def test_a_value_moves_between_the_environments_two_kinds_of_keys(monkeypatch: pytest.MonkeyPatch, master_key: str, fernet_key: str) -> None:
    token = keyfold.seal("x", format="fernet")
    kf1 = keyfold.rewrap(token, to="kf1", context=HERE)
    assert keyfold.inspect(kf1).format == "kf1" and keyfold.open(kf1, context=HERE) == b"x"
    assert oracle.v1_open(master_key, keyfold.rewrap(token, to="v1")) == "x"
    back = keyfold.rewrap(kf1, to="fernet", context=HERE)
    assert theirs.Fernet(fernet_key).decrypt(back) == b"x"
    monkeypatch.delenv("REDIS_SRE_MASTER_KEY")
    with pytest.raises(keyfold.KeyInvalidError, match="REDIS_SRE_MASTER_KEY"):
        keyfold.rewrap(token, to="kf1")
    assert keyfold.rewrap(token, to="fernet") == token, "the other kind of key is not asked for"


def test_secrets_end_at_one_mebibyte(keyring: keyfold.Keyring) -> None:
    longest = b"x" * (1 << 20)
    assert keyfold.open(keyfold.seal(longest, keyring), keyring) == longest
    with pytest.raises(keyfold.TooLargeError, match="1048577"):
        keyfold.seal(longest + b"x", keyring)


def test_inspection_needs_no_key_and_shows_no_secret(keyring: keyfold.Keyring) -> None:
    seen = keyfold.inspect(keyfold.seal("hunter2", keyring))
    assert (seen.format, seen.kid, seen.secret_size, seen.problem) == ("kf1", keyring.primary(), 7, None)
    cut = keyfold.inspect(keyfold.seal("hunter2", keyring)[:-5])
    assert cut.problem and "malformed" in cut.problem
    assert "hunter2" not in repr(keyfold.inspect("hunter2"))


# --- batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 100, 255, 256, 1000, 1003])
def test_a_batch_is_its_items_in_order(keyring: keyfold.Keyring, count: int) -> None:
    given = [f"secret {index}" for index in range(count)]
    for format in ("kf1", "v1", "fernet"):
        sealed = keyfold.seal_many(given, keyring, format=format)
        assert [keyfold.open(one, keyring, text=True) for one in sealed] == given
        assert keyfold.open_many(sealed, keyring, text=True) == given
        assert keyfold.open_many(iter(sealed), keyring) == [one.encode() for one in given]


@pytest.mark.parametrize("count", [1, 40, 600])
def test_a_batch_takes_whatever_text_holds(keyring: keyfold.Keyring, count: int) -> None:
    for odd in ("", "\0", "a\0b", "é€😀", "x" * 5000):
        given = ["a", odd, ""] * count
        sealed = keyfold.seal_many(given, keyring)
        assert keyfold.open_many(sealed, keyring, text=True) == given
        assert keyfold.open_many([*sealed, sealed[0].encode()], keyring, text=True) == [*given, "a"]


def test_a_batch_takes_one_context_or_one_for_each(keyring: keyfold.Keyring) -> None:
    places = [{"record": str(index)} for index in range(300)]
    sealed = keyfold.seal_many(["x"] * 300, keyring, context=places)
    assert keyfold.open_many(sealed, keyring, context=places) == [b"x"] * 300
    assert keyfold.open(sealed[7], keyring, context={"record": "7"}) == b"x"
    with pytest.raises(keyfold.ContextMismatchOrTamperedError, match="item 0"):
        keyfold.open_many(sealed, keyring, context=places[1:] + places[:1])
    with pytest.raises(ValueError, match="2 contexts for 3 items"):
        keyfold.seal_many(["a", "b", "c"], keyring, context=places[:2])
    assert keyfold.open_many(keyfold.seal_many(["a", "b"], keyring, context=[None, HERE]), keyring, context=[None, HERE]) == [b"a", b"b"]


def test_a_failing_item_is_raised_with_its_number_or_stands_in_its_place(keyring: keyfold.Keyring) -> None:
    sealed: list[Any] = list(keyfold.seal_many(["x"] * 400, keyring))
    sealed[123], sealed[300], sealed[301] = "plain", 7, "\ud800"
    with pytest.raises(keyfold.NotEncryptedError, match="^item 123: the value is not encrypted"):
        keyfold.open_many(sealed, keyring)
    results = keyfold.open_many(sealed, keyring, return_exceptions=True)
    assert len(results) == 400 and results.count(b"x") == 397
    assert isinstance(results[123], keyfold.NotEncryptedError)
    assert isinstance(results[300], TypeError)
    assert isinstance(results[301], keyfold.MalformedError)
    for single in ("a text", b"bytes"):
        with pytest.raises(TypeError):
            keyfold.seal_many(single, keyring)  # type: ignore[arg-type]


def test_a_batch_finds_the_environments_keys(master_key: str, fernet_key: str) -> None:
    mixed = keyfold.seal_many(["a"], format="v1") + keyfold.seal_many(["b"], format="fernet") + keyfold.seal_many(["c"])
    assert keyfold.open_many(mixed, text=True) == ["a", "b", "c"]
    os.environ.pop("SRE_AGENT_ENCRYPTION_KEY")
    with pytest.raises(keyfold.KeyInvalidError, match="SRE_AGENT_ENCRYPTION_KEY"):
        keyfold.open_many(mixed)
    assert keyfold.open_many(mixed[:1]) == [b"a"]


def test_a_key_that_is_not_set_fails_the_items_that_need_it_and_no_others(master_key: str) -> None:
    sealed = [*keyfold.seal_many(["a", "b"]), "gAAAAA" + "A" * 94, keyfold.seal("c", format="v1")]
    first, second, token, last = keyfold.open_many(sealed, text=True, return_exceptions=True)
    assert (first, second, last) == ("a", "b", "c")
    assert isinstance(token, keyfold.KeyInvalidError) and "SRE_AGENT_ENCRYPTION_KEY" in str(token)
    with pytest.raises(keyfold.KeyInvalidError, match="^item 2: .*SRE_AGENT_ENCRYPTION_KEY") as raised:
        keyfold.open_many(sealed)
    assert "generate_key" in str(raised.value.hint)


# --- keyrings -------------------------------------------------------------------------------------------


def test_a_keyring_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(keyfold.KeyInvalidError, match="neither"):
        keyfold.Keyring.from_env()
    one, two, token_key = oracle.new_master_key(), oracle.new_master_key(), oracle.new_fernet_key()
    monkeypatch.setenv("REDIS_SRE_MASTER_KEY", one)
    monkeypatch.setenv("REDIS_SRE_MASTER_KEY_PREVIOUS", two)
    monkeypatch.setenv("SRE_AGENT_ENCRYPTION_KEY", token_key)
    keyring = keyfold.Keyring.from_env()
    assert keyring.kids == keyfold.Keyring.from_keys(master=[one, two], fernet=[token_key]).kids
    assert keyring.primary("fernet") == keyfold.Fernet(token_key).kid
    assert oracle.v1_open(one, keyfold.seal("x", keyring, format="v1")) == "x"


@pytest.mark.parametrize("keys", [[], ["short"], ["AAAA"], [oracle.new_master_key()[:-1]], [""], [7]])
def test_keys_that_are_none_are_refused_and_not_repeated(keys: list[Any]) -> None:
    with pytest.raises((keyfold.KeyInvalidError, TypeError)) as caught:
        keyfold.Keyring.from_keys(master=keys)
    assert not keys or not keys[0] or str(keys[0]) not in str(caught.value).replace("keyfold.generate_key", "")


def test_a_key_given_twice_is_refused() -> None:
    key = oracle.new_master_key()
    with pytest.raises(keyfold.KeyInvalidError, match="twice"):
        keyfold.Keyring.from_keys(master=[key, key])


def test_a_document_that_is_not_there_or_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT", oracle.new_master_key())
    with pytest.raises(keyfold.ProviderUnavailableError, match="No such file"):
        keyfold.Keyring.open(tmp_path / "none.json", "env:ROOT")
    (tmp_path / "keyring.json").write_text("{}\n{}\n")
    with pytest.raises(keyfold.MalformedError):
        keyfold.Keyring.open(str(tmp_path / "keyring.json"), "env:ROOT")
    for root, says in [("hunter2", "not the URI"), ("env:NO_SUCH", "not set"), (f"file:{tmp_path}/root.key", "no such file")]:
        with pytest.raises(keyfold.KeyInvalidError, match=says) as caught:
            keyfold.Keyring.open(tmp_path / "keyring.json", root)
        assert "hunter2" not in str(caught.value)


def test_a_document_opens_with_its_root_key_and_its_states_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, keys = oracle.new_master_key(), {state: oracle.new_master_key() for state in ("primary", "active", "retired")}
    path, key_file = tmp_path / "keyring.json", tmp_path / "root.key"
    path.write_bytes(document.written(root, "deployment-1", 7, keys))
    key_file.write_text(root)
    key_file.chmod(0o600)
    monkeypatch.setenv("ROOT", root)
    for uri in ("env:ROOT", f"file:{key_file}"):
        keyring = keyfold.Keyring.open(path, uri, seen=7)
        assert (keyring.deployment, keyring.generation, len(keyring)) == ("deployment-1", 7, 3)
        of = {state: keyfold.Keyring.from_keys(master=[key]) for state, key in keys.items()}
        assert keyring.primary() == of["primary"].primary()
        assert keyfold.open(keyfold.seal("x", of["active"]), keyring) == b"x"
        assert keyfold.open(keyfold.seal("x", keyring), of["primary"]) == b"x"
        with pytest.raises(keyfold.KeyRetiredError):
            keyfold.open(keyfold.seal("x", of["retired"]), keyring)
    with pytest.raises(keyfold.DocumentRefusedError, match="generation 7"):
        keyfold.Keyring.open(path, "env:ROOT", seen=8)
    path.write_bytes(path.read_bytes().replace(b"deployment-1", b"deployment-2"))
    with pytest.raises(keyfold.DocumentRefusedError, match="does not authenticate"):
        keyfold.Keyring.open(path, "env:ROOT")
    monkeypatch.setenv("ROOT", oracle.new_master_key())
    with pytest.raises(keyfold.WrongKeyOrTamperedError):
        keyfold.Keyring.open(path, "env:ROOT")
    key_file.chmod(0o644)
    with pytest.raises(keyfold.KeyInvalidError, match="others can read"):
        keyfold.Keyring.open(path, f"file:{key_file}")


def test_the_environments_keys_open_beside_a_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, master_key: str) -> None:
    root, key = oracle.new_master_key(), oracle.new_master_key()
    (tmp_path / "keyring.json").write_bytes(document.written(root, "d", 1, {"primary": key}))
    monkeypatch.setenv("ROOT", root)
    sealed = oracle.v1_seal(master_key, "x")
    with pytest.raises(keyfold.WrongKeyOrTamperedError):
        keyfold.open(sealed, keyfold.Keyring.open(tmp_path / "keyring.json", "env:ROOT"))
    both = keyfold.Keyring.open(tmp_path / "keyring.json", "env:ROOT", environment=True)
    assert keyfold.open(sealed, both) == b"x"
    assert both.primary() == keyfold.Keyring.from_keys(master=[key]).primary(), "the document's key seals"


# --- Fernet ---------------------------------------------------------------------------------------------


def test_fernet_and_the_librarys_read_each_other() -> None:
    key = keyfold.Fernet.generate_key()
    ours, library = keyfold.Fernet(key), theirs.Fernet(key)
    for secret in secrets(scaled(500)):
        assert library.decrypt(ours.encrypt(secret.encode())) == secret.encode()
        assert ours.decrypt(library.encrypt(secret.encode()).decode()) == secret.encode()
    assert library.extract_timestamp(ours.encrypt_at_time(b"x", 1_790_000_000)) == 1_790_000_000


def test_fernet_has_every_method_of_the_librarys_with_its_arguments() -> None:
    import inspect

    for ours, library in ((keyfold.Fernet, theirs.Fernet), (keyfold.MultiFernet, theirs.MultiFernet)):
        for name, method in inspect.getmembers(library, callable):
            if not name.startswith("_"):
                wanted = [argument for argument in inspect.signature(method).parameters if argument not in ("self", "cls")]
                found = [argument for argument in inspect.signature(getattr(ours, name)).parameters if argument != "self"]
                assert found == wanted, f"{ours.__name__}.{name}"


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("encrypt", ["text"], TypeError),
        ("encrypt", [bytearray(b"x")], TypeError),
        ("decrypt", [7], TypeError),
        ("decrypt_at_time", [b"x", None, 1], ValueError),
        ("decrypt", [b""], "InvalidToken"),
        ("decrypt", [b"\xff"], "InvalidToken"),
        ("decrypt", ["\ud800"], "InvalidToken"),
        ("extract_timestamp", [b"nonsense"], "InvalidToken"),
    ],
)
def test_fernet_raises_what_the_library_raises(method: str, arguments: list[Any], error: Any) -> None:
    key = keyfold.Fernet.generate_key()
    for ours in (keyfold.Fernet(key), keyfold.MultiFernet([keyfold.Fernet(key)])):
        with pytest.raises(keyfold.InvalidToken if error == "InvalidToken" else error):
            getattr(ours, method)(*arguments)
    if arguments != ["\ud800"]:
        with pytest.raises(theirs.InvalidToken if error == "InvalidToken" else error):
            getattr(theirs.Fernet(key), method)(*arguments)


def test_multifernet_opens_with_all_seals_with_the_first_and_rotates_to_it() -> None:
    keys = [keyfold.Fernet.generate_key() for _ in range(3)]
    ours = keyfold.MultiFernet(keyfold.Fernet(key) for key in keys)
    library = theirs.MultiFernet([theirs.Fernet(key) for key in keys])
    old = theirs.Fernet(keys[2]).encrypt_at_time(b"x", 1_700_000_000)
    assert ours.decrypt(old) == b"x"
    rotated = ours.rotate(old)
    assert theirs.Fernet(keys[0]).decrypt(rotated) == library.decrypt(rotated) == b"x"
    assert ours.extract_timestamp(rotated) == 1_700_000_000
    with pytest.raises(keyfold.InvalidToken, match="keys tried"):
        ours.decrypt(theirs.Fernet(theirs.Fernet.generate_key()).encrypt(b"x"))
    with pytest.raises(ValueError):
        keyfold.MultiFernet([])
    with pytest.raises(TypeError):
        keyfold.MultiFernet([keys[0]])  # type: ignore[list-item]


def test_an_expired_token_says_so() -> None:
    fernet = keyfold.Fernet(keyfold.Fernet.generate_key())
    token = fernet.encrypt_at_time(b"x", 1000)
    assert fernet.decrypt_at_time(token, 60, 1060) == b"x"
    with pytest.raises(keyfold.InvalidToken) as caught:
        fernet.decrypt_at_time(token, 60, 1061)
    assert caught.value.code == "expired"
    assert isinstance(caught.value.__cause__, keyfold.ExpiredError)


# --- errors ---------------------------------------------------------------------------------------------


def test_every_code_has_a_class_of_its_own_name() -> None:
    coded = {kind.code: kind.__name__ for kind in CLASSES if kind.code}
    assert len(coded) == 17
    for code, name in coded.items():
        assert name == "".join(word.capitalize() for word in code.split("_")) + "Error"


def test_an_error_survives_a_pickle_with_its_code_and_hint(keyring: keyfold.Keyring) -> None:
    calls: list[Any] = [keyfold.Fernet(keyfold.Fernet.generate_key()).decrypt, lambda value: keyfold.open(value, keyring)]
    for call in calls:
        with pytest.raises(keyfold.KeyfoldError) as caught:
            call("x")
        for again in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
            assert (type(again), str(again), again.code, again.hint) == (type(caught.value), str(caught.value), caught.value.code, caught.value.hint)


def test_p43_nothing_that_is_printed_shows_a_secret_a_key_or_an_envelope(monkeypatch: pytest.MonkeyPatch) -> None:
    import traceback

    key, token_key, canary = oracle.new_master_key(), oracle.new_fernet_key(), "canary-8f3a"
    keyring = keyfold.Keyring.from_keys(master=[key], fernet=[token_key])
    fernet = keyfold.Fernet(token_key)
    shown = [repr(keyring), str(keyring), repr(fernet), repr(keyfold.MultiFernet([fernet])), repr(keyfold.inspect(canary))]
    sealed = keyfold.seal(canary, keyring)
    other = keyfold.Keyring.from_keys(master=[oracle.new_master_key()])
    attempts: list[Any] = [
        lambda: keyfold.open(sealed, other),
        lambda: keyfold.open(sealed[:-1] + "*", keyring),
        lambda: keyfold.open(canary, keyring),
        lambda: keyfold.seal(canary + "\ud800", keyring),
        lambda: keyfold.seal([canary], keyring),  # type: ignore[arg-type]
        lambda: keyfold.seal(canary, keyring, context={"": canary}),
        lambda: keyfold.seal(canary, keyring, format=canary),  # type: ignore[arg-type]
        lambda: keyfold.open(sealed, keyring, accept=[canary]),  # type: ignore[list-item]
        lambda: keyfold.open(sealed, keyring, accept=[canary + "\ud800"]),  # type: ignore[list-item]
        lambda: keyfold.open_many([sealed], keyring, accept=["kf1", canary]),  # type: ignore[list-item]
        lambda: keyfold.seal_many([canary, canary + "\ud800"], keyring),
        lambda: keyfold.Keyring.from_keys(master=[key + "x"]),
        lambda: keyfold.Keyring.open("/nonexistent", key),
        lambda: keyfold.Fernet(token_key[:-2]),
        lambda: fernet.decrypt(sealed),
        lambda: fernet.encrypt(canary),  # type: ignore[arg-type]
    ]
    for attempt in attempts:
        with pytest.raises((keyfold.KeyfoldError, TypeError, ValueError)) as caught:
            attempt()
        error: BaseException | None = caught.value
        while error is not None:
            shown += [str(error), repr(error), *map(str, vars(error).values())]
            shown += traceback.format_exception_only(type(error), error)
            error = error.__cause__ or error.__context__
    for text in shown:
        for needle in (canary, key[5:20], token_key[5:20], sealed[10:40]):
            assert needle not in text, text


def test_help_reads_well() -> None:
    import pydoc

    page = pydoc.plain(pydoc.render_doc(keyfold))
    # Each class of an exception takes two screens of what every exception has: their list is enough.
    assert len(page.splitlines()) < 600 and set(dir(keyfold)) >= {kind.__name__ for kind in CLASSES}
    for name in ("seal", "open", "rewrap", "inspect", "seal_many", "open_many", "Keyring", "Fernet", "MultiFernet", *[kind.__name__ for kind in CLASSES]):
        documented = getattr(keyfold, name).__doc__
        assert documented and documented.strip() and name in page, name
    for kind in (keyfold.Keyring, keyfold.Fernet, keyfold.MultiFernet):
        for name, member in vars(kind).items():
            assert name.startswith("_") or member.__doc__, f"{kind.__name__}.{name}"
