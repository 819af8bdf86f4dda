"""Messages made from what a user filled in."""

import pytest

from horen_vllm.control import convert
from horen_vllm.control._pb.horen.v1 import codebooks_pb2
from horen_vllm.errors import InvalidArgument


def test_a_number_that_fits_no_field_is_an_invalid_argument() -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.message_of(codebooks_pb2.RollbackCodebookRequest, name="x", to_revision=1 << 70)
    assert caught.value.code == "number_out_of_range"
