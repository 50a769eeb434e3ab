"""A baseline without a model: the balance of positive and negative words of a short list of our own."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

POSITIVE = (
    r"\b(?:beats?|gain(?:s|ed)?|rises?|rose|rising|rall(?:y|ies|ied)|surge[sd]?|jump(?:s|ed)?|soar(?:s|ed)?|climb(?:s|ed)?"
    r"|up|high(?:er)?|record|strong(?:er)?|grow(?:s|th)?|grew|profit(?:s|able)?|upgrade[sd]?|outperform|buy|bullish"
    r"|long|calls|breakout|boost(?:s|ed)?|wins?|won|approv(?:al|ed)|exceed(?:s|ed)?|improve[sd]?)\b"
    "|上涨|大涨|涨停|利好|增长|盈利|新高|看好|买入"
)
NEGATIVE = (
    r"\b(?:miss(?:es|ed)?|loss(?:es)?|falls?|fell|falling|drop(?:s|ped)?|decline[sd]?|plunge[sd]?|slump(?:s|ed)?|sinks?"
    r"|sank|slid(?:es?)?|down|low(?:er)?|weak(?:er)?|downgrade[sd]?|underperform|sell|bearish|short|puts"
    r"|crash(?:es|ed)?|cuts?|warn(?:s|ed|ing)?|lawsuit|fraud|bankruptcy|recall|layoffs?|risks?|fears?|default)\b"
    "|下跌|大跌|跌停|利空|下滑|亏损|新低|看空|卖出"
)
"""Regular expressions, as RE2 reads them; Chinese words are found anywhere."""


def lexicon_polarity(texts: pa.Array) -> NDArray[np.float64]:
    """Return (positive − negative) / (positive + negative) words of each text (R,), 0 without any of them.

    Examples:
        >>> lexicon_polarity(pa.array(["Profits rose", "Shares fell on weak sales, profit up", "A meeting"])).tolist()
        [1.0, 0.0, 0.0]
    """
    lower = pc.utf8_lower(texts)
    positive, negative = _count(lower, POSITIVE), _count(lower, NEGATIVE)
    total = positive + negative
    return np.divide(positive - negative, total, out=np.zeros(len(total)), where=total > 0)


def _count(texts: pa.Array, words: str) -> NDArray[np.float64]:
    return np.asarray(pc.count_substring_regex(texts, words).to_numpy(zero_copy_only=False), float)
