"""Image encoders, tabular encoders, and the recursion that relates them."""
