"""A worker of the DataLoader's example that is killed: what has arrived stays valid, and nothing is left."""

from pathlib import Path

import pytest

from tests.meta.fences import RUN
from tests.support import run_python, segment_names, wait_until

TRAINER = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader, Dataset
from examples.dataloader.ring_collate import RingCollate
from examples.dataloader import ring_collate

class Numbers(Dataset):
    def __len__(self):
        return 10_000
    def __getitem__(self, index):
        return (torch.full((1 << 16,), float(index)),)

if __name__ == "__main__":
    collate = RingCollate("16MiB")
    batches = iter(DataLoader(Numbers(), 4, num_workers=1, collate_fn=collate, multiprocessing_context="spawn"))
    for _ in range(3):
        kept = next(batches)[0]
    (reader,) = ring_collate._readers.values()
    assert reader.holds(kept), "the third batch came the ordinary way"
    worker = batches._workers[0]
    os.kill(worker.pid, signal.SIGKILL)
    try:
        for _ in range(10_000):
            next(batches)
    except RuntimeError as error:
        assert "exited unexpectedly" in str(error), error
    else:
        sys.exit("nobody missed the worker")
    assert torch.equal(kept[:, 0], torch.tensor([8.0, 9.0, 10.0, 11.0])), kept[:, 0]
    assert torch.equal(kept[:, 0], kept[:, -1])
    print("kept")
"""


@pytest.mark.timeout(150)
def test_batches_stay_valid_when_the_worker_is_killed_and_nothing_is_left(tmp_path: Path) -> None:
    before = segment_names()
    program = tmp_path / "trainer.py"
    program.write_text(TRAINER)
    assert run_python(RUN, program, timeout_s=120).stdout == "kept\n"
    wait_until(lambda: segment_names() <= before)
