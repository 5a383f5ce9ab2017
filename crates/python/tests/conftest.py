"""What the tests share. They run against the installed module, and against Python's ``cryptography`` as the oracle."""

from __future__ import annotations

import importlib
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import keyfold
import oracle

PYTHON = Path(__file__).resolve().parent.parent
ROOT = PYTHON.parent.parent
#: Long tests are scaled by this; 1 is their full size.
SCALE = float(os.environ.get("KEYFOLD_TEST_SCALE", "0.1"))
DROP_INS = ("keyfold._compat", "keyfold.auto_sre", "keyfold.redis_sre_agent")


def scaled(full: int) -> int:
    """A count at the scale of this run."""
    return max(1, int(full * SCALE))


def secrets(count: int, seed: int = 8) -> Iterator[str]:
    """Texts of 0 to 64 KiB, most of them short, ASCII and not."""
    draw = random.Random(seed)
    alphabets = ["abcdefghijklmnopqrstuvwxyz0123456789:/@", "äöüßéñ", "пароль", "密钥機密", "🔑🔐", "\x00\n\t\"\\'{}"]
    sizes = [0, 1, 15, 16, 17, 65_535, 65_536]
    for index in range(count):
        size = sizes[index] if index < len(sizes) else int(2 ** draw.uniform(0, 16))
        alphabet = "".join(draw.sample(alphabets, draw.randint(1, len(alphabets))))
        text = "".join(draw.choices(alphabet, k=size))
        yield text.encode()[:65_536].decode(errors="ignore")


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("KEYFOLD_COMPAT", "REDIS_SRE_", "SRE_AGENT_")):
            monkeypatch.delenv(name)


@pytest.fixture
def master_key(monkeypatch: pytest.MonkeyPatch) -> str:
    key = oracle.new_master_key()
    monkeypatch.setenv("REDIS_SRE_MASTER_KEY", key)
    return key


@pytest.fixture
def fernet_key(monkeypatch: pytest.MonkeyPatch) -> str:
    key = oracle.new_fernet_key()
    monkeypatch.setenv("SRE_AGENT_ENCRYPTION_KEY", key)
    return key


@pytest.fixture
def keyring() -> keyfold.Keyring:
    return keyfold.Keyring.from_keys(master=[oracle.new_master_key()], fernet=[oracle.new_fernet_key()])


class Modules:
    """The two drop-in modules, as a process with this environment imports them."""

    def __init__(self) -> None:
        self.redis: Any = importlib.import_module("keyfold.redis_sre_agent")
        self.auto: Any = importlib.import_module("keyfold.auto_sre")


def _fresh() -> Iterator[Modules]:
    before: dict[str, ModuleType] = {name: sys.modules.pop(name) for name in DROP_INS if name in sys.modules}
    yield Modules()
    for name in DROP_INS:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture
def strict() -> Iterator[Modules]:
    yield from _fresh()


@pytest.fixture
def compat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Modules]:
    monkeypatch.setenv("KEYFOLD_COMPAT", "1")
    yield from _fresh()
