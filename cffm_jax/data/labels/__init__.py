"""Labels: what mask files hold, and samples of them."""
