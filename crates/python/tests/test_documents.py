"""The examples in the README and in ``docs/python.md`` run, and pass the type checker, as do the stubs and these tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import oracle
from conftest import PYTHON, ROOT

PAGES = [PYTHON / "README.md", ROOT / "docs" / "python.md"]
BLOCK = re.compile(r"(?:<!-- environment: ([A-Z_ ]+) -->\n)?```python\n(.*?)```", re.DOTALL)


def examples(page: Path) -> list[tuple[list[str], str]]:
    """Each example with the variables that it needs."""
    return [((variables or "").split(), code) for variables, code in BLOCK.findall(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_run_one_after_the_other(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examples(page)
    assert len(found) >= 2
    names: dict[str, object] = {"__name__": "example"}
    for variables, code in found:
        for variable in variables:
            monkeypatch.setenv(variable, oracle.new_fernet_key() if variable.startswith("SRE_AGENT") else oracle.new_master_key())
        exec(compile(code, str(page), "exec", dont_inherit=True), names)
        for variable in variables:
            monkeypatch.delenv(variable)


def mypy(*arguments: str) -> None:
    command = [sys.executable, "-m", "mypy", "--config-file", str(PYTHON / "pyproject.toml"), "--no-incremental", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, cwd=PYTHON, timeout=600, env={**os.environ, "MYPYPATH": "tests"})
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_type_checker_passes_the_examples_the_package_and_the_tests(tmp_path: Path) -> None:
    pages = []
    for page in PAGES:
        pages.append(tmp_path / f"{page.stem.lower()}_examples.py")
        pages[-1].write_text("\n".join(code for _, code in examples(page)))
    mypy(*map(str, pages), "python/keyfold", "tests", "benches")


def test_a_wrong_call_does_not_pass_the_type_checker(tmp_path: Path) -> None:
    wrong = ["keyfold.seal(1)", "keyfold.seal('x', format='v2')", "keyfold.open('x').encode()", "keyfold.Fernet()", "keyfold.none"]
    for number, call in enumerate(wrong):
        (tmp_path / f"wrong{number}.py").write_text(f"import keyfold\n{call}\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    for number, call in enumerate(wrong):
        assert f"wrong{number}.py:2: error" in run.stdout, f"{call}: {run.stdout}"


def test_the_stubs_say_what_the_module_has() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "keyfold._keyfold", "--mypy-config-file", str(PYTHON / "pyproject.toml")]
    allowed = PYTHON / "tests" / "stubtest.txt"
    run = subprocess.run([*command, "--allowlist", str(allowed)], capture_output=True, text=True, cwd=PYTHON, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
