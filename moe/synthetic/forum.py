"""Words and templates of made-up forum posts: slang, tickers that do not exist, sarcasm, options."""

from moe.synthetic.grammar import Grammar, Side

TRAIN = Side(
    words={
        "t": {
            "": "$QZRT|$VLOM|$BNKX|$HUVE|$DRPL|$WOMB|$JAXO|$KLUV|$FRZE|$MUNQ|$PIXL|$SNRG|$TOQD|$YEPS",
        },
        "who": {
            "": "bro|guys|ngl|lol|fam|dudes|honestly|real talk",
        },
        "size": {
            "": "half my account|my whole paycheck|lunch money|a fat chunk|every last cent|two grand",
        },
        "when": {
            "": "this morning|at the open|since monday|before the weekend|while i slept|on my break",
        },
        "side": {
            "+": "bought|loaded up on|went all in on|added more|grabbed|scooped up|am keeping|am buying|opened"
            "|got into",
            "-": "sold|offloaded|got rid of|unloaded|am selling|got out of",
            "0": "am still reading up on|asked my cousin about|made a spreadsheet of|keep forgetting about",
        },
        "leg": {
            "+": "calls|shares|long dated calls|stock|weekly calls|bull calls|leaps",
            "-": "puts|long dated puts|bear puts",
        },
        "claim": {
            "+": "is going to the moon|will triple by june|is about to squeeze the shorts|can only go up"
            "|beats every rival|is the best company ever|is a winner",
            "-": "is going to zero|will crater by june|is about to rug pull everyone|can only go down|is a pure scam"
            "|is the worst company ever|is a loser",
        },
        "sure": {
            "+": "mark my words|believe me|i called it first|take it to the bank|no doubt in my mind|screenshot this"
            "|so true|agreed|100 percent|heard and believed|for sure|definitely",
            "-": "yeah right|in your dreams|said nobody ever|nice fairy tale|that is a lie|dumb take|lol wrong|garbage"
            "|what a silly story",
            "0": "or maybe not, no idea|what do you all think|is that a thing people say|anyone got a link",
        },
        "cheer": {
            "": "oh great|just what i needed|wow, love it|so happy for me|best day ever|thanks a lot|how nice",
        },
        "luck": {
            "+": "sick gains|an insane pump|tendies all week|a filthy green candle|a nasty short squeeze"
            "|my biggest win|free money|a trip to the moon|gains all week|a juicy profit",
            "-": "a fat loss|a brutal dump|bags all week|a huge red candle|another dilution|my biggest loss|a rug pull"
            "|a trip to the poor house|pain all week|heavy damages",
            "0": "a flat line|zero movement|the same price as last week|a boring sideways chop",
        },
        "got": {
            "+": "is handing me|gave us|brought me|came with|means|got me|smells like",
            "-": "never gave me|saved me from|did not bring|kept me out of",
        },
        "asset": {
            "+": "my account|my position|my stack|my nest egg|the value of my shares|my bankroll",
            "-": "my margin loan|my debt|my interest bill",
        },
        "own": {
            "+": "my account|my position|my stack|my nest egg|my bankroll",
        },
        "dir": {
            "+": "went up|climbed|doubled|ripped|popped|gained",
            "++": "exploded|flew up|skyrocketed",
            "-": "went down|fell|got cut in half|dipped|tanked|bled|faded",
            "--": "got vaporized|crashed|collapsed",
            "0": "went nowhere|sat still|did nothing|stayed flat|stayed the same|did not move|held steady",
        },
        "gap": {
            "+": "way more than i guessed|above my guess|higher than i thought|stronger than my guess"
            "|more than my guess",
            "-": "way less than i guessed|below my guess|lower than i thought|softer than my guess|less than my guess",
            "0": "just as i guessed|right at my guess|the same as i thought|matching my guess"
            "|no different from my guess",
        },
    },
    templates=(
        "{who} i {side} {t} {leg} with {size}",
        "{when} i {side} {leg} in {t}, {who}",
        "{side} {t} {leg} {when}, that was {size}",
        "everyone says {t} {claim}. {sure} {who}",
        '"{t} {claim}" {sure} {who}',
        "{who} they keep posting that {t} {claim}, {sure}",
        "{cheer} {who}. {luck} from {t} {when}",
        "{t} with {luck} {when}, {cheer}",
        "{who} {t} {got} {luck} {when}",
        "{when} {t} {got} {luck}, {who}",
        "{asset} {dir} {when} thanks to {t}, {who}",
        "{cheer}, {own} {dir} on {t} {when}",
        "{who} {own} went from {x}k to {y}k on {t}",
        "{t} took {own} from {x} bucks to {y} bucks {when}",
        "{own} was at {x}k and now it is at {y}k, {t} {who}",
        "{own} {~dir} with {t} but ended {gap}, {who}",
        "checked {t} {when}, {own} is {gap}, {who}",
    ),
)

TEST = Side(
    words={
        "t": {
            "": "$ABQE|$CRUX|$EGGO|$GRIP|$LAVA|$NODZ|$OOMF|$RIVT|$UZZI|$XENL",
        },
        "who": {
            "": "folks|mates|lmao|tbh|peeps|fwiw",
        },
        "size": {
            "": "rent|my entire savings|a tiny slice|most of my bonus|my student grant",
        },
        "when": {
            "": "today|yesterday|after hours|tonight|on tuesday|last night",
        },
        "side": {
            "+": "purchased|obtained|ordered|am accumulating|acquired",
            "-": "ditched|disposed of",
            "0": "am unsure about|watched a video about|have questions regarding",
        },
        "leg": {
            "+": "bullish options|equity|call options|bullish contracts",
            "-": "put options|put contracts",
        },
        "claim": {
            "+": "will skyrocket|is destined for greatness|looks wonderful|is heading for massive success",
            "-": "will implode|will go bankrupt|looks awful|is heading for massive trouble",
        },
        "sure": {
            "+": "guaranteed|certainly|undoubtedly",
            "-": "not a chance",
            "0": "not certain about that|has somebody seen a source|can someone explain",
        },
        "cheer": {
            "": "fantastic|how wonderful|lucky old me|terrific|amazing stuff",
        },
        "luck": {
            "+": "monster profits|a wild rally|crazy returns|a beautiful spike",
            "-": "crazy damage|a savage selloff|an ugly collapse|a painful disaster",
            "0": "no difference whatsoever|an unchanged quote|identical quotes again",
        },
        "got": {
            "+": "delivered|produced|served up|resulted in",
            "-": "has not delivered",
        },
        "asset": {
            "+": "my portfolio|my net worth|my retirement fund|my savings pot",
        },
        "own": {
            "+": "my portfolio|my net worth|my retirement fund|my savings pot",
        },
        "dir": {
            "+": "increased|headed upward|expanded",
            "++": "soared",
            "-": "decreased|headed downward",
            "--": "plunged",
            "0": "remained unchanged|remained the same|remained stable",
        },
        "gap": {
            "+": "bigger than anticipated|greater than predicted|larger than anticipated",
            "-": "smaller than anticipated|weaker than predicted|poorer than anticipated",
            "0": "identical to what was predicted|exactly as anticipated",
        },
    },
    templates=(
        "update {who}: {side} my {t} {leg}, {size}",
        "so {when} i finally {side} {t} {leg} {who}",
        "{when}: {side} {leg} on {t} using {size}",
        "some guru wrote {t} {claim}, {sure}",
        "{who}, apparently {t} {claim}... {sure}",
        "{cheer} {when}, {t} and {luck}",
        "holding {t} {when} and seeing {luck}, {cheer}",
        "{t} {got} {luck} {who}, all {when}",
        "{when}: {t} {got} {luck}, typing this in bed {who}",
        "{who}, {asset} {dir} because of {t} {when}",
        "{own} {dir} after {t} {when}... {cheer}",
        "{t}: {own} from {x}k to {y}k {when} {who}",
        "{own} {~dir} {when} but it is {gap} {who}, all {t}",
        "{t} leaves {own} {gap} {when}, {who}",
    ),
)

GRAMMAR = Grammar(TRAIN, TEST)
