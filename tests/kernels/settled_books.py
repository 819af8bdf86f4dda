"""Books and queries whose decisions refinement may change, and those where it cannot, for the tests of settling."""

import torch
from torch.nn import functional as F

from tests.kernels.books import Book, crowd


def near_the_threshold(seed: int, keys: int, width: int, gamma: float, above: float) -> tuple[Book, torch.Tensor]:
    """Return a crowd and queries about a threshold which lies between a query's first and its refined score.

    Parameters
    ----------
    above
        By how much a score has to be higher to be certain.
    """
    book = crowd(seed, keys, width, 0.4)
    book.gamma, book.steps = gamma, 1
    generator = torch.Generator().manual_seed(seed + 1000)
    cosines = torch.tensor([0.2, 0.6, 0.7, 0.8, 0.82, 0.9, 0.97, 1.0])[:, None]
    noise = F.normalize(torch.randn(8, width, generator=generator), dim=-1)
    chosen = book.keys[book.rows[torch.randint(keys, (8,), generator=generator)]]
    queries = F.normalize(cosines * chosen + (1.0 - cosines**2).sqrt() * noise, dim=-1)
    refined = float(book.scores(queries)[4].max())
    first = float((queries[4] @ book.keys[book.rows].T).max())
    book.threshold = (refined + first) / 2.0
    book.sure_above = book.threshold + above
    return book, queries
