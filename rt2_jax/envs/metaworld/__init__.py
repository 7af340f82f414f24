"""Meta-World: fifty tasks of a Sawyer arm, of the package metaworld."""
