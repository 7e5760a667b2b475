"""Hashed n-grams of a text: words and characters, each block of length one.

Nothing is learned here, so there is no vocabulary to ship. The hash is MurmurHash3, as
scikit-learn's HashingVectorizer has it; a golden test holds it still.
"""

import html
import re
from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

BUCKETS = 1 << 17  # of each block
counted = partial(
    HashingVectorizer, n_features=BUCKETS, norm=None, alternate_sign=False, dtype=np.float32
)
WORDS = counted(analyzer="word", ngram_range=(1, 2), token_pattern=r"(?u)[\w'*@#$]+|[!?]")
CHARACTERS = counted(analyzer="char_wb", ngram_range=(2, 5))
BLOCKS = ("words", "characters")
MAX_CHARACTERS = 4000


def plain(text: str) -> str:
    """A text without what tells its source: handles, addresses, entities, shouting, stretching."""
    text = html.unescape(text[:MAX_CHARACTERS]).lower().replace("’", "'")
    text = re.sub(r"https?://\S+|www\.\S+", " ", text)
    text = re.sub(r"(?:\brt\b\s*)?@\w+:?", " ", text)
    text = re.sub(r"(.)\1{2,}", r"\1\1", text)
    return " ".join(text.split())


def features(texts: Sequence[str]) -> csr_matrix:
    """Features [n, 2 · BUCKETS] f32: ln(1 + count) by bucket, each block scaled to length one."""
    if not texts:
        return csr_matrix((0, len(BLOCKS) * BUCKETS), dtype=np.float32)
    cleaned = [plain(text) for text in texts]
    blocks = []
    for vectorizer in (WORDS, CHARACTERS):
        counts = vectorizer.transform(cleaned)
        counts.data = np.log1p(counts.data)
        blocks.append(normalize(counts, copy=False))
    return csr_matrix(hstack(blocks, format="csr"))
