"""A policy as one function in a file, with its weights beside it: it runs without this package."""
