"""Which formats a field opens that seals itself."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from keyfold._keyfold import _Accepted


def formats(format: _Accepted, accept: Optional[Iterable[_Accepted]], plaintext_until: Optional[datetime.date]) -> tuple[_Accepted, ...]:
    """What a field was told, checked: its own format where it was told nothing."""
    if plaintext_until is not None and type(plaintext_until) is not datetime.date:
        raise TypeError(f"plaintext_until: a datetime.date is needed, not {type(plaintext_until).__name__}")
    found = (format,) if accept is None else tuple(accept)
    if "plaintext" in found:
        raise ValueError("accept: plaintext needs a last day; give plaintext_until=datetime.date(...)")
    if format not in found:
        raise ValueError("accept: the format that the field seals in has to be among them")
    return found


def today(accept: tuple[_Accepted, ...], plaintext_until: Optional[datetime.date]) -> tuple[_Accepted, ...]:
    """What is opened on this day (UTC), of which the last one is part."""
    if plaintext_until is not None and datetime.datetime.now(datetime.timezone.utc).date() <= plaintext_until:
        return (*accept, "plaintext")
    return accept
