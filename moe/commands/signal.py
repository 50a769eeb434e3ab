"""The signal command: predictions with tickers and times to a daily signal and its evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from moe.commands.options import JsonOption, OverwriteFolderOption, SetOption, examples, print_view

app = typer.Typer()


@app.command(
    "signal",
    epilog=examples(
        "moe signal answers.parquet --prices prices.parquet --adjusted --out-dir signal",
        "moe signal answers.csv --prices prices.csv --time-zone America/New_York --set half_life=5 -o signal",
        "moe signal answers.parquet --prices prices.csv --names names.csv --ticker-column entity -o signal",
    ),
)
def signal_(
    answers: Annotated[
        Path,
        typer.Argument(
            help="Predictions of moe infer with a ticker and a time (parquet, csv, jsonl).", show_default=False
        ),
    ],
    prices: Annotated[
        Path,
        typer.Option("--prices", help="Closes by ticker and date (parquet, csv, jsonl).", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out-dir", "-o", help="Folder of the signal.", show_default=False)],
    names: Annotated[
        Path | None,
        typer.Option("--names", help="Tickers of names (columns name and ticker); default: the column has tickers."),
    ] = None,
    adjusted: Annotated[
        bool, typer.Option("--adjusted", help="The closes are adjusted for splits and dividends.")
    ] = False,
    ticker_column: Annotated[
        str | None, typer.Option("--ticker-column", help="Ticker or entity column of the answers; default: ticker.")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option("--time-column", help="Column with the time of publication; default: time.")
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option("--time-zone", help="Time zone of times without an offset, e.g. America/New_York; default: none."),
    ] = None,
    calendar: Annotated[
        str | None, typer.Option("--calendar", help="Exchange whose sessions count, e.g. XLON; default: XNYS.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Signal settings (YAML).")] = None,
    sets: SetOption = None,
    overwrite: OverwriteFolderOption = False,
    json_: JsonOption = False,
) -> None:
    """Build a daily signal per ticker from dated predictions and evaluate it on prices; no trading, no advice."""
    from moe.signals.command import SignalPaths, run_signal
    from moe.signals.settings import read_signal_settings
    from moe.signals.terminal import signal_view

    columns = {"answers.ticker": ticker_column, "answers.time": time_column}
    settings = read_signal_settings(config, sets or (), columns=columns, time_zone=time_zone, calendar=calendar)
    paths = SignalPaths(answers, prices, out, names, adjusted=adjusted, overwrite=overwrite)
    print_view(run_signal(paths, settings), signal_view, json_)
