"""Generated text -> imported module: written to the cache under its hash, then run from there."""

import hashlib
import sys
from types import ModuleType

from convdsl.runtime.cache import cache_dir, write_atomically


def load_text(text: str, name: str) -> ModuleType:
    """Import generated source; the same text gives the same module object.

    The file is checked against ``text`` every time, so a damaged cache entry is rewritten.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    stem = f"{name.lower()}_{digest}"
    full_name = f"convdsl.runtime.generated.{stem}"
    if full_name in sys.modules:
        return sys.modules[full_name]
    path = cache_dir() / f"{stem}.py"
    try:
        current = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        current = None
    if current != text:
        write_atomically(path, text)
    module = ModuleType(full_name)
    module.__file__ = str(path)
    sys.modules[full_name] = module
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[full_name]
        raise
    return module
