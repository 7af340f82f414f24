"""How a policy is measured: closed loop on the tabletop, and offline on held-out examples."""
