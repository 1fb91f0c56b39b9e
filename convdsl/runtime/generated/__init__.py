"""Generated modules, found in the user's cache, so that a pickled model can be read back."""

from convdsl.runtime.cache import cache_dir

__path__.append(str(cache_dir()))
