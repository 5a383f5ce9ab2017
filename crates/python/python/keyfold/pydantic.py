"""``SealedStr``: a pydantic field that holds a secret and is stored sealed.

A str that is validated is what a store held, so it must be an envelope, and is opened. A secret that is new comes in as
``SealedStr("...")`` or pydantic's ``SecretStr``. In JSON the field is an envelope again, and what was put in is what comes
back. Its ``repr`` is masked; ``str()`` of it raises, so that nothing stores the mask in place of the secret.
"""

from __future__ import annotations

import datetime
import hmac
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Optional

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr
from pydantic_core import core_schema

from keyfold import _accept, _keyfold
from keyfold._errors import KeyfoldError, KeyInvalidError, caused_by

if TYPE_CHECKING:
    from keyfold._keyfold import Keyring, _Format

__all__ = ["Sealed", "SealedStr"]

_MASK = "**********"


class Sealed:
    """How a ``SealedStr`` is sealed: ``Annotated[SealedStr, Sealed(format="v1", context={...})]``.

    ``keyring`` is the environment's where none is given. Entries of ``context`` that only the call knows, such as the
    record, come from pydantic's own context: ``model.model_dump_json(context={"keyfold": {"record": "cache-1"}})``.

    Only envelopes of ``format`` open, unless ``accept`` lists others too: no other than kf1 is bound to its place. Plaintext
    is taken up to and with the day ``plaintext_until`` (UTC), for as long as stored values are being sealed.
    """

    def __init__(
        self,
        *,
        format: _Format = "kf1",
        context: Optional[Mapping[str, str]] = None,
        keyring: Optional[Keyring] = None,
        accept: Optional[Iterable[_Format]] = None,
        plaintext_until: Optional[datetime.date] = None,
    ) -> None:
        self.format = format
        self.accept = _accept.formats(format, accept, plaintext_until)
        self.plaintext_until = plaintext_until
        self.context = dict(context or {})
        self.keyring = keyring

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validated,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self._sealed, info_arg=True, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": "keyfold"}

    def _place(self, info: Any) -> dict[str, str]:
        more = (info.context or {}).get("keyfold", {}) if isinstance(info.context, Mapping) else {}
        return {**self.context, **more}

    # pydantic repeats the input in the errors that it makes of ValueErrors, and the input may be the secret. All other
    # exceptions leave it as they are, so none of these is a ValueError.

    def _validated(self, value: object, info: core_schema.ValidationInfo) -> SealedStr:
        if isinstance(value, SealedStr):
            return value
        if isinstance(value, SecretStr):
            return SealedStr(value.get_secret_value())
        if not isinstance(value, str):
            raise TypeError(f"a SealedStr, or an envelope as str, is needed, not {type(value).__name__}")
        accept = _accept.today(self.accept, self.plaintext_until)
        try:
            return SealedStr(_keyfold.open(value, self.keyring, context=self._place(info), accept=accept, text=True))
        except KeyInvalidError as error:
            raise caused_by(KeyfoldError, error) from None

    def _sealed(self, value: SealedStr, info: core_schema.SerializationInfo) -> str:
        place = self._place(info)
        return _keyfold.seal(value.get_secret_value(), self.keyring, format=self.format, context=place)


class SealedStr:
    """A secret that nothing prints or stores. ``get_secret_value()`` is the one way to look inside."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        if not isinstance(secret, str):
            raise TypeError(f"str is needed, not {type(secret).__name__}")
        self._secret = secret

    def get_secret_value(self) -> str:
        """The secret."""
        return self._secret

    def __repr__(self) -> str:
        return f"SealedStr('{_MASK}')"

    def __str__(self) -> str:
        # A mask is what `json.dumps(default=str)` or an f-string would store in place of the secret.
        raise TypeError("a SealedStr is no text: model_dump(mode=\"json\") seals it, get_secret_value() opens it, repr() masks it")

    def __len__(self) -> int:
        return len(self._secret)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SealedStr):
            return NotImplemented
        return hmac.compare_digest(self._secret.encode("utf-8", "surrogatepass"), other._secret.encode("utf-8", "surrogatepass"))

    def __hash__(self) -> int:
        return hash((SealedStr, self._secret))

    def __copy__(self) -> SealedStr:
        return self

    def __deepcopy__(self, memo: object) -> SealedStr:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SealedStr is not pickled, since a pickle is not sealed; pass on the model's JSON")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return Sealed().__get_pydantic_core_schema__(source, handler)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return Sealed().__get_pydantic_json_schema__(schema, handler)
