"""The example scripts run from beginning to end, and leave the pictures that they tell of."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(set(EXAMPLES.glob("*.py")) - {EXAMPLES / "demo.py"})  # `make demo` trains for minutes


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_and_leaves_its_pictures(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    pictures = re.findall(r"Look at (\S+?):?\s", capsys.readouterr().out)
    assert pictures and all(Path(picture).stat().st_size > 2_000 for picture in pictures)
