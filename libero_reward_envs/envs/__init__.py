"""The LIBERO environments and the simulator under them."""
