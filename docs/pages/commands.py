"""The page of the command line, from what its own ``--help`` says."""

import subprocess
import sys
from typing import Final

_HEAD: Final = """\
# Commands

<!-- Written by `make docs-write` from the commands' own help; not by hand. -->

`pip install 'shmtransport[cli]'` brings them; `python -m shmtransport` is the same as `shmtransport`.
[Operating](../operating.md) shows what they print. `ls`, `stat`, `top`, `reap` and `doctor` may run beside anything:
they take no place in a ring, no lease and no lock.

"""


def page() -> str:
    """Markdown."""
    documented = subprocess.run(  # typer writes it for a terminal or a file, so it is one of a process of its own
        [sys.executable, "-m", "typer", "shmtransport.cli", "utils", "docs", "--name", "shmtransport"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    _, _, commands = documented.partition("\n## ")
    return f"{_HEAD}## {commands.rstrip()}\n"
