"""The field types work with the oldest pydantic and SQLAlchemy that the package says it takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PYTHON


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the oldest versions are older than this Python, and have no wheels for it")
def test_the_fields_work_with_the_oldest_versions_that_are_promised(tmp_path: Path) -> None:
    oldest = dict(re.findall(r'"(pydantic|SQLAlchemy)>=([0-9.]+)"', (PYTHON / "pyproject.toml").read_text()))
    wanted = [f"{name}=={version}" for name, version in oldest.items()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--target", str(tmp_path), *wanted]
    install = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if install.returncode != 0:
        assert os.environ.get("KEYFOLD_TEST_REQUIRE") != "all", install.stderr
        pytest.skip(f"not run: {wanted} could not be installed")

    def run(*arguments: str) -> str:
        old = {**os.environ, "PYTHONPATH": str(tmp_path)}
        run = subprocess.run([sys.executable, "-B", *arguments], capture_output=True, text=True, cwd=PYTHON, env=old, timeout=300)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    assert run("-c", "import pydantic, sqlalchemy; print(pydantic.VERSION, sqlalchemy.__version__)").split() == [f"{oldest[name]}.0" for name in oldest]
    assert " passed" in run("-m", "pytest", "-W", "default", "tests/test_fields.py")
