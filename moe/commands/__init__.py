"""The commands of `moe`, one file a topic; `main` builds the app and turns faults into one line.

Every command only parses its options: the work lies in the other rooms, imported inside the functions so that `--help`
stays fast.
"""
