"""The child process that imports vLLM and looks for the plugin's seams; prints JSON, a list of `Look`.

Whatever vLLM prints goes to standard error. Ends without any handler of an exit: the plugin's would sweep, and vLLM's
take their time.
"""

import importlib
import os
import sys

import msgspec

from shmtransport.adapters.seams import Look, Module, look
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm import modules


def _looks(module: Module) -> list[Look]:
    try:
        return look(module, importlib.import_module(module.name))
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module.name}.".startswith(f"{error.name}."):
            return look(module, None)
        return [Look(module.name, "unseen", repr(error))]
    except Exception as error:  # noqa: BLE001 - of whatever vLLM does when it is imported
        return [Look(module.name, "unseen", repr(error))]


def main() -> None:
    """The process, from its start to its end."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write(
        msgspec.json.encode([found for module in modules(Settings.from_environment({})) for found in _looks(module)])
    )
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
