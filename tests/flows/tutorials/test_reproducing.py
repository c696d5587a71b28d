"""docs/tutorials/reproduce-a-result.md does what it says."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


def test_a_result_is_reproduced_as_the_page_says(read):
    read("README.md", "reproduce-a-result.md")
