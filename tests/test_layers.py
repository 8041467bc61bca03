"""The house can be walked: imports point down its list, nothing goes round in a circle, rooms and files stay small."""

import ast
import graphlib
from collections import Counter
from pathlib import Path

import pytest

import cutaway

SOURCE = Path(cutaway.__file__).parent
HOUSE = [  # from the roof down; a part may import those below it
    ["__main__"],
    ["cli"],
    ["app"],
    ["panels"],
    ["pages"],
    ["charts"],
    ["analyses"],
    ["surveys"],
    ["results"],
    ["model"],
    ["stats"],
    ["text"],
    ["progress", "stopping", "versions", "files", "arguments"],
    ["errors"],
]
FLOOR = {part: len(HOUSE) - i for i, parts in enumerate(HOUSE) for part in parts}
EXCEPTIONS = {  # (file, function): the part it may reach up to
    ("model/model.py", "predict"): "analyses",
}
RESULT = "results/result.py"  # a result's chart, page and file are made by what reads results
DRAWN_BY = {"charts", "pages"}
LESSON = "model/architectures/gpt2.py"
FORWARD = {"activations", "gpt2_config", "gpt2_tables", "head_inputs", "tap", "Past"}  # all that the lesson imports,
FORWARD |= {"activate", "linear", "unembedding"}  # and the products that it calls


def imports(source, package):
    """Each cutaway module that a source imports at run time, with the function it does so in."""
    found = []

    def walk(node, function):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                walk(child, function)
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Import):
            found.extend((alias.name, function) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.extend((f"{module}.{alias.name}", function) for alias in node.names)
        if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            found.extend((arg.value, function) for arg in node.args[:1] if isinstance(arg, ast.Constant))
        for child in ast.iter_child_nodes(node):
            walk(child, function)

    walk(ast.parse(source), None)
    return [(name.split("."), function) for name, function in found if name.split(".")[0] == "cutaway"]


def violations(file, source):
    """What a file (its path in the package) imports that is not below it."""
    parts = file.removesuffix(".py").split("/")
    part, wrong = parts[0], []
    for name, function in imports(source, ("cutaway", *parts[:-1])):
        target = name[1] if len(name) > 1 else ""
        if file == LESSON and not FORWARD.intersection(name):
            wrong.append(f"{file} imports {'.'.join(name)}")
        if target == part or target == "__version__":
            continue
        if EXCEPTIONS.get((file, function)) == target or (file == RESULT and function and target in DRAWN_BY):
            continue
        if FLOOR.get(target, 99) >= FLOOR.get(part, 0):
            wrong.append(f"{file} imports {'.'.join(name)}" + (f" in {function}()" if function else ""))
    return wrong


def files():
    found = (path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
    return sorted(set(found) - {"__init__.py"})  # whose names are lazy


@pytest.mark.parametrize("file", files())
def test_imports_point_down(file):
    assert file.removesuffix(".py").split("/")[0] in FLOOR, f"{file} has no place in the house"
    assert violations(file, (SOURCE / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("text/tokens.py", "from cutaway.model.load import load"),
        ("text/tokens.py", "from cutaway import model"),
        ("text/tokens.py", "import cutaway.model"),
        ("text/tokens.py", "import cutaway"),
        ("text/tokens.py", "def f():\n    from cutaway.model import config"),
        ("text/tokens.py", "if True:\n    from ..model import config"),
        ("stats/moments.py", "from ..surveys import show"),
        ("stats/moments.py", "from .. import results"),
        ("stats/moments.py", "import importlib\nimportlib.import_module('cutaway.model.model')"),
        (
            "analyses/norms/measure.py",
            "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    from cutaway.charts import norms",
        ),
        ("analyses/norms/measure.py", "def chart():\n    from cutaway.charts import norms"),
        (RESULT, "from cutaway.charts import norms"),
        ("model/model.py", "def run():\n    from cutaway.analyses import predictions"),
        ("model/model.py", "def predict():\n    from cutaway.charts import predictions"),
        (LESSON, "from cutaway.model.taps.sites import Site"),
        (LESSON, "from cutaway.model.products import takes_onednn"),
        ("errors.py", "from cutaway.progress import bar"),
    ],
)
def test_a_violation_is_found(file, source):
    assert len(violations(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli/trace.py", "def f():\n    from cutaway.app.routes import serve"),
        ("model/model.py", "from cutaway.model import tap\nfrom cutaway.text.tokens import Tokens\nimport torch"),
        ("model/model.py", "def predict():\n    from cutaway.analyses import predictions"),
        (
            "text/tokens.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cutaway import model",
        ),
        ("stats/moments.py", "from . import base\nfrom .base import Statistic\nfrom ..errors import InputError"),
        (RESULT, "def chart():\n    from cutaway.charts import norms"),
        (LESSON, "from cutaway.model.products import linear\nfrom cutaway.model.taps.tap import Tap"),
        (RESULT, "from cutaway import __version__"),
    ],
)
def test_what_points_down_is_fine(file, source):
    assert violations(file, source) == []


# --- circles ---

TOGETHER = {"model/model.py", "model/generate.py", "model/inputs.py"}  # a model's face, and what its methods do


def modules(file, with_types):
    """The files that a file imports, those inside functions included; with_types: for annotations, too."""
    source = (SOURCE / file).read_text(encoding="utf-8")
    if with_types:
        source = source.replace("if TYPE_CHECKING:", "if True:")
    found = set()
    for name, _ in imports(source, ("cutaway", *file.removesuffix(".py").split("/")[:-1])):
        for n in range(len(name), 1, -1):
            for path in ("/".join(name[1:n]) + ".py", "/".join([*name[1:n], "__init__.py"])):
                if (SOURCE / path).is_file() and path != file:
                    found.add(path)
                    break
            else:
                continue
            break
    return found


def test_no_imports_go_round():
    graph = {file: modules(file, False) for file in files() if file != RESULT}
    del graph["model/model.py"]  # whose `predict` is an analysis
    graphlib.TopologicalSorter(graph).prepare()


def test_no_two_files_know_each_other_by_types():
    graph = {file: modules(file, True) for file in files()}
    pairs = {(a, b) for a, others in graph.items() for b in others if a < b and a in graph.get(b, ())}
    assert {pair for pair in pairs if RESULT not in pair and not TOGETHER.issuperset(pair)} == set()


# --- sizes ---

CATALOGUES = {"cli/commands": "one file a command"}  # to be looked up, not read
LONG = {}  # a file above 350 lines: why


def test_rooms_are_small():
    count = Counter(str(Path(file).parent) for file in files() if not file.endswith("__init__.py"))
    assert {room for room, n in count.items() if n > 10} <= set(CATALOGUES)


def test_files_are_short():
    lines = {file: (SOURCE / file).read_text(encoding="utf-8").count("\n") for file in files()}
    assert {file for file, n in lines.items() if n > 350} == set(LONG)


def test_every_room_says_what_it_holds():
    rooms = {path.parent for path in SOURCE.rglob("*.py")}
    for room in rooms:
        docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
        assert docstring, room


def test_the_map_names_every_room():
    page = (SOURCE.parents[1] / "docs/house.md").read_text(encoding="utf-8")
    rooms = {path.parent.relative_to(SOURCE) for path in SOURCE.rglob("*.py")} - {Path()}
    assert {str(room) for room in rooms if f"`{room.name}/`" not in page} <= {
        f"charts/{room}" for room in ("attribution", "causal_trace", "norms", "patching", "unigram")
    }
