"""The field types for pydantic and SQLAlchemy."""

from __future__ import annotations

import copy
import datetime
import json
import pickle
import traceback
from typing import Annotated, Any, Optional

import pydantic
import pytest
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import keyfold
import oracle
from keyfold.pydantic import Sealed, SealedStr
from keyfold.sqlalchemy import SealedText, SealedTextError

CANARY = "hunter2-canary"
PLACE = {"collection": "instances", "field": "/password"}


class Instance(pydantic.BaseModel):
    name: str
    password: SealedStr
    admin: Optional[Annotated[SealedStr, Sealed(format="v1")]] = None
    bound: Optional[Annotated[SealedStr, Sealed(context=PLACE)]] = None


def test_p07_what_was_put_is_what_opens_after_a_trip_through_json(master_key: str) -> None:
    instance = Instance(name="a", password=SealedStr(CANARY), admin=SealedStr("admin"), bound=SealedStr("bound"))
    stored = instance.model_dump_json()
    assert CANARY not in stored and "***" not in stored
    document = json.loads(stored)
    assert keyfold.inspect(document["password"]).format == "kf1"
    assert oracle.v1_open(master_key, document["admin"]) == "admin"
    assert keyfold.open(document["bound"], context=PLACE) == b"bound"
    for again in (Instance.model_validate_json(stored), Instance(**document), Instance.model_validate(document)):
        assert again == instance
        assert again.password.get_secret_value() == CANARY


def test_a_secret_is_masked_wherever_it_is_printed(master_key: str) -> None:
    instance = Instance(name="a", password=SealedStr(CANARY))
    for text in (repr(instance), str(instance), f"{instance.password!r}", repr(instance.model_dump()), repr({instance.password})):
        assert CANARY not in text and "**********" in text
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(instance.password)
    with pytest.raises(TypeError):
        json.dumps(instance.model_dump())
    assert copy.deepcopy(instance) == instance
    assert instance.password != SealedStr("other") and instance.password != CANARY
    assert len({SealedStr("a"), SealedStr("a"), SealedStr("b")}) == 2


def test_p07_the_mask_is_never_stored_in_place_of_the_secret(master_key: str) -> None:
    instance = Instance(name="a", password=SealedStr(CANARY))
    stores: list[Any] = [
        lambda: json.dumps(instance.model_dump(), default=str),
        lambda: str(instance.password),
        lambda: f"redis://:{instance.password}@cache",
        lambda: "%s" % instance.password,
    ]
    for store in stores:
        with pytest.raises(TypeError, match="SealedStr is no text") as caught:
            store()
        assert CANARY not in str(caught.value)


def test_p05_a_field_opens_its_own_format_alone_unless_it_is_told_to_take_another(master_key: str, fernet_key: str) -> None:
    class Widened(pydantic.BaseModel):
        bound: Annotated[SealedStr, Sealed(context=PLACE, accept=["kf1", "v1"])]

    for other in (keyfold.seal(CANARY, format="v1"), keyfold.seal(CANARY, format="fernet")):
        for field in ("password", "bound"):
            with pytest.raises(keyfold.FormatNotAcceptedError):
                Instance.model_validate({"name": "a", "password": keyfold.seal("x"), field: other})
    with pytest.raises(keyfold.FormatNotAcceptedError):
        Instance.model_validate({"name": "a", "password": keyfold.seal("x"), "admin": keyfold.seal("x")})
    assert Widened(bound=keyfold.seal(CANARY, format="v1")).bound.get_secret_value() == CANARY  # type: ignore[arg-type]
    with pytest.raises(keyfold.FormatNotAcceptedError):
        Widened(bound=keyfold.seal(CANARY, format="fernet"))  # type: ignore[arg-type]


def in_days(days: int) -> datetime.date:
    return datetime.datetime.now(datetime.timezone.utc).date() + datetime.timedelta(days)


def test_p06_plaintext_is_taken_until_a_last_day(master_key: str) -> None:
    for make in (Sealed, SealedText):
        for accept in (["plaintext"], ["kf1", "plaintext"]):
            with pytest.raises(ValueError, match="plaintext_until"):
                make(accept=accept)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="the format that the field seals in"):
            make(accept=["v1"])
        with pytest.raises(TypeError, match="datetime.date is needed"):
            make(plaintext_until=datetime.datetime.now())

    class Before(pydantic.BaseModel):
        password: Annotated[SealedStr, Sealed(plaintext_until=in_days(1))]

    class After(pydantic.BaseModel):
        password: Annotated[SealedStr, Sealed(plaintext_until=in_days(-1))]

    assert Before.model_validate({"password": CANARY}).password.get_secret_value() == CANARY
    assert Before.model_validate({"password": keyfold.seal(CANARY)}).password.get_secret_value() == CANARY
    with pytest.raises(keyfold.KeyfoldError):
        Before.model_validate({"password": keyfold.seal(CANARY)[:-3]})
    with pytest.raises(keyfold.NotEncryptedError):
        After.model_validate({"password": CANARY})
    dialect: Any = None
    assert SealedText(plaintext_until=in_days(1)).process_result_value(CANARY, dialect) == CANARY
    with pytest.raises(keyfold.NotEncryptedError):
        SealedText(plaintext_until=in_days(-1)).process_result_value(CANARY, dialect)


@pytest.mark.parametrize("value", [CANARY, 7, b"x", None, ["x"], {CANARY: 1}])
def test_plaintext_and_what_is_no_text_is_refused_without_being_shown(master_key: str, value: Any) -> None:
    document: dict[str, Any] = {"name": "a", "password": value}
    with pytest.raises((keyfold.NotEncryptedError, TypeError)) as called:
        Instance(**document)
    with pytest.raises((keyfold.NotEncryptedError, TypeError)) as validated:
        Instance.model_validate(document)
    for caught in (called, validated):
        assert CANARY not in str(caught.value) + repr(caught.value)


def test_a_missing_key_and_a_damaged_envelope_show_nothing_either(monkeypatch: pytest.MonkeyPatch, master_key: str) -> None:
    sealed = keyfold.seal(CANARY)
    with pytest.raises(keyfold.KeyfoldError) as damaged:
        Instance.model_validate({"name": "a", "password": sealed[:-3]})
    assert sealed[10:40] not in str(damaged.value)
    monkeypatch.delenv("REDIS_SRE_MASTER_KEY")
    with pytest.raises(keyfold.KeyfoldError, match="REDIS_SRE_MASTER_KEY") as caught:
        Instance.model_validate({"name": "a", "password": sealed})
    assert caught.value.code == "key_invalid" and sealed not in str(caught.value)
    with pytest.raises(Exception, match="REDIS_SRE_MASTER_KEY") as unsealed:
        Instance(name="a", password=SealedStr(CANARY)).model_dump_json()
    assert CANARY not in str(unsealed.value) + repr(unsealed.value)


def test_pydantics_own_secret_comes_in_and_its_context_binds_the_record(master_key: str) -> None:
    instance = Instance.model_validate({"name": "a", "password": pydantic.SecretStr(CANARY)})
    here = {"keyfold": {"record": "cache-1"}}
    stored = instance.model_dump_json(context=here)
    assert keyfold.open(json.loads(stored)["password"], context={"record": "cache-1"}, text=True) == CANARY
    assert Instance.model_validate_json(stored, context=here) == instance
    with pytest.raises(keyfold.ContextMismatchOrTamperedError):
        Instance.model_validate_json(stored)


def test_the_json_schema_says_text() -> None:
    assert Instance.model_json_schema()["properties"]["password"] == {"format": "keyfold", "title": "Password", "type": "string"}


# --- SQLAlchemy -----------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    password: Mapped[Optional[str]] = mapped_column(SealedText(context={"field": "/password"}))
    token: Mapped[Optional[str]] = mapped_column(SealedText(format="fernet", accept=["fernet"]))


class Neighbour(Base):
    __tablename__ = "neighbours"
    id: Mapped[int] = mapped_column(primary_key=True)
    password: Mapped[str] = mapped_column(SealedText())
    born: Mapped[Optional[datetime.date]]


@pytest.fixture
def engine() -> Any:
    engine = sqlalchemy.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_a_column_is_sealed_in_the_database_and_open_in_the_program(engine: Any, master_key: str, fernet_key: str) -> None:
    with Session(engine) as session:
        session.add(Row(id=1, password=CANARY, token="tök"))
        session.add(Row(id=2, password=None, token=""))
        session.commit()
        raw = session.execute(sqlalchemy.text("select password, token from rows order by id")).all()
        assert keyfold.open(raw[0].password, context={"field": "/password"}, text=True) == CANARY
        assert oracle.token_opens(fernet_key, raw[0].token) == "tök"
        assert raw[1].password is None and raw[1].token != ""
        session.expire_all()
        rows = session.scalars(sqlalchemy.select(Row).order_by(Row.id)).all()
        assert [(row.password, row.token) for row in rows] == [(CANARY, "tök"), (None, "")]
        assert session.scalar(sqlalchemy.select(Row.id).where(Row.password.is_(None))) == 2
        assert session.scalar(sqlalchemy.select(Row.id).where(Row.password != None)) == 1  # noqa: E711


def test_p05_a_value_pasted_into_another_column_or_in_plaintext_does_not_load(engine: Any, master_key: str, fernet_key: str) -> None:
    with Session(engine) as session:
        session.add(Row(id=1, password=CANARY))
        session.commit()
        for statement, error in [
            ("update rows set token = password", keyfold.FormatNotAcceptedError),
            ("update rows set token = 'plain'", keyfold.NotEncryptedError),
            (f"update rows set token = null, password = '{keyfold.seal(CANARY, format='v1')}'", keyfold.FormatNotAcceptedError),
        ]:
            session.execute(sqlalchemy.text(statement))
            with pytest.raises(error):
                session.scalars(sqlalchemy.select(Row).execution_options(populate_existing=True)).all()


@pytest.mark.parametrize("value", [CANARY, b"bytes", 7])
def test_a_failed_statement_does_not_show_the_secret(engine: Any, value: Any) -> None:
    with Session(engine) as session:
        session.add(Row(id=1, password=value))
        with pytest.raises(SealedTextError) as caught:
            session.commit()
    shown = str(caught.value) + repr(caught.value)
    assert "[parameters" not in shown and CANARY not in shown
    assert caught.value.code in ("key_invalid", "malformed")


INSERT = "insert into neighbours values (:id, :password, :born)"
TYPED = sqlalchemy.text(INSERT).bindparams(sqlalchemy.bindparam("password", type_=SealedText()), sqlalchemy.bindparam("born", type_=sqlalchemy.Date()))
GOOD: dict[str, Any] = {"id": 1, "password": CANARY, "born": datetime.date(2026, 1, 1)}
BAD = {**GOOD, "born": "no date"}
TABLE: Any = Neighbour.__table__


@pytest.mark.parametrize(
    "fail",
    [
        lambda session: (session.add(Neighbour(**BAD)), session.flush()),
        lambda session: session.execute(sqlalchemy.insert(Neighbour), [BAD, GOOD]),
        lambda session: session.execute(sqlalchemy.update(Neighbour), [BAD]),
        lambda session: session.connection().execute(TABLE.insert(), [GOOD, {"id": 2, "password": CANARY}]),
        lambda session: session.connection().execute(TYPED, BAD),
    ],
    ids=["a new object", "rows", "an update", "a missing parameter", "text"],
)
def test_another_columns_bad_value_does_not_show_the_secret(engine: Any, master_key: str, fail: Any) -> None:
    with Session(engine) as session, pytest.raises(sqlalchemy.exc.StatementError, match="parameters are not shown") as caught:
        fail(session)
    shown = [str(caught.value), repr(caught.value), repr(vars(caught.value)), *traceback.format_exception_only(type(caught.value), caught.value)]
    assert not any(CANARY in text for text in shown)
    assert CANARY.encode() not in pickle.dumps(caught.value)


def test_the_databases_own_errors_show_what_is_sealed(engine: Any, master_key: str) -> None:
    with Session(engine) as session:
        session.execute(sqlalchemy.insert(Neighbour), GOOD)
        with pytest.raises(sqlalchemy.exc.IntegrityError) as caught:
            session.execute(sqlalchemy.insert(Neighbour), GOOD)
    assert "[parameters: (1, 'kf1." in str(caught.value) and CANARY not in str(caught.value)


def test_a_sealed_column_cannot_be_searched(engine: Any) -> None:
    for make in (lambda: Row.password == CANARY, lambda: Row.password.in_([CANARY]), lambda: Row.password.like("h%"), lambda: Row.password.desc()):
        with pytest.raises(sqlalchemy.exc.ArgumentError, match="NULL only") as caught:
            make()
        assert CANARY not in str(caught.value)
