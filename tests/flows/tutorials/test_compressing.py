"""docs/tutorials/compress-your-own-model.md does what it says."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


def test_a_model_of_ones_own_is_compressed_as_the_page_says(read):
    read("README.md", "compress-your-own-model.md")
