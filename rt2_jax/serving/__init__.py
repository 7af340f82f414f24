"""A policy on the network: what robots already speak, batched over all that are connected."""
