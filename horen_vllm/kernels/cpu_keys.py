"""Route's loops over the keys on a CPU: a few keys for a few queries at a time, in vectors whose order is fixed here.

What is summed over the width goes lane by lane into fused products, which no compiler reorders, and then lane to lane,
halves first. So a query and a key have one product, to the bit, wherever they stand and whoever else is there.
While a few keys are read, memory is asked for those that follow: what a processor asks for by itself ends at each page.
Arrays are C-contiguous, of float32 and int64; others are refused. Nothing holds the interpreter's lock.
Shapes: B queries, P rows of the key buffer, N keys, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from horen_vllm.kernels.cpu_compile import Array, compiled

LANES: Final = 16
"""Numbers of a vector: one register of AVX-512, two of AVX2."""
TOGETHER: Final = 4
"""Keys that are scored at once, and queries where there are as many."""
PAIR: Final = 2
"""Keys of `NARROW` numbers at most that one query adds up while the next two are scored; four of others."""
NARROW: Final = 1024
"""Up to this width two keys, the next two, the query and its sum fit into a core's first cache; twice four do not."""
STREAMED: Final = 1 << 22
"""Numbers from which on keys of `NARROW` numbers at most are scored one by one for a query: memory is faster so."""
AHEAD: Final = 4096
"""Numbers that memory is asked for in advance, for each key; of the keys after the next where those are narrower."""
_RECENT: Final = 256
"""Keys that are added up by themselves, and then to the others: a sum of long chains would lose its last digits."""
_ZERO: Final = np.float32(0.0)
_BYTE, _INT, _INDEX = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_NUMBERS: Final = tuple(types.Array(types.float32, 2, "C", readonly=readonly) for readonly in (False, True))
_SECOND_CACHE: Final = 2
"""Where what is asked in advance goes: it would push what is in use out of the first one."""


class _Tile:
    """The loop over the width that scores keys for queries, and may add others to the queries' sums, as it is made.

    Parameters
    ----------
    builder
        Takes the instructions.
    width
        Of a query, of a key and of a sum.
    queries, keys, coming
        Where each begins; `coming` are the keys after these.
    sums, added, weights
        Where the sums begin, if any, and the keys that are added to them, and each query's weights for these.
    """

    def __init__(
        self, builder: Any, width: Any, queries: Sequence[Any], keys: Sequence[Any], coming: Sequence[Any],
        sums: Sequence[Any], added: Sequence[Any], weights: Sequence[Sequence[Any]],
    ) -> None:  # fmt: skip
        self._builder, self._width, self._queries, self._keys = builder, width, queries, keys
        ahead = _lower(builder, width, _INDEX(AHEAD))
        self._edge = builder.sub(width, ahead)
        self._further = [builder.gep(key, [ahead]) for key in keys]
        self._coming = [builder.gep(key, [builder.neg(self._edge)]) for key in coming]
        self._scores = [[self._zero() for _ in keys] for _ in queries]
        self._sums, self._added = sums, added
        self._weights = [[self._everywhere(weight, _VECTOR) for weight in row] for row in weights]

    def run(self) -> list[list[Any]]:
        """Make the loop, and return the scores of each query."""
        builder = self._builder
        whole = builder.and_(self._width, _INDEX(-LANES))
        with cgutils.for_range_slice(builder, _INDEX(0), whole, _INDEX(LANES)) as (at, _):
            self._ask_ahead(at)
            self._step(at, None)
        with builder.if_then(builder.icmp_signed("<", whole, self._width)):
            lanes = ir.VectorType(_INDEX, LANES)
            left = self._everywhere(builder.sub(self._width, whole), lanes)
            self._step(whole, builder.icmp_signed("<", ir.Constant(lanes, list(range(LANES))), left))
        return [[self._over_lanes(builder.load(score)) for score in row] for row in self._scores]

    def _step(self, at: Any, mask: Any) -> None:
        """Take the vectors at one place of the width; of the lanes outside of a mask none is touched."""
        builder = self._builder
        keys, added = ([self._load(key, at, mask) for key in some] for some in (self._keys, self._added))
        for row, query in enumerate(self._queries):
            asked = self._load(query, at, mask)
            for key, score in zip(keys, self._scores[row], strict=True):
                builder.store(self._fused(asked, key, builder.load(score)), score)
            if self._sums:
                total = self._load(self._sums[row], at, mask)
                for key, weight in zip(added, self._weights[row], strict=True):
                    total = self._fused(weight, key, total)
                self._store(total, self._sums[row], at, mask)

    def _ask_ahead(self, at: Any) -> None:
        near = self._builder.icmp_signed("<", at, self._edge)
        for further, coming in zip(self._further, self._coming, strict=True):
            place = self._builder.gep(self._builder.select(near, further, coming), [at])
            place = self._builder.bitcast(place, _BYTE.as_pointer())
            _call(self._builder, "llvm.prefetch.p0", ir.VoidType(), place, _INT(0), _INT(_SECOND_CACHE), _INT(1))

    def _zero(self) -> Any:
        place = cgutils.alloca_once(self._builder, _VECTOR)
        self._builder.store(_VECTOR([0.0] * LANES), place)
        return place

    def _place(self, start: Any, at: Any) -> Any:
        return self._builder.bitcast(self._builder.gep(start, [at]), _VECTOR.as_pointer())

    def _load(self, start: Any, at: Any, mask: Any) -> Any:
        place = self._place(start, at)
        if mask is None:
            return self._builder.load(place, align=4)
        return _call(
            self._builder, f"llvm.masked.load.v{LANES}f32.p0", _VECTOR, place, _INT(4), mask, _VECTOR([0.0] * LANES)
        )

    def _store(self, vector: Any, start: Any, at: Any, mask: Any) -> None:
        place = self._place(start, at)
        if mask is None:
            self._builder.store(vector, place, align=4)
        else:
            name = f"llvm.masked.store.v{LANES}f32.p0"
            _call(self._builder, name, ir.VoidType(), vector, place, _INT(4), mask)

    def _fused(self, one: Any, other: Any, added: Any) -> Any:
        """``one * other + added``, rounded once."""
        return _call(self._builder, f"llvm.fma.v{LANES}f32", _VECTOR, one, other, added)

    def _everywhere(self, number: Any, kind: Any) -> Any:
        first = self._builder.insert_element(kind(ir.Undefined), number, _INT(0))
        return self._builder.shuffle_vector(first, first, ir.VectorType(_INT, LANES)([0] * LANES))

    def _over_lanes(self, vector: Any) -> Any:
        count = LANES
        while count > 1:
            half, kind = count // 2, ir.VectorType(_INT, count // 2)
            halves = (kind(list(range(start, start + half))) for start in (0, half))
            # numba lets sums be reordered that have no flag of their own. There is no product here to contract.
            vector = self._builder.fadd(
                *(self._builder.shuffle_vector(vector, vector, lanes) for lanes in halves), flags=("contract",)
            )
            count = half
        return self._builder.extract_element(vector, _INT(0))


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _lower(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


class _Arguments:
    """What a generated function was called with: arrays and numbers, and where parts of them lie."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> None:
        self._builder = builder
        self._values = [
            context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values, strict=True)
        ]

    def width(self, array: int) -> Any:
        """Return the length of an array's last dimension."""
        return cgutils.unpack_tuple(self._builder, self._values[array].shape)[-1]

    def row(self, array: int, number: Any) -> Any:
        """Return where a row of an array begins."""
        return self._builder.gep(self._values[array].data, [self._builder.mul(number, self.width(array))])

    def after(self, argument: int, more: int) -> Any:
        """Return an argument that is a number, plus `more`."""
        return self._builder.add(self._values[argument], _INDEX(more))

    def key(self, keys: int, rows: int, number: Any) -> Any:
        """Return where the key of a number begins."""
        return self.row(keys, self._builder.load(self._builder.gep(self._values[rows].data, [number])))

    def loaded(self, start: Any, count: int) -> list[Any]:
        """Return so many numbers from a place on."""
        return [self._builder.load(self._builder.gep(start, [_INDEX(place)])) for place in range(count)]


def _tile(queries: int, keys: int, *, adds: bool) -> Any:
    """Return a function for compiled loops that scores `keys` keys for `queries` queries, and `adds` those before them.

    Called as ``tile(batch, first, buffer, rows, where, stop, scores, sums, weights)``: the queries from `first` on; the
    keys from `where` on are scored, or added, and those after them scored. A key past the last one, ``stop - 1``, is
    the last one again. Without `adds` the last two are not looked at.
    """

    @intrinsic
    def tile(
        _context: Any, batch: Any, first: Any, buffer: Any, rows: Any, where: Any, stop: Any, scores: Any,
        sums: Any, weights: Any,
    ) -> Any:  # fmt: skip
        numbers = (batch, buffer, scores, sums, weights)
        if rows != types.Array(types.int64, 1, "C") or any(it not in _NUMBERS for it in numbers):
            raise TypingError("keys, queries, scores and sums have to be C-contiguous float32, and rows int64")
        signature = types.void(batch, first, buffer, rows, where, stop, scores, sums, weights)
        return signature, _generated(queries, keys, adds=adds)

    return tile


def _generated(queries: int, keys: int, *, adds: bool) -> Callable[..., Any]:
    """Return what writes the instructions of `_tile`'s function."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        batch, first, buffer, rows, where, stop, scores, sums, weights = range(len(values))
        given = _Arguments(context, builder, signature, values)
        last, before = given.after(stop, -1), keys if adds else 0
        places = [_lower(builder, given.after(where, more), last) for more in range(before + 2 * keys)]
        starts = [given.key(buffer, rows, place) for place in places]
        members = [given.after(first, row) for row in range(queries)]
        found = _Tile(
            builder,
            given.width(buffer),
            [given.row(batch, row) for row in members],
            starts[before : before + keys],
            starts[before + keys :],
            [given.row(sums, row) for row in members] if adds else [],
            starts[:before],
            [given.loaded(given.row(weights, _INDEX(row)), before) for row in range(queries)],
        ).run()
        for row, own in zip(members, found, strict=True):
            for place, score in zip(places[before : before + keys], own, strict=True):
                builder.store(score, builder.gep(given.row(scores, row), [place]))
        return context.get_dummy_value()

    return generate


_score_next = _tile(1, 1, adds=False)
_score_one = _tile(1, TOGETHER, adds=False)
_score_many = _tile(TOGETHER, TOGETHER, adds=False)
_step_narrow = _tile(1, PAIR, adds=True)
_step_one = _tile(1, TOGETHER, adds=True)
_step_many = _tile(TOGETHER, TOGETHER, adds=True)


@compiled
def score_keys(queries: Array, keys: Array, rows: Array, start: int, stop: int, scores: Array) -> None:
    """Write the products of all queries [B, D] float32 and the keys `start` to `stop` into `scores` [B, N] float32.

    The keys are the rows `rows` [N] int64 of `keys` [P, D] float32. The product of a query and a key has the same bits
    wherever the two stand, and whoever else is there.
    """
    many = queries.shape[0] - queries.shape[0] % TOGETHER
    streamed = queries.shape[1] <= NARROW and (stop - start) * queries.shape[1] >= STREAMED
    for where in range(start, stop, TOGETHER):
        for row in range(0, many, TOGETHER):
            _score_many(queries, row, keys, rows, where, stop, scores, queries, queries)
        for row in range(many, queries.shape[0]):
            if not streamed:
                _score_one(queries, row, keys, rows, where, stop, scores, queries, queries)
                continue
            for place in range(where, min(where + TOGETHER, stop)):
                _score_next(queries, row, keys, rows, place, stop, scores, queries, queries)


@compiled
def _weigh(
    scores: Array, row: int, where: int, stop: int, beta: float, sums: Array, recent: Array, tops: Array,
    weights: Array,
) -> None:  # fmt: skip
    """Write a query's weights of the keys from `where` on; a score above its top becomes the top."""
    highest = tops[row]
    for key in range(where, min(where + weights.shape[0], stop)):
        highest = max(highest, scores[row, key])
    if highest > tops[row]:
        sums[row] *= np.exp(beta * (tops[row] - highest))
        recent[row] *= np.exp(beta * (tops[row] - highest))
        tops[row] = highest
    for place in range(weights.shape[0]):
        weights[place] = np.exp(beta * (scores[row, where + place] - highest)) if where + place < stop else _ZERO


@compiled
def sweep_keys(
    queries: Array, keys: Array, rows: Array, beta: float, start: int, stop: int, scores: Array, sums: Array,
    tops: Array,
) -> None:  # fmt: skip
    """Write scores as `score_keys` does, and add the weighted keys to `sums` [B, D] float32.

    A key's weight is ``exp(beta (s - top))``. A query's top is the one in `tops` [B] float32, or its highest score so
    far where that is higher; what was added before is then brought to it. Where a top rises depends on how many keys
    are weighed at once, so queries of narrow keys that have none (minus infinity) go one by one, like those left over.
    """
    count, weighed = sums.shape[0], PAIR if queries.shape[1] <= NARROW else TOGETHER
    many = count - count % TOGETHER if weighed == TOGETHER or tops.min() > -np.inf else 0
    weights, recent = np.empty((TOGETHER, TOGETHER), np.float32), np.zeros_like(sums)
    score_keys(queries, keys, rows, start, min(start + TOGETHER, stop), scores)
    for where in range(start, stop, TOGETHER):
        for first in range(0, many, TOGETHER):
            for row in range(TOGETHER):
                for place in range(0, TOGETHER, weighed):
                    own = weights[row, place : place + weighed]
                    _weigh(scores, first + row, where + place, stop, beta, sums, recent, tops, own)
            _step_many(queries, first, keys, rows, where, stop, scores, recent, weights)
        for row in range(many, count):
            if weighed == TOGETHER:
                _weigh(scores, row, where, stop, beta, sums, recent, tops, weights[0])
                _step_one(queries, row, keys, rows, where, stop, scores, recent, weights)
                continue
            for place in range(where, min(where + TOGETHER, stop), PAIR):
                _weigh(scores, row, place, stop, beta, sums, recent, tops, weights[0, :PAIR])
                _step_narrow(queries, row, keys, rows, place, stop, scores, recent, weights)
        if (where - start) % _RECENT == _RECENT - TOGETHER or where + TOGETHER >= stop:
            sums += recent
            recent[:] = _ZERO
