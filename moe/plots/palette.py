"""The colours of every picture: Okabe and Ito's (2008), which the colour-blind tell apart.

What is drawn is left to `moe.plots.training`, `moe.plots.calibration`, `moe.sweep.charts` and `moe.ablation.view`.
"""

BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
BLACK = "#222222"
