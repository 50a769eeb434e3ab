"""Results of commands as frozen objects, which several rooms read by attribute, and how files hold them as JSON.

The rooms that compute, draw and print them are elsewhere; a result that only one room reads is declared there.
"""
