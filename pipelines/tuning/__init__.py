"""Studies of Optuna over the parameters."""
