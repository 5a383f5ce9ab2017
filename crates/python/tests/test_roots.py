"""``Keyring.open`` with a root key that another server keeps: a real OpenBao, where it is installed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import document
import keyfold
import oracle
from conftest import PYTHON, ROOT

TOKEN = "root-of-the-test"


class Bao:
    """OpenBao in its development mode, with a transit key ``root``."""

    def __init__(self, program: str, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [program, "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={TOKEN}", f"-dev-listen-address=127.0.0.1:{self.port}"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env={**os.environ, "HOME": str(home)})
        self.uri = f"hcvault://127.0.0.1:{self.port}/transit/keys/root?tls=off"

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/{path}", json.dumps(body).encode(), {"X-Vault-Token": TOKEN}, method="POST")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")

    def wrap(self, key: bytes, use: bytes) -> bytes:
        plaintext, associated = (base64.b64encode(part).decode() for part in (key, use))
        wrapped = self.ask("transit/encrypt/root", {"plaintext": plaintext, "associated_data": associated})
        ciphertext: str = wrapped["data"]["ciphertext"]
        return ciphertext.encode()


@pytest.fixture
def bao(tmp_path: Path) -> Iterator[Bao]:
    folder = os.environ.get("KEYFOLD_COMPONENTS") or str(ROOT / "target" / "components" / "bin")
    program = shutil.which("bao", path=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        assert os.environ.get("KEYFOLD_TEST_REQUIRE") != "all", "OpenBao is not installed; run ./test"
        pytest.skip("not run: OpenBao is not installed")
    started = Bao(program, tmp_path)
    try:
        for _ in range(600):
            try:
                started.ask("sys/mounts/transit", {"type": "transit"})
                break
            except OSError:
                assert started.process.poll() is None, "OpenBao ended"
                time.sleep(0.05)
        started.ask("transit/keys/root", {"type": "aes256-gcm96"})
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def test_a_keyring_opens_with_a_root_key_of_openbao_and_is_not_asked_again(bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keyring.json"
    path.write_bytes(document.written("", "deployment-1", 7, {"primary": oracle.new_master_key()}, bao.uri, bao.wrap))
    with pytest.raises(keyfold.KeyInvalidError, match="nothing lets this process in") as refused:
        monkeypatch.setenv("HOME", "/nonexistent")
        keyfold.Keyring.open(path, bao.uri)
    assert "BAO_TOKEN" in str(refused.value.hint)
    monkeypatch.setenv("BAO_TOKEN", "wrong")
    with pytest.raises(keyfold.ProviderUnavailableError, match="no permission"):
        keyfold.Keyring.open(path, bao.uri)
    monkeypatch.setenv("BAO_TOKEN", TOKEN)
    with pytest.raises(keyfold.KeyInvalidError, match="no such key"):
        keyfold.Keyring.open(path, bao.uri.replace("/root", "/other").replace("transit", "elsewhere"))
    keyring = keyfold.Keyring.open(path, bao.uri, seen=7)
    bao.process.kill()
    bao.process.wait()
    sealed = keyfold.seal("hunter2", keyring)
    assert keyfold.open(sealed, keyring, text=True) == "hunter2"
    # A child of a fork has what it needs, and no thread of the parent's.
    child = os.fork()
    if child == 0:
        os._exit(0 if keyfold.open(sealed, keyring) == b"hunter2" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(keyfold.ProviderUnavailableError, match="cannot be reached") as gone:
        keyfold.Keyring.open(path, bao.uri)
    assert TOKEN not in f"{gone.value} {gone.value.hint}"


def test_a_root_key_that_the_default_wheel_cannot_reach_says_which_feature_does(tmp_path: Path) -> None:
    (tmp_path / "keyring.json").write_bytes(b"{}")
    features = (PYTHON / "Cargo.toml").read_text()
    for uri, feature in [
        ("pkcs11:token=t;object=o?module-path=/x.so", "pkcs11"),
        ("aws-kms://arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", "aws"),
        ("gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k", "gcp"),
    ]:
        with pytest.raises(keyfold.KeyInvalidError, match="cannot reach it") as refused:
            keyfold.Keyring.open(tmp_path / "keyring.json", uri)
        assert f"`maturin build --release --features {feature}` in crates/python" in str(refused.value.hint)
        assert f"\n{feature} = [" in features
