"""The names at the top level are the documented ones, and each is there."""

import pytest

import cutaway


@pytest.mark.parametrize("name", cutaway.__all__)
def test_every_exported_name_resolves(name):
    assert getattr(cutaway, name) is not None


def test_dir_lists_them():
    assert set(cutaway.__all__) < set(dir(cutaway))
    assert "__version__" in dir(cutaway)
    assert sorted(cutaway.__all__) == list(cutaway.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'cutaway' has no attribute 'loads'$"):
        cutaway.loads  # noqa: B018
