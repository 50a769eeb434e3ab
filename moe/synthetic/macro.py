"""Words and templates of made-up notes on the economy and central banks of countries that do not exist.

A text is positive if it is good for growth and markets.
"""

from moe.synthetic.grammar import Grammar, Side

TRAIN = Side(
    words={
        "land": {
            "": "Norland|Ruritania|Castovia|Belmark|Sordavia|Ostania|Westmark|Lorvania|Tarquina|Halvoria",
        },
        "who": {
            "": "the rate council|the central bank|the governor|the finance minister|the board",
        },
        "when": {
            "": "in March|in April|last quarter|this winter|after the vote|at the latest meeting",
        },
        "src": {
            "": "the minutes show|the bureau said|a flash estimate says|the survey finds|the yearly bulletin notes",
        },
        "mod": {
            "+": "agreed to|voted to|is set to|will now|has moved to|decided to|is ready to|wants to",
            "-": "failed to|will not",
            "0": "has yet to decide whether to|declined to say if it would|left open whether to|may one day",
        },
        "act": {
            "+": "cut interest rates|ease credit rules|extend its stimulus|buy more government bonds"
            "|support bank lending|lower taxes on work|protect workers|aid exporters",
            "++": "rescue the banks at once",
            "-": "raise interest rates|tighten credit rules|end its stimulus|drain cash from the banks"
            "|make borrowing expensive|freeze public spending|harm exporters|squeeze families",
            "--": "default on its bonds",
        },
        "metric": {
            "+": "employment|factory output|retail spending|consumer confidence|exports|household wealth|growth|hiring",
            "-": "inflation|unemployment|the deficit",
        },
        "good": {
            "+": "employment|factory output|retail spending|consumer confidence|exports|household wealth",
        },
        "dir": {
            "+": "climbed|rose|picked up|grew|moved up|gained|went up|built up",
            "++": "surged|jumped",
            "-": "fell|slid|dropped|declined|moved down|shrank|went down|faded|eased",
            "--": "tumbled|collapsed",
            "0": "held steady|did not move|stayed flat|stayed the same|stood still",
        },
        "gap": {
            "+": "above what economists expected|ahead of forecasts|higher than economists thought"
            "|over the survey median|stronger than economists expected|more than economists expected",
            "-": "below what economists expected|short of forecasts|lower than economists thought"
            "|under the survey median|softer than economists expected|less than economists expected",
            "0": "in line with forecasts|right where economists thought|just as economists expected"
            "|matching the survey median|the same as economists expected|no different from economists expected",
        },
        "got": {
            "+": "saw|has got|reported|woke up to|now has|felt",
            "-": "saw no sign of",
        },
        "ev": {
            "+": "a hiring boom|falling energy prices|a calm bond market|a good harvest|a rebound in trade"
            "|a fall in yields|a big wave of tourists|a return of savers|a rise in real wages",
            "-": "rising yields|a hawkish turn|sudden tightening|a deep recession|runaway inflation|a banking panic"
            "|a drought|investor flight|a jump in food prices",
            "0": "a census|a new statistics chief|a public holiday|a change of banknotes|a speech by the king"
            "|a royal wedding|a new postage stamp|a website notice|a calendar of events|a museum visit"
            "|a software patch|a photo session|a lunch with teachers|a radio interview",
        },
        "fact": {
            "0": "publishes its calendar|moves to a new office|will answer questions from students|prints a brochure"
            "|has nine members|meets eight times a year",
        },
    },
    templates=(
        "{who} of {land} {mod} {act}, {src}",
        "{when}, {who} in {land} {mod} {act}",
        "In {land} {who} {mod} {act} {when}, {src}",
        "{metric} in {land} {dir} {when}, {src}",
        "{land}: {metric} {dir} {when}, says {who}",
        "{when} {metric} {dir} across {land}, {src}",
        "{land} said {good} went from {x} index points to {y} {when}",
        "{good} in {land} moved from {x}% of capacity to {y}%, {src}",
        "{good} across {land} was at {x} and is now at {y}, {src}",
        "{metric} in {land} came in {gap} {when}",
        "{who} of {land} calls {good} {gap}, {src}",
        "The economy of {land} {got} {ev} {when}, {src}",
        "{land} {got} {ev} {when}, according to {who}",
        "{who} of {land} {fact} {when}",
    ),
)

TEST = Side(
    words={
        "land": {
            "": "Pelagia|Morvania|Illyra|Sudonia|Vestria|Quarna|Dravia|Ekaria",
        },
        "who": {
            "": "the monetary authority|the treasury|the policy committee|the reserve chair",
        },
        "when": {
            "": "in October|in November|this autumn|during the spring|since the reform",
        },
        "src": {
            "": "the ministry confirmed|official tables indicate|a preliminary release states|analysis suggests",
        },
        "mod": {
            "+": "pledged to|prepares to|confirmed that it will|obtained permission to|intends to|resolved to",
            "-": "refused to",
            "0": "remains undecided on whether to|has not settled if it should|offered no hint on whether to",
        },
        "act": {
            "+": "stimulate activity|provide liquidity|loosen monetary policy|help struggling firms|fund infrastructure"
            "|reduce mortgage burdens",
            "++": "start an enormous recovery programme",
            "-": "choke activity|withdraw liquidity|impose austerity|punish struggling firms|restrict commerce"
            "|increase mortgage burdens",
            "--": "trigger a severe slump",
        },
        "metric": {
            "+": "payrolls|industrial production|business sentiment|construction activity|productivity|investment",
            "-": "joblessness|poverty",
        },
        "good": {
            "+": "payrolls|industrial production|business sentiment|construction activity|productivity",
        },
        "dir": {
            "+": "increased|headed upward|expanded",
            "++": "soared",
            "-": "decreased|headed downward",
            "--": "plunged",
            "0": "remained unchanged|remained the same|remained stable",
        },
        "gap": {
            "+": "better than predicted|greater than models predicted",
            "-": "worse than predicted|smaller than models predicted",
            "0": "equal to the consensus|exactly as models predicted|identical to the consensus",
        },
        "got": {
            "+": "experienced|observed|received|registered|recorded",
            "-": "never received|never had",
        },
        "ev": {
            "+": "a vigorous recovery|booming construction|lasting prosperity|improved shopper appetite",
            "-": "a sharp downturn|an electricity crisis|severe shortages|a corruption scandal|a currency crisis",
            "0": "a standard inspection|a scheduled webcast|a ceremonial dinner",
        },
        "fact": {
            "0": "appointed a spokeswoman|translates its homepage|welcomes apprentices|operates laboratories",
        },
    },
    templates=(
        "Policy brief: {who} of {land} {mod} {act} {when}",
        "{land}: {who} {mod} {act}, {src}",
        "{src} that {who} in {land} {mod} {act}",
        "Data: {metric} {dir} {when} for {land}, {src}",
        "{when} the {land} report has it that {metric} {dir}",
        "Data: {good} of {land} from {x} points to {y} points {when}",
        "{metric} for {land} proved {gap} {when}",
        "{land} publishes {good} {gap} {when}, {src}",
        "{src} that {land} {got} {ev} {when}",
        "Policy brief: {land} {got} {ev}, {src}",
        "{land}: {who} {fact}, {src}",
    ),
)

GRAMMAR = Grammar(TRAIN, TEST)
