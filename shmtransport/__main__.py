"""``shmtransport`` and ``python -m shmtransport``."""

import sys


def main() -> None:
    """Runs the command line, or says in one line how to install it (exit status 2)."""
    try:
        from shmtransport.cli import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        sys.stderr.write("the command line needs two more packages: pip install 'shmtransport[cli]'\n")
        sys.exit(2)
    app(prog_name="shmtransport")


if __name__ == "__main__":
    main()
