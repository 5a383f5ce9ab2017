"""The exceptions: one class for each code, which programs match on. The codes never change their meaning."""

from __future__ import annotations


class KeyfoldError(Exception):
    """Something was not done. ``code`` is stable, ``message`` says what happened, ``hint`` what to do about it.

    None of them ever holds a secret, a key or an envelope; they hold the ids of keys.
    """

    code: str = ""

    def __init__(self, message: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; hint: {self.hint}" if self.hint else self.message


class NotEncryptedError(KeyfoldError):
    """The value is not sealed at all."""

    code = "not_encrypted"


class MalformedError(KeyfoldError):
    """The value claims a format and breaks its rules: it was cut or changed, or is not text."""

    code = "malformed"


class UnsupportedFormatError(KeyfoldError):
    """A format or version that this version does not know, or another system's ciphertext."""

    code = "unsupported_format"


class UnsupportedSuiteError(KeyfoldError):
    """A suite that this version does not know, or that the key may not serve."""

    code = "unsupported_suite"


class UnknownKeyError(KeyfoldError):
    """The key that the envelope names, or that would seal, is not in the keyring."""

    code = "unknown_key"


class KeyRetiredError(KeyfoldError):
    """The key was retired: refused, but recoverable."""

    code = "key_retired"


class KeyDestroyedError(KeyfoldError):
    """The key was destroyed; only its tombstone is left."""

    code = "key_destroyed"


class WrongKeyOrTamperedError(KeyfoldError):
    """A v1 envelope or a Fernet token did not open under any key held. The message names the keys tried."""

    code = "wrong_key_or_tampered"


class ContextMismatchOrTamperedError(KeyfoldError):
    """The key is held and the kf1 envelope does not authenticate: another context, or changed bytes."""

    code = "context_mismatch_or_tampered"


class ExpiredError(KeyfoldError):
    """The token is older than allowed, or from the future."""

    code = "expired"


class FormatNotAcceptedError(KeyfoldError):
    """The format found is not among those that this call accepts."""

    code = "format_not_accepted"


class KeyInvalidError(KeyfoldError, ValueError):
    """A key is missing, or is not in the form it must have."""

    code = "key_invalid"


class KeyUsageExhaustedError(KeyfoldError):
    """A key has sealed as often as its format allows."""

    code = "key_usage_exhausted"


class TooLargeError(KeyfoldError):
    """A value is over a stated limit; secrets end at 1 MiB."""

    code = "too_large"


class ProviderUnavailableError(KeyfoldError):
    """A root key, a document or the system's random source could not be reached."""

    code = "provider_unavailable"


class AuditUnavailableError(KeyfoldError):
    """The audit log could not take an event, so the operation was not done."""

    code = "audit_unavailable"


class DocumentRefusedError(KeyfoldError):
    """A keyring document does not authenticate, or is older than one already seen."""

    code = "document_refused"


class InvalidToken(KeyfoldError):
    """A Fernet token did not open. ``code`` and ``__cause__`` say why."""


class CompatWarning(UserWarning):
    """``KEYFOLD_COMPAT=1`` let something pass that would be refused without it. Said once for each kind of thing."""


_BY_CODE = {error.code: error for error in KeyfoldError.__subclasses__() if error.code}


def of_code(code: str, message: str, hint: str | None) -> KeyfoldError:
    """The exception of a code, for the compiled part."""
    return _BY_CODE[code](message, hint)


def caused_by(kind: type[KeyfoldError], cause: KeyfoldError, message: str | None = None) -> KeyfoldError:
    """An exception of another kind that says what its cause says, with its code and hint."""
    error = kind(cause.message if message is None else message, cause.hint)
    error.code = cause.code
    error.__cause__ = cause
    return error


def invalid_token(cause: KeyfoldError) -> KeyfoldError:
    """What ``Fernet`` raises, for the compiled part."""
    return caused_by(InvalidToken, cause)
