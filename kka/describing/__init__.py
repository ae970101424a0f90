"""Descriptions of anomalies: the language models that write them, and the guard that refuses some."""
