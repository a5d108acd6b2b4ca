"""The command line: one typer application, to which each command is added from where it is written.

    ls, stat, top    what rings do, seen from outside
    reap             what dead processes left
    bench            whether it pays on this machine; `racing` measures
    screen           how these are printed

Needs the ``cli`` extra; without it `shmtransport.__main__` prints how to get it.
"""

import typer

from shmtransport.cli.bench import bench
from shmtransport.cli.ls import ls
from shmtransport.cli.reap import reap
from shmtransport.cli.stat import stat
from shmtransport.cli.top import top
from shmtransport.demo.command import demo
from shmtransport.demo_vllm.command import demo_vllm
from shmtransport.doctor.command import doctor

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def shmtransport() -> None:
    """Tensors between processes through shared memory: only handles cross the socket."""


app.command()(ls)
app.command()(stat)
app.command()(top)
app.command()(reap)
app.command()(doctor)
app.command()(bench)
app.command()(demo)
app.command()(demo_vllm)
