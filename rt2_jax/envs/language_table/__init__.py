"""Language-Table's simulator (google-research/language-table, Apache 2.0), from a clone of it."""
