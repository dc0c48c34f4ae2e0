"""Tiny networks of every family of transformers, and what is done to each of them."""
