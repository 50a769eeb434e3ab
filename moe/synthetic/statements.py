"""Plain statements: short sentences whose label every reader agrees on, written by a seeded program.

Labelled headlines leave out what needs no journalist: that profit rose, that a price is a price, that a question states
nothing. The ready mixture learns this from these sentences, beside real text. No firm, ticker or figure in them exists.
"""

from collections.abc import Callable, Sequence
from random import Random

Statement = tuple[str, int]
"""A sentence, and its sign: -1 negative, 0 neutral, 1 positive."""
Maker = Callable[[Random], Statement]

FIRMS = ["Arvenia", "Bexley Group", "Corvanta", "Delmore", "Estrella Foods", "Fenwick Motors", "Gravane", "Hallstad", "Inverlea", "Jutland Paper", "Kestor", "Lorimar Bank", "Meridale", "Nordvik", "Oakhurst Energy", "Pentara", "Quantrell", "Ridgemont", "Solvane", "Tarkwell", "Umbria Steel", "Vexford", "Westerby", "Xanfield", "Yarmoor", "Zelkova Software"]
KINDS = ["company", "group", "bank", "retailer", "carmaker", "airline", "insurer", "chipmaker", "drugmaker", "telecom operator", "steelmaker", "brewer", "miner", "software company", "shipping company", "construction company", "oil producer", "manufacturer", "lender", "food company"]
TICKERS = [f"${name}" for name in ["ARVN", "BXL", "CRVA", "DLM", "ESTF", "FNW", "GRV", "HLST", "INV", "KST", "MRD", "NVK", "PTR", "QTL", "RDG", "SLV", "TRK", "VXF", "ZLK"]]
SHORT = ["AAPL", "TSLA", "MSFT", "AMZN", "GOOG", "META", "NVDA", "AMD", "NFLX", "SPY", "QQQ", "GME", "AMC", "BA", "F", "GM", "INTC", "DIS", "JPM", "XOM"]
TICKERS += [f"${name}" for name in SHORT]
PERIODS = ["in the first quarter", "in the second quarter", "in the third quarter", "in the fourth quarter", "last year", "last quarter", "in the first half", "in the six months to June", "this year", "in 2018", "in 2021", "in the year to March", "in January", "in the quarter", "over the past year", "from a year earlier", "compared with the previous year", "year on year"]
GOOD = ["profit", "net profit", "operating profit", "pretax profit", "quarterly profit", "revenue", "sales", "net sales", "turnover", "earnings", "income", "net income", "operating income", "cash flow", "order intake", "orders", "the order backlog", "demand", "production", "market share", "exports", "earnings per share", "the operating margin", "margins", "bookings", "deliveries", "same-store sales", "customer numbers"]
BAD = ["costs", "debt", "losses", "the net loss", "the operating loss", "bad loans", "the deficit", "expenses", "complaints", "defaults", "unemployment", "raw material costs", "the quarterly loss"]
UP = ["rose", "increased", "grew", "climbed", "jumped", "surged", "went up", "was up", "moved higher", "soared", "advanced"]
DOWN = ["fell", "dropped", "declined", "decreased", "slid", "slumped", "plunged", "shrank", "went down", "was down", "tumbled", "weakened"]
FLAT = ["was unchanged", "stayed flat", "remained at the same level", "was stable", "did not change"]
EVENTS: dict[int, Sequence[str]] = {
    1: ["lifted its forecast for the year", "will pay a higher dividend", "won a large order", "won a contract worth {money}", "signed a long-term supply agreement", "received regulatory approval for its new drug", "announced a share buyback", "was upgraded to buy", "reported record sales", "returned to profit", "opened a new factory to meet rising demand", "expects sales to grow strongly next year", "expects profit to improve", "expanded into three new markets", "paid off its debt", "hired 500 people to keep up with demand", "regained its top credit rating", "won the lawsuit", "doubled its profit", "gained market share", "posted better results than a year ago", "ended the year with a profit", "reached full capacity ahead of plan", "was awarded a major contract", "strengthened its position in Asia", "cut its costs and improved its margins", "attracted a takeover bid at a premium", "raised its outlook"],
    -1: ["slashed its forecast for the year", "cut its dividend", "lost its biggest customer", "will cut {count} jobs", "issued a profit warning", "recalled {count} vehicles over faulty brakes", "was downgraded to sell", "reported its biggest loss in a decade", "was declared insolvent", "sought protection from its creditors", "closed its plant because of weak demand", "expects sales to fall next year", "expects profit to decline", "was fined {money} for fraud", "defaulted on its bonds", "is under investigation for fraud", "suspended its dividend", "halted production after a fire", "lost the lawsuit", "swung to a loss", "lost market share", "warned of weaker demand", "will lay off {count} workers", "wrote off {money}", "missed a payment on its debt", "abandoned its expansion plans", "delayed the launch of its most important product", "posted worse results than a year ago", "lowered its outlook", "is losing customers", "ran out of cash", "faces a strike at its main plant"],
    0: ["appointed a new chief financial officer", "will hold its annual general meeting on {date}", "is based in {city}", "has a workforce of {count}", "presents its interim figures on {date}", "moved its head office to {city}", "is listed on the stock exchange in {city}", "was founded in 1962", "named a new member of its board", "is active in nine countries", "makes parts for the car industry", "changed its name", "held its capital markets day in {city}", "has {count} shareholders", "sells its products through retailers", "will present its strategy on {date}", "did not disclose financial details", "did not disclose the value of the deal", "has two business segments", "will release its results before the market opens", "rents offices in {city}", "issued {count} shares to employees", "owns 21% of a paper mill in {city}", "provides services to banks and insurers", "is holding talks about a cooperation"],
}
NEGATED: dict[int, Sequence[str]] = {
    1: ["makes no losses any more", "did not lose any customers", "will not cut jobs", "avoided bankruptcy", "was cleared of fraud", "has stopped losing money", "shows no sign of weakness", "denied that it is in financial trouble", "will not have to pay the fine", "was not affected by the strike", "has no debt left"],
    -1: ["made no profit", "is no longer profitable", "failed to win the contract", "did not receive approval", "will not pay a dividend this year", "cannot repay its debt", "failed to meet its targets", "shows no sign of recovery", "was not able to reduce its losses", "did not reach its sales target", "is not growing any more", "lost hope of a recovery", "did not win a single order", "was denied a licence"],
}
QUESTIONS = ["When does {firm} report its results?", "Will the central bank raise rates this month?", "Who is the new chief executive of {firm}?", "How many people work for {firm}?", "Is {firm} listed in {city}?", "What does {firm} produce?", "Will {firm} pay a dividend?", "What will inflation be next year?", "Should investors buy or sell {firm}?", "Which analysts cover {firm}?", "How does the new tax work?", "What should investors expect from {firm}'s results?", "Where will {firm} hold its annual meeting?"]
PRICES = ["{firm} closed at {price}", "{firm} shares traded at {price}", "The stock was at {price} at noon", "Gold is at {price} an ounce", "Shares of {firm} ended the day unchanged", "Brent crude cost {price} on {date}", "{firm} opened at {price} on {date}", "The euro is worth 1.0{digit} dollars", "{firm} shares were little changed", "The bond yields {digit}.4%"]
BANKING = "The central bank left rates unchanged|The committee meets again on {date}|The ministry publishes the figures on {date}"
POSTS: dict[int, Sequence[str]] = {
    1: ["{t} mooning again", "this rocket flies to the moon, hold your {t}", "picked up some {t} this morning", "stacking {t} calls for friday", "{t} has a lot of room to run", "so bullish on {t}", "{t} breaking out to new highs", "great earnings from {t}, holding for years", "{t} is way undervalued, buying the dip", "long {t}, a big run is coming", "my {t} calls are printing", "{t} crushed earnings, love this company", "never selling my {t} shares", "{t} bulls in control today", "added to my {t} position, strong buy", "{t} up big today, nice", "no reason to sell {t}, it keeps winning", "{t} best stock i own", "shorts are getting squeezed on {t}", "{t} bounce is here, all in", "{t} just raised guidance, huge", "diamond hands on {t}, we are going up", "{t} upgraded, target raised", "happy {t} holder here"],
    -1: ["{t} ends up at zero", "sold all my {t} today", "stacking {t} puts for friday", "{t} has much further to fall", "so bearish on {t}", "{t} breaking down, get out now", "terrible earnings from {t}, i dumped everything", "{t} is way overvalued, stay away", "short {t}, a crash is coming", "my {t} calls are worthless", "{t} missed badly, this company is a joke", "never buying {t} again", "{t} bears in control today", "closed my {t} position, strong sell", "{t} down big today, ouch", "no reason to own {t}, it keeps losing", "{t} worst stock i own", "bagholders everywhere in {t}", "{t} is a dead cat bounce, selling", "{t} just cut guidance, awful", "panic selling in {t}, we are going down", "{t} downgraded, target cut", "not buying {t}, it is a scam", "lost half my money on {t}", "{t} is a disaster"],
    0: ["does anybody have a link to the {t} call?", "{t} reports after the close", "{t} last price {price}", "what is the {t} dividend date?", "watching {t} today", "does {t} have earnings this week?", "what do you think about {t}?", "{t} conference call starts at 5", "{t} volume is about average today", "is {t} a buy or a sell here?", "who else follows {t}?", "{t} flat so far", "new here, how do i read the {t} chart?", "{t} opened at {price}", "{t} trades on nasdaq", "still waiting on {t}, no position", "{t} investor day is on {date}", "{t} closed at {price}", "any news on {t}?", "{t} ceo is on tv this afternoon"],
}
TAILS = {
    1: ["", "", "", " 🚀", "!", " lol", ", lets go", "!!"],
    -1: ["", "", "", " 📉", "!", " lol", ", be careful", "..."],
    0: ["", "", ""],
}
LABELS = {-1: "negative", 0: "neutral", 1: "positive"}


def _fill(text: str, random: Random) -> str:
    """Fill the slots of a sentence that do not affect its label."""
    values = {
        "firm": random.choice(FIRMS),
        "t": random.choice(TICKERS),
        "city": random.choice(["Helsinki", "London", "Vienna", "Oslo", "Madrid", "Chicago", "Tokyo", "Dublin", "Toronto", "Milan"]),
        "date": f"{random.randint(1, 28)} {random.choice(['January', 'March', 'May', 'July', 'October'])}",
        "count": f"{random.randint(2, 98) * 100:,}",
        "money": _money(random),
        "price": f"${random.randint(2, 400)}.{random.randint(0, 9)}0",
        "digit": str(random.randint(1, 9)),
    }
    return text.format_map(values)


def _money(random: Random) -> str:
    number = random.choice([f"{random.randint(2, 900)}", f"{random.randint(1, 90)}.{random.randint(1, 9)}"])
    return random.choice([f"${number} million", f"EUR {number} million", f"{number} million euros", f"$ {number} mn", f"${number}m"])


def _subject(random: Random) -> str:
    return random.choice([random.choice(FIRMS), f"the {random.choice(KINDS)}", f"{random.choice(KINDS)} {random.choice(FIRMS)}"])


def _metric(random: Random) -> tuple[str, int]:
    """A measure of a firm with or without its owner, and whether more of it is good (1) or bad (-1)."""
    sign = 1 if random.random() < 0.75 else -1
    name = random.choice(GOOD if sign > 0 else BAD)
    owner = random.choice(["", "", f"{random.choice(FIRMS)}'s ", "the company's ", "the group's ", f"the {random.choice(KINDS)}'s "])
    return owner + (name.removeprefix("the ") if owner else name), sign


def make_change(random: Random) -> Statement:
    """A measure that rose, fell or stayed, with or without figures."""
    name, sign = _metric(random)
    direction = random.choice([1, 1, 1, -1, -1, -1, 0])
    verb = random.choice({1: UP, -1: DOWN, 0: FLAT}[direction])
    period = random.choice(PERIODS)
    if not direction:
        return f"{name} {verb} {period}", 0
    low = random.randint(20, 400) / 10
    high = low * random.uniform(1.05, 3)
    before, after = (low, high) if direction > 0 else (high, low)
    unit = random.choice(["${} million", "EUR {} million", "{} million euros", "${}m", "EUR {} mn", "{}%"])
    figures = random.choice(
        [
            f"{verb} {random.randint(2, 60)}% {period}",
            f"{verb} by {random.randint(2, 60)} percent {period}",
            f"{verb} {period}",
            f"{verb} to {unit.format(f'{after:.1f}')} from {unit.format(f'{before:.1f}')} {period}",
            f"{verb} to {unit.format(f'{after:.1f}')} {period}, from {unit.format(f'{before:.1f}')} a year earlier",
            f"was {unit.format(f'{after:.1f}')}, {'up' if direction > 0 else 'down'} from {unit.format(f'{before:.1f}')} {period}",
            f"{'rose' if direction > 0 else 'fell'} from {unit.format(f'{before:.1f}')} to {unit.format(f'{after:.1f}')}",
        ]
    )
    return f"{name} {figures}", sign * direction


def make_loss(random: Random) -> Statement:
    """A loss that widened or narrowed, or a turn from profit to loss or back."""
    who, money, more = _subject(random), _money(random), random.random() < 0.5
    period = random.choice(PERIODS[:14])
    return random.choice(
        [
            (f"{who}'s {random.choice(['net', 'operating', 'quarterly'])} loss {'widened' if more else 'narrowed'} to {money} {period}", -1 if more else 1),
            (f"{who} made a {'loss' if more else 'profit'} of {money} {period}, after a {'profit' if more else 'loss'} the year before", -1 if more else 1),
            (f"{who} {'swung to a loss' if more else 'returned to profit'} {period}", -1 if more else 1),
            (f"{who} posted a {'bigger' if more else 'smaller'} loss than a year ago", -1 if more else 1),
        ]
    )


def make_expectation(random: Random) -> Statement:
    """A result against what was expected."""
    name, sign = _metric(random)
    source = random.choice(["expectations", "forecasts", "estimates", "the market consensus", "what analysts had forecast"])
    side = random.choice([1, 1, -1, -1, 0])
    loss, than = random.choice(["loss", "net loss", "decline in sales"]), random.choice(["expected", "forecast", "economists had expected", "investors had hoped"])
    feared = random.choice(["feared", "forecast", "expected", "investors had feared"])
    above = {1: "were above|came in above|were better than|exceeded|topped", -1: "were below|came in below|were worse than|missed|fell short of", 0: "were in line with|matched|met"}
    forms: list[Statement] = [
        (f"{random.choice(['results', 'quarterly results', 'earnings', 'sales figures'])} {random.choice(above[side].split('|'))} {source}", side),
        (f"{_subject(random)} {random.choice({1: ['beat', 'topped'], -1: ['missed', 'fell short of'], 0: ['met', 'matched']}[side])} {source}", side),
        (f"{name} {random.choice({1: UP, -1: DOWN, 0: FLAT}[side])} {['as', 'more than', 'more than'][side]} {than}", 0 if not side else sign * side),
        (f"the {loss} was {'smaller' if side >= 0 else 'larger'} than {feared}", 1 if side >= 0 else -1),
        (f"{random.choice(GOOD)} grew {'faster' if side >= 0 else 'more slowly'} than {than}", 1 if side >= 0 else -1),
        (f"{random.choice(GOOD)} {random.choice(UP)}, but less than {than}", -1),
        (f"{random.choice(GOOD)} {random.choice(DOWN)}, but less than {feared}", 1),
    ]
    return random.choice(forms)


def make_event(random: Random) -> Statement:
    """Something that a firm did, or that happened to it."""
    sign = random.choice([1, -1, 0])
    tail = random.choice(["", "", "", f" {random.choice(['on Monday', 'on Tuesday', 'on Friday', 'this week', 'in ' + random.choice(['May', 'July'])])}", ", it said", ", the company said"])
    return f"{_subject(random)} {random.choice(EVENTS[sign])}{tail}", sign


def make_two_events(random: Random) -> Statement:
    """Two events of one sign."""
    sign = random.choice([1, -1, 0])
    first, second = random.sample(EVENTS[sign], 2)
    return f"{_subject(random)} {first} and {second}", sign


def make_negation(random: Random) -> Statement:
    """A negated event."""
    sign = random.choice([1, -1])
    return f"{_subject(random)} {random.choice(NEGATED[sign])}", sign


def make_share_move(random: Random) -> Statement:
    """A share price that moved, with or without a reason."""
    sign = random.choice([1, -1])
    verb = random.choice((UP if sign > 0 else DOWN)[:9])
    reason = random.choice(["", "", f" after it {random.choice(EVENTS[sign])}", " on Tuesday", " in early trading"])
    return f"shares of {_subject(random)} {verb} {random.randint(1, 30)}%{reason}", sign


def make_neutral(random: Random) -> Statement:
    """A question, or a price or a date without a direction."""
    return random.choice(random.choice([QUESTIONS, PRICES, BANKING.split("|")])), 0


def make_post(random: Random) -> Statement:
    """A forum post."""
    sign = random.choice([1, -1, 0])
    text = random.choice(POSTS[sign])
    if sign and random.random() < 0.25:
        text += ", " + random.choice(POSTS[sign])
    return text + random.choice(TAILS[sign]), sign


NEWS: tuple[Maker, ...] = (
    *(make_change,) * 5,
    *(make_event,) * 4,
    *(make_expectation,) * 2,
    make_loss,
    make_two_events,
    make_negation,
    make_share_move,
    make_neutral,
)
FORUM: tuple[Maker, ...] = (make_post,)


def generate_statements(domain: str, rows: int, seed: int) -> list[dict[str, str]]:
    """Generate distinct statements; they depend only on the arguments.

    Args:
        domain: `news` or `forum`.
        rows: number of statements.
        seed: of the random draws.

    Returns:
        Rows with `id`, `text` and `label`.
    """
    random, makers = Random(f"statements {domain} {seed}"), {"news": NEWS, "forum": FORUM}[domain]
    texts: dict[str, int] = {}
    while len(texts) < rows:
        text, sign = random.choice(makers)(random)
        text = _fill(text, random)
        if domain == "news":
            text = text[0].upper() + text[1:] + ("" if text.endswith("?") or random.random() < 0.3 else ".")
        elif random.random() < 0.4:
            text = text[0].upper() + text[1:]
        texts.setdefault(text, sign)
    return [
        {"id": f"statement-{domain}-{i:05d}", "text": text, "label": LABELS[sign]}
        for i, (text, sign) in enumerate(texts.items())
    ]
