"""How the rows of a file are split into train, validation and test, at random or by time, without leaks."""
