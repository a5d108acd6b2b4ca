"""First on PYTHONPATH in `make sanitize`: whichever process imports shmtransport gets the sanitized core.

Python imports a module of this name at its start. So children are covered however they are started, unless without
their parent's environment.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

NAME = "shmtransport._core"
CORE = Path(__file__).resolve().parents[3] / "build" / "sanitize" / "shmtransport" / "_core.abi3.so"


class SanitizedCore:
    """Finds one module and leaves all others to the finders behind it."""

    @staticmethod
    def find_spec(
        name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, CORE) if name == NAME else None


sys.meta_path.insert(0, SanitizedCore)
