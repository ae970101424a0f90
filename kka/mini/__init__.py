"""The built-in models: small, real Hugging Face artifacts, and the recipes that made them (`python -m
kka.mini.train`)."""
