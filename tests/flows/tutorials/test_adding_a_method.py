"""docs/tutorials/add-a-method.md does what it says."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


def test_a_method_of_ones_own_is_added_as_the_page_says(read):
    read("README.md", "add-a-method.md")
