"""Native code of graphs: made beside the work, kept, and given up if it cannot be made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import bellgrad
from bellgrad.core.errors import CompilationError
from bellgrad.graphs import native, workshop
from bellgrad.graphs.capture import capture
from bellgrad.graphs.compiler import CACHE_VARIABLE, cache_folder
from bellgrad.graphs.native import Native

ARGS = (torch.tensor([1.0, 2.0]),)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, and a workshop that ends with the test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(workshop, "WORKSHOP", workshop.Workshop())
    yield tmp_path / "cache" / "graphs"
    workshop.WORKSHOP.close()


def made(fn, args=ARGS):
    return Native(capture(fn, args), 1)


@pytest.fixture
def helper(monkeypatch, tmp_path):
    """Puts a script in the place of the compiling process."""

    def put(text):
        path = tmp_path / "helper.py"
        path.write_text(text)
        monkeypatch.setattr(workshop.build, "__file__", str(path))

    return put


@pytest.mark.compiled
def test_code_is_made_once_and_found_again(cache):
    def add(total, x):
        total.add_(x)
        return {"sum": total * 2}

    args = (torch.zeros(2), torch.ones(2))
    first = made(add, args)
    assert first.order is not None
    assert first.load()(*args)["sum"].tolist() == [2.0, 2.0] and args[0].tolist() == [1.0, 1.0]
    assert first.ready and first.order.cpu_seconds > 0
    second = made(add, args)
    assert second.order is None and second.load()(*args)["sum"].tolist() == [4.0, 4.0]
    (library,) = cache.iterdir()
    damaged = library.read_bytes()[:-100]
    library.unlink()  # what is loaded must not change
    library.write_bytes(damaged)
    third = made(add, args)
    assert third.order is not None and third.load()(*args)["sum"].tolist() == [6.0, 6.0]
    with pytest.raises(CompilationError, match="called with"):
        made(add, args).load()(torch.zeros(3), torch.ones(3))


@pytest.mark.compiled
def test_what_the_compiler_says_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(CompilationError, match="compiling failed: ") as failed:
        made(lambda x: x * 7).load()
    assert "Traceback" in failed.value.whole


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)", "ended with exit code -9"),
        ("input(); print('what?')", "ended with exit code"),
    ],
)
def test_a_process_that_dies_or_talks_nonsense_is_given_up(helper, script, said):
    helper(script)
    with pytest.raises(CompilationError, match=said):
        made(lambda x: x + 1).load()


def test_without_an_interpreter_there_is_no_code(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CompilationError, match="cannot be used"):
        made(lambda x: x + 2).load()


def test_a_second_order_for_a_graph_is_the_first(helper):
    helper("import time\nfor line in iter(input, ''): time.sleep(100)")
    a, b = made(lambda x: x * 3), made(lambda x: x * 3)
    assert a.order is b.order and not a.ready
    workshop.WORKSHOP.close()
    a.wait()
    assert "exit code -9" in str(a.order.fault)


def test_the_process_ends_with_its_parent(tmp_path):
    script = (
        "import sys, time\n"
        "from bellgrad.graphs import workshop\n"
        "workshop.WORKSHOP.order('k', {'text': 1}, 'x')\n"
        "print(workshop.WORKSHOP._process.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    helper = tmp_path / "helper.py"
    helper.write_text(
        f"import sys, time, os, threading; sys.path.append({str(Path(bellgrad.__file__).parent.parent)!r})\n"
        "from bellgrad.graphs.build import _end_with\n"
        "threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()\n"
        "time.sleep(100)\n"
    )
    script = f"from bellgrad.graphs import build; build.__file__ = {str(helper)!r}\n" + script
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    time.sleep(3)  # until it watches
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        time.sleep(0.1)
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
    pytest.fail("it still runs")


def test_the_cache_is_the_users_own_folder(monkeypatch, tmp_path, cache):
    assert cache_folder() == cache and cache.stat().st_mode & 0o77 == 0
    cache.chmod(0o777)  # anybody may have put code there
    assert cache_folder() != cache
    monkeypatch.setenv(CACHE_VARIABLE, "/dev/null/nothing")
    assert os.access(cache_folder(), os.W_OK)
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "bellgrad" / "graphs"


def test_the_cache_does_not_grow_without_end(monkeypatch, cache, helper):
    helper("input()")
    monkeypatch.setattr(native, "KEPT", 3)
    cache.mkdir(parents=True)
    for i in range(5):
        (cache / f"{i}.so").write_bytes(b"")
        os.utime(cache / f"{i}.so", (i, i))
    made(lambda x: x * 11).wait()
    assert sorted(path.name for path in cache.glob("*.so")) == ["3.so", "4.so"]
