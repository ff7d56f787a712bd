"""How much a response repeats itself, for any text."""

NGRAM = 4


def repeated_share(token_ids: list[int]) -> float:
    """The share of a response's 4-grams that stood in it before; 0 where it has fewer than two."""
    ngrams = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
