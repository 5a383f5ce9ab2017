"""``encrypt_token`` and ``decrypt_token`` of Auto SRE's ``sre_agent.auth``, under their names and with their results.

Replace the import and set nothing else: the key is ``SRE_AGENT_ENCRYPTION_KEY``, read on every call. Older keys in
``SRE_AGENT_ENCRYPTION_KEY_PREVIOUS`` (comma-separated) open too, which is what a rotation without an outage needs.

Stricter than the original unless ``KEYFOLD_COMPAT=1`` is set: there is no transient key, a token in plaintext is refused,
and one that does not open raises a KeyfoldError. A token that cannot be sealed raises in either mode; the original
returned it as it was.
"""

from __future__ import annotations

from keyfold import _keyfold
from keyfold._compat import COMPAT, warn_once
from keyfold._errors import KeyfoldError
from keyfold._keyfold import fernet_open, fernet_seal

__all__ = ["decrypt_token", "encrypt_token"]


def encrypt_token(token: str) -> str:
    """Seals a token under ``SRE_AGENT_ENCRYPTION_KEY``. Raises KeyfoldError."""
    if COMPAT and _unset():
        return _keyfold.seal(token, _transient_keyring(), format="fernet")
    return fernet_seal(token)


def decrypt_token(encrypted_token: str) -> str:
    """Opens what ``encrypt_token`` returned, here or in the original. Raises KeyfoldError, which names the keys tried."""
    if not COMPAT:
        return fernet_open(encrypted_token, False)
    if not (encrypted_token.startswith("gAAAA") and len(encrypted_token) > 50):
        warn_once("a token that does not look like Fernet was returned as it is")
        return encrypted_token
    try:
        if _unset():
            return _keyfold.open(encrypted_token, _transient_keyring(), accept=["fernet"], compat=True, text=True)
        return fernet_open(encrypted_token, True)
    except KeyfoldError as error:
        warn_once(f"an empty string stands for a token that did not open ({error})")
        return ""


_transient: list[_keyfold.Keyring] = []


def _unset() -> bool:
    """Whether there is no key at all. Older keys alone are a change of keys that somebody has not finished."""
    import os

    return not (os.environ.get("SRE_AGENT_ENCRYPTION_KEY") or os.environ.get("SRE_AGENT_ENCRYPTION_KEY_PREVIOUS"))


def _transient_keyring() -> _keyfold.Keyring:
    """A key of this process and of those forked from it, made when it is first needed."""
    if not _transient:
        warn_once("SRE_AGENT_ENCRYPTION_KEY is not set; what is sealed now opens in this process only")
        # Two threads may both make one; the first in the list is the one that both use.
        _transient.append(_keyfold.Keyring.from_keys(fernet=[_keyfold.Fernet.generate_key().decode()]))
    return _transient[0]
