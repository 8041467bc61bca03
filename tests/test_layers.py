"""Imports only ever point down the house's list, those inside functions included."""

import ast
from pathlib import Path

import pytest

import cutaway

SOURCE = Path(cutaway.__file__).parent
HOUSE = [  # from the roof down; a part may import those below it
    ["__main__"],
    ["cli"],
    ["app"],
    ["report"],
    ["cluster"],
    ["charts"],
    ["analyses"],
    ["collect"],
    ["survey"],
    ["model"],
    ["batches"],
    ["corpus"],
    ["tokens"],
    ["tokenizer_files", "spelling"],
    ["sentencepiece_files"],
    ["stats"],
    ["progress", "versions", "files", "arguments", "interrupts"],
    ["errors"],
]
FLOOR = {part: len(HOUSE) - i for i, parts in enumerate(HOUSE) for part in parts}
EXCEPTIONS = {  # (file, function): the part it may reach up to
    ("model/model.py", "predict"): "analyses",
}
RESULT = "analyses/result.py"  # its functions call charts
FORWARD = {"activations", "config", "tap", "errors"}  # all that model/gpt2.py imports


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
        if file == "model/gpt2.py" and not FORWARD.intersection(name[1:3]):
            wrong.append(f"{file} imports {'.'.join(name)}")
        if target == part or target == "__version__":
            continue
        if EXCEPTIONS.get((file, function)) == target or (file == RESULT and function and target == "charts"):
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
        ("tokens.py", "from cutaway.model.loading import load"),
        ("tokens.py", "from cutaway import model"),
        ("tokens.py", "import cutaway.model"),
        ("tokens.py", "import cutaway"),
        ("tokens.py", "def f():\n    from cutaway.model import config"),
        ("tokens.py", "if True:\n    from .model import config"),
        ("stats/moments.py", "from ..tokens import show"),
        ("stats/moments.py", "from .. import tokens"),
        ("stats/moments.py", "import importlib\nimportlib.import_module('cutaway.model.model')"),
        (
            "analyses/norms.py",
            "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    from cutaway.charts import norms",
        ),
        ("analyses/norms.py", "def chart():\n    from cutaway.charts import norms"),
        ("analyses/result.py", "from cutaway.charts import norms"),
        ("model/model.py", "def run():\n    from cutaway.analyses import predictions"),
        ("model/model.py", "def predict():\n    from cutaway.charts import predictions"),
        ("model/gpt2.py", "from cutaway.model.sites import Site"),
        ("errors.py", "from cutaway.progress import bar"),
    ],
)
def test_a_violation_is_found(file, source):
    assert len(violations(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli/texts.py", "def f():\n    from cutaway.app.server import serve"),
        ("model/model.py", "from cutaway.model import tap\nfrom cutaway.tokens import Tokens\nimport torch"),
        ("model/model.py", "def predict():\n    from cutaway.analyses import predictions"),
        ("tokens.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cutaway.model.model import Model"),
        ("stats/moments.py", "from . import base\nfrom .base import Statistic\nfrom ..errors import InputError"),
        ("analyses/result.py", "def chart():\n    from cutaway.charts import norms"),
        ("model/gpt2.py", "from cutaway.errors import EditError\nfrom cutaway.model.tap import Tap"),
        ("analyses/result.py", "from cutaway import __version__"),
    ],
)
def test_what_points_down_is_fine(file, source):
    assert violations(file, source) == []
