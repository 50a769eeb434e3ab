"""Words and templates of made-up remarks from earnings calls and filings, in the voice of a company's management."""

from moe.synthetic.grammar import Grammar, Side

TRAIN = Side(
    words={
        "lead": {
            "": "As our CFO noted|On today's call|In this annual filing|Looking at the year|As we told holders"
            "|As stated in item seven",
        },
        "seg": {
            "": "cloud|dental|freight|packaging|rental|lighting|coatings|bakery|leasing",
        },
        "when": {
            "": "this fiscal year|in the second half|over the last two quarters|by year end|in the fourth quarter",
        },
        "mod": {
            "+": "expect to|plan to|were able to|have begun to|stay on course to|have agreed to|are ready to|will",
            "-": "no longer expect to|will not",
            "0": "cannot say yet whether we will|are still reviewing whether to|have made no decision on whether to"
            "|may one day",
        },
        "act": {
            "+": "widen our gross margin|raise our guidance|repay the term loan|win key accounts|grow free cash flow"
            "|raise the dividend|open stores|hire staff",
            "++": "deliver our best profit ever",
            "-": "narrow our gross margin|lower our guidance|default on the term loan|lose key accounts"
            "|burn free cash flow|cut the dividend|close stores|fire staff",
            "--": "default on our bonds",
        },
        "metric": {
            "+": "gross margin|organic revenue|backlog|free cash flow|same store sales|customer retention"
            "|operating profit|demand",
            "-": "churn|total debt|raw material costs",
        },
        "good": {
            "+": "gross margin|organic revenue|backlog|free cash flow|same store sales|operating profit",
        },
        "dir": {
            "+": "climbed|rose|picked up|grew|moved up|gained|went up|built up",
            "++": "surged|jumped",
            "-": "fell|slid|dropped|declined|moved down|shrank|went down|faded|eased",
            "--": "tumbled|collapsed",
            "0": "held steady|did not move|stayed flat|stayed the same|stood still",
        },
        "gap": {
            "+": "above our budget|ahead of plan|higher than we thought|over the range we gave"
            "|stronger than our budget|more than our budget",
            "-": "below our budget|short of plan|lower than we thought|under the range we gave|softer than our budget"
            "|less than our budget",
            "0": "in line with our budget|right on plan|just as we thought|matching the range we gave"
            "|the same as our budget|no different from our budget",
        },
        "got": {
            "+": "saw|had|reported|now have|spoke of|felt|are seeing",
            "-": "saw no sign of",
        },
        "ev": {
            "+": "rising asset yields|a hawkish central bank that lifts what we make on deposits|record orders"
            "|pricing power|loyal customers|a tax refund|an early market launch|a big win|a richer mix",
            "-": "volatile input prices|a margin squeeze|high sick leave|cheap imports|a careless supplier"
            "|a costly recall|unsold inventory|angry customers|a big loss",
            "0": "a change of auditor|a new segment name|a move of our head office|a leap year|a staff picnic"
            "|a guest lecture|a renaming of our canteen|a website notice|a calendar of events|a museum visit"
            "|a software patch|a photo session|a lunch with teachers|a radio interview",
        },
        "fact": {
            "0": "has nine sites|reports in euros|uses the calendar year|is led from our head office|has its website"
            "|will answer questions in writing",
        },
    },
    templates=(
        "{lead}, we {mod} {act} {when}",
        "In {seg} we {mod} {act} {when}",
        "{lead}, within the {seg} unit we {mod} {act}",
        "{lead}, {metric} in {seg} {dir} {when}",
        "Our {metric} {dir} {when}, mostly in {seg}",
        "{when} {metric} of our {seg} unit {dir}",
        "{lead}, our {good} went from {x} million to {y} million",
        "{good} in {seg} moved from {x}% to {y}% {when}",
        "Our {seg} unit had {good} of {x} million, now {y} million",
        "Our {metric} in {seg} came in {gap} {when}",
        "{lead}, {good} of the {seg} unit was {gap}",
        "{lead}, the {seg} unit and we {got} {ev}",
        "In {seg} we {got} {ev} {when}",
        "{lead}, the {seg} unit {fact}",
    ),
)

TEST = Side(
    words={
        "lead": {
            "": "To summarize prepared remarks|Per note four|Turning to projections|For clarity"
            "|Responding to the question",
        },
        "seg": {
            "": "aerospace|diagnostics|hospitality|semiconductor|nutrition|plumbing|education",
        },
        "when": {
            "": "during the reporting period|in the coming months|since January|compared with the prior period",
        },
        "mod": {
            "+": "intend to|are about to|succeeded in our push to|confirm that we will|aim to|proceeded to",
            "-": "refused to",
            "0": "remain undecided on whether to|have not settled if we should|offered no hint on whether to",
        },
        "act": {
            "+": "improve profitability|boost our projections|distribute surplus assets|secure additional clients"
            "|strengthen the balance sheet",
            "++": "double our special distribution",
            "-": "damage profitability|reduce our projections|shed clients|weaken the balance sheet"
            "|suspend distributions|incur hefty impairments",
            "--": "file for bankruptcy",
        },
        "metric": {
            "+": "earnings|bookings|net income|productivity|client satisfaction",
            "-": "borrowings",
        },
        "good": {
            "+": "earnings|bookings|net income|client satisfaction",
        },
        "dir": {
            "+": "increased|headed upward|expanded",
            "++": "soared",
            "-": "decreased|headed downward",
            "--": "plunged",
            "0": "remained unchanged|remained the same|remained stable",
        },
        "gap": {
            "+": "better than predicted|greater than the managers predicted",
            "-": "worse than predicted|smaller than the managers predicted",
            "0": "equal to the target|identical to the target|exactly as predicted",
        },
        "got": {
            "+": "experienced|observed|received|registered|recorded",
            "-": "never received|never had",
        },
        "ev": {
            "+": "improved shopper appetite|a lucrative licence|impressive efficiency|a fortunate breakthrough"
            "|an award for quality",
            "-": "wild currency swings|a damaging lawsuit|a product defect|severe shortages|a severe outage",
            "0": "a standard inspection|a scheduled webcast|a ceremonial dinner",
        },
        "fact": {
            "0": "appointed a spokeswoman|operates laboratories|translates its homepage|welcomes apprentices",
        },
    },
    templates=(
        "{when} we {mod} {act} at our {seg} division",
        "{lead}: our {seg} team and we {mod} {act}",
        "Management: we {mod} {act} {when}, {seg} included",
        "{lead}: {metric} {dir} {when} throughout {seg}",
        "Management: {seg} {metric} {dir} {when}",
        "{lead}: {seg} {good} from {x} million to {y} million {when}",
        "Our {metric} for {seg} proved {gap} {when}",
        "Management: {seg} shows {good} {gap} {when}",
        "{lead}: we {got} {ev} at the {seg} division",
        "{when} we {got} {ev}, {seg} included",
        "{lead}: our {seg} division {fact}",
    ),
)

GRAMMAR = Grammar(TRAIN, TEST)
