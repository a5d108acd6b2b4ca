"""`make soak`: processes that write, read and forward at random, and die at random, for ROUNDS rounds.

    python -m tests.soak --rounds 1000 --seed 7

What a round is, rounds.py says; half of them are run on each backing. What is found wrong is printed as it is found,
with the round. The last line is a JSON object:

    rounds         that were run
    kills          SIGKILLs
    transfers      tensors that arrived, each of their bytes verified when they were opened and when they were let go
    corrupted      tensors that were not what their number says, and handles that were lost while their sender lived
    hung           processes that did not answer in time, or ended with an error
    leaked_nbytes  not given back after everybody had let go, and left in /dev/shm after a sweep
    seconds

The exit status is 0 only if the three are 0 and there were transfers. The test of the soak plants one of each.
"""

import argparse
import json
import random
import secrets
import sys
import time
from dataclasses import asdict

from shmtransport.config import BACKINGS
from tests.soak.faults import FAULTS
from tests.soak.rounds import READERS, Soak
from tests.soak.world import Findings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="default: drawn")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds after which a process counts as hung")
    parser.add_argument("--plant", choices=FAULTS, action="append", default=[], help="a fault, to see it reported")
    options = parser.parse_args()

    print(f"{options.rounds} rounds on {' and '.join(BACKINGS)}, seed {options.seed}", flush=True)
    started = time.monotonic()
    findings = Findings()
    run = secrets.token_hex(8)  # tells this soak's sockets from another's
    for number, backing in enumerate(BACKINGS):
        rounds = (options.rounds + number) // len(BACKINGS)
        soak = Soak(options.seed, backing, rounds, findings, options.deadline, run)
        soak.faults = dict(zip(READERS, options.plant, strict=False)) if number == 0 else {}
        soak.run()
    print(json.dumps({**asdict(findings), "seconds": round(time.monotonic() - started, 1)}))
    whole = findings.corrupted == findings.hung == findings.leaked_nbytes == 0
    return 0 if whole and findings.transfers else 1


if __name__ == "__main__":
    sys.exit(main())
