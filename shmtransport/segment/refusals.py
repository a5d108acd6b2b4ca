"""What the host refuses, as errors of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from shmtransport.errors import SegmentError, ShmTransportError


@contextmanager
def host_errors(doing: str) -> Iterator[None]:
    """Any OSError in the block becomes a `SegmentError` with its number, which says what was being done."""
    try:
        yield
    except ShmTransportError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        message = f"cannot {doing}: {error.strerror or error}{where}"
        raise (SegmentError(message) if error.errno is None else SegmentError(error.errno, message)) from error
