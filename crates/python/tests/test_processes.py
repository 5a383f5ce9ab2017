"""Forks, threads, other interpreters: where a module that keeps state goes wrong."""

from __future__ import annotations

import concurrent.futures
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import keyfold
import oracle
from conftest import PYTHON, scaled

PARTS = [("data key", 32), ("nonce", 12), ("nonce of the wrap", 12), ("IV", 16), ("commitment", 32)]
SIZE = sum(size for _, size in PARTS)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_p15_a_preforking_server_never_repeats_a_data_key_or_a_nonce(tmp_path: Path) -> None:
    seals, share, port = scaled(1_000_000) // 3, 500, free_port()
    environment = {**os.environ, "REDIS_SRE_MASTER_KEY": oracle.new_master_key(), "SRE_AGENT_ENCRYPTION_KEY": oracle.new_fernet_key()}
    command = [sys.executable, "-m", "gunicorn", "--workers", "4", "--preload", "--timeout", "120", "--bind", f"127.0.0.1:{port}", "server:application"]
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(command, cwd=PYTHON / "tests", env=environment, stdout=log, stderr=log)
        try:
            workers, bodies = ask(port, -(-seals // share), share, server)
        finally:
            server.terminate()
            server.wait(timeout=60)
        log.seek(0)
        assert len(workers) == 4, f"all four workers answered: {workers}\n{log.read()}"
    at = 0
    for name, size in PARTS:
        seen = {body[i + at : i + at + size] for body in bodies for i in range(0, len(body), SIZE)}
        assert len(seen) == sum(map(len, bodies)) // SIZE >= seals, f"a {name} was repeated"
        at += size


def ask(port: int, requests: int, share: int, server: subprocess.Popen[bytes]) -> tuple[set[str], list[bytes]]:
    """Asks from eight threads at once, so that no worker is left out."""

    def one(count: int) -> tuple[str, bytes]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?count={count}", timeout=120) as answer:
            return answer.headers["X-Worker"], answer.read()

    deadline = time.monotonic() + 120
    while True:
        try:
            one(1)
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(one, [share] * max(requests, 16)))
    return {worker for worker, _ in answers}, [body for _, body in answers]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_fork_amid_batches_of_other_threads_seals_and_opens(keyring: keyfold.Keyring, master_key: str) -> None:
    """The other threads hold no lock that the child would wait for, whenever the fork comes."""
    from keyfold.redis_sre_agent import decrypt_secret, encrypt_secret

    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            keyfold.open_many(keyfold.seal_many(["x"] * 600, keyring), keyring)
            decrypt_secret(encrypt_secret("y"))

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = []
    try:
        for _ in range(scaled(200)):
            child = os.fork()
            if child == 0:
                signal.alarm(120)
                right = keyfold.open_many(keyfold.seal_many(["z"] * 600, keyring), keyring) == [b"z"] * 600
                right = right and decrypt_secret(encrypt_secret("z")) == "z"
                os._exit(0 if right else 1)
            children.append(child)
            assert os.waitpid(child, 0)[1] == 0, "the child hung or failed"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def in_time(script: str, **environment: str) -> None:
    """Runs a script that may hang, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    run = subprocess.run(command, cwd=PYTHON / "tests", env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_what_others_do_around_a_fork_may_seal_and_open() -> None:
    """What was registered before the module was imported runs while the gate is closed."""
    in_time("""
import os, signal, tempfile
done = []
def work():
    done.append(keyfold.open_many(keyfold.seal_many(["x"] * 600, keys), keys) == [b"x"] * 600)
    done.append(keyfold.Keyring.open(path, "env:ROOT").generation == 7)
os.register_at_fork(after_in_child=lambda: signal.alarm(60))
os.register_at_fork(before=work, after_in_parent=work, after_in_child=work)
import document, keyfold, oracle
os.environ["ROOT"] = oracle.new_master_key()
keys = keyfold.Keyring.from_keys(master=[oracle.new_master_key()])
with tempfile.TemporaryDirectory() as folder:
    path = folder + "/keyring.json"
    with open(path, "wb") as file:
        file.write(document.written(os.environ["ROOT"], "d", 7, {"primary": oracle.new_master_key()}))
    child = os.fork()
    if child == 0:
        work()
        os._exit(0 if done == [True] * 6 else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child hung or failed"
    assert done == [True] * 4
""")


def test_what_others_do_around_a_fork_may_fork() -> None:
    in_time("""
import os, signal
def again(left=[1, 1]):
    if left:
        left.pop()
        child = os.fork()
        if child == 0:
            os._exit(0 if keyfold.seal_many(["x"] * 600, keys) else 1)
        assert os.waitpid(child, 0)[1] == 0
os.register_at_fork(after_in_child=lambda: signal.alarm(60))
os.register_at_fork(before=again, after_in_child=again)
import keyfold
keys = keyfold.Keyring.from_keys(master=[keyfold.generate_key()])
child = os.fork()
if child == 0:
    os._exit(0 if keyfold.seal_many(["x"] * 600, keys) else 1)
assert os.waitpid(child, 0)[1] == 0, "the child hung or failed"
""")


def test_a_fork_may_wait_for_a_lock_that_is_held_by_who_seals() -> None:
    """As ``logging`` does: its lock is taken before a fork, by the thread that forks."""
    in_time("""
import os, threading
lock, held, forking, sealed = threading.Lock(), threading.Event(), threading.Event(), []
def before():
    forking.set()
    lock.acquire()
os.register_at_fork(before=before, after_in_parent=lock.release, after_in_child=lock.release)
import keyfold
keys = keyfold.Keyring.from_keys(master=[keyfold.generate_key()])
def seal():
    with lock:
        held.set()
        forking.wait()
        sealed.extend(keyfold.seal_many(["x"] * 600, keys))
thread = threading.Thread(target=seal, daemon=True)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
assert keyfold.open_many(sealed, keys) == [b"x"] * 600
""")


def test_two_threads_may_fork_at_once() -> None:
    in_time("""
import os, threading, time
os.register_at_fork(before=lambda: time.sleep(0.02))
import keyfold
keys, children = keyfold.Keyring.from_keys(master=[keyfold.generate_key()]), []
def fork():
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0 if keyfold.seal_many(["x"] * 600, keys) else 1)
        children.append(os.waitpid(child, 0)[1])
threads = [threading.Thread(target=fork, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert children == [0] * 20
""")


def test_a_batch_is_done_where_the_system_gives_no_more_threads() -> None:
    in_time(
        """
import keyfold
keys = keyfold.Keyring.from_keys(master=[keyfold.generate_key()])
assert keyfold.open_many(keyfold.seal_many(["x"] * 5000, keys), keys) == [b"x"] * 5000
""",
        # No system has that much memory for a stack.
        RUST_MIN_STACK=str(1 << 50),
    )


def test_threads_share_keyrings_and_the_environments_key(keyring: keyfold.Keyring, master_key: str) -> None:
    from keyfold.redis_sre_agent import decrypt_secret, encrypt_secret

    def work(number: int) -> set[str]:
        sealed = set()
        for index in range(scaled(2000)):
            one = encrypt_secret(f"{number}-{index}")
            assert decrypt_secret(one) == f"{number}-{index}"
            assert keyfold.open(keyfold.seal(f"{number}", keyring), keyring, text=True) == str(number)
            sealed.add(one)
        return sealed

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        sealed = list(threads.map(work, range(8)))
    assert len(set().union(*sealed)) == 8 * scaled(2000)


def test_a_key_that_changes_while_threads_seal_is_the_old_or_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from keyfold.redis_sre_agent import encrypt_secret

    keys = [oracle.new_master_key(), oracle.new_master_key()]
    monkeypatch.setenv("REDIS_SRE_MASTER_KEY", keys[0])
    stop = threading.Event()
    wrong: list[str] = []

    def seal() -> None:
        while not stop.is_set():
            sealed = encrypt_secret("x")
            if "x" not in (oracle.v1_opens(keys[0], sealed), oracle.v1_opens(keys[1], sealed)):
                wrong.append(sealed)

    threads = [threading.Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(scaled(2000)):
        os.environ["REDIS_SRE_MASTER_KEY"] = keys[turn % 2]
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_gil_is_free_while_a_batch_is_sealed(keyring: keyfold.Keyring) -> None:
    """A batch that would hold it lets no other Python code run until it is done."""
    ticks, done = 0, threading.Event()
    many = [b"x" * 60_000] * 300

    def seal() -> None:
        keyfold.seal_many(many, keyring)
        done.set()

    worker = threading.Thread(target=seal)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        worker.start()
        while not done.is_set():
            ticks += 1
            time.sleep(0)
    finally:
        sys.setswitchinterval(before)
        worker.join()
    assert ticks > 100


def test_spawned_processes_pass_on_what_is_sealed(keyring: keyfold.Keyring, master_key: str) -> None:
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sealed = pool.map(_seal, ["a", "b"])
    assert [oracle.v1_open(master_key, one) for one in sealed] == ["a", "b"]


def _seal(secret: str) -> str:
    from keyfold.redis_sre_agent import encrypt_secret

    return encrypt_secret(secret)


SUBINTERPRETER = """
import keyfold, sys
try:
    import _interpreters as interpreters
    def run(code):
        other = interpreters.create(sys.argv[1])
        failed = interpreters.exec(other, code)
        return failed and failed.formatted
except ImportError:
    import _xxsubinterpreters as interpreters
    def run(code):
        try:
            interpreters.run_string(interpreters.create(isolated=sys.argv[1] == "isolated"), code)
        except Exception as error:
            return str(error)
print(run(f"import sys; sys.path.insert(0, {sys.path[0]!r}); import keyfold; keyfold.generate_key()"))
print(keyfold.open(keyfold.seal("x", k := keyfold.Keyring.from_keys(master=[keyfold.generate_key()])), k))
"""


def pythons() -> list[str]:
    """Every interpreter from 3.9 on that this machine has, the one of the tests among them."""
    found = {sys.executable}
    for minor in set(range(9, 20)) - {sys.version_info.minor}:
        candidates = [shutil.which(f"python3.{minor}"), *glob.glob(os.path.expanduser(f"~/.pyenv/versions/3.{minor}.*/bin/python3"))]
        for candidate in filter(None, candidates):
            version = [candidate, "-I", "-c", "import sys; print(sys.version_info[1])"]
            run = subprocess.run(version, capture_output=True, text=True, timeout=60)
            if run.returncode == 0 and run.stdout.strip() == str(minor):
                found.add(candidate)
                break
    return sorted(found)


def in_another(python: str, script: str, *arguments: str) -> str:
    """Runs a script with this very package under another interpreter."""
    package = str(Path(keyfold.__file__).parent.parent)
    run = subprocess.run(
        [python, "-c", f"import sys; sys.path.insert(0, {package!r})\n{script}", *arguments], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, f"{python}: {run.stderr}"
    return run.stdout


@pytest.mark.parametrize("python", pythons())
def test_the_wheel_works_under_every_python_that_is_here(python: str) -> None:
    script = """
import os, keyfold, keyfold.redis_sre_agent as redis, keyfold.auto_sre as auto
os.environ["REDIS_SRE_MASTER_KEY"] = keyfold.generate_key()
os.environ["SRE_AGENT_ENCRYPTION_KEY"] = keyfold.Fernet.generate_key().decode()
assert redis.decrypt_secret(redis.encrypt_secret("é")) == auto.decrypt_token(auto.encrypt_token("é")) == "é"
assert keyfold.open_many(keyfold.seal_many(["x"] * 1000), text=True) == ["x"] * 1000
try:
    keyfold.open("plain")
except keyfold.NotEncryptedError as error:
    print(error.code)
"""
    assert in_another(python, script) == "not_encrypted\n"


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
@pytest.mark.parametrize("python", pythons())
def test_a_second_interpreter_in_a_process_is_refused_in_words(python: str, kind: str) -> None:
    shown = in_another(python, SUBINTERPRETER, kind).splitlines()
    assert "subinterpreters" in "".join(shown[:-1]), shown
    assert shown[-1] == "b'x'", "the first interpreter goes on"


def test_nothing_that_is_not_needed_is_imported() -> None:
    script = "import sys; before = set(sys.modules)\nimport keyfold, keyfold.redis_sre_agent, keyfold.auto_sre\nprint(*sorted(set(sys.modules) - before))"
    loaded: set[Any] = set(in_another(sys.executable, script).split())
    assert not loaded & {"typing", "logging", "json", "base64", "cryptography", "pydantic", "sqlalchemy", "asyncio"}, loaded
