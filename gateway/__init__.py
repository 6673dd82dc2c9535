"""Order, approval, publication and push: the only part that holds online keys."""
