import re

import pytest

from shoal import errors
from shoal.errors import MissingExtraError, ShoalError, ShoalWarning

TREE = dict(re.findall(r"── (\w+) \((\w+)\)", errors.__doc__))
BUILTINS = {"ValueError": ValueError, "RuntimeError": RuntimeError, "ImportError": ImportError}


def test_the_tree_in_the_docstring_is_complete():
    assert {*TREE, "ShoalError", "ShoalWarning"} == set(errors.__all__)


@pytest.mark.parametrize("name", sorted(TREE))
def test_every_error_is_one_of_shoal_and_of_its_kind(name):
    assert issubclass(getattr(errors, name), ShoalError)
    assert issubclass(getattr(errors, name), BUILTINS[TREE[name]])


def test_a_warning_of_shoal_is_a_user_warning_and_no_error():
    assert issubclass(ShoalWarning, UserWarning)
    assert not issubclass(ShoalWarning, ShoalError)


def test_a_missing_extra_says_how_to_install_it():
    with pytest.raises(MissingExtraError, match=r"timm is needed .* pip install 'shoal\[vision\]'") as caught:
        raise MissingExtraError("timm", extra="vision", purpose="to load timm models")
    assert (caught.value.package, caught.value.extra) == ("timm", "vision")
