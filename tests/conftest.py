"""What all tests share: one thread, hypothesis without a clock, Triton's interpreter, and the marker `gpu`."""

import ctypes
import os

import pytest
from hypothesis import settings

# Threads of a few microseconds' work wait for each other longer than they work, the more so as `make test` keeps every
# core busy already. It has to be told before torch is first imported; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine must not turn a correct law red.
settings.register_profile("ssrtrack", deadline=None)
settings.load_profile("ssrtrack")


# Without a CUDA driver Triton's kernels run in its interpreter; it has to be told before it is first imported.
try:
    ctypes.CDLL("libcuda.so.1")
except OSError:
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip, saying why, where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch finds none"))
