"""One run many times over: settings swept or searched, what each point costs and gives, its table and its charts.

How one run is trained and judged is left to the rest of `moe`.
"""
