"""``SealedText``: a SQLAlchemy column that is sealed on its way to the database and opened on its way back."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Optional

from sqlalchemy import Dialect, Engine, Text, event, types
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DontWrapMixin, StatementError
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import Null

from keyfold import _accept, _keyfold
from keyfold._errors import KeyfoldError, MalformedError, caused_by

if TYPE_CHECKING:
    from keyfold._keyfold import Keyring, _Format

__all__ = ["SealedText", "SealedTextError"]


_NULLS = (type(None), Null)


class SealedTextError(KeyfoldError, DontWrapMixin):
    """A value was not sealed for its column; ``code`` and ``__cause__`` say why.

    SQLAlchemy wraps other errors in its own, and prints the statement's parameters with them, which are the secrets.
    """


class SealedText(types.TypeDecorator[str]):
    """Text that is stored sealed.

    ``context`` binds values to the column, so that one that is copied into another column does not open. ``keyring`` is the
    environment's where none is given. Such a column can be compared with NULL only: every sealing of a secret is another text.

    Only envelopes of ``format`` open, unless ``accept`` lists others too: no other than kf1 is bound to its place. Plaintext
    is taken up to and with the day ``plaintext_until`` (UTC), for as long as stored values are being sealed.
    """

    impl = Text
    cache_ok = True

    def __init__(
        self,
        *,
        format: _Format = "kf1",
        context: Optional[Mapping[str, str]] = None,
        keyring: Optional[Keyring] = None,
        accept: Optional[Iterable[_Format]] = None,
        plaintext_until: Optional[datetime.date] = None,
    ) -> None:
        super().__init__()
        self.format = format
        # As tuples, since SQLAlchemy keeps types in the keys of its caches.
        self.context = tuple(sorted((context or {}).items()))
        self.keyring = keyring
        self.accept = _accept.formats(format, accept, plaintext_until)
        self.plaintext_until = plaintext_until

    def process_bind_param(self, value: Optional[str], dialect: Dialect) -> Optional[str]:
        if value is None:
            return None
        try:
            if not isinstance(value, str):
                raise MalformedError(f"str is needed, not {type(value).__name__}", "give the text of the secret, or None")
            return _keyfold.seal(value, self.keyring, format=self.format, context=dict(self.context))
        except KeyfoldError as error:
            raise caused_by(SealedTextError, error) from error

    def process_result_value(self, value: Optional[str], dialect: Dialect) -> Optional[str]:
        if value is None:
            return None
        accept = _accept.today(self.accept, self.plaintext_until)
        return _keyfold.open(value, self.keyring, context=dict(self.context), accept=accept, text=True)

    class Comparator(types.TypeDecorator.Comparator[str]):
        """Lets nothing through but comparisons with NULL."""

        def operate(self, op: operators.OperatorType, *other: Any, **kwargs: Any) -> Any:
            if op in (operators.is_, operators.is_not, operators.eq, operators.ne) and isinstance(other[0], _NULLS):
                return super().operate(op, *other, **kwargs)
            raise ArgumentError("a sealed column can be compared with NULL only: every sealing of a secret is another text")

    comparator_factory = Comparator


@event.listens_for(Engine, "handle_error")
def _without_what_is_not_sealed_yet(context: ExceptionContext) -> None:
    """Takes the parameters out of an error that came up while they were being prepared, by another column's value.

    Until then a secret is as the program gave it. Which column is sealed is not known here, so this is done for every
    statement; errors of the database keep their parameters, which are sealed by then.
    """
    error = context.sqlalchemy_exception
    if isinstance(error, StatementError) and error.params and context.execution_context is None:
        error.params = None
        error.add_detail("the parameters are not shown: secrets among them were not sealed yet")
