"""Words and templates of made-up forum posts: slang, tickers that do not exist, options, questions."""

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
        "buy": {
            "+": "bought|loaded up on|went all in on|added more|grabbed|scooped up|am buying|opened|got into",
            "0": "am still reading up on|asked my cousin about|made a spreadsheet of|keep forgetting about",
        },
        "leg": {
            "+": "calls|shares|long dated calls|stock|weekly calls|bull calls|leaps",
            "-": "puts|long dated puts|bear puts",
        },
        "sell": {
            "-": "sold|offloaded|got rid of|unloaded|am selling|got out of|dumped",
        },
        "long": {
            "+": "shares|stock|position|leaps",
        },
        "state": {
            "+": "am bullish on|am up big on|love|am still holding and adding to|feel good about",
            "-": "am bearish on|am a bagholder in|am bleeding on|got wrecked by|am shorting|hate",
            "0": "am watching|have no position in|am on the sidelines with|follow|took a quick look at",
        },
        "claim": {
            "+": "is going to the moon|will triple by june|is about to squeeze the shorts|can only go up"
            "|beats every rival|is the best company ever|is a winner|is breaking out",
            "-": "is going to zero|will crater by june|is about to rug pull everyone|can only go down|is a pure scam"
            "|is the worst company ever|is a loser|is a falling knife",
        },
        "sure": {
            "": "mark my words|believe me|i called it first|take it to the bank|no doubt in my mind|screenshot this"
            "|so true|agreed|100 percent|heard and believed|for sure|definitely",
        },
        "ask": {
            "0": "what do you all think of|anyone got a link about|does anybody know when the meeting is for"
            "|what time are the numbers out for|where can i read about|who runs",
        },
        "price": {
            "0": "is at 12.30|closed at 41 bucks|sits at 7 bucks a share|last trade was 19.80|is priced at 230",
        },
        "cheer": {
            "": "wow, love it|so happy for me|best day ever|thanks a lot|how nice|lets go",
        },
        "groan": {
            "": "ouch|so sad|worst day ever|this hurts|man, i feel sick|not again",
        },
        "win": {
            "+": "sick gains|an insane pump|tendies all week|a filthy green candle|a nasty short squeeze"
            "|my biggest win|free money|a trip to the moon|gains all week|a juicy profit",
        },
        "loss": {
            "-": "a fat loss|a brutal dump|bags all week|a huge red candle|another dilution|my biggest loss|a rug pull"
            "|a trip to the poor house|pain all week|heavy damages",
        },
        "luck": {
            "+": "sick gains|an insane pump|tendies all week|a filthy green candle|my biggest win|a juicy profit",
            "-": "a fat loss|a brutal dump|bags all week|a huge red candle|another dilution|my biggest loss|a rug pull",
            "0": "a flat line|zero movement|the same price as last week|a boring sideways chop",
        },
        "got": {
            "+": "is handing me|gave us|brought me|came with|means|got me|smells like",
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
        "{who} i {buy} {t} {leg} with {size}",
        "{when} i {buy} {leg} in {t}, {who}",
        "{who} i {sell} my {t} {long} {when}, that was {size}",
        "{when} i {sell} my {long} in {t}, {who}",
        "{who} i {state} {t} {when}",
        "{when} i {state} {t}, {size} {who}",
        "everyone says {t} {claim}. {sure} {who}",
        '"{t} {claim}" {sure} {who}',
        "{ask} {t} {who}?",
        "{who} {ask} {t}? saw it {when}",
        "{t} {price} {when}, {who}",
        "{who} {t} {price}",
        "{cheer} {who}. {win} from {t} {when}",
        "{groan} {who}. {loss} from {t} {when}",
        "{who} {t} {got} {luck} {when}",
        "{t} with {luck} {when}, {who}",
        "{asset} {dir} {when} thanks to {t}, {who}",
        "{who}, {own} {dir} on {t} {when}",
        "{who} {own} went from {x}k to {y}k on {t}",
        "{t} took {own} from {x} bucks to {y} bucks {when}",
        "{own} was at {x}k and now it is at {y}k, {t} {who}",
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
        "buy": {
            "+": "purchased|obtained|ordered|am accumulating|acquired",
            "0": "am unsure about|watched a video about|have requested documents on",
        },
        "leg": {
            "+": "equity|call options|call contracts",
            "-": "put options|put contracts",
        },
        "sell": {
            "-": "ditched|disposed of|liquidated",
        },
        "long": {
            "+": "equity",
        },
        "state": {
            "+": "remain optimistic about|applaud",
            "-": "regret owning|remain pessimistic about",
            "0": "track|have listed",
        },
        "claim": {
            "+": "will skyrocket|is destined for greatness|looks wonderful|is heading for massive success",
            "-": "will implode|will go bankrupt|looks awful|is heading for massive trouble",
        },
        "sure": {
            "": "guaranteed|certainly|undoubtedly",
        },
        "ask": {
            "0": "has somebody seen a source on|can someone explain|which platform lists",
        },
        "cheer": {
            "": "fantastic|how wonderful|lucky old me|terrific|amazing stuff",
        },
        "groan": {
            "": "terrible|how depressing|unlucky old me|disgusting",
        },
        "win": {
            "+": "monster profits|a wild rally|crazy returns|a beautiful spike",
        },
        "loss": {
            "-": "crazy damage|a savage selloff|an ugly collapse|a painful disaster",
        },
        "luck": {
            "+": "monster profits|a wild rally|crazy returns|a beautiful spike",
            "-": "crazy damage|a savage selloff|an ugly collapse|a painful disaster",
            "0": "no difference whatsoever|an unchanged quote|identical quotes again",
        },
        "got": {
            "+": "delivered|produced|served up|resulted in",
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
        "update {who}: {buy} my {t} {leg}, {size}",
        "so {when} i finally {buy} {t} {leg} {who}",
        "{when}: {sell} {long} on {t} using {size}",
        "i {state} {t}, {who}, since {when}",
        "some guru wrote {t} {claim}, {sure}",
        "{who}, apparently {t} {claim}... {sure}",
        "{who}: {ask} {t}?",
        "{cheer} {when}, {t} and {win}",
        "{groan} {when}, {t} and {loss}",
        "holding {t} {when} and seeing {luck}",
        "{t} {got} {luck} {who}, all {when}",
        "{who}, {asset} {dir} because of {t} {when}",
        "{own} {dir} after {t} {when}...",
        "{t}: {own} from {x}k to {y}k {when} {who}",
        "{t} leaves {own} {gap} {when}, {who}",
    ),
)

GRAMMAR = Grammar(TRAIN, TEST)
