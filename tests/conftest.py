"""What all tests share: hypothesis without a clock, and the marker `gpu`."""

import pytest
from hypothesis import settings

# A busy machine must not turn a correct law red.
settings.register_profile("ssrtrack", deadline=None)
settings.load_profile("ssrtrack")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip, saying why, where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch finds none"))
