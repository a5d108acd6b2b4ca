"""The child process that imports an engine and looks for its adapter's seams; prints JSON, a list of `Look`.

Its one argument is the engine's package. Whatever the engine prints goes to standard error. Ends without any handler of
an exit: the plugin's would sweep, and an engine's take their time.
"""

import importlib
import os
import sys
from typing import Final

import msgspec

from shmtransport.adapters import sglang, vllm
from shmtransport.adapters.seams import Look, Module, look
from shmtransport.adapters.settings import Settings

_MODULES: Final = {"vllm": vllm.modules, "sglang": sglang.modules}


def _looks(module: Module) -> list[Look]:
    try:
        return look(module, importlib.import_module(module.name))
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module.name}.".startswith(f"{error.name}."):
            return look(module, None)
        return [Look(module.name, "unseen", repr(error))]
    except Exception as error:  # noqa: BLE001 - of whatever an engine does when it is imported
        return [Look(module.name, "unseen", repr(error))]


def main() -> None:
    """The process, from its start to its end."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write(
        msgspec.json.encode(
            [found for module in _MODULES[sys.argv[1]](Settings.from_environment({})) for found in _looks(module)]
        )
    )
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
