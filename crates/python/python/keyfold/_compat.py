"""``KEYFOLD_COMPAT=1``: the lenient reading of the two original projects.

Read once, when the first drop-in module is imported: how strict a process is does not change while it runs.
"""

from __future__ import annotations

import os
import warnings

from keyfold._errors import CompatWarning

#: Whether the originals' lenient reading is asked for.
COMPAT = os.environ.get("KEYFOLD_COMPAT", "") == "1"

_said: set[str] = set()


def warn_once(what: str) -> None:
    """Says that something passed which would be refused without ``KEYFOLD_COMPAT=1``; once a process for each ``what``."""
    if what not in _said:
        _said.add(what)
        warnings.warn(f"KEYFOLD_COMPAT=1: {what}", CompatWarning, stacklevel=3)
