"""The names at the top level are the documented ones, and each is there."""

import ast
import re
from pathlib import Path

import pytest

import cutaway

REPOSITORY = Path(__file__).parent.parent
DOCUMENTED = [
    "ablation",
    "anatomy",
    "attention",
    "attribution",
    "causal_trace",
    "load",
    "logit_lens",
    "norms",
    "patching",
    "predictions",
    "report",
    "show_versions",
    "states",
    "survey",
    "unigram",
    "verify",
]


def test_they_are_the_documented_ones():
    assert list(cutaway.__all__) == DOCUMENTED


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_exported_name_resolves_and_is_explained(name):
    assert getattr(cutaway, name) is not None
    texts = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"))]
    assert any(re.search(rf"\bcutaway\.{name}\b", text) for text in texts)


def test_dir_lists_them():
    assert set(cutaway.__all__) < set(dir(cutaway))
    assert "__version__" in dir(cutaway)


def test_type_checkers_see_the_same_names():
    """They read the imports under TYPE_CHECKING, and never run what finds a name."""
    module = ast.parse(Path(cutaway.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in module.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {alias.asname: f"{node.module}.{alias.name}" for node in block.body for alias in node.names}
    assert sorted(homes) == DOCUMENTED
    for name, home in homes.items():
        value = getattr(cutaway, name)
        assert home in (getattr(value, "__name__", None), f"{value.__module__}.{name}" if callable(value) else None)


def test_an_old_name_still_works_and_names_the_new_one():
    with pytest.warns(FutureWarning, match=r"^cutaway\.similarity is now cutaway\.states$"):
        assert cutaway.similarity is cutaway.states


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'cutaway' has no attribute 'loads'$"):
        cutaway.loads  # noqa: B018
