"""What will fail on this machine, or be slow, and what mends it: ``shmtransport doctor``.

    findings      what is said: a finding, its level, its remedy
    situation     what is examined: this process, this host, and the vLLM that would be started here
    examination   all checks in order; one that fails costs no other

    settings      SHMTRANSPORT_*
    backings      a segment on either backing, tried; `mounts` says what /dev/shm is, `remedies` what gives more of it
    sizing        what vLLM's rings would get, against what they should have
    kernel        huge pages, RemoveIPC
    limits        what this process may not exceed
    rings         orphans, strangers
    processor     the copy kernel and its rate
    cuda          registration; `devices` asks the driver, in a `child` process
    engines       vLLM and SGLang; `seams` looks for the plugin's, in a `child` process

    command       the command line's side of it
    text          findings for people

Nothing is changed: no ring is made, nothing swept, no CUDA context made.
"""

from shmtransport.doctor.examination import examine
from shmtransport.doctor.findings import Finding, Level, Report
from shmtransport.doctor.situation import Situation

__all__ = ["Finding", "Level", "Report", "Situation", "examine"]
