"""What a project of kka has beside the method: parameters, presets, commands, checks."""
