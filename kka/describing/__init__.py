"""Descriptions of anomalies: language models that write them (`writer`, `endpoint`), how they are asked (`asking`), and
the guard that refuses what cannot be an anomaly."""
