"""How threads wait is decided before torch is imported, and left to a user who decided."""

import json
import os
import subprocess
import sys

import pytest

from bellgrad.core.waiting import OTHERS, SPINS, VARIABLE


def seen(script, **variables):
    plain = {name: value for name, value in os.environ.items() if name not in (VARIABLE, *OTHERS)}
    text = f"{script}\nimport json, os\nfrom bellgrad.core.waiting import manner\n"
    text += f"print(json.dumps([os.environ.get({VARIABLE!r}), manner()]))"
    done = subprocess.run(
        [sys.executable, "-c", text], env=plain | variables, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("script", "variables", "expected"),
    [
        ("import bellgrad", {}, SPINS),
        ("import bellgrad, torch", {}, SPINS),
        ("import bellgrad", {VARIABLE: "7"}, "7"),
        ("import bellgrad", {"OMP_WAIT_POLICY": "ACTIVE"}, None),
        ("import torch, bellgrad", {}, None),
    ],
)
def test_who_decides(script, variables, expected):
    spins, manner = seen(script, **variables)
    assert spins == expected
    assert ("torch was imported before" in manner) == (expected is None and not variables)
