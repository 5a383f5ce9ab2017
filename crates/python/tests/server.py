"""A WSGI application that is loaded before gunicorn forks: it has sealed, and drawn randomness, before there are workers.

Every request seals the same secret many times, and answers with what must never repeat of each seal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import keyfold
import oracle
from keyfold.auto_sre import encrypt_token
from keyfold.redis_sre_agent import encrypt_secret

SECRET = "the same secret in every process"
SEALED_BEFORE_THE_FORK = [encrypt_secret(SECRET), encrypt_token(SECRET), keyfold.seal(SECRET)]


def unrepeatable() -> bytes:
    """Data key and both nonces of a v1 envelope, IV of a token, commitment of a kf1 envelope: 32, 12, 12, 16 and 32 bytes."""
    import base64

    dek, nonce, dek_nonce, secret = oracle.v1_parts(os.environ["REDIS_SRE_MASTER_KEY"], encrypt_secret(SECRET))
    assert secret == SECRET
    iv = base64.urlsafe_b64decode(encrypt_token(SECRET))[9:25]
    commitment = bytes.fromhex(keyfold.inspect(keyfold.seal(SECRET)).commitment or "")
    return dek + nonce + dek_nonce + iv + commitment


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    count = int(parse_qs(environ["QUERY_STRING"])["count"][0])
    body = b"".join(unrepeatable() for _ in range(count))
    start_response("200 OK", [("Content-Length", str(len(body))), ("X-Worker", str(os.getpid()))])
    return [body]
