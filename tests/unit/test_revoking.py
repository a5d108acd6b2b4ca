"""What was not delivered is taken back one by one, whatever has become of the others."""

import torch

from shmtransport import Reader, Ring
from shmtransport.endpoint import revoke_all
from shmtransport.handles import Handle


def test_an_end_that_was_closed_does_not_keep_the_others() -> None:
    with (
        Ring.create("1MiB") as closed,
        Ring.create("1MiB") as ring,
        Reader.join(closed.id),
        Reader.join(ring.id) as own,
    ):
        stuck = closed.share(torch.ones(1000), closed)
        taken_back, limited = (ring.share(torch.ones(1000), own) for _ in range(2))
        assert isinstance(stuck, Handle)
        assert isinstance(taken_back, Handle)
        assert isinstance(limited, Handle)
        closed.close()
        revoke_all([(closed, stuck, None), (ring, taken_back, None), (ring, limited, [own.peer_id])])
        assert not ring.revoke(taken_back), "it is still on its way"
        assert not ring.revoke(limited), "it is still on its way"
        assert ring.statistics().writer.revoked == 2
