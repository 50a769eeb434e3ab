"""Claims about StockNet's files: labels follow the return after the session for which a tweet counts."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]


def write_clone(folder: Path) -> None:
    """Write three tweets about a ticker, and closes that rise by 1 % to the 7th of January 2014 and fall after it."""
    tweets = [
        ("Mon Jan 06 20:00:00 +0000 2014", ["$", "aaa", "up", "URL"]),  # counts for the 6th
        ("Mon Jan 06 21:00:01 +0000 2014", ["AT_USER", "$", "aaa", "now"]),  # after the close, for the 7th
        ("Tue Jan 07 22:00:00 +0000 2014", ["flat"]),  # for the 8th
    ]
    path = folder / "tweet" / "preprocessed" / "AAA" / "2014-01-06"
    path.parent.mkdir(parents=True)
    lines = [json.dumps({"text": words, "created_at": time, "user_id_str": "1"}) for time, words in tweets]
    path.write_text("\n".join(lines), encoding="utf-8")
    (folder / "price" / "raw").mkdir(parents=True)
    closes = {"2014-01-06": 100, "2014-01-07": 101, "2014-01-08": 99.99, "2014-01-09": 100}
    rows = [f"{day},0,0,0,{close},{close},0" for day, close in closes.items()]
    text = "\n".join(["Date,Open,High,Low,Close,Adj Close,Volume", *rows])
    (folder / "price" / "raw" / "AAA.csv").write_text(text, encoding="utf-8")


def test_tweets_are_labelled_by_the_return_after_their_session(tmp_path: Path) -> None:
    write_clone(tmp_path / "clone")
    words = [sys.executable, str(ROOT / "benchmarks" / "stocknet.py"), str(tmp_path / "clone"), str(tmp_path / "out")]
    subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
    tweets = pd.read_csv(tmp_path / "out" / "tweets.csv", keep_default_na=False)
    assert tweets["text"].tolist() == ["$aaa up", "@user $aaa now", "flat"]
    assert tweets["label"].tolist() == ["rise", "fall", ""]
    assert tweets["published_at"].tolist()[0] == "2014-01-06T20:00:00+00:00"
    assert len(pd.read_csv(tmp_path / "out" / "labelled.csv")) == 2
    assert pd.read_csv(tmp_path / "out" / "prices.csv")["close"].tolist() == [100, 101, 99.99, 100]
