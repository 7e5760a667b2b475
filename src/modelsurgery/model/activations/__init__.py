"""Statistics of activations: what gates read, and how much losses depend on them."""
