"""The compiled part. What ``keyfold`` does not have too is not for use outside of it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Optional, Union, final, overload

from keyfold._errors import KeyfoldError

__version__: str

_Format = Literal["kf1", "v1", "fernet"]
_Accepted = Literal["kf1", "v1", "fernet", "plaintext"]
_Value = Union[str, bytes]
_Context = Mapping[str, _Value]
_Contexts = Union[_Context, Iterable[Optional[_Context]]]

@final
class Keyring:
    """A set of keys that never changes."""

    @staticmethod
    def from_env() -> Keyring:
        """The keys of the environment, as they are now."""
    @staticmethod
    def from_keys(*, master: Sequence[str] = ..., fernet: Sequence[str] = ...) -> Keyring:
        """Keys as text; the first of each list seals."""
    @staticmethod
    def open(
        document: Union[str, os.PathLike[str]], root: str, *, seen: int = 0, environment: bool = False
    ) -> Keyring:
        """Opens a keyring document with the root key that ``root`` names (``file:PATH``, ``env:NAME``, ``hcvault://…``)."""
    def primary(self, format: _Format = "kf1") -> Optional[str]:
        """The id of the key that seals ``format``, or None."""
    @property
    def kids(self) -> list[str]: ...
    @property
    def generation(self) -> int: ...
    @property
    def deployment(self) -> str: ...
    def __len__(self) -> int: ...

@final
class Inspection:
    """What a stored value shows to whoever holds no key."""

    @property
    def format(self) -> str: ...
    @property
    def kid(self) -> Optional[str]: ...
    @property
    def commitment(self) -> Optional[str]: ...
    @property
    def timestamp(self) -> Optional[int]: ...
    @property
    def size(self) -> int: ...
    @property
    def secret_size(self) -> Optional[int]: ...
    @property
    def problem(self) -> Optional[str]: ...

@final
class Fernet:
    """Seals bytes under one key, as ``cryptography.fernet.Fernet`` does."""

    def __new__(cls, key: _Value, *, compat: bool = False) -> Fernet: ...
    @staticmethod
    def generate_key() -> bytes: ...
    def encrypt(self, data: bytes) -> bytes: ...
    def encrypt_at_time(self, data: bytes, current_time: int) -> bytes: ...
    def decrypt(self, token: _Value, ttl: Optional[int] = None) -> bytes: ...
    def decrypt_at_time(self, token: _Value, ttl: int, current_time: int) -> bytes: ...
    def extract_timestamp(self, token: _Value) -> int: ...
    @property
    def kid(self) -> str: ...

@final
class MultiFernet:
    """Several Fernet keys: the first seals, all open."""

    def __new__(cls, fernets: Iterable[Fernet]) -> MultiFernet: ...
    def encrypt(self, msg: bytes) -> bytes: ...
    def encrypt_at_time(self, msg: bytes, current_time: int) -> bytes: ...
    def decrypt(self, msg: _Value, ttl: Optional[int] = None) -> bytes: ...
    def decrypt_at_time(self, msg: _Value, ttl: int, current_time: int) -> bytes: ...
    def rotate(self, msg: _Value) -> bytes: ...
    def extract_timestamp(self, msg: _Value) -> int: ...
    @property
    def kids(self) -> tuple[str, ...]: ...

def generate_key() -> str:
    """A new master key."""

def seal(
    secret: _Value, keyring: Optional[Keyring] = None, *, format: _Format = "kf1", context: Optional[_Context] = None
) -> str:
    """Seals a secret and returns the text to store."""

@overload
def open(
    stored: _Value,
    keyring: Optional[Keyring] = None,
    *,
    context: Optional[_Context] = None,
    accept: Optional[Sequence[_Accepted]] = None,
    compat: bool = False,
    max_age: Optional[int] = None,
    text: Literal[False] = False,
) -> bytes: ...
@overload
def open(
    stored: _Value,
    keyring: Optional[Keyring] = None,
    *,
    context: Optional[_Context] = None,
    accept: Optional[Sequence[_Accepted]] = None,
    compat: bool = False,
    max_age: Optional[int] = None,
    text: Literal[True],
) -> str: ...
def rewrap(
    stored: _Value,
    keyring: Optional[Keyring] = None,
    *,
    context: Optional[_Context] = None,
    to: Optional[_Format] = None,
    reseal: bool = False,
    accept: Optional[Sequence[_Accepted]] = None,
    compat: bool = False,
) -> str:
    """Moves a sealed value to the primary key, and with ``to`` to another format."""

def inspect(stored: _Value) -> Inspection:
    """Says what a stored value is."""

@overload
def seal_many(
    secrets: Iterable[_Value],
    keyring: Optional[Keyring] = None,
    *,
    format: _Format = "kf1",
    context: Optional[_Contexts] = None,
    return_exceptions: Literal[False] = False,
) -> list[str]: ...
@overload
def seal_many(
    secrets: Iterable[_Value],
    keyring: Optional[Keyring] = None,
    *,
    format: _Format = "kf1",
    context: Optional[_Contexts] = None,
    return_exceptions: Literal[True],
) -> list[Union[str, KeyfoldError, TypeError]]: ...
@overload
def open_many(
    stored: Iterable[_Value],
    keyring: Optional[Keyring] = None,
    *,
    context: Optional[_Contexts] = None,
    accept: Optional[Sequence[_Accepted]] = None,
    compat: bool = False,
    max_age: Optional[int] = None,
    text: Literal[False] = False,
    return_exceptions: Literal[False] = False,
) -> list[bytes]: ...
@overload
def open_many(
    stored: Iterable[_Value],
    keyring: Optional[Keyring] = None,
    *,
    context: Optional[_Contexts] = None,
    accept: Optional[Sequence[_Accepted]] = None,
    compat: bool = False,
    max_age: Optional[int] = None,
    text: Literal[True],
    return_exceptions: Literal[False] = False,
) -> list[str]: ...
@overload
def open_many(
    stored: Iterable[_Value],
    keyring: Optional[Keyring] = None,
    *,
    context: Optional[_Contexts] = None,
    accept: Optional[Sequence[_Accepted]] = None,
    compat: bool = False,
    max_age: Optional[int] = None,
    text: bool = False,
    return_exceptions: Literal[True],
) -> list[Union[bytes, str, KeyfoldError, TypeError]]: ...

# For keyfold.redis_sre_agent and keyfold.auto_sre.
def v1_seal(secret: str) -> str: ...
def v1_open(stored: _Value, compat: bool) -> str: ...
def fernet_seal(secret: str) -> str: ...
def fernet_open(stored: _Value, compat: bool) -> str: ...
def looks_sealed(stored: object) -> bool: ...
