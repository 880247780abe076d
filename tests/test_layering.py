"""Who imports whom, read from the source; and that every public name says what it is."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import bellgrad
import bellgrad.core
import bellgrad.ops

SOURCE = Path(bellgrad.__file__).parent
# From the foundation up: a room may import the rooms of any earlier row, never one of its own row or of a
# later one.
ORDER = [
    {"core"},
    {"ops"},
    {"graphs"},
    {"mdp", "nets", "data"},
    {"envs"},
    {"tabular", "algos"},
    {"runs"},
    {"training", "presets"},
    {"report"},
    {"api"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
LONERS = {"tabular", "algos"}  # rooms whose files do not import each other either, but for what they share
SHARED = (
    "bellgrad.algos.actor_critic.",
    "bellgrad.algos.counters.",
    "bellgrad.algos.deep_q.",
    "bellgrad.algos.from_replay.",
    "bellgrad.algos.off_policy_actor_critic.",
    "bellgrad.algos.policy_fields.",
    "bellgrad.algos.policy_gradient.",
    "bellgrad.algos.search.",
    "bellgrad.tabular.common.",
    "bellgrad.tabular.episodes.",
    "bellgrad.tabular.counts.",
    "bellgrad.tabular.traces.",
)
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(module: str) -> str:
    """`bellgrad.algos.dqn` is in `algos`; the package itself is the room with no name."""
    return [*module.split("."), ""][1]


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> list[tuple[int, str]]:
    """Line and name of every module of Bellgrad that a source imports, anywhere in it; relative ones begin
    with a dot."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            # `from bellgrad.algos import dqn` imports `bellgrad.algos.dqn`; a function's name behind a module
            # does no harm here.
            found += [(node.lineno, f"{name}.{alias.name}") for alias in node.names]
    return [(line, name) for line, name in found if name.startswith(".") or name.split(".")[0] == "bellgrad"]


def violations(module: str, source: str) -> list[str]:
    own, found = room_of(module), []
    for line, name in imports(source):
        room = room_of(name)
        if name.startswith("."):
            found.append(f"{module}:{line} imports {name}, not by its whole name")
        elif room not in LEVEL:
            found.append(f"{module}:{line} imports {name}, which is in no room")
        elif room == own:
            if own in LONERS and not f"{name}.".startswith((f"{module}.", *SHARED)):
                found.append(f"{module}:{line} imports its neighbor {name}")
        elif LEVEL[room] >= LEVEL[own]:
            found.append(f"{module}:{line} imports {name}, which is not below it")
    return found


def test_every_room_has_a_place_in_the_order():
    rooms = {room_of(module_of(path)) for path in FILES} - {""}
    assert rooms <= LEVEL.keys()
    assert {
        "core",
        "ops",
        "nets",
        "data",
        "envs",
        "algos",
        "runs",
        "training",
        "presets",
        "report",
        "api",
        "cli",
    } <= rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path).removeprefix("bellgrad."))
def test_imports_go_from_right_to_left_only(path):
    if module_of(path) != "bellgrad":  # the package lists every name and imports none before it is used
        assert violations(module_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bellgrad.core.tree", "from bellgrad.ops.polyak import polyak"),
        ("bellgrad.nets.build", "import bellgrad.data.storage"),
        ("bellgrad.envs.make", "def f():\n    from bellgrad.algos.dqn import DQN"),
        ("bellgrad.algos.sac", "from bellgrad.algos.dqn import DQN"),
        ("bellgrad.algos.sac", "from bellgrad.algos import dqn"),
        ("bellgrad.presets.dqn", "from bellgrad.training import run"),
        ("bellgrad.training.run", "from bellgrad import api"),
        ("bellgrad.runs.folder", "from bellgrad.training.session import Session"),
        ("bellgrad.api", "import bellgrad.cli as cli"),
        ("bellgrad.ops.polyak", "from . import checks"),
        ("bellgrad.algos.dqn", "from bellgrad import DQN"),
    ],
)
def test_the_walk_finds_an_import_that_is_forbidden(module, source):
    assert len(violations(module, source)) == 1


def graph_of(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports, at its top or inside its functions."""
    graph = {}
    for module, source in sources.items():
        # `from package import thing` imports the module `thing`, or else what the package itself says of it.
        names = {name if name in sources else name.rpartition(".")[0] for _, name in imports(source)}
        graph[module] = (names & sources.keys()) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The modules that import themselves by way of others, circle by circle."""

    def reached(start: str) -> set[str]:
        seen, ahead = set(), [start]
        while ahead:
            new = graph[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    far = {module: reached(module) for module in graph}
    together = {frozenset(x for x in far[m] if m in far[x]) for m in graph if m in far[m]}
    return sorted(sorted(circle) for circle in together)


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_no_module_imports_itself_by_way_of_others(room):
    sources = {module_of(path): path.read_text() for path in FILES if room_of(module_of(path)) == room}
    assert circles(graph_of(sources)) == []


def test_the_search_for_circles_finds_one_that_hides_in_a_function_and_in_a_package():
    lazy = "def f():\n    from bellgrad.runs.b import thing"
    for_types = "if TYPE_CHECKING:\n    from bellgrad.runs import c"
    sources = {"bellgrad.runs": "", "bellgrad.runs.a": lazy, "bellgrad.runs.b": for_types}
    assert circles(graph_of(sources | {"bellgrad.runs.c": "import bellgrad.core.tree"})) == []
    assert circles(graph_of(sources | {"bellgrad.runs.c": "import bellgrad.runs.a as a"})) == [
        ["bellgrad.runs.a", "bellgrad.runs.b", "bellgrad.runs.c"]
    ]
    package = {
        "bellgrad.runs": "from bellgrad.runs import a",
        "bellgrad.runs.a": "from bellgrad.runs import X",
    }
    assert circles(graph_of(package)) == [["bellgrad.runs", "bellgrad.runs.a"]]


def test_the_package_imports_nothing_heavy_before_it_is_used():
    heavy = (
        "import bellgrad, sys; print([m for m in ('torch', 'numpy', 'gymnasium', 'matplotlib') if m in"
        " sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", heavy], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# ------------------------------------------------------------------------------------------------- documented
def own_doc(thing) -> str | None:
    """The docstring that was written for it: no inherited one, and not the signature that dataclass and
    NamedTuple make up."""
    doc = thing.__doc__ if not inspect.isclass(thing) else thing.__dict__.get("__doc__")
    if (
        doc
        and inspect.isclass(thing)
        and (doc.startswith(f"{thing.__name__}(") or doc.startswith("Alias for"))
    ):
        return None
    return doc


@pytest.mark.parametrize("name", bellgrad.__all__)
def test_every_public_name_exists_and_says_what_it_is(name):
    assert own_doc(getattr(bellgrad, name)), name
    assert name in dir(bellgrad)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Dqn'"):
        bellgrad.Dqn


def modules(package) -> list[str]:
    return [
        package.__name__,
        *(info.name for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")),
    ]


@pytest.mark.parametrize("module", modules(bellgrad.core) + modules(bellgrad.ops))
def test_everything_public_in_core_and_ops_documents_itself(module):
    undocumented, loaded = [], import_module(module)
    assert loaded.__doc__, module
    for name, thing in vars(loaded).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module:
            continue
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and not own_doc(thing):
            undocumented.append(name)
        if inspect.isclass(thing):
            for method, value in vars(thing).items():
                function = getattr(value, "__func__", value)
                if inspect.isfunction(function) and not method.startswith("_") and not function.__doc__:
                    undocumented.append(f"{name}.{method}")
    assert undocumented == []
