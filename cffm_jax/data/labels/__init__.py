"""Labels: what mask files hold, what their palettes say, and samples of them."""
