"""Every element type of torch and numpy crosses the ring bit for bit, in any shape and stride, by handle and inline.

Bytes are compared, not values: NaN payloads, negative zeros and padding bits are part of a tensor.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from shmtransport import Handle, Inline, Reader, Ring, UnsupportedTypeError, dtypes
from shmtransport.handles import HANDLE_MAGIC
from tests.peers import join_as_if_another_process
from tests.unit.peers import opened, shared

Array = npt.NDArray[np.generic]

TORCH = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)
QUANTIZED = [dtype for dtype in TORCH if "qint" in str(dtype) or "quint" in str(dtype)]
PLAIN = [dtype for dtype in TORCH if dtype not in QUANTIZED]
NUMPY = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"]


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="16MiB", segment="4MiB") as ring:
        yield ring


@pytest.fixture
def reader(ring: Ring) -> Iterator[Reader]:
    with join_as_if_another_process(ring.id) as reader:
        yield reader


def noise(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Any bits at all; for bool those that a bool may have."""
    count = int(np.prod(shape))
    generator = np.random.default_rng(len(str(dtype)) + count)
    raw = generator.integers(0, 2 if dtype == torch.bool else 256, count * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).view(shape)


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Of a tensor in C order."""
    assert tensor.is_contiguous()
    return tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def through(ring: Ring, reader: Reader, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` put, shared and opened by handle."""
    backed = ring.put(tensor)
    assert ring.holds(backed)
    handle = shared(ring, backed, reader)
    assert handle.nbytes == tensor.nbytes
    return opened(reader, handle)


def test_the_table_knows_every_dtype_that_torch_has_except_quantized_ones() -> None:
    assert set(PLAIN) == set(dtypes.OF_TORCH)
    assert len(PLAIN) >= 20


@pytest.mark.parametrize("dtype", PLAIN, ids=str)
def test_every_torch_dtype_arrives_bit_for_bit(ring: Ring, reader: Reader, dtype: torch.dtype) -> None:
    sent = noise((5, 7, 3), dtype)
    got = through(ring, reader, sent)
    assert (got.dtype, got.shape) == (dtype, sent.shape)
    assert bytes_of(got) == bytes_of(sent)


@pytest.mark.parametrize("dtype", PLAIN, ids=str)
def test_every_torch_dtype_arrives_bit_for_bit_inline(ring: Ring, reader: Reader, dtype: torch.dtype) -> None:
    sent = noise((5, 7, 3), dtype)
    inline = ring.share(sent, "0" * 32)  # nobody has this id
    assert isinstance(inline, Inline)
    got = opened(reader, inline)
    assert (got.dtype, got.shape) == (dtype, sent.shape)
    assert bytes_of(got) == bytes_of(sent)


@pytest.mark.parametrize("dtype", PLAIN, ids=str)
def test_empty_makes_every_torch_dtype(ring: Ring, reader: Reader, dtype: torch.dtype) -> None:
    filled = ring.empty((4, 6), dtype)
    assert isinstance(filled, torch.Tensor)
    assert (filled.dtype, filled.shape) == (dtype, (4, 6))
    assert ring.holds(filled)
    filled.view(-1).view(torch.uint8).fill_(1)
    assert bytes_of(opened(reader, shared(ring, filled, reader))) == b"\x01" * filled.nbytes


@pytest.mark.parametrize("dtype", QUANTIZED, ids=str)
def test_quantized_dtypes_have_no_place_in_the_ring(ring: Ring, dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedTypeError, match=str(dtype)):
        ring.empty((2, 2), dtype)


def array_of_noise(shape: tuple[int, ...], dtype: str) -> Array:
    """Any bits at all; for bool those that a bool may have."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(nbytes).integers(0, 2 if dtype == "?" else 256, nbytes, dtype=np.uint8)
    array: Array = raw.view(dtype).reshape(shape)
    return array


@pytest.mark.parametrize("dtype", NUMPY)
def test_every_numpy_dtype_arrives_bit_for_bit_as_an_array(ring: Ring, reader: Reader, dtype: str) -> None:
    sent = array_of_noise((5, 7, 3), dtype)
    backed = ring.put(sent)
    assert isinstance(backed, np.ndarray)
    sharing = ring.share(backed, reader)
    assert isinstance(sharing, Handle)
    got = reader.open(bytes(sharing))
    assert isinstance(got, np.ndarray)
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert got.tobytes() == sent.tobytes()


@pytest.mark.parametrize("dtype", NUMPY)
def test_every_numpy_dtype_arrives_bit_for_bit_inline(ring: Ring, reader: Reader, dtype: str) -> None:
    sent = array_of_noise((5, 7, 3), dtype)
    got = reader.open(bytes(ring.share(sent, "0" * 32)))
    assert isinstance(got, np.ndarray)
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert got.tobytes() == sent.tobytes()


def test_empty_makes_arrays_for_numpy_dtypes(ring: Ring) -> None:
    filled = ring.empty((3, 4), np.float32)
    assert isinstance(filled, np.ndarray)
    assert filled.dtype == np.float32
    assert filled.shape == (3, 4)
    assert ring.holds(filled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (2, 1, 3), (3,) * 8, (1,) * 20, (1,) * 64], ids=str)
def test_any_rank_arrives(ring: Ring, reader: Reader, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    sent = noise(shape, dtype)
    got = through(ring, reader, sent)
    assert got.shape == sent.shape
    assert bytes_of(got) == bytes_of(sent)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5), (0,) * 9], ids=str)
def test_a_tensor_without_elements_arrives_without_a_block(ring: Ring, reader: Reader, shape: tuple[int, ...]) -> None:
    before = ring.statistics()
    sent = torch.empty(shape, dtype=torch.bfloat16)
    got = opened(reader, ring.share(ring.put(sent), reader))
    assert (got.dtype, got.shape) == (torch.bfloat16, shape)
    assert ring.empty(shape).shape == shape
    after = ring.statistics()
    assert (after.blocks, after.writer.writes) == (before.blocks, before.writer.writes)


def test_an_array_without_elements_arrives_without_a_block(ring: Ring, reader: Reader) -> None:
    got = reader.open(bytes(ring.share(np.empty((4, 0), np.int16), reader)))
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.int16
    assert got.shape == (4, 0)


def test_a_scalar_array_arrives(ring: Ring, reader: Reader) -> None:
    got = reader.open(bytes(ring.share(np.array(2.5), reader)))
    assert isinstance(got, np.ndarray)
    assert (got.shape, got.item()) == ((), 2.5)


Reshape = Callable[[torch.Tensor], torch.Tensor]
STRIDED: dict[str, Reshape] = {
    "transposed": lambda t: t.transpose(0, 2),
    "permuted": lambda t: t.permute(2, 0, 1),
    "every second": lambda t: t[::2, :, ::2],
    "a column": lambda t: t[:, :, 1],
    "expanded": lambda t: t[:1].expand(6, -1, -1),
    "expanded from one element": lambda t: t[0, 0, 0].expand(3, 4),
    "channels last": lambda t: t[None].contiguous(memory_format=torch.channels_last),
    "flipped": lambda t: t.flip(1).transpose(0, 1),
    "overlapping windows": lambda t: t.contiguous().view(-1).unfold(0, 5, 2),
    "as_strided": lambda t: t.contiguous().as_strided((2, 3), (1, 2), 4),
}


@pytest.mark.parametrize("dtype", PLAIN, ids=str)
@pytest.mark.parametrize("how", STRIDED)
def test_any_strides_are_made_contiguous_by_the_one_copy(
    ring: Ring, reader: Reader, how: str, dtype: torch.dtype
) -> None:
    plain = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}[dtype.itemsize]
    strided = STRIDED[how](noise((4, 6, 4), dtype).view(plain)).view(dtype)
    expected = strided.view(plain).contiguous()
    writes = ring.statistics().writer.writes
    got = through(ring, reader, strided)
    assert ring.statistics().writer.writes == writes + 1
    assert got.shape == strided.shape
    assert got.is_contiguous()
    assert bytes_of(got) == bytes_of(expected)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")  # torch's, once, for resolving a complex32
@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128], ids=str)
def test_a_lazy_conjugate_is_resolved_on_its_way(ring: Ring, reader: Reader, dtype: torch.dtype) -> None:
    plain = torch.complex(torch.arange(12.0), torch.arange(12.0) + 1).view(3, 4).to(dtype)
    for lazy in (plain.conj(), plain.mH, plain.conj()[:, ::2]):
        assert lazy.is_conj()
        for got in (through(ring, reader, lazy), opened(reader, ring.share(lazy, "0" * 32))):
            assert not got.is_conj()
            assert bytes_of(got) == bytes_of(lazy.resolve_conj().contiguous())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_a_lazy_negative_is_resolved_on_its_way(ring: Ring, reader: Reader, dtype: torch.dtype) -> None:
    lazy = torch.complex(torch.arange(12.0), torch.arange(12.0) + 1).to(dtype).conj().imag
    assert lazy.is_neg()
    for got in (through(ring, reader, lazy), opened(reader, ring.share(lazy, "0" * 32))):
        assert not got.is_neg()
        assert bytes_of(got) == bytes_of(lazy.resolve_neg().contiguous())


def test_parts_of_a_complex_tensor_arrive(ring: Ring, reader: Reader) -> None:
    parts = torch.view_as_real(torch.randn(5, 3, dtype=torch.complex64))
    assert torch.equal(through(ring, reader, parts[..., 0]), parts[..., 0])
    assert torch.equal(through(ring, reader, parts), parts)


@pytest.mark.parametrize("how", ["transposed", "every second", "broadcast", "reversed", "fortran", "field"])
@pytest.mark.parametrize("dtype", NUMPY)
def test_any_strides_of_an_array_are_made_contiguous(ring: Ring, reader: Reader, how: str, dtype: str) -> None:
    array = array_of_noise((4, 6, 4), dtype)
    strided = {
        "transposed": array.T,
        "every second": array[::2, :, ::2],
        "broadcast": np.broadcast_to(array[:1], (5, 6, 4)),
        "reversed": array[::-1],
        "fortran": np.asfortranarray(array),
        "field": np.stack([array, array], axis=-1)[..., 1],
    }[how]
    for sharing in (ring.share(strided, reader), ring.share(strided, "0" * 32)):
        got = reader.open(bytes(sharing))
        assert isinstance(got, np.ndarray)
        assert got.shape == strided.shape
        assert got.tobytes() == np.ascontiguousarray(strided).tobytes()


def test_autograd_history_stays_behind(ring: Ring, reader: Reader) -> None:
    leaf = torch.randn(16, requires_grad=True)
    for sent in (leaf, leaf * 2, (leaf * 2).view(4, 4).T, torch.nn.Parameter(torch.randn(4, 4))):
        backed = ring.put(sent)
        assert not backed.requires_grad
        got = opened(reader, ring.share(sent, reader))
        assert not got.requires_grad
        assert torch.equal(got, sent.detach())
        assert torch.equal(opened(reader, ring.share(sent, "0" * 32)), sent.detach())


def test_an_array_from_a_reader_is_read_only_and_one_from_the_writer_is_not(ring: Ring, reader: Reader) -> None:
    backed = ring.put(np.arange(10))
    got = reader.open(bytes(ring.share(backed, reader)))
    assert isinstance(backed, np.ndarray)
    assert isinstance(got, np.ndarray)
    backed[0] = 7
    assert got[0] == 7
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 8


def test_a_read_only_array_can_be_put(ring: Ring, reader: Reader) -> None:
    array = np.arange(10)
    array.flags.writeable = False
    got = reader.open(bytes(ring.share(array, reader)))
    assert np.array_equal(got, array)


def test_an_array_subclass_that_is_a_plain_view_arrives_as_an_array(
    ring: Ring, reader: Reader, tmp_path: pytest.TempPathFactory
) -> None:
    mapped: Array = np.memmap(f"{tmp_path}/pixels", np.float32, "w+", shape=(8, 8))
    mapped[:] = np.arange(64).reshape(8, 8)
    got = reader.open(bytes(ring.share(mapped, reader)))
    assert type(got) is np.ndarray
    assert np.array_equal(got, mapped)


def test_a_handle_up_to_rank_8_is_under_128_bytes(ring: Ring, reader: Reader) -> None:
    for rank in range(9):
        wire = bytes(shared(ring, ring.put(torch.zeros((2,) * rank)), reader))
        assert wire[0] == HANDLE_MAGIC
        assert len(wire) < 128
