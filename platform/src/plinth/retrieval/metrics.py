"""How good a ranking is, by judgements. Pure.

As trec_eval counts: the gain of a document is its judgement itself (linear, not 2^n - 1; BEIR's numbers are made this
way), what nobody judged counts 0, and judgements below 1 are not relevant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def ndcg(ranking: Sequence[str], judged: Mapping[str, int], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k (Järvelin and Kekäläinen 2002), 0 to 1.

    Args:
        ranking: Ids, best first, each once.
        judged: Id to judgement.
        k: How far down is looked.
    """
    best = _dcg(sorted(judged.values(), reverse=True)[:k])
    return _dcg([judged.get(item, 0) for item in ranking[:k]]) / best if best else 0.0


def recall(ranking: Sequence[str], judged: Mapping[str, int], k: int = 100) -> float:
    """Share of the relevant that is among the first k, 0 to 1."""
    relevant = {item for item, judgement in judged.items() if judgement > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], judged: Mapping[str, int], k: int = 100) -> float:
    """1 over the place of the first relevant among the first k; 0 if none is. Its mean is the MRR."""
    return next((1 / place for place, item in enumerate(ranking[:k], 1) if judged.get(item, 0) > 0), 0.0)


def _dcg(gains: Sequence[int]) -> float:
    return sum(max(gain, 0) / math.log2(place + 1) for place, gain in enumerate(gains, 1))
