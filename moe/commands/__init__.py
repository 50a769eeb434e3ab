"""The commands of `moe`, one file per topic; `main` assembles the app and prints faults as one line.

The commands only parse options. The work is done in the other packages, which are imported inside the functions so that
`--help` stays fast.
"""
