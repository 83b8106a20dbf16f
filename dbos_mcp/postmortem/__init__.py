"""From answers to explanations: why workflows failed, or do not go on."""
