"""Words and templates of made-up news headlines about firms that do not exist."""

from moe.synthetic.grammar import Grammar, Side

TRAIN = Side(
    words={
        "name": {
            "": "Halden|Brixworth|Calder|Norvane|Tessaly|Quillon|Marwick|Ostrand|Pellington|Varnell|Sorrento|Dunmere"
            "|Eskdale|Farrow|Gilford|Hexley",
        },
        "kind": {
            "": "Motors|Foods|Steel|Shipping|Software|Insurance|Telecom|Paper|Energy|Furniture",
        },
        "place": {
            "": "Oslo|Lisbon|Vienna|Dublin|Toronto|Osaka|Bergen|Warsaw",
        },
        "when": {
            "": "on Monday|on Saturday|early on Friday|after the bell|in the first quarter|over the holidays",
        },
        "src": {
            "": "sources said|a filing showed|the group announced|it told investors|agency reports said",
        },
        "mod": {
            "+": "agreed to|managed to|is set to|will now|has moved to|decided to|pressed ahead with plans to|wants to",
            "-": "failed to|will not",
            "0": "has yet to decide whether to|declined to say if it would|left open whether to|may one day",
        },
        "act": {
            "+": "raise its dividend|raise its outlook|win the ferry contract|hire a thousand engineers"
            "|pay down its loans|open two new factories|buy back stock|launch a popular new model",
            "++": "pay a record reward to all its owners|win the largest deal ever",
            "-": "cut its dividend|lower its outlook|lose the ferry contract|fire a thousand engineers"
            "|default on its loans|close two of its factories|recall a popular model|pay a heavy fine",
            "--": "default on its bonds|go bust",
        },
        "did": {
            "+": "raised its dividend|lifted its outlook|won a big contract|beat expectations|hired more workers"
            "|got a higher rating|paid off its debt|narrowed its losses|did not cut its dividend"
            "|swung to a profit",
            "++": "posted a record profit",
            "-": "cut its dividend|lowered its outlook|lost a big contract|missed expectations|laid off workers"
            "|got a lower rating|took on more debt|widened its losses|did not raise its dividend"
            "|swung to a loss",
            "--": "issued a profit warning",
            "0": "met expectations|kept its outlook|kept its dividend at last year's level|counts its workers",
        },
        "metric": {
            "+": "profit|sales|revenue|orders|cash flow|customer numbers|market share|demand",
            "-": "costs|debt|complaints",
        },
        "good": {
            "+": "profit|sales|revenue|orders|cash flow|customer numbers",
        },
        "dir": {
            "+": "climbed|rose|picked up|grew|moved up|gained|went up|built up",
            "++": "surged|jumped",
            "-": "fell|slid|dropped|declined|moved down|shrank|went down|faded|eased|did not grow",
            "--": "tumbled|collapsed",
            "0": "held steady|did not move|stayed flat|stayed the same|stood still",
        },
        "gap": {
            "+": "above what analysts expected|ahead of forecasts|higher than analysts thought"
            "|over the average forecast|stronger than analysts expected|more than analysts expected",
            "-": "below what analysts expected|short of forecasts|lower than analysts thought"
            "|under the average forecast|softer than analysts expected|less than analysts expected",
            "0": "in line with forecasts|right where analysts thought|just as analysts expected"
            "|matching the average forecast|the same as analysts expected|no different from analysts expected",
        },
        "got": {
            "+": "saw|has got|reported|woke up to|now has|spoke of",
            "-": "saw no sign of",
        },
        "ev": {
            "+": "a record order book|a surprise upgrade|strong demand|a generous bid|a tax refund"
            "|a friendly court ruling|a big win|praise from customers|a profitable year",
            "-": "a costly strike|a surprise downgrade|weak demand|a fraud probe|a factory fire|a hostile court ruling"
            "|a big loss|anger from customers|a wave of theft",
            "0": "a routine audit|its annual meeting|a change of logo|a new office address|a speech by its founder"
            "|a staff picnic|a website notice|a calendar of events|a museum visit|a software patch|a photo session"
            "|a lunch with teachers|a radio interview",
        },
        "fact": {
            "0": "closed at 14 dollars|trades at 32 euros a share|named a new finance chief|sells goods in six lands"
            "|was founded by two brothers|moves its listing to another exchange|publishes its figures"
            "|will answer questions at a press briefing|has 900 workers at three sites"
            "|elected a new president of the board|has owners in two lands|plans to move its head office"
            "|makes parts for trains and ships",
        },
        "thing": {
            "": "Crude oil|Wheat|The euro|Copper|Natural gas|The index|A barrel of oil|A share of the bank",
        },
        "quote": {
            "0": "costs 80 dollars|traded at 1,900 dollars|was priced at 1.09 dollars|changed hands at 32 dollars"
            "|stood at 7,200 dollars|is quoted at 64 dollars",
        },
        "query": {
            "0": "when is the meeting of|who will lead|where is the head office of|how many people work at"
            "|which bank works for|is there any news about|what does it mean for",
        },
    },
    templates=(
        "{name} {kind} {mod} {act}, {src}",
        "{when}, {name} {kind} {mod} {act} in {place}",
        "{kind} group {name} of {place} {mod} {act} {when}",
        "{name} {kind} {did} {when}, {src}",
        "{kind} group {name} of {place} {did}",
        "{metric} at {name} {kind} {dir} {when}, {src}",
        "{name} {kind} says {metric} {dir} {when} in {place}",
        "Update: {metric} {dir} {when} at {kind} group {name}",
        "{name} {kind} said {good} went from {x} million to {y} million {when}",
        "{good} at {name} {kind} moved from {x}% to {y}%, {src}",
        "{kind} group {name} had {good} of {x} million, now {y} million, {src}",
        "{metric} at {name} {kind} came in {gap} {when}",
        "{name} {kind} posts {good} {gap}, {src}",
        "{name} {kind} {got} {ev} {when}, {src}",
        "{kind} group {name} {got} {ev} in {place} {when}",
        "{name} {kind} {fact} {when}, {src}",
        "{name} {kind} of {place} {fact}",
        "{thing} {quote} {when}",
        "{query} {name} {kind}?",
    ),
)

TEST = Side(
    words={
        "name": {
            "": "Ambrose|Lindqvist|Torrell|Zephyr|Kestrel|Wexcombe|Yarrow|Ulverston|Ravenna|Juniper",
        },
        "kind": {
            "": "Airlines|Chemicals|Cement|Media|Brewing|Mining|Textiles",
        },
        "place": {
            "": "Madrid|Athens|Chicago|Prague|Helsinki|Sydney",
        },
        "when": {
            "": "on Wednesday|on Thursday|late on Sunday|before noon|this summer|during the spring",
        },
        "src": {
            "": "a regulator confirmed|its chairman wrote|newspapers wrote|insiders acknowledged",
        },
        "mod": {
            "+": "pledged to|is about to|succeeded in its push to|confirmed that it will|obtained permission to"
            "|intends to",
            "-": "refused to",
            "0": "remains undecided on whether to|has not settled if it should|offered no hint on whether to",
        },
        "act": {
            "+": "lift shareholder returns|secure the railway job|recruit more researchers|expand production"
            "|regain its top grade|boost its targets",
            "++": "double its special distribution",
            "-": "slash jobs|shut warehouses|issue an alert|reduce its targets|suspend production"
            "|sack its entire design team",
            "--": "file for bankruptcy",
        },
        "query": {
            "0": "which platform lists|whose lawyers represent|can someone explain",
        },
        "did": {
            "+": "boosted its targets|improved its efficiency|outperformed its peers",
            "-": "slashed its targets|harmed its efficiency|underperformed its peers",
            "0": "maintained its targets|tabulated its peers",
        },
        "metric": {
            "+": "earnings|income|bookings|productivity|receipts",
            "-": "borrowings",
        },
        "good": {
            "+": "earnings|income|bookings|receipts",
        },
        "dir": {
            "+": "increased|headed upward|expanded",
            "++": "soared",
            "-": "decreased|headed downward",
            "--": "plunged",
            "0": "remained unchanged|remained the same|remained stable",
        },
        "gap": {
            "+": "better than predicted|greater than brokers predicted",
            "-": "worse than predicted|smaller than brokers predicted",
            "0": "equal to the consensus|exactly as brokers predicted|identical to the consensus",
        },
        "got": {
            "+": "registered|is facing|experienced|received|disclosed|observed",
            "-": "never received|never had",
        },
        "ev": {
            "+": "a lucrative licence|improved shopper appetite|a breakthrough drug|an award for quality",
            "-": "a damaging lawsuit|a cyber attack|a corruption scandal|a product defect|a severe outage",
            "0": "a standard inspection|a scheduled webcast|a ceremonial dinner",
        },
        "fact": {
            "0": "appointed a spokeswoman|operates laboratories|translates its homepage|welcomes apprentices",
        },
    },
    templates=(
        "Report: {name} {kind} {mod} {act} {when}",
        "{place} based {name} {kind} {mod} {act}, {src}",
        "{kind} company {name}, listed in {place}, {mod} {act} {when}",
        "Report: {name} {kind} {did} {when}",
        "{when} {metric} {dir} at {place} based {name} {kind}, {src}",
        "Results: {name} {kind} {metric} {dir} {when}",
        "Results: {name} {kind} {good} from {x} million to {y} million {when}",
        "{metric} for {name} {kind} proved {gap} {when}",
        "{kind} company {name} discloses {good} {gap} {when}",
        "{place} based {name} {kind} {got} {ev}, {src}",
        "Report: {kind} company {name} {got} {ev} {when}",
        "{kind} company {name} {fact}, {src}",
        "{query} {kind} company {name}?",
    ),
)

GRAMMAR = Grammar(TRAIN, TEST)
