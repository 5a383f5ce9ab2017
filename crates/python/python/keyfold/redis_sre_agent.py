"""The functions of ``redis_sre_agent.core.encryption``, under their names and with their results.

Replace the import and set nothing else: the key is ``REDIS_SRE_MASTER_KEY``, read on every call. Older keys in
``REDIS_SRE_MASTER_KEY_PREVIOUS`` (comma-separated) open too, which is what a rotation without an outage needs.

Stricter than the original unless ``KEYFOLD_COMPAT=1`` is set: plaintext is refused where an envelope should be, and
whatever looks like a damaged or foreign envelope is never taken for plaintext.
"""

from __future__ import annotations

from keyfold._compat import COMPAT, warn_once
from keyfold._errors import KeyfoldError, KeyInvalidError, MalformedError, UnsupportedFormatError, caused_by
from keyfold._keyfold import looks_sealed, v1_open, v1_seal

__all__ = [
    "EncryptionError",
    "decrypt_secret",
    "encrypt_secret",
    "get_secret_value",
    "is_encrypted",
    "migrate_plaintext_to_encrypted",
]


class EncryptionError(KeyfoldError):
    """Sealing or opening failed. ``code`` and ``hint`` say why and what to do; ``__cause__`` is the error of the code."""


def encrypt_secret(plaintext: str) -> str:
    """Seals a secret under ``REDIS_SRE_MASTER_KEY``. Raises EncryptionError."""
    try:
        return v1_seal(plaintext)
    except (KeyfoldError, TypeError) as error:
        raise _encryption_error("Encryption failed", error) from error


def decrypt_secret(encrypted_data: str) -> str:
    """Opens what ``encrypt_secret`` returned, here or in the original. Raises EncryptionError, which names the keys tried."""
    try:
        return v1_open(encrypted_data, COMPAT)
    except (KeyfoldError, TypeError) as error:
        raise _encryption_error("Decryption failed", error) from error


def is_encrypted(data: str) -> bool:
    """Whether a stored value is to be opened rather than sealed.

    That is so for an envelope, and for what looks like a damaged or another system's one: ``decrypt_secret`` then says what is
    wrong with it, where False would have it used, or sealed once more, as if it were the secret.
    """
    return _as_the_original_looks(data) if COMPAT else looks_sealed(data)


def migrate_plaintext_to_encrypted(plaintext: str) -> str:
    """Seals plaintext; an envelope comes back as it is, if it opens. Raises EncryptionError."""
    if not is_encrypted(plaintext):
        return encrypt_secret(plaintext)
    if not COMPAT:
        decrypt_secret(plaintext)
    return plaintext


def get_secret_value(data: str) -> str:
    """Opens a stored value; nothing (``""``, ``None``) comes back as it is. Raises EncryptionError, for plaintext too."""
    if not data:
        return data
    if COMPAT and not is_encrypted(data):
        warn_once("a secret that is stored in plaintext was returned as it is; seal it")
        return data
    return decrypt_secret(data)


def _encryption_error(prefix: str, error: KeyfoldError | TypeError) -> EncryptionError:
    """In the words of the original, which people search for and tests match, followed by ours."""
    if not isinstance(error, KeyfoldError):
        error = _of_type_error(error)
    message = error.message
    if isinstance(error, KeyInvalidError):
        if "not set" not in message:
            message = f"Invalid master key format: {message}"
    elif isinstance(error, UnsupportedFormatError):
        message = f"Unsupported encryption version (expected v1): {message}"
    elif not message.startswith(prefix):
        message = f"{prefix}: {message}"
    made = caused_by(EncryptionError, error, message)
    assert isinstance(made, EncryptionError)
    return made


def _of_type_error(error: TypeError) -> KeyfoldError:
    return MalformedError(str(error), "give the text of the secret, or of its envelope")


def _as_the_original_looks(data: str) -> bool:
    """Base64, as Python reads it, of JSON in which the three telling names occur."""
    import base64
    import json

    try:
        document = json.loads(base64.b64decode(data).decode("utf-8"))
        return all(name in document for name in ("version", "ciphertext", "wrapped_dek"))
    except Exception:  # whatever the matter is, this is no envelope
        return False
