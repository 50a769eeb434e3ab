"""The colours of every picture: Okabe and Ito's (2008), which the colour-blind tell apart.

What is drawn is left to `moe.charts`, `moe.pictures`, `moe.sweep.charts` and `moe.ablate.view`.
"""

BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
BLACK = "#222222"
