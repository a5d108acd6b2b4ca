"""Real photographs from a frontend process to an engine process, three ways in one run.

The frontend decodes and preprocesses photographs as a vision-language processor does, and sends them to an
engine that checks every byte and embeds every patch: through shmtransport, by pickle over ZMQ, and by
zero-copy multipart ZMQ. This is also the code to read first: what using shmtransport looks like stands in
`transports`, next to what it replaces.

    settings         how much is sent; `room` says how much can be
    photographs      what is sent: five photographs, resized and normalised, no two images alike
    messages         what is said: a request, and the receipt for it
    sockets          the ends of the sockets between both processes
    transports       how a request travels: one class a way
    engine           the process that receives
    engine_process   its life, in the hands of the frontend
    frontend         the process that sends and keeps time
    command          the command line's side of it
    report           what came out, as the JSON has it
    table            the same for people
"""

from shmtransport.demo.engine_process import EngineError
from shmtransport.demo.frontend import run
from shmtransport.demo.report import Report, Row
from shmtransport.demo.settings import Settings

__all__ = ["EngineError", "Report", "Row", "Settings", "run"]
