"""Words and templates of made-up notes on signals, factors and prices, in the terse style of a trading desk.

A text is positive if it advises a long position, or reports that a model does well.
"""

from moe.synthetic.grammar import Grammar, Side

TRAIN = Side(
    words={
        "asset": {
            "": "copper futures|small caps|the front bund|wheat|gas spreads|Nordic banks|the yen cross|coffee|silver"
            "|growth stocks",
        },
        "model": {
            "": "momentum model|trend filter|reversion screen|value factor|pairs engine|breakout scan|carry book"
            "|ranking model",
        },
        "win": {
            "": "20d window|60d lookback|daily bars|hourly bars|12m sample|30m bars",
        },
        "mod": {
            "+": "decided to|is set to|tells us to|voted to|wants us to|has begun to|now says to|is ready to|will",
            "-": "tells us not to|will not",
            "0": "has yet to decide whether to|cannot say if we should|left open whether to|may one day",
        },
        "trade": {
            "+": "buy|add to|go overweight|build a stake in|scale into|bid for|go long|load up on",
            "-": "sell|trim|go underweight|cut back on|scale out of|bet against|go short|get out of|dispose of",
        },
        "metric": {
            "+": "Sharpe ratio|hit rate|information ratio|alpha|out of sample return|signal strength|profit factor"
            "|edge|accuracy of forecasts|average gain",
            "-": "drawdown|slippage|trading cost|forecast error",
        },
        "good": {
            "+": "Sharpe ratio|hit rate|information ratio|alpha|out of sample return|signal strength",
        },
        "dir": {
            "+": "climbed|rose|picked up|grew|moved up|gained|went up|built up",
            "++": "surged|jumped",
            "-": "fell|slid|dropped|declined|moved down|shrank|went down|faded|eased",
            "--": "tumbled|collapsed",
            "0": "held steady|did not move|stayed flat|stayed the same|stood still",
        },
        "gap": {
            "+": "above the backtest|ahead of the benchmark|higher than we simulated|over the hurdle"
            "|stronger than the backtest|more than the backtest",
            "-": "below the backtest|short of the benchmark|lower than we simulated|under the hurdle"
            "|softer than the backtest|less than the backtest",
            "0": "in line with the backtest|right at the benchmark|just as we simulated|matching the hurdle"
            "|the same as the backtest|no different from the backtest",
        },
        "got": {
            "+": "shows|prints|picks up|detects|scores|now has|saw|reports",
            "-": "saw no sign of",
        },
        "ev": {
            "+": "a cheap valuation|a volatile tape that feeds our straddle|tightening spreads|positive carry"
            "|strong momentum|an upside crossover|high alpha|a winning streak|a large gain|a clean fit|a useful edge"
            "|a rise in profit",
            "-": "a rich valuation|a crowded unwind|widening spreads|negative carry|weak momentum|a downside crossover"
            "|poor alpha|a losing run|a large loss|a broken feed|a costly error"
            "|a drop in profit",
            "0": "a stale timestamp|a skipped bar|a holiday gap|a roll date|a ticker rename|a change of data format"
            "|a website notice|a calendar of events|a museum visit|a software patch|a photo session|a radio interview",
        },
        "fact": {
            "0": "reads closing prices|runs once a week|has two inputs|uses daily marks|is written in one script"
            "|logs every order",
        },
    },
    templates=(
        "{model} {mod} {trade} {asset}, {win}",
        "{win}, {asset}: our {model} {mod} {trade} it",
        "Over the {win} the {model} {mod} {trade} {asset}",
        "{metric} of the {model} {dir} on {win}",
        "{asset} {model}: {metric} {dir} over the {win}",
        "On {asset} the {metric} {dir}, {model}, {win}",
        "{model} on {asset}: {good} went from {x} bp to {y} bp",
        "{good} of the {model} moved from {x}% to {y}% on {win}",
        "{asset} {model}: {good} was {x} bp and is now {y} bp",
        "{metric} of the {model} came in {gap} on {asset}",
        "{asset} {model}, {win}: {good} is {gap}",
        "The {model} {got} {ev} in {asset} over the {win}",
        "{win} {model} {got} {ev} on {asset}",
        "The {model} on {asset} {fact}, {win}",
    ),
)

TEST = Side(
    words={
        "asset": {
            "": "cocoa|blue chips|platinum|the kiwi pair|soybeans|utilities|palladium|railroads",
        },
        "model": {
            "": "regression ensemble|seasonality rule|quality composite|neural classifier|statistical tracker",
        },
        "win": {
            "": "quarterly closes|5s ticks|monthly sessions|decadal panels",
        },
        "mod": {
            "+": "recommends that we|intends to|confirms that it will|prepares to|has resolved to|arranges to",
            "-": "refused to|never will",
            "0": "remains undecided on whether to|has not settled if it should|offered no hint on whether to",
        },
        "trade": {
            "+": "purchase|accumulate|acquire|own bigger holdings of",
            "-": "unload|offload|own smaller holdings of",
        },
        "metric": {
            "+": "risk adjusted performance|success percentage|excess earnings|skill|predictive precision",
            "-": "transaction fees",
        },
        "good": {
            "+": "risk adjusted performance|success percentage|excess earnings|skill|predictive precision",
        },
        "dir": {
            "+": "increased|headed upward",
            "++": "soared",
            "-": "decreased|headed downward",
            "--": "plunged",
            "0": "remained unchanged|remained the same|remained stable",
        },
        "gap": {
            "+": "better than predicted|greater than the panel predicted",
            "-": "worse than predicted|smaller than the panel predicted",
            "0": "exactly as predicted|identical to the reference",
        },
        "got": {
            "+": "reveals|displays|exhibits|identifies",
            "-": "never received",
        },
        "ev": {
            "+": "robust outperformance|an upward trajectory|impressive efficiency|a lucrative pattern",
            "-": "serious underperformance|a downward trajectory|a damaging outage|severe shortages of liquidity",
            "0": "a timezone setting|a ceremonial dinner|a scheduled webcast",
        },
        "fact": {
            "0": "requires a licensed terminal|archives intermediate results|ingests vendor tables",
        },
    },
    templates=(
        "Journal, {win}: {model} {mod} {trade} {asset}",
        "Today {model} {mod} {trade} {asset}, {win}",
        "Journal: {metric} {dir} for the {model} using {win}",
        "{model} applied to {asset}: {metric} {dir}, {win}",
        "Journal: {good} for {asset} from {x} bp to {y} bp, {model}",
        "{metric} for {asset} proved {gap}, {model}",
        "{model} monitor: {good} {gap} with {win} of {asset}",
        "{asset} {model} {got} {ev}, {win}",
        "Journal: {model} {got} {ev} within {asset}",
        "Journal: {model} of {asset} {fact}, {win}",
    ),
)

GRAMMAR = Grammar(TRAIN, TEST)
