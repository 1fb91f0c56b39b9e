"""A cache of generated files for one test or one module, so that none finds another's."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import pytest

from convdsl.runtime.cache import cache_dir


@contextmanager
def empty_cache() -> Iterator[None]:
    """Generated files go to a folder of their own."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setenv("CONVDSL_CACHE", folder)
        cache_dir.cache_clear()
        yield
    cache_dir.cache_clear()
