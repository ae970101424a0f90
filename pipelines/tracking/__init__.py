"""The records in MLflow: live while stages run, and reconciled with what dvc.lock vouches for."""
