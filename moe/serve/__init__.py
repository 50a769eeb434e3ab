"""HTTP service: request queue, batching, model thread, routes and web page.

Predictions are made by `moe.inference`; this package accepts requests and returns the results.
"""
