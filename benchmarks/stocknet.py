"""Dated tweets and adjusted closes from a clone of the StockNet dataset, for `moe sweep --folds` and `moe signal`.

git clone https://github.com/yumoxu/stocknet-dataset
python benchmarks/stocknet.py stocknet-dataset OUT --rows 4800
moe sweep configs/real/sweep_stocknet.yaml --set data.folder=OUT
moe infer --file OUT/tweets.csv --keep ticker --keep published_at --out answers.parquet
moe signal answers.parquet --prices OUT/prices.csv --adjusted --time-column published_at --out-dir signal

A tweet is labelled by its ticker's return from the close of the session for which it counts to the next close: a rise
of at least 0.55 %, a fall of at least 0.5 % (Xu and Cohen, ACL 2018). Tweets before other returns have no label. The
data is not shipped: tweets are under Twitter's terms.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from moe.signals.sessions import Sessions, open_sessions

START, END = "2013-06-03", "2016-04-29"
RISE, FALL = 0.0055, -0.005


def read_tweets(clone: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the ticker, time and text of every tweet; links and the spaces before tickers are removed."""
    for path in sorted((clone / "tweet" / "preprocessed").glob("*/*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            tweet = json.loads(line)
            words = [word for word in tweet["text"] if word != "URL"]
            text = re.sub(r"\$ (?=\w)", "$", " ".join(words)).replace("AT_USER", "@user")
            yield path.parent.name, tweet["created_at"], text


def read_closes(clone: Path, sessions: Sessions) -> pd.DataFrame:
    """Adjusted closes by session and ticker."""
    frames = [
        pd.read_csv(path, parse_dates=["Date"]).assign(ticker=path.stem)
        for path in sorted((clone / "price" / "raw").glob("*.csv"))
    ]
    closes = pd.concat(frames).pivot(index="Date", columns="ticker", values="Adj Close")
    return closes.reindex(sessions.dates)


def label_of(change: float) -> str:
    """Label of a return; empty between the thresholds and without one."""
    return "rise" if change >= RISE else "fall" if change <= FALL else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="clone of the dataset")
    parser.add_argument("out", type=Path, help="folder for tweets.csv and prices.csv")
    parser.add_argument("--rows", type=int, help="random sample of tweets; default: all")
    parser.add_argument("--tickers", type=int, help="only the tickers with most tweets; default: all")
    parser.add_argument("--since", default="2014-01-01", help="first day of the tweets")
    options = parser.parse_args()
    sessions = open_sessions("XNYS", pd.Timestamp(START).date(), pd.Timestamp(END).date())
    closes = read_closes(options.clone, sessions)
    tweets = pd.DataFrame(read_tweets(options.clone), columns=["ticker", "time", "text"])
    tweets["time"] = pd.to_datetime(tweets["time"], format="%a %b %d %H:%M:%S %z %Y")
    tweets = tweets[(tweets["time"] >= pd.Timestamp(options.since, tz="UTC")) & tweets["ticker"].isin(closes.columns)]
    if options.tickers:
        tweets = tweets[tweets["ticker"].isin(tweets["ticker"].value_counts().index[: options.tickers])]
    if options.rows:
        tweets = tweets.sample(min(options.rows, len(tweets)), random_state=13)
    tweets = tweets.sort_values("time", kind="stable").reset_index(drop=True)
    changes = (closes.shift(-1) / closes - 1).stack()
    pairs = zip(sessions.dates[sessions.assign(tweets["time"])], tweets["ticker"], strict=True)
    tweets["label"] = [label_of(changes.get(pair, float("nan"))) for pair in pairs]
    tweets["published_at"] = tweets.pop("time").map(pd.Timestamp.isoformat)
    tweets.insert(0, "id", [f"stocknet-{number}" for number in tweets.index])
    options.out.mkdir(parents=True, exist_ok=True)
    tweets.to_csv(options.out / "tweets.csv", index=False)
    tweets[tweets["label"] != ""].to_csv(options.out / "labelled.csv", index=False)
    prices = closes.rename_axis("date").reset_index().melt("date", var_name="ticker", value_name="close").dropna()
    prices[["ticker", "date", "close"]].to_csv(options.out / "prices.csv", index=False)
    print(f"{len(tweets):,} tweets about {tweets['ticker'].nunique()} tickers; {dict(tweets['label'].value_counts())}")


if __name__ == "__main__":
    main()
