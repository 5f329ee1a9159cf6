"""A layout that says more than today's must not rename the models that do without it."""

import hashlib

import msgpack
import pytest

from wire_contract import codec
from wire_contract.errors import DecodeError
from wire_contract.layout import FINGERPRINT_BYTES, Layout, TensorSpec
from wire_contract.messages import Model


class LaterSpec(TensorSpec, frozen=True, array_like=True, forbid_unknown_fields=True):
    """As a later contract may have it."""

    role: str = ""
    group: int = 0


def fingerprint_of(*written: list[object]) -> bytes:
    return hashlib.sha256(msgpack.packb([list(written)])).digest()[:FINGERPRINT_BYTES]


def later_model(*specs: LaterSpec) -> Model:
    layout = Layout(specs)
    return Model(task="t", version=0, parent=None, layout=layout.tensors, tensors=(), digest=bytes(32))


def test_a_later_field_enters_the_fingerprint_only_where_it_is_set() -> None:
    plain = Layout((LaterSpec("a", (2, 3)), LaterSpec("b", ())))
    assert plain.fingerprint == Layout((TensorSpec("a", (2, 3)), TensorSpec("b", ()))).fingerprint
    assert plain.fingerprint == fingerprint_of(["a", [2, 3], "float32"], ["b", [], "float32"])
    marked = Layout((LaterSpec("a", (2, 3), role="embedding"), LaterSpec("b", ())))
    assert marked.fingerprint == fingerprint_of(["a", [2, 3], "float32", "weight", "embedding"], ["b", [], "float32"])
    grouped = Layout((LaterSpec("a", (2, 3), group=7),))
    assert grouped.fingerprint == fingerprint_of(["a", [2, 3], "float32", "weight", "", 7])


def test_today_reads_a_later_layout_without_its_fields_and_refuses_one_with_them_by_name() -> None:
    plain = codec.decode(codec.encode(later_model(LaterSpec("a", (2,)))), Model)
    assert plain.layout == (TensorSpec("a", (2,)),)
    with pytest.raises(DecodeError, match="a tensor with 5 fields is not known here"):
        codec.decode(codec.encode(later_model(LaterSpec("a", (2,), role="embedding"))), Model)
