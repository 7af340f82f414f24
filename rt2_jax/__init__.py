"""rt2_jax: an open RT-2, the vision-language-action model, in JAX (arXiv 2307.15818)."""

__version__ = '0.1.0'
