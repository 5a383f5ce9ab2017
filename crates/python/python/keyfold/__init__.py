"""Seals secrets, opens them again, and changes the keys in between.

>>> import keyfold
>>> keyring = keyfold.Keyring.from_keys(master=[keyfold.generate_key()])
>>> place = {"collection": "instances", "record": "cache-1", "field": "/password"}
>>> sealed = keyfold.seal("hunter2", keyring, context=place)
>>> keyfold.open(sealed, keyring, context=place)
b'hunter2'

- ``seal``, ``open``, ``rewrap``, ``inspect``: one value; ``seal_many``, ``open_many``: lists, without the GIL.
- ``Keyring``: the keys; without one, those of the environment are used.
- ``Fernet``, ``MultiFernet``: as in ``cryptography.fernet``, only faster.
- ``keyfold.redis_sre_agent``, ``keyfold.auto_sre``: the functions of those two projects, under their names.
- ``keyfold.pydantic``, ``keyfold.sqlalchemy``: field types that seal what they hold.

Whatever does not open raises a subclass of ``KeyfoldError`` with a stable ``code`` and a ``hint``, and returns nothing. Each code has
a class of its name in ``keyfold``, which ``help(keyfold.UnknownKeyError)`` and its like explain:

- the value: NotEncryptedError, MalformedError, UnsupportedFormatError, FormatNotAcceptedError, TooLargeError, ExpiredError;
- the key: UnknownKeyError, WrongKeyOrTamperedError, ContextMismatchOrTamperedError, UnsupportedSuiteError, KeyInvalidError,
  KeyRetiredError, KeyDestroyedError, KeyUsageExhaustedError;
- what is around them: ProviderUnavailableError, DocumentRefusedError, AuditUnavailableError.
"""

# Not in `__all__`, which is what `help(keyfold)` explains one by one: the classes of the codes look all the same there.
from keyfold._errors import (
    AuditUnavailableError as AuditUnavailableError,
    CompatWarning,
    ContextMismatchOrTamperedError as ContextMismatchOrTamperedError,
    DocumentRefusedError as DocumentRefusedError,
    ExpiredError as ExpiredError,
    FormatNotAcceptedError as FormatNotAcceptedError,
    InvalidToken,
    KeyDestroyedError as KeyDestroyedError,
    KeyfoldError,
    KeyInvalidError as KeyInvalidError,
    KeyRetiredError as KeyRetiredError,
    KeyUsageExhaustedError as KeyUsageExhaustedError,
    MalformedError as MalformedError,
    NotEncryptedError as NotEncryptedError,
    ProviderUnavailableError as ProviderUnavailableError,
    TooLargeError as TooLargeError,
    UnknownKeyError as UnknownKeyError,
    UnsupportedFormatError as UnsupportedFormatError,
    UnsupportedSuiteError as UnsupportedSuiteError,
    WrongKeyOrTamperedError as WrongKeyOrTamperedError,
)
from keyfold._keyfold import (
    Fernet,
    Inspection,
    Keyring,
    MultiFernet,
    __version__,
    generate_key,
    inspect,
    open,
    open_many,
    rewrap,
    seal,
    seal_many,
)

__all__ = [
    "CompatWarning",
    "Fernet",
    "Inspection",
    "InvalidToken",
    "KeyfoldError",
    "Keyring",
    "MultiFernet",
    "__version__",
    "generate_key",
    "inspect",
    "open",
    "open_many",
    "rewrap",
    "seal",
    "seal_many",
]
