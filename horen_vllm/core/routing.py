"""Routing spaces: the maps from sums of site inputs, and from words, to unit queries.

The paper's space is the identity: a query is the direction of the averaged site inputs (section 2.2). A fitted space
subtracts the mean of background prompts and whitens, so that what all prompts share no longer decides; it may be
joined with a block of hashed word n-grams.
Shapes: B queries, D width of the site's input, r width of the fitted space, H word buckets.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from horen_vllm.core.refine import Reduce, unit, whole


@dataclass(frozen=True, slots=True)
class RoutingSpace:
    """A fitted space.

    Attributes
    ----------
    mean
        [D] float32, mean of the background's averaged site inputs.
    matrix
        [r, D] float32, whitening (after a projection, where r < D).
    rarity
        [R] float32 >= 0, weight of a word n-gram by its hash, always on the CPU; empty where words have no part in the
        space. Far more than H, or a rare name would share the weight of a common word.
    word_share
        Share of the words in a score, in [0, 1): the other part is the cosine of the whitened inputs.
    order
        Longest word n-gram, in words.
    word_buckets
        H: columns that the word n-grams are hashed to; 0 where words have no part in the space.
    """

    mean: torch.Tensor
    matrix: torch.Tensor
    rarity: torch.Tensor
    word_share: float = 0.0
    order: int = 1
    word_buckets: int = 0

    @property
    def width(self) -> int:
        """Width of a query: r + H."""
        return self.matrix.shape[0] + self.word_buckets

    @property
    def reads_words(self) -> bool:
        """Whether a query needs the text of its prompt."""
        return self.word_buckets > 0

    def columns(self, first: int, stop: int) -> "RoutingSpace":
        """Return the part of the space that a rank with these columns of the site's input applies."""
        return replace(self, mean=self.mean[first:stop], matrix=self.matrix[:, first:stop])


def unit_queries(
    sums_BD: torch.Tensor,
    counts_B: torch.Tensor,
    space: RoutingSpace | None = None,
    reduce: Reduce = whole,
) -> torch.Tensor:
    """Return unit queries [B, D], or [B, r] in a fitted space, from sums of site inputs, without any words.

    Rows are independent. Editor and server both call this. Section 2.2: ``q0 = normalize(select(H_in))``.

    Parameters
    ----------
    sums_BD
        [B, D] float32, sums over the query windows.
    counts_B
        [B] number of summed tokens, at least 1; without a space the division changes no direction and is left out.
    space
        None for the identity. Where the width is sharded, the rank's own columns of it.
    reduce
        As in `core.refine`.
    """
    if space is None:
        return unit(sums_BD.float(), reduce)
    centred_BD = sums_BD.float() / counts_B[:, None].float() - space.mean
    # One row at a time: a matrix product's rounding may depend on how many rows it has.
    rows = [torch.mv(space.matrix, row) for row in centred_BD]
    whitened_Br = torch.stack(rows) if rows else sums_BD.new_empty(0, space.matrix.shape[0])
    return F.normalize(reduce(whitened_Br), dim=-1)


def joined_queries(dense_Br: torch.Tensor, words_BH: torch.Tensor, share: float) -> torch.Tensor:
    """Return unit queries [B, r + H] whose scores are ``(1 - share) dense + share words``.

    A prompt without words has a zero row in `words_BH`; its query is the dense one alone.
    """
    joined_BW = torch.cat([dense_Br * math.sqrt(1.0 - share), words_BH * math.sqrt(share)], dim=-1)
    return F.normalize(joined_BW, dim=-1)


def word_vector(words: Sequence[str], space: RoutingSpace) -> torch.Tensor:
    """Return the unit vector [H] of a prompt's word n-grams, on the CPU; zero for a prompt of no weight."""
    vector = torch.zeros(space.word_buckets)
    found = list(hashed_grams(words, space.order))
    if found:
        hashes = torch.tensor(found)
        signs = 2.0 * (hashes & 1) - 1.0
        weights = space.rarity[(hashes >> 32) % space.rarity.shape[0]]
        vector.index_add_(0, (hashes >> 1) % space.word_buckets, weights * signs)
    return F.normalize(vector, dim=0)


def hashed_grams(words: Sequence[str], order: int) -> Iterator[int]:
    """Yield a hash (0 to 2^62) of each distinct n-gram of `words`, in a fixed order.

    Its lowest bit is the sign, the bits above that choose the bucket, and those from 32 on the rarity.
    """
    grams = {" ".join(words[at : at + n]) for n in range(1, order + 1) for at in range(len(words) - n + 1)}
    for gram in sorted(grams):
        yield int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little") >> 2
